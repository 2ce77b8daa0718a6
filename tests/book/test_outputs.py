"""What the outputs of cells become on a page: formulas that are set, notebooks that can be run."""

import nbformat
import pytest
from bookkit import notebooks, outputs
from bookkit.chapters import BOOTSTRAP_TAGS, chapters, notebook_path
from bs4 import BeautifulSoup

CODE = ("code", "pre", "script", "style")


def unset(html: str) -> list[str]:
    r"""Texts of an article that still hold \( or \[, outside code and outside class math."""
    content = BeautifulSoup(html, "html.parser")
    article = content.find("article") or content
    return [str(text) for text in article.find_all(string=lambda t: "\\(" in t or "\\[" in t)
            if not text.find_parent(CODE) and not text.find_parent(class_="math")]


def test_formulas_in_a_cells_html_are_set_and_code_is_left_alone():
    made = outputs.with_formulas(r"<td>\(a < b\)</td><pre>\(c\)</pre><p>\[d\] and \(e\)</p>")
    assert made.count(outputs.SET) == 3
    assert r"<pre>\(c\)</pre>" in made
    assert unset(made) == []
    assert outputs.with_formulas(made) == made


def test_the_search_for_formulas_left_raw_finds_them():
    assert unset(r"<article><td>\(a\)</td><code>\(b\)</code></article>") == [r"\(a\)"]


def test_no_page_shows_a_raw_formula(html):
    raw = {path.relative_to(html).as_posix(): unset(path.read_text())
           for path in html.rglob("*.html") if "_static" not in path.parts}
    assert {page: found[:3] for page, found in raw.items() if found} == {}


@pytest.mark.parametrize("page", chapters())
def test_the_notebook_to_download_is_the_committed_one(html, page):
    link = BeautifulSoup((html / f"{page}.html").read_text(), "html.parser").find(
        "a", href=lambda h: h and h.endswith(".ipynb") and "_sources" in h)
    offered = (html / f"{page}.html").parent / link["href"]
    assert offered.read_bytes() == notebook_path(page).read_bytes()
    notebook = nbformat.read(offered, 4)
    assert notebook.cells[0].metadata["tags"] == BOOTSTRAP_TAGS
    assert notebooks.leaks(notebook) == []
