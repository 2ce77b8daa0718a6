"""The bar that long walks show."""

from __future__ import annotations

import sys

from tqdm import tqdm


def bar(total: float, progress: bool | None, label: str, unit: str = "t"):
    # Unasked only on a terminal: a notebook's bar would be left behind as an output.
    show = sys.stderr.isatty() if progress is None else progress
    return tqdm(
        total=total,
        desc=label,
        unit=unit,
        delay=0 if progress else 2,
        disable=not show,
        leave=bool(progress),
        bar_format="{l_bar}{bar}| {n:.4g}/{total:.4g} [{elapsed}<{remaining}]",
    )
