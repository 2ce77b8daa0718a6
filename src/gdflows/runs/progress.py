"""How far a study is and when it will end: a bar on a terminal, elsewhere lines if wished."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
FIRST, LONGEST = 5.0, 60.0  # seconds until the first line; between two, at most

_LINES: ContextVar[bool] = ContextVar("lines", default=False)


@contextmanager
def lines() -> Iterator[None]:
    """Within this, progress is told in lines where there is no terminal.

    Otherwise nothing is written there: in a notebook it would be left behind as an output.
    """
    before = _LINES.set(True)
    try:
        yield
    finally:
        _LINES.reset(before)


class Progress:
    """Of ``total`` units of work; ``unit`` is their name."""

    def __init__(
        self, total: float, unit: str = "step", *, initial: float = 0, quiet: bool = False
    ):
        terminal = sys.stderr.isatty()
        self.total, self.done, self.unit = total, initial, unit
        self._initial, self._start = initial, time.monotonic()
        self._pause, self._next = FIRST, self._start + FIRST
        self._lines = _LINES.get() and not terminal and not quiet
        bar = "{l_bar}{bar}| {n:.4g}/{total:.4g} [{elapsed}<{remaining}]"
        self._bar = tqdm(
            desc=f"{unit}s", total=total, initial=initial, disable=quiet or not terminal,
            bar_format=bar,
        )  # fmt: skip

    def update(self, units: float = 1) -> None:
        """So many more are done."""
        self.done += units
        self._bar.update(units)
        now = time.monotonic()
        if self._lines and now >= self._next:
            rate = (self.done - self._initial) / (now - self._start)
            left = (self.total - self.done) / rate if rate else float("inf")
            print(
                f"{self.unit} {self.done:.4g} of {self.total:.4g}, about {_time(left)} left",
                file=sys.stderr, flush=True,
            )  # fmt: skip
            self._pause = min(2 * self._pause, LONGEST)
            self._next = now + self._pause

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception) -> None:
        self._bar.close()


def progress(
    items: Iterable[T],
    unit: str = "step",
    *,
    total: int | None = None,
    initial: int = 0,
    quiet: bool = False,
) -> Iterator[T]:
    """The items one by one; ``total`` counts those before ``initial`` too."""
    if total is None:
        total = initial + (len(items) if isinstance(items, Sized) else 0)
    with Progress(total, unit, initial=initial, quiet=quiet) as shown:
        for item in items:
            yield item
            shown.update()


def _time(seconds: float) -> str:
    if seconds == float("inf"):
        return "an unknown time"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(round(whole / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
