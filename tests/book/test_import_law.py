"""Imports run downwards only, and the package knows nothing of the book."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src/gdflows"

# The floors of the house. A module may import its own room and anything on a lower floor.
FLOOR = {
    "errors": 0,
    "arguments": 1, "lengths": 1, "optional": 1, "parallel": 1,
    "objective": 2,
    "curvature": 3, "bseries": 3, "problems": 3, "trajectory": 3,
    "flows": 4, "noise": 4, "optim": 4,
    "walking": 5, "probes": 5, "landscape": 5,
    "runs": 6,
    "plotting": 7,
    "training": 8, "verdict": 8,
    # public names of what lives in training
    "adapters": 9, "monitor": 9, "replay": 9, "suggestion": 9,
    "experiments": 9,
}
# Plotting draws what it is given: it may know these, and no flow, solver or study.
PLOTTING_MAY = {"errors", "objective", "trajectory", "runs"}


def room(parts: tuple[str, ...]) -> str:
    """The first name below gdflows; '' for the package itself."""
    return parts[1] if len(parts) > 1 else ""


def imports(path: Path, source: Path = SOURCE):
    """(line, dotted name) of all that a module of the package imports."""
    package = ("gdflows", *path.relative_to(source).with_suffix("").parts)
    package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, tuple(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            for alias in node.names:
                yield node.lineno, (*base, alias.name)


def violations(source: Path = SOURCE) -> list[str]:
    found = []
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        here = parts[0]
        if here in ("__init__", "__main__"):
            continue  # the front door shows all rooms
        if here not in FLOOR:
            found.append(f"{path.name}: the room {here} has no floor; give it one in this test")
            continue
        for line, name in imports(path, source):
            where = f"{path.relative_to(source)}:{line}"
            if name[0] in ("book", "tools", "bookkit", "tests"):
                found.append(f"{where} imports {'.'.join(name)}: the package knows nothing of it")
            if name[0] != "gdflows":
                continue
            there = room(name)
            if there == here or there.startswith("__"):
                continue
            if there not in FLOOR:
                found.append(f"{where} imports {'.'.join(name)} through the front door: "
                             "import it from its own module")
            elif FLOOR[there] >= FLOOR[here]:
                found.append(f"{where}: {here} imports {there}, which is not below it")
            elif here == "plotting" and there not in PLOTTING_MAY:
                found.append(f"{where}: plotting may not know {there}")
    return found


def test_imports_run_downwards():
    assert violations() == []


@pytest.mark.parametrize(
    ("path", "line", "complaint"),
    [
        ("objective/base.py", "from gdflows.flows import NGF", "not below it"),
        ("flows/base.py", "from ..walking import integrate", "not below it"),
        ("curvature/eigen.py", "import gdflows.runs", "not below it"),
        ("plotting.py", "from gdflows.flows import NGF", "may not know"),
        ("runs/record.py", "from gdflows import experiments", "not below it"),
        ("probes.py", "import tools.book", "knows nothing"),
        ("rogue.py", "import os", "has no floor"),
    ],
)
def test_a_breach_is_seen(tmp_path, path, line, complaint):
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(line + "\n")
    assert any(complaint in problem for problem in violations(tmp_path))
