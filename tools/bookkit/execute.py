"""Run every chapter whose code, or anything it depends on, changed: once, through nbval.

The same execution gives the book its outputs, the committed notebooks theirs, and `make test` the
comparison with what is stored. `_build/executed/<page>.ipynb` holds the code cells with outputs,
`<page>.json` beside it what they were made from (`key`), the seconds, and a verdict for each cell.
Each chapter is kept as soon as it is done: a run that is stopped goes on from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat.v4 import new_output

from . import capture, claims, numbers, reader
from .chapters import ROOT, BookError, chapters, load_address, runnable
from .files import read_json, write
from .progress import Progress, say

EXECUTED = ROOT / "_build/executed"
SANITIZE = ROOT / "tools/nbval_sanitize.cfg"
SETTING = "BOOK_CELL_MINUTES"
CELL_MINUTES = 20.0  # a guard against what hangs, not against machines that are slow


def cell_limit(minutes: str | float | None = None) -> float:
    """Seconds that one cell may take: from the option, the environment, or the default."""
    given = minutes if minutes is not None else os.environ.get(SETTING) or CELL_MINUTES
    with contextlib.suppress(ValueError):
        if 0 < float(given) < float("inf"):
            return 60 * float(given)
    raise BookError(f"the limit for a cell is {given!r} minutes: give a number above 0 "
                    f"in {SETTING} or --cell-minutes")


@dataclass
class Execution:
    """What is known of a chapter's last execution."""

    page: str
    key: str
    seconds: float
    verdicts: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    limit: float = 60 * CELL_MINUTES
    claims: dict[str, dict] = field(default_factory=dict)  # what was found of each

    @classmethod
    def load(cls, page: str) -> Execution | None:
        known = read_json(EXECUTED / f"{page}.json")
        try:
            return cls(**known) if known else None
        except TypeError:  # written by other tools than these
            return None

    def save(self) -> None:
        write(EXECUTED / f"{self.page}.json", json.dumps(vars(self), indent=1))

    def count(self, *verdicts: str) -> int:
        return sum(map(self.verdicts.count, verdicts))

    @property
    def broken(self) -> int | None:
        """The cell that the chapter did not get over."""
        bad = [k for k, verdict in enumerate(self.verdicts) if verdict in capture.STOPPING]
        return bad[0] if bad else None


def executed_notebook(page: str) -> nbformat.NotebookNode:
    path = EXECUTED / f"{page}.ipynb"
    if not path.exists():
        raise BookError(f"{page} has not been executed: run `make book`")
    return nbformat.read(path, 4)


def key(notebook: nbformat.NotebookNode, surroundings: str | None = None) -> str:
    """Changes whenever executing or comparing the notebook could give something else."""
    digest = hashlib.sha256((surroundings or surroundings_hash()).encode())
    notebook = nbformat.from_dict(notebook)
    address = load_address().repository
    for cell in notebook.cells:
        # where the package would come from changes nothing: here it is installed
        text = cell.source.replace(address, "ADDRESS")
        digest.update(json.dumps(
            [text, cell.metadata.get("tags", []), cell.execution_count is None, cell.outputs],
            sort_keys=True,
        ).encode())
    return digest.hexdigest()


def surroundings_hash() -> str:
    """All that a chapter's numbers depend on besides its own code."""
    digest = hashlib.sha256(reader.package_hash().encode())
    tools = ROOT / "tools"
    for path in (ROOT / "requirements.txt", ROOT / "requirements.lock", SANITIZE,
                 tools / "colab.txt", tools / "bookkit/reader.py", tools / "bookkit/capture.py"):
        digest.update(path.read_bytes())
    digest.update(sys.version.encode())
    return digest.hexdigest()


def run(
    notebooks: dict[str, nbformat.NotebookNode], limit: float, progress: Progress | None = None
) -> Iterator[tuple[str, list[dict]]]:
    """One pytest run over the notebooks, each in a folder of its own outside the repository.

    Yields a page and what was seen of its cells as soon as the last of them is done.
    """
    python = reader.ready()
    with tempfile.TemporaryDirectory(prefix="chapters-") as folder:
        paths = {}
        for page, notebook in notebooks.items():
            paths[page] = Path(folder, page, f"{Path(page).name}.ipynb")
            paths[page].parent.mkdir(parents=True)
            nbformat.write(notebook, paths[page])
        variables = reader.environment(python.parents[1])
        variables["PYTHONPATH"] = str(ROOT / "tools")
        command = [
            sys.executable, "-m", "pytest", *map(str, paths.values()), "--rootdir", folder,
            "-p", "no:cacheprovider", "-p", "bookkit.capture", "-p", "no:hypothesispytest",
            "-n", str(workers(len(paths))), "--dist", "loadfile",
            "--nbval", "--nbval-sanitize-with", str(SANITIZE),
            "--nbval-kernel-name", reader.KERNEL, "--nbval-cell-timeout", str(limit),
            "--nbval-kernel-startup-timeout", str(capture.START),
            "--quiet", "--tb=short", "--color=no",
        ]
        log = Path(folder, "pytest.log")
        with log.open("w") as out, stopped_at_the_end(
            command, cwd=folder, env=variables, stdout=out, stderr=subprocess.STDOUT
        ) as child:
            while paths:
                ended = child.poll() is not None
                done = {page: path for page, path in paths.items()
                        if capture.record(path, "json").exists()}
                paths = {page: path for page, path in paths.items() if page not in done}
                if progress:
                    progress.at_work(cells_done(paths))
                for page, path in done.items():
                    yield page, read_json(capture.record(path, "json"))
                if ended:
                    break
                time.sleep(0.2)
        for page, path in paths.items():
            yield page, unfinished(notebooks[page], read_json(capture.record(path, "part")),
                                   log.read_text(errors="replace")[-2000:])


def workers(chapters: int) -> int:
    return max(1, min(chapters, os.cpu_count() or 1, 4))


@contextlib.contextmanager
def stopped_at_the_end(command: list, **options) -> Iterator[subprocess.Popen]:
    """A process in a group of its own; however this ends, nothing of the group works on alone."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **options)
    try:
        yield child
    finally:
        for sign, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, None)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(seconds)


def cells_done(paths: dict[str, Path]) -> dict[str, int]:
    """Of the chapters at work, the number of cells that are done."""
    found = {page: read_json(capture.record(path, "part")) for page, path in paths.items()}
    return {page: len(cells) for page, cells in found.items() if cells}


def unfinished(notebook: nbformat.NotebookNode, cells: list[dict] | None, log: str) -> list[dict]:
    """What was seen of a chapter whose worker was lost: the cell it was at, and none after it."""
    def lost(verdict: str, message: str) -> dict:
        return {"outputs": [], "seconds": 0.0, "verdict": verdict, "message": message}

    cells = [*(cells or ()), lost(capture.DIED, log)]
    return cells + [lost(capture.NOT_REACHED, "")] * (len(notebook.cells) - len(cells))


def with_outputs(notebook: nbformat.NotebookNode, cells: list[dict]) -> nbformat.NotebookNode:
    for k, (cell, seen) in enumerate(zip(notebook.cells, cells, strict=True), start=1):
        cell.execution_count = k
        cell.outputs = []
        for output in seen["outputs"]:
            rest = {n: v for n, v in output.items() if n not in ("output_type", "transient")}
            if output["output_type"] == "execute_result":
                rest["execution_count"] = k
            cell.outputs.append(new_output(output["output_type"], **rest))
    nbformat.validate(notebook)
    return notebook


def execute(
    only: list[str] | None = None, force: bool = False, limit: float | None = None
) -> list[Execution]:
    """Bring `_build/executed` up to date; returns the executions of all (or `only`) chapters."""
    wanted, limit = chapters(), limit or cell_limit()
    if only:
        wanted = [p for p in wanted if any(p.endswith(name.removesuffix(".md")) for name in only)]
        if not wanted:
            raise BookError(f"no chapter of _toc.yml ends in {' or '.join(only)}")
    around = surroundings_hash()
    notebooks = {page: claims.probed(runnable(page), claims.probes(page)) for page in wanted}
    keys = {page: key(notebook, around) for page, notebook in notebooks.items()}
    known = {page: Execution.load(page) for page in wanted}
    stale = {
        page: notebook for page, notebook in notebooks.items()
        if force or known[page] is None or known[page].key != keys[page]
        or known[page].broken is not None or not (EXECUTED / f"{page}.ipynb").exists()
    }
    if stale:
        for page in stale:
            (EXECUTED / f"{page}.json").unlink(missing_ok=True)
        progress = Progress(
            {page: len(notebook.cells) for page, notebook in stale.items()},
            {page: known[page].seconds for page in stale if known[page]},
        )
        say(f"executing {len(stale)} of {len(wanted)} chapters, {workers(len(stale))} at a time")
        for page, cells in run(stale, limit, progress):
            cells, found = claims.split(stale[page], cells)
            write(EXECUTED / f"{page}.ipynb", nbformat.writes(with_outputs(runnable(page), cells)))
            done = Execution(
                page, keys[page], sum(c["seconds"] for c in cells),
                [c["verdict"] for c in cells], [c["message"] for c in cells], limit, found,
            )
            done.save()
            what = "" if done.broken is None else f"FAILED in code cell {done.broken}"
            progress.finish(page, done.seconds, what)
    drop_orphans(chapters())
    return [Execution.load(page) for page in wanted]


def unproved(page: str) -> list[str]:
    """What of a chapter's claims and numbers its last execution does not bear."""
    if not claims.ledger(page).exists():
        return []
    done, cells = Execution.load(page), executed_notebook(page).cells
    wrong = claims.problems(claims.load(page), claims.placed(page), done.claims)
    bare = numbers.unheld(page, [text for cell in cells for text in said(cell)], done.claims)
    return wrong + [f"{page}: no cell or entry holds {number}" for number in bare]


def said(cell: nbformat.NotebookNode) -> list[str]:
    """A cell's code and what it printed."""
    printed = [out.get("text") or out.get("data", {}).get("text/plain", "") for out in cell.outputs]
    return [cell.source, *printed]


def accept(page: str) -> None:
    """The committed notebook now stores exactly these outputs: they need no second execution."""
    known = Execution.load(page)
    known.key = key(claims.probed(runnable(page), claims.probes(page)))
    known.verdicts = [capture.PASSED] * len(known.verdicts)
    known.messages = [""] * len(known.messages)
    known.save()


def drop_orphans(kept: list[str]) -> None:
    for path in EXECUTED.rglob("*.json") if EXECUTED.exists() else ():
        if path.relative_to(EXECUTED).with_suffix("").as_posix() not in kept:
            path.unlink()
            path.with_suffix(".ipynb").unlink(missing_ok=True)
