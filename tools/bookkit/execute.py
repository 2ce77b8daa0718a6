"""Run every chapter whose code, or anything it depends on, changed: once, through nbval.

The same execution gives the book its outputs, the committed notebooks theirs, and `make test` the
comparison with what is stored. `_build/executed/<page>.ipynb` holds the code cells with outputs,
`<page>.json` beside it what they were made from (`key`), the seconds, and a verdict for each cell.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat.v4 import new_output

from . import capture, reader
from .chapters import ROOT, BookError, chapters, load_address, runnable

EXECUTED = ROOT / "_build/executed"
SANITIZE = ROOT / "tools/nbval_sanitize.cfg"
CELL_TIMEOUT = 180  # seconds; also how long a kernel that died goes unnoticed
SLOW, TOTAL = 60.0, 15 * 60.0  # seconds: a chapter, and all of them on 2 workers


@dataclass
class Execution:
    """What is known of a chapter's last execution."""

    page: str
    key: str
    seconds: float
    verdicts: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, page: str) -> Execution | None:
        path = EXECUTED / f"{page}.json"
        return cls(**json.loads(path.read_text())) if path.exists() else None

    def save(self) -> None:
        path = EXECUTED / f"{self.page}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(vars(self), indent=1))

    def count(self, verdict: str) -> int:
        return self.verdicts.count(verdict)


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
    for path in (ROOT / "requirements.txt", SANITIZE, tools / "colab.txt",
                 tools / "bookkit/reader.py", tools / "bookkit/capture.py"):
        digest.update(path.read_bytes())
    digest.update(sys.version.encode())
    return digest.hexdigest()


def run(notebooks: dict[str, nbformat.NotebookNode]) -> dict[str, list[dict]]:
    """One pytest run over the notebooks, each in a folder of its own outside the repository."""
    python = reader.ready()
    with tempfile.TemporaryDirectory(prefix="chapters-") as folder:
        paths = {}
        for page, notebook in notebooks.items():
            paths[page] = Path(folder, page, f"{Path(page).name}.ipynb")
            paths[page].parent.mkdir(parents=True)
            nbformat.write(notebook, paths[page])
        variables = reader.environment(python.parents[1])
        variables["PYTHONPATH"] = str(ROOT / "tools")
        workers = min(len(paths), os.cpu_count() or 1, 4)
        command = [
            sys.executable, "-m", "pytest", *map(str, paths.values()), "--rootdir", folder,
            "-p", "no:cacheprovider", "-p", "bookkit.capture", "-p", "no:hypothesispytest",
            "-n", str(workers), "--dist", "loadfile",
            "--nbval", "--nbval-sanitize-with", str(SANITIZE),
            "--nbval-kernel-name", reader.KERNEL, "--nbval-cell-timeout", str(CELL_TIMEOUT),
            "--quiet", "--tb=no", "--color=no",
        ]
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
        results = {}
        for page, path in paths.items():
            record = path.with_suffix(".json")
            if not record.exists():
                raise BookError(
                    f"{page} did not run to its end (a kernel that died, or too little memory?):\n"
                    f"{done.stdout[-3000:]}{done.stderr[-3000:]}"
                )
            results[page] = json.loads(record.read_text())
        return results


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


def execute(only: list[str] | None = None, force: bool = False) -> list[Execution]:
    """Bring `_build/executed` up to date; returns the executions of all (or `only`) chapters."""
    wanted = chapters()
    if only:
        wanted = [p for p in wanted if any(p.endswith(name.removesuffix(".md")) for name in only)]
        if not wanted:
            raise BookError(f"no chapter of _toc.yml ends in {' or '.join(only)}")
    around = surroundings_hash()
    notebooks = {page: runnable(page) for page in wanted}
    keys = {page: key(notebook, around) for page, notebook in notebooks.items()}
    stale = {}
    for page, notebook in notebooks.items():
        known = Execution.load(page)
        if force or known is None or known.key != keys[page] or known.count(capture.FAILED):
            stale[page] = notebook
    if stale:
        print(f"executing {len(stale)} of {len(wanted)} chapters: {', '.join(stale)}", flush=True)
        for page in stale:
            (EXECUTED / f"{page}.json").unlink(missing_ok=True)
        for page, cells in run(stale).items():
            path = EXECUTED / f"{page}.ipynb"
            path.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(with_outputs(stale[page], cells), path)
            Execution(
                page, keys[page], sum(c["seconds"] for c in cells),
                [c["verdict"] for c in cells], [c["message"] for c in cells],
            ).save()
    drop_orphans(chapters())
    return [Execution.load(page) for page in wanted]


def accept(page: str) -> None:
    """The committed notebook now stores exactly these outputs: they need no second execution."""
    known = Execution.load(page)
    known.key = key(runnable(page))
    known.verdicts = [capture.PASSED] * len(known.verdicts)
    known.messages = [""] * len(known.messages)
    known.save()


def drop_orphans(kept: list[str]) -> None:
    for path in EXECUTED.rglob("*.json") if EXECUTED.exists() else ():
        if path.relative_to(EXECUTED).with_suffix("").as_posix() not in kept:
            path.unlink()
            path.with_suffix(".ipynb").unlink(missing_ok=True)


def judge(executions: list[Execution], strict: bool) -> list[str]:
    """What is wrong. A cell that raises always is; outputs that differ only where `strict`."""
    problems = []
    for done in executions:
        for k, (verdict, message) in enumerate(zip(done.verdicts, done.messages, strict=True)):
            if verdict == capture.FAILED:  # what fails after the first is mostly its echo
                if done.verdicts.index(capture.FAILED) == k:
                    problems.append(f"{done.page}: code cell {k} raised\n{message}")
            elif verdict == capture.DIFFER:
                text = f"{done.page}: code cell {k} gives other output than is stored"
                text += f"\n{message}"
                if strict:
                    problems.append(text + "\nIf the new output is right: `make notebooks`.")
                else:
                    print(f"note: {text}\n", file=sys.stderr)
        if strict and done.count(capture.UNRUN):
            problems.append(f"{done.page}: {done.count(capture.UNRUN)} code cells have no stored "
                            "output to compare with: run `make notebooks` and commit")
    return problems


def table(executions: list[Execution]) -> str:
    """Chapters, slowest first."""
    width = max([len(e.page) for e in executions] + [len("all, one after another")])
    lines = [f"  {'chapter':<{width}}  seconds"]
    for done in sorted(executions, key=lambda e: -e.seconds):
        mark = f"  slower than {SLOW:.0f} s" if done.seconds > SLOW else ""
        lines.append(f"  {done.page:<{width}}  {done.seconds:7.1f}{mark}")
    total = sum(e.seconds for e in executions)
    mark = f"  more than {TOTAL / 60:.0f} minutes on two workers" if total > 2 * TOTAL else ""
    lines.append(f"  {'all, one after another':<{width}}  {total:7.1f}{mark}")
    return "\n".join(lines)


def clear() -> None:
    shutil.rmtree(EXECUTED, ignore_errors=True)


