"""The committed notebooks say what their chapters say, and drift of any kind is seen."""

import copy

import nbformat
import pytest
from bookkit import notebooks
from bookkit.chapters import BOOTSTRAP, chapters, load_address, notebook_path
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook


def test_every_notebook_matches_its_chapter(html):
    assert notebooks.check() == []


@pytest.mark.parametrize("page", chapters())
def test_notebook_opens_on_its_own(page):
    notebook = nbformat.read(notebook_path(page), 4)
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    assert len(ids) == len(set(ids))
    address = notebooks.written_address(notebook).repository  # `book.py address` may come later
    assert notebook.cells[0].source == BOOTSTRAP.replace("{address}", address)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook_path(page).stat().st_size < 1_000_000, "a notebook this large bloats git"


def sample() -> nbformat.NotebookNode:
    cells = [
        new_code_cell(BOOTSTRAP.replace("{address}", load_address().repository), id="code-0",
                      execution_count=1),
        new_markdown_cell("# Title\n\nProse with $x$ and [a link](https://example.org).", id="t"),
        new_code_cell("print(1 + 1)", id="code-1", execution_count=2),
    ]
    return new_notebook(cells=cells)


def edited(cell: int, **changes) -> nbformat.NotebookNode:
    notebook = copy.deepcopy(sample())
    notebook.cells[cell].update(changes)
    return notebook


def test_no_complaint_without_cause():
    assert notebooks.compare("n", sample(), sample()) == []


@pytest.mark.parametrize(
    ("notebook", "complaint"),
    [
        (edited(2, source="print(1 + 2)"), "cell code-1 differs"),
        (edited(1, source="# Title\n\nOther prose."), "cell t differs"),
        (edited(2, metadata={"tags": ["nbval-skip"]}), "cell code-1 differs"),
        (edited(0, source="pass"), "cell code-0 differs"),
        (edited(2, execution_count=None), "never run"),
        (new_notebook(cells=sample().cells[:-1]), "number of cells"),
    ],
)
def test_drift_is_seen(notebook, complaint):
    assert any(complaint in p for p in notebooks.compare("n", notebook, sample()))


@pytest.mark.parametrize(
    "text",
    [
        "See {eq}`eq-x`.", "{cite:t}`barrett2021implicit` say", "```{note}\nA note\n```",
        ":::{admonition} A\nB\n:::", "{prf:ref}`thm-x`", "{py:func}`gdflows.integrate`",
        "{doc}`depth`", "{numref}`fig-x`", "(sec-label)=\n# Title", "> ```{note}\n> x\n> ```",
    ],
)
def test_raw_markup_is_seen(text):
    assert notebooks.leaks(new_notebook(cells=[new_markdown_cell(text)]))


@pytest.mark.parametrize(
    "text",
    [
        "$\\{x\\}$ and `{a: 1}`", "```python\nf'{x}`'\n```", "plain (a)=b", "$$\n\\frac{a}{b}\n$$",
        "> ```python\n> d = {a}\n> ```",
    ],
)
def test_plain_markdown_is_no_leak(text):
    assert notebooks.leaks(new_notebook(cells=[new_markdown_cell(text)])) == []


def test_the_address_is_changed_everywhere_and_nothing_else():
    before = sample()
    address = load_address()
    before.cells[1].source = f"[a]({address.site}book/x.html) [b]({address.repository})"
    after = notebooks.readdressed(
        before, notebooks.written_address(before),
        "https://github.com/someone/else", "https://someone.github.io/else/",
    )
    assert "git+https://github.com/someone/else" in after.cells[0].source
    assert after.cells[1].source == (
        "[a](https://someone.github.io/else/book/x.html) [b](https://github.com/someone/else)"
    )
    assert after.cells[2] == before.cells[2]
    # and a notebook under another address is still the same notebook
    assert notebooks.compare("n", after, before) == []
