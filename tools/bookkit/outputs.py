r"""Sphinx extension: what the outputs of cells need to be as good as the text.

Formulas in HTML that a cell made: MathJax is told to leave a page's text alone but for elements
of the class `math`, so each `\(...\)` is given one. And the notebook that a page offers for
download is the committed one, with the cell that installs the package; the theme offers the
source's own cells, full of directives.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from docutils import nodes

from .chapters import chapters, notebook_path

FORMULA = re.compile(r"\\\((.+?)\\\)|\\\[(.+?)\\\]", re.S)
VERBATIM = re.compile(r"(<(pre|code|script|style)\b.*?</\2>)", re.S | re.I)
SET = '<span class="math notranslate nohighlight">'


def with_formulas(html: str) -> str:
    """The HTML with each formula where MathJax looks for it, but for those in code."""
    if SET in html:
        return html
    found, end = [], 0
    for code in VERBATIM.finditer(html):
        found += [FORMULA.sub(rf"{SET}\g<0></span>", html[end:code.start()]), code.group(0)]
        end = code.end()
    return "".join([*found, FORMULA.sub(rf"{SET}\g<0></span>", html[end:])])


def set_formulas(app, doctree, docname: str) -> None:
    """In the outputs that were chosen for this builder."""
    if app.builder.format != "html":
        return
    for node in doctree.findall(nodes.raw):
        if node.get("format") == "html" and ("\\(" in node.astext() or "\\[" in node.astext()):
            node.children[:] = [nodes.Text(with_formulas(node.astext()))]


def offer(root: Path, html: Path) -> None:
    """The committed notebooks, for download, in place of those that the theme put there."""
    for page in chapters(root):
        offered = html / "_sources" / f"{page}.ipynb"
        if notebook_path(page, root).exists() and offered.exists():
            shutil.copyfile(notebook_path(page, root), offered)


def offer_notebooks(app, error) -> None:
    if not error and app.builder.format == "html":
        offer(Path(app.srcdir), Path(app.outdir))


def setup(app) -> dict:
    app.connect("doctree-resolved", set_formulas)
    app.connect("build-finished", offer_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
