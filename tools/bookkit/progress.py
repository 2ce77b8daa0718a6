"""One line for each finished chapter, with an estimate of the end; a sign of life between.

Plain lines, written at once: they reach a log file as they reach a terminal.
"""

from __future__ import annotations

import time
from collections.abc import Callable

QUIET = 60.0  # seconds after which it says what it is at


def span(seconds: float) -> str:
    """A time as a person says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def say(line: str) -> None:
    print(line, flush=True)


class Progress:
    """How far an execution of many chapters is.

    Parameters
    ----------
    cells : dict
        Number of code cells of each chapter.
    known : dict
        Seconds of the chapters' last executions, where there were any. They weigh the chapters;
        the rest are weighed by their cells.
    """

    def __init__(self, cells: dict[str, int], known: dict[str, float],
                 clock: Callable[[], float] = time.monotonic, out: Callable[[str], None] = say):
        self.cells, self.clock, self.out = cells, clock, out
        timed = [page for page in cells if page in known]
        count = sum(cells[page] for page in timed)
        rate = sum(known[page] for page in timed) / count if count else 1.0
        self.weights = {p: max(known.get(p, rate * n), 1e-3) for p, n in cells.items()}
        self.finished: list[str] = []
        self.running: dict[str, int] = {}
        self.begun = self.spoke = clock()
        self.width = max(map(len, cells), default=0)

    def left(self) -> float | None:
        """Seconds to the end, from what is done in the time so far; None before anything is."""
        done = sum(self.weights[page] for page in self.finished)
        done += sum(self.weights[p] * k / self.cells[p] for p, k in self.running.items())
        total = sum(self.weights.values())
        return (self.clock() - self.begun) * (total - done) / done if done else None

    def finish(self, page: str, seconds: float, what: str = "") -> None:
        """A chapter ended; `what` is said of it."""
        self.finished.append(page)
        number, total = len(self.finished), len(self.cells)
        line = f"  {number:>{len(str(total))}} of {total}  {page:<{self.width}} {seconds:7.1f} s"
        if what:
            line += f"  {what}"
        self.tell(line + ("" if number == total else self.estimate()))

    def at_work(self, running: dict[str, int]) -> None:
        """So many cells of these chapters are done. Says so when nothing was said for long."""
        self.running = running
        if self.clock() - self.spoke < QUIET:
            return
        names = ", ".join(f"{page.rsplit('/', 1)[-1]} (cell {k} of {self.cells[page]} done)"
                          for page, k in running.items())
        self.tell(f"  at work for {span(self.clock() - self.begun)}"
                  + (f" on {names}" if names else "") + self.estimate())

    def estimate(self) -> str:
        left = self.left()
        return f"; about {span(left)} to go" if left is not None else ""

    def tell(self, line: str) -> None:
        self.spoke = self.clock()
        self.out(line)
