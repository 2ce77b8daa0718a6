"""pytest plugin: keep what nbval saw. nbval runs every cell and compares; this writes it down.

For each notebook it puts `<folder>.json` beside its folder: per cell the outputs, the seconds and
the verdict; until the last cell is done, the same lies in `<folder>.part`. After a cell that
failed the rest of its chapter is not run. Loaded with `-p bookkit.capture`, also inside the
workers of pytest-xdist.

nbval's kernel is told to be patient: its own limits (5 s for a printed line, 10 s for a word at
the start) fail on a busy machine, and it waits out the whole limit for a kernel that is dead.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from queue import Empty

import nbval.plugin
import pytest
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell, NbCellError

from .files import write

PASSED, DIFFER, UNRUN = "passed", "outputs differ", "unrun"
FAILED, TOO_LONG, DIED = "exception", "too long", "kernel died"
STOPPING = (FAILED, TOO_LONG, DIED)  # what a chapter does not get over
NOT_REACHED = "not reached"
START = 600.0  # seconds for a kernel's start, which also imports things
WORD = 300.0  # seconds for the rest of a cell's output, once it is done or interrupted
LOOK = 1.0  # seconds between two looks whether the kernel lives

_seen: dict[Path, list[dict]] = {}


def record(notebook: Path, kind: str) -> Path:
    """Where a notebook's record lies: outside its folder, which is the chapter's own."""
    return notebook.parent.with_name(f"{notebook.parent.name}.{kind}")


class KernelDied(Exception):
    """The process that runs the cells is gone."""


class PatientKernel(RunningKernel):
    """nbval's kernel; waits for a slow one as long as told, and not at all for a dead one."""

    def get_message(self, stream, timeout=None):
        end = time.monotonic() + (timeout or START)
        while True:
            left = end - time.monotonic()
            try:
                return super().get_message(stream, timeout=max(0.0, min(LOOK, left)))
            except Empty:
                if not self.is_alive():
                    raise KernelDied from None
                if left <= LOOK:
                    raise

    def _ensure_iopub_up(self):
        end = time.monotonic() + START
        while True:
            try:
                return self.await_idle(self.kc.kernel_info(), 1.0)
            except Empty:
                if time.monotonic() > end:
                    raise RuntimeError(f"the kernel said nothing in {START:.0f} s") from None


nbval.plugin.RunningKernel = PatientKernel


def pytest_itemcollected(item):
    if isinstance(item, IPyNbCell):
        item.output_timeout = WORD


def pytest_runtest_setup(item):
    seen = _seen.get(Path(item.path), ()) if isinstance(item, IPyNbCell) else ()
    if any(cell["verdict"] in STOPPING for cell in seen):
        pytest.skip("an earlier cell failed")


def verdict(item: IPyNbCell, error: BaseException | None) -> str:
    if error is None:
        return UNRUN if item.cell.execution_count is None else PASSED
    if isinstance(error, pytest.skip.Exception):
        return NOT_REACHED
    if isinstance(error, KernelDied):
        return DIED
    if isinstance(error, NbCellError) and str(error) == "Cell outputs differ":
        return DIFFER
    if item.parent.timed_out:
        return TOO_LONG
    return FAILED


def message(item: IPyNbCell, error: BaseException | None) -> str:
    """What Python said, or where the outputs differ."""
    if error is None or isinstance(error, (pytest.skip.Exception, KernelDied)):
        return ""
    if isinstance(error, NbCellError):
        return (error.inner_traceback or str(error)).strip()
    return f"{type(error).__name__}: {error}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    yield
    if not isinstance(item, IPyNbCell) or (call.when != "call" and call.excinfo is None):
        return
    if call.when == "teardown":
        return
    path, error = Path(item.path), call.excinfo.value if call.excinfo else None
    cells = _seen.setdefault(path, [])
    cells.append({
        "outputs": item.test_outputs or [],
        "seconds": call.duration,
        "verdict": verdict(item, error),
        "message": message(item, error),
    })
    complete = len(cells) == sum(c.cell_type == "code" for c in item.parent.nb.cells)
    write(record(path, "json" if complete else "part"), json.dumps(cells))
