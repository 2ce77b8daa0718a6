"""Every construct that an author may write, built once, as a plain-Markdown notebook."""

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from bookkit import notebooks, texmacros

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = Path(__file__).with_name("sample")
TOC = {"format": "jb-book", "root": "other",
       "parts": [{"caption": "P", "numbered": 1, "chapters": [{"file": "everything"}]}]}


def build(folder: Path, extra: str = "") -> subprocess.CompletedProcess:
    shutil.copytree(SAMPLE, folder, dirs_exist_ok=True)
    (folder / "tools").symlink_to(ROOT / "tools")
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    config["repository"]["url"] = "https://github.com/who/what"
    config["execute"]["execute_notebooks"] = "off"
    config["bibtex_bibfiles"] = ["references.bib"]
    config["html"].pop("favicon")
    config["sphinx"]["config"].update(html_static_path=[], templates_path=[], html_css_files=[])
    (folder / "_config.yml").write_text(yaml.safe_dump(config))
    (folder / "_toc.yml").write_text(yaml.safe_dump(TOC))
    with (folder / "everything.md").open("a") as file:
        file.write(extra)
    program = Path(sys.executable).with_name("jupyter-book")
    return subprocess.run([program, "build", ".", "--all", "-W", "-n", "--keep-going"],
                          cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    done = build(folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return nbformat.read(folder / "_build/notebooks/everything.ipynb", 4)


@pytest.fixture(scope="module")
def text(notebook):
    return "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")


PAGE = "https://who.github.io/what/everything.html"
OTHER = "https://who.github.io/what/other.html"


@pytest.mark.parametrize(
    "expected",
    [
        "# 1. Everything an author may write\n",
        "*stress*, **force**, `code`, a `` `tick` ``, a price of \\$5, 2 \\* 3 \\* 4, snake_case",
        "[link](https://example.org/a_b) and a footnote<sup>1</sup>",
        f"Author ([2020]({OTHER}#id", f"others do ([Author, 2020]({OTHER}#id",
        f"See [Second section]({PAGE}#sec-second)",
        f"[The other page]({OTHER})",
        f"[(1.1)]({PAGE}#equation-eq-first)",
        f"[Theorem 1.1]({PAGE}#thm-first)",
        f"[Exercise 1.1]({PAGE}#ex-first)",
        f"[Fig. 1.1]({PAGE}#fig-static)",
        f"[Table 1.1]({PAGE}#tab-first)",
        f"[gradient flow]({OTHER}#term-gradient-flow)",
        "H<sub>2</sub>O, $x^2 \\in \\mathbb{R}$.",
        "\\lVert \\nabla E \\rVert \\le \\mathcal{O}\\!\\left(h^2\\right)",
        "\\left\\langle a, \\lVert b \\rVert \\right\\rangle \\tag{1.1}\n$$",
        "\\begin{aligned}\na &= b \\\\\n  &= c\n\\end{aligned}",
        "<sup>1</sup> The note, with $\\lvert x \\rvert$.",
        "## Second section",
        "- one\n\n- two\n\n  - inner\n\n  second paragraph of two",
        "1. first\n2. second",
        "- **term**\n\n  its definition",
        "| symbol | meaning |\n| --- | --- |\n| $\\lvert x \\rvert$ | a value |",
        "**Table 1.1.** A named table\n\n| a | b |\n| --- | --- |\n| 1 | $2$ |",
        "![A square.](https://who.github.io/what/_images/picture.svg)\n\n**Figure 1.1.** A static",
        "> A quotation.", "\n---\n", "```python\nplain = \"code, not run\"\n```",
        "> **Note**\n>\n> A note with Author",
        "> **A title with $\\mathbb{R}$**\n>\n> Text.\n>\n> ```python\n"
        "> print(\"in a box\")\n> ```",
        "<details><summary>Folded</summary>\n\nInside.\n\n</details>",
        "<details><summary>Design’s own</summary>\n\nInside too.\n\n</details>",
        "> **Theorem 1.1 (Named).**\n>\n> Let $x$.",
        "> **Definition 1.1.**\n>\n> A definition.",
        "*Proof.* By [Theorem 1.1]",
        "<details><summary>Proof</summary>\n\nThe *folded* proof.\n\n</details>",
        "> **Exercise 1.1 (Second order).**\n>\n> Show $x$.",
        "<details><summary>Solution to Exercise 1.1 (Second order)</summary>\n\nShown.",
        "**Solution to Exercise 1.2**\n\nLike so:",
        f"*There is a figure to move here, on [the page]({PAGE}).*",
        "**Figure to drag: [A bowl, as the learning rate passes 1/λ and 2/λ]"
        f"({PAGE}#drag-quadratic)** (on the page, in a browser).\n\nWhat stands in its place: $x$.",
        f"**A title**\n\nWith a [way]({OTHER}) on.",
        "After everything.",
    ],
)
def test_construct(text, expected):
    assert expected in text


def test_nothing_raw_is_left(notebook):
    assert notebooks.leaks(notebook) == []


def test_cells_keep_their_order_and_tags(notebook):
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert [c.source for c in code[1:]] == ["1 + 1", "2 + 2"]
    assert code[1].metadata.tags == ["hide-input"]
    kinds = [c.source.splitlines()[0] for c in notebook.cells]
    assert kinds.index("## Second section") < kinds.index("1 + 1") < kinds.index("2 + 2")
    assert notebook.cells[-2].source.startswith("*There is a figure")
    assert notebook.cells[-1].source.startswith("## Cards")


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        ("\n{ref}`nowhere`\n", "nowhere"),
        ("\n::::{tab-set}\n:::{tab-item} A\nB\n:::\n::::\n", "teach it in tools/bookkit/plain.py"),
        ("\n{cite:t}`nobody1900`\n", "nobody1900"),
        ("\n{py:func}`gdflows.nothing`\n", "gdflows.nothing"),
    ],
)
def test_what_cannot_be_resolved_stops_the_build(tmp_path, extra, complaint):
    done = build(tmp_path / "book", extra)
    assert done.returncode != 0
    assert complaint in done.stdout + done.stderr


# ---- macros

MACROS = texmacros.Macros({
    "R": r"\mathbb{R}", "norm": [r"\lVert #1 \rVert", 1], "inner": [r"\langle #1, #2 \rangle", 2],
    "grad": r"\nabla",
})


@pytest.mark.parametrize(
    ("tex", "expanded"),
    [
        (r"\R^n", r"\mathbb{R}^n"),
        (r"\Re x", r"\Re x"),  # another command that begins alike
        (r"\norm{\norm{x}}", r"\lVert \lVert x \rVert \rVert"),
        (r"\norm x", r"\lVert x \rVert"),
        (r"\inner{a}{\R}", r"\langle a, \mathbb{R} \rangle"),
        (r"\inner \grad b", r"\langle \nabla, b \rangle"),
        (r"\grad E", r"\nabla E"),
        (r"\norm{\{a\}}", r"\lVert \{a\} \rVert"),
    ],
)
def test_macros(tex, expanded):
    assert MACROS.expand(tex) == expanded


def test_macros_complain():
    with pytest.raises(ValueError, match="lacks an argument"):
        MACROS.expand(r"\norm")
    with pytest.raises(ValueError, match="brace"):
        MACROS.expand(r"\norm{x")
    with pytest.raises(ValueError, match="circle"):
        texmacros.Macros({"a": r"\b", "b": r"\a"}).expand(r"\a")
