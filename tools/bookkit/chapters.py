"""Which pages the book has, what code is in them, and where the repository lives.

A *page* is named as in `_toc.yml`: a path without suffix, from the root. A *chapter* is a page
with code cells: `book/1-integrators/euler` has its one source in `euler.md`, and the generated
notebook `euler.ipynb` beside it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).resolve().parents[2]

# Where gdflows-runs lies, the recorded runs that only the book reads.
RUNS = "src/gdflows/runs/recorded"

# The first cell of every notebook. `%pip` does not raise when it fails, so the cell looks again.
BOOTSTRAP = '''\
# On Colab this installs gdflows, the package of this book, and the runs that its chapters read;
# where gdflows is installed, it does nothing.
import importlib.util

if importlib.util.find_spec("gdflows") is None:
    %pip install --quiet "gdflows[data] @ git+{address}"
    %pip install --quiet "gdflows-runs @ git+{address}#subdirectory=src/gdflows/runs/recorded"
    importlib.invalidate_caches()
    if importlib.util.find_spec("gdflows") is None:
        raise ModuleNotFoundError(
            "gdflows could not be installed from {address}: pip says why, above. "
            "Check that address and the network, then run this cell again."
        )'''
BOOTSTRAP_TAGS = ["nbval-ignore-output"]
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}


class BookError(Exception):
    """Something is wrong with the book or its environment; the message says what to do."""


@dataclass(frozen=True)
class Address:
    """Everything that follows from `repository` in _config.yml, the one place it is written."""

    repository: str
    branch: str

    @property
    def site(self) -> str:
        """Where GitHub Pages publishes the repository, with a final slash."""
        match = re.fullmatch(r"https://github\.com/([^/]+)/([^/]+?)/?", self.repository)
        if not match:
            raise BookError(
                f"_config.yml: repository.url is {self.repository!r}; "
                "it must look like https://github.com/<owner>/<repository>"
            )
        owner, name = match.groups()
        host = f"https://{owner}.github.io/"
        return host if f"{owner}.github.io".lower() == name.lower() else f"{host}{name}/"


def load_config(root: Path = ROOT) -> dict:
    return yaml.safe_load((root / "_config.yml").read_text())


def load_address(root: Path = ROOT) -> Address:
    repository = load_config(root)["repository"]
    return Address(repository["url"].rstrip("/"), repository.get("branch", "main"))


def pages(root: Path = ROOT) -> list[str]:
    """All pages of _toc.yml, in reading order."""
    found: list[str] = []

    def walk(node) -> None:
        if isinstance(node, dict):
            found.extend(str(node[key]) for key in ("root", "file") if key in node)
            for key in ("parts", "chapters", "sections", "subtrees", "entries"):
                walk(node.get(key))
        elif isinstance(node, list):
            for entry in node:
                walk(entry)

    walk(yaml.safe_load((root / "_toc.yml").read_text()))
    return found


def chapters(root: Path = ROOT) -> list[str]:
    """The pages with code cells."""
    return [page for page in pages(root) if code_cells(page, root)]


def source(page: str, root: Path = ROOT) -> Path:
    path = root / f"{page}.md"
    if not path.exists():
        raise BookError(f"_toc.yml names {page}, but there is no {page}.md")
    return path


def notebook_path(page: str, root: Path = ROOT) -> Path:
    return root / f"{page}.ipynb"


def code_cells(page: str, root: Path = ROOT) -> list[nbformat.NotebookNode]:
    """The chapter's code cells as its .md has them: source, and tags if any."""
    text = source(page, root).read_text()
    if "{code-cell}" not in text:
        return []
    cells = []
    for cell in jupytext.reads(text, fmt="md:myst").cells:
        if cell.cell_type == "code":
            tags = cell.metadata.get("tags", [])
            cells.append(new_code_cell(cell.source, metadata={"tags": tags} if tags else {}))
    return cells


def bootstrap_cell(address: str) -> nbformat.NotebookNode:
    return new_code_cell(
        BOOTSTRAP.replace("{address}", address), metadata={"tags": list(BOOTSTRAP_TAGS)}
    )


def runnable(page: str, root: Path = ROOT) -> nbformat.NotebookNode:
    """Bootstrap and code cells, with the stored outputs of the committed notebook.

    Outputs are taken only if the committed notebook has the same code in the same order; else
    every cell is unrun, and so nothing that was stored is compared with other code.
    """
    cells = [bootstrap_cell(load_address(root).repository), *code_cells(page, root)]
    path = notebook_path(page, root)
    if path.exists():
        stored = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
        if [c.source for c in stored[1:]] == [c.source for c in cells[1:]]:
            for cell, old in zip(cells, stored, strict=True):
                cell.outputs, cell.execution_count = old.outputs, old.execution_count
    for k, cell in enumerate(cells):
        cell.id = f"code-{k}"
    return new_notebook(cells=cells, metadata={"kernelspec": KERNELSPEC})
