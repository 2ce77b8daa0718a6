"""pytest plugin: keep what nbval saw. nbval runs every cell and compares; this writes it down.

For each notebook it puts `<name>.json` beside it: per cell the outputs, the seconds and the
verdict. Loaded with `-p bookkit.capture`, also inside the workers of pytest-xdist.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nbval.plugin import IPyNbCell, NbCellError

PASSED, DIFFER, FAILED, UNRUN = "passed", "outputs differ", "exception", "unrun"

_seen: dict[Path, list[dict]] = {}


def verdict(item: IPyNbCell, error: BaseException | None) -> str:
    if error is None:
        return UNRUN if item.cell.execution_count is None else PASSED
    if isinstance(error, NbCellError) and str(error) == "Cell outputs differ":
        return DIFFER
    return FAILED


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if not isinstance(item, IPyNbCell) or (call.when != "call" and call.excinfo is None):
        return
    report, error = outcome.get_result(), call.excinfo.value if call.excinfo else None
    cells = _seen.setdefault(Path(item.path), [])
    cells.append({
        "outputs": item.test_outputs or [],
        "seconds": call.duration,
        "verdict": verdict(item, error),
        "message": report.longreprtext if error else "",
    })
    if len(cells) == sum(c.cell_type == "code" for c in item.parent.nb.cells):
        Path(item.path).with_suffix(".json").write_text(json.dumps(cells))
