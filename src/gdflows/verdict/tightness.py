"""How tight the estimates were in the recorded study: read from the records, never typed in."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import pandas as pd

from gdflows import runs

PREFIX = "validity-"  # of the records' names
FLOOR = 1e-3  # foreseen errors below this drown in the solvers', and no verdict depends on them


@cache
def records() -> pd.DataFrame:
    """All rows of the recorded study that hold a foreseen and a measured error."""
    names = [name for name in runs.available() if name.startswith(PREFIX)]
    if not names:
        return pd.DataFrame(columns=["situation", "model", "step", "foreseen", "error", "known"])
    return pd.concat([runs.load(name).table.assign(run=name) for name in names])


@cache
def tightness(situation: str) -> Mapping[str, str]:
    """Measured over foreseen error, by model: median (first … last decile)."""
    seen = records()
    if seen.empty:
        return {}
    seen = seen[(seen.situation == situation) & (seen.step <= seen.known)]
    seen = seen[np.isfinite(seen.error) & (seen.foreseen >= FLOOR)]
    found = {}
    for name, own in seen.groupby("model"):
        low, middle, high = (own.error / own.foreseen).quantile([0.1, 0.5, 0.9])
        found[name] = f"{middle:.2g} ({low:.2g} … {high:.2g})"
    return found
