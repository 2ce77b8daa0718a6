"""The notebooks beside the chapters: written, checked, and given another address.

The build leaves every chapter as a plain-Markdown notebook without outputs in `_build/notebooks`
(see plain.py); here the outputs of its one execution are put in, and it goes to the chapter's side.
"""

from __future__ import annotations

import base64
import copy
import re
from pathlib import Path

import nbformat

from . import execute
from .build import HTML
from .chapters import ROOT, Address, BookError, chapters, load_address, notebook_path, runnable
from .files import write as write_whole
from .outputs import offer
from .plain import NOTEBOOKS

IMAGES = ("image/png", "image/jpeg", "image/svg+xml", "application/pdf")
FORBIDDEN_TAGS = {"remove-cell", "remove-input", "remove-output", "remove_cell", "remove_input",
                  "remove_output"}
RAW = re.compile(r"^[ >]*(`{3,}|~{3,}|:{3,})\{|\{(?:[a-z]+:)?[a-z]+\}`|^\(.+\)=$|\{\{.*\}\}", re.M)
CODE = re.compile(r"^( *> ?)*(`{3,})[^`{\n]*\n.*?^\1?\2 *$", re.M | re.S)


def generated(page: str) -> nbformat.NotebookNode:
    path = NOTEBOOKS / f"{page}.ipynb"
    if not path.exists():
        raise BookError(f"{path.relative_to(ROOT)} is missing: run `make book` first")
    return nbformat.read(path, 4)


def stored_outputs(cell, outputs: list) -> list:
    """What git keeps of a cell's outputs: no pictures; no HTML where nothing is compared."""
    drop = set(IMAGES)
    if "nbval-ignore-output" in cell.metadata.get("tags", []):
        drop.add("text/html")
    kept = copy.deepcopy(outputs)
    for output in kept:
        for kind in drop & set(output.get("data", {})):
            del output["data"][kind]
        output.pop("metadata", None)
        if output.output_type in ("display_data", "execute_result"):
            output["metadata"] = {}
    return kept


def complete(page: str) -> nbformat.NotebookNode:
    """The generated notebook with the outputs of its execution."""
    notebook, run = generated(page), execute.executed_notebook(page)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if [c.source for c in code] != [c.source for c in run.cells]:
        raise BookError(f"{page}: the page was built from other code than was executed")
    for cell, done in zip(code, run.cells, strict=True):
        cell.execution_count = done.execution_count
        cell.outputs = stored_outputs(cell, done.outputs)
    return notebook


def put(path: Path, notebook: nbformat.NotebookNode) -> bool:
    text = nbformat.writes(notebook).rstrip("\n") + "\n"
    if path.exists() and path.read_text() == text:
        return False
    write_whole(path, text)
    return True


def ensure() -> None:
    """A notebook must lie beside a chapter before its page is built, or it gets no Colab button."""
    for page in chapters():
        if not notebook_path(page).exists():
            put(notebook_path(page), runnable(page))


def write() -> None:
    """Write every notebook that changed, and the landing page's picture for the README."""
    for page in chapters():
        if put(notebook_path(page), complete(page)):
            print(f"wrote {notebook_path(page).relative_to(ROOT)}")
        execute.accept(page)
    for path in orphans():
        path.unlink()
        print(f"removed {path.relative_to(ROOT)}: it has no chapter")
    picture()
    offer(ROOT, HTML)  # the pages were built before the notebooks were written


def picture(page: str = "book/index", target: Path = ROOT / "book/_static/picture.png") -> None:
    if page not in chapters():
        return
    for cell in execute.executed_notebook(page).cells:
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                image = base64.b64decode(output["data"]["image/png"])
                if not target.exists() or target.read_bytes() != image:
                    target.write_bytes(image)
                    print(f"wrote {target.relative_to(ROOT)}")
                return


def orphans(root: Path = ROOT) -> list[Path]:
    kept = {notebook_path(page, root) for page in chapters(root)}
    return sorted(path for path in (root / "book").rglob("*.ipynb")
                  if path not in kept and ".ipynb_checkpoints" not in path.parts)


def cells_to_compare(notebook: nbformat.NotebookNode) -> list:
    """Code and prose, without the address, which publishing may change."""
    found = []
    for cell in masked(notebook).cells:
        found.append((cell.cell_type, cell.id, cell.source, cell.metadata.get("tags", [])))
    return found


def written_address(notebook: nbformat.NotebookNode) -> Address | None:
    match = re.search(r'git\+(https://[^\s"]+)"', notebook.cells[0].source)
    return Address(match.group(1), load_address().branch) if match else None


def readdressed(notebook, old: Address, repository: str, site: str) -> nbformat.NotebookNode:
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        cell.source = cell.source.replace(old.site, site).replace(old.repository, repository)
    return notebook


def masked(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    old = written_address(notebook)
    return readdressed(notebook, old, "REPOSITORY", "SITE/") if old else notebook


def readdress() -> None:
    """Put the address of _config.yml into all notebooks. Executes nothing."""
    new = load_address()
    for page in chapters():
        path = notebook_path(page)
        if not path.exists():
            continue
        notebook = nbformat.read(path, 4)
        old = written_address(notebook)
        if old and put(path, readdressed(notebook, old, new.repository, new.site)):
            print(f"{path.relative_to(ROOT)}: {old.repository} -> {new.repository}")


def leaks(notebook: nbformat.NotebookNode) -> list[str]:
    """Directives and roles that a plain Markdown reader would see raw."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"``[^`].*?``", "", CODE.sub("", cell.source))
            found += [match.group(0).strip() for match in RAW.finditer(text)]
    return found


def compare(name: str, committed: nbformat.NotebookNode, made: nbformat.NotebookNode) -> list[str]:
    """What is wrong with a committed notebook, given the one its chapter makes."""
    problems = []
    here, there = cells_to_compare(committed), cells_to_compare(made)
    if here != there:
        differ = [a[1] for a, b in zip(here, there, strict=False) if a != b]
        which = f"cell {differ[0]}" if differ else "the number of cells"
        problems.append(f"{name}: {which} differs from the chapter: run `make notebooks`")
    if any(c.cell_type == "code" and c.execution_count is None for c in committed.cells):
        problems.append(f"{name}: a cell was never run (nothing of it would be compared): "
                        "run `make notebooks`")
    problems += [f"{name}: raw markup {leak!r}" for leak in leaks(committed)]
    return problems


def check() -> list[str]:
    """All that is wrong with the committed notebooks."""
    problems = []
    for page in chapters():
        path = notebook_path(page)
        name = path.relative_to(ROOT).as_posix()
        bad = {t for c in runnable(page).cells for t in c.metadata.get("tags", [])} & FORBIDDEN_TAGS
        if bad:
            problems.append(f"{page}.md: the tag {bad.pop()} hides code that a reader must see")
        if not path.exists():
            problems.append(f"{name} is missing: run `make notebooks`")
            continue
        problems += compare(name, nbformat.read(path, 4), generated(page))
    problems += [f"{p.relative_to(ROOT)} has no chapter in _toc.yml" for p in orphans()]
    return problems


