"""Sphinx extension: every chapter also as a plain-Markdown notebook, from the same build.

Whoever opens a notebook in Colab or on GitHub sees Markdown cells that know no directive, role,
macro or number. So the text is written from the *resolved* page, the one the HTML is made from:
numbers stand where the page has numbers, links lead to the published page. A node this writer does
not know is an error that names it; nothing leaks silently.

The extension also derives the site's address from `repository.url` and brings MathJax along.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin

import nbformat
from docutils import nodes
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from sphinx.errors import ExtensionError
from sphinxcontrib.bibtex.plugin import register_plugin
from sphinxcontrib.bibtex.style.referencing import BracketStyle
from sphinxcontrib.bibtex.style.referencing.author_year import AuthorYearReferenceStyle

from . import texmacros
from .chapters import KERNELSPEC, ROOT, bootstrap_cell, code_cells, load_address

NOTEBOOKS = ROOT / "_build/notebooks"  # where builds of this repository put them

# what is needed of MathJax to set TeX on a page; not its menu, nor its speech engine
MATHJAX = ("tex-chtml.js", "input/tex/extensions", "output/chtml/fonts", "a11y/assistive-mml.js")

ADMONITIONS = {"note", "warning", "tip", "important", "hint", "caution", "danger", "error",
               "attention", "seealso"}
SILENT = {"comment", "target", "substitution_definition", "index", "meta", "pending", "raw_latex",
          "exercise_end_node", "solution_start_node", "solution_end_node", "highlightlang"}


class Cell(int):
    """Marks the place of the chapter's k-th code cell among the blocks of text."""


class Heading(str):
    """A heading: a new Markdown cell begins."""


class Writer:
    """Turns one resolved page into blocks of plain Markdown and places of code cells."""

    def __init__(self, builder, docname: str, address):
        self.builder, self.env, self.docname = builder, builder.env, docname
        self.site = address.site
        self.page = urljoin(self.site, f"{docname}.html")
        tex = builder.config.mathjax3_config["tex"]
        self.macros = texmacros.Macros(tex.get("macros", {}))
        self.cells = 0
        self.level = 0
        self.table = False

    # ---- numbers and links

    def number(self, kind: str, node) -> str:
        """The page's number of a figure, theorem, ... or ''."""
        numbers = self.env.toc_fignumbers.get(self.docname, {}).get(kind, {})
        for name in node["ids"]:
            if name in numbers:
                return ".".join(map(str, numbers[name]))
        return ""

    def link(self, node) -> str:
        if "refuri" in node:
            return urljoin(self.page, node["refuri"])
        return f"{self.page}#{node['refid']}"

    def unknown(self, node, where: str):
        raise ExtensionError(
            f"{self.docname}: the notebook writer does not know the {where} node "
            f"{type(node).__name__} ({node.astext()[:60]!r}); teach it in tools/bookkit/plain.py"
        )

    # ---- text inside a paragraph

    def inline(self, node) -> str:
        return "".join(self.inline_node(child) for child in node.children)

    def inline_node(self, node) -> str:
        method = getattr(self, f"inline_{type(node).__name__}", None)
        if method:
            return method(node)
        if type(node).__name__ in SILENT:
            return ""
        return self.unknown(node, "inline")

    def inline_Text(self, node) -> str:
        text = re.sub(r"([\\`*$])", r"\\\1", node.astext())
        text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
        return text.replace("<", "&lt;").replace("\n", " ")

    def wrapped(self, node, mark: str) -> str:
        text = self.inline(node)
        core = text.strip()
        if not core:
            return text
        head, tail = text.split(core[0], 1)[0], text[len(text.rstrip()):]
        return f"{head}{mark}{core}{mark}{tail}"

    def inline_emphasis(self, node):
        return self.wrapped(node, "*")

    inline_title_reference = inline_term = inline_emphasis

    def inline_strong(self, node):
        return self.wrapped(node, "**")

    def inline_literal(self, node):
        text = node.astext().replace("\n", " ")
        ticks = "`" * (1 + max([len(t) for t in re.findall("`+", text)], default=0))
        pad = " " if text.startswith("`") or text.endswith("`") else ""
        return f"{ticks}{pad}{text}{pad}{ticks}"

    def inline_inline(self, node):
        return self.inline(node)

    inline_abbreviation = inline_generated = inline_PassthroughTextElement = inline_inline

    def inline_subscript(self, node):
        return f"<sub>{self.inline(node)}</sub>"

    def inline_superscript(self, node):
        return f"<sup>{self.inline(node)}</sup>"

    def inline_math(self, node):
        text = self.macros.expand(" ".join(node.astext().split()))
        if self.table:
            text = text.replace("|", "\\vert ")
        return f"${text}$"

    def inline_reference(self, node):
        text = self.inline(node)
        if any(isinstance(child, nodes.image) for child in node.children):
            return text
        return f"[{text}]({self.link(node)})"

    inline_number_reference = inline_reference

    def inline_footnote_reference(self, node):
        return f"<sup>{node.astext()}</sup>"

    def inline_image(self, node):
        uri = node["uri"]
        if "://" not in uri:
            uri = urljoin(self.site, f"_images/{Path(uri).name}")
        return f"![{node.get('alt', '')}]({uri})"

    def inline_raw(self, node):  # the icons of sphinx-design; chapters hold no HTML in prose
        return "" if node.astext().startswith("<svg") else self.unknown(node, "inline")

    # ---- blocks

    def blocks(self, node) -> list:
        found = []
        for child in node.children:
            found += self.block(child)
        return found

    def block(self, node) -> list:
        name = type(node).__name__
        method = getattr(self, f"block_{name}", None)
        if method:
            return method(node)
        if isinstance(node, nodes.Text | nodes.Inline):
            return [self.inline_node(node)] if node.astext().strip() else []
        if name in ADMONITIONS:
            return self.quoted(name.capitalize(), self.blocks(node))
        if name in SILENT:
            return []
        if "countertype" in node.attributes:  # theorem, lemma, ... of sphinx-proof
            return self.block_proof_like(node)
        return self.unknown(node, "block")

    def quoted(self, title: str, blocks: list) -> list:
        """A block quotation under a bold title; code cells cannot be quoted, so not if any."""
        head = [f"**{title}**"] if title else []
        if any(isinstance(b, Cell) for b in blocks):
            return [*head, *blocks]
        lines = "\n\n".join([*head, *blocks]).split("\n")
        return ["\n".join(f"> {line}".rstrip() for line in lines)]

    def folded(self, title: str, blocks: list) -> list:
        if any(isinstance(b, Cell) for b in blocks):
            return [f"**{title}**", *blocks]
        title = re.sub(r"\*\*|`", "", title)
        return ["\n\n".join([f"<details><summary>{title}</summary>", *blocks, "</details>"])]

    def block_document(self, node):
        return self.blocks(node)

    def block_section(self, node):
        if any(name.endswith("-content") for name in node["classes"] + node["ids"]) and not any(
            isinstance(child, nodes.title) for child in node.children
        ):  # the inside of a theorem or an exercise
            return self.blocks(node)
        self.level += 1
        anchors = ["", *(f"#{name}" for name in node["ids"])]
        numbers = self.env.toc_secnumbers.get(self.docname, {})
        key = "" if self.level == 1 else next((a for a in anchors[1:] if a in numbers), None)
        number = ".".join(map(str, numbers.get(key) or ())) if key is not None else ""
        found = []
        for child in node.children:
            if isinstance(child, nodes.title):
                text = self.inline(child)
                found.append(Heading(f"{'#' * self.level} {number + '. ' if number else ''}{text}"))
            else:
                found += self.block(child)
        self.level -= 1
        return found

    def block_paragraph(self, node):
        text = self.inline(node).strip()
        return [re.sub(r"^([-+#>]|\d+[.)])(\s)", r"\\\1\2", text)] if text else []

    def block_rubric(self, node):
        return [f"**{self.inline(node)}**"]

    block_title = block_rubric

    def block_compact_paragraph(self, node):
        return self.block_paragraph(node)

    def block_compound(self, node):
        return [] if "toctree-wrapper" in node["classes"] else self.blocks(node)

    def block_math_block(self, node):
        tex = self.macros.expand("\n".join(
            line for line in node.astext().strip().split("\n") if line.strip()
        ))
        if "\\\\" in tex and "\\begin{" not in tex:
            tex = f"\\begin{{aligned}}\n{tex}\n\\end{{aligned}}"
        if node["number"]:
            tex += f" \\tag{{{self.number('displaymath', node) or node['number']}}}"
        return [f"$$\n{tex}\n$$"]

    block_displaymath = block_math_block

    def block_literal_block(self, node):
        language = node.get("language", "")
        language = "" if language in ("default", "none", "myst-ansi") else language
        fence = "`" * max(3, 1 + max([len(t) for t in re.findall("`+", node.astext())], default=0))
        return [f"{fence}{language}\n{node.astext().rstrip()}\n{fence}"]

    block_doctest_block = block_literal_block

    def block_transition(self, node):
        return ["---"]

    def block_block_quote(self, node):
        return self.quoted("", self.blocks(node))

    def block_attribution(self, node):
        return [f"— {self.inline(node)}"]

    def block_topic(self, node):
        return [] if "contents" in node["classes"] else self.block_admonition(node)

    def block_line_block(self, node):
        return ["  \n".join(self.inline(line) for line in node.children)]

    # lists

    def item(self, mark: str, blocks: list) -> str:
        indent = " " * len(mark)
        text = "\n\n".join(map(str, blocks))
        lines = text.split("\n")
        return "\n".join([mark + lines[0], *(indent + line if line else "" for line in lines[1:])])

    def block_bullet_list(self, node):
        items = [self.blocks(child) for child in node.children]
        glue = "\n\n" if any(len(blocks) > 1 for blocks in items) else "\n"
        return [glue.join(self.item("- ", blocks) for blocks in items)]

    def block_enumerated_list(self, node):
        start = node.get("start", 1)
        items = [self.blocks(child) for child in node.children]
        glue = "\n\n" if any(len(blocks) > 1 for blocks in items) else "\n"
        return [glue.join(self.item(f"{k}. ", b) for k, b in enumerate(items, start))]

    def block_definition_list(self, node):
        entries = []
        for child in node.children:
            terms = [self.inline(c).strip() for c in child.children if isinstance(c, nodes.term)]
            rest = [b for c in child.children if isinstance(c, nodes.definition)
                    for b in self.blocks(c)]
            entries.append(self.item("- ", [f"**{', '.join(terms)}**", *rest]))
        return ["\n\n".join(entries)]

    def block_glossary(self, node):
        return self.blocks(node)

    def block_field_list(self, node):
        return ["\n".join(
            f"- **{field[0].astext()}**: {' '.join(map(str, self.blocks(field[1])))}"
            for field in node.children
        )]

    # tables, images, figures

    def block_table(self, node):
        self.table = True
        found, rows, head = [], [], None
        for row in node.findall(nodes.row):
            texts = ["<br>".join(map(str, self.blocks(e))).replace("\n", " ") for e in row.children]
            if isinstance(row.parent, nodes.thead) and head is None:
                head = texts
            else:
                rows.append(texts)
        self.table = False
        width = max(len(r) for r in [head or [], *rows])
        lines = [head or [""] * width, ["---"] * width, *rows]
        title = next(iter(node.findall(nodes.title)), None)
        if title is not None:
            number = self.number("table", node)
            found.append(f"**Table {number}.** {self.inline(title)}" if number
                         else f"**{self.inline(title)}**")
        return [*found, "\n".join("| " + " | ".join(line) + " |" for line in lines)]

    def block_tabular_col_spec(self, node):
        return []

    block_tabular = block_tabular_col_spec

    def block_image(self, node):
        return [self.inline_image(node)]

    def block_figure(self, node):
        found = []
        for child in node.children:
            found += self.caption(child, node) if isinstance(child, nodes.caption) else (
                self.block(child))
        return found

    def caption(self, node, figure) -> list:
        number = self.number("figure", figure)
        name = f"Figure {number}." if number else "Figure."
        return [f"**{name}** {self.inline(node).strip()}"]

    def block_legend(self, node):
        return self.blocks(node)

    # boxes, theorems, exercises

    def block_admonition(self, node):
        title, rest = "", node.children
        if rest and isinstance(rest[0], nodes.title):
            title, rest = self.inline(rest[0]).strip(), rest[1:]
        blocks = [b for child in rest for b in self.block(child)]
        if "dropdown" in node["classes"]:
            return self.folded(title or "More", blocks)
        return self.quoted(title, blocks)

    def block_proof_like(self, node):
        title = self.inline(node.children[0]).strip()
        number = self.number(node["countertype"], node)
        name = " ".join(filter(None, [node["realtype"].capitalize(), number, title]))
        return self.quoted(f"{name}.", [b for c in node.children[1:] for b in self.block(c)])

    def block_proof_node(self, node):
        if "dropdown" in node.children[0]["classes"]:
            return self.block_admonition(node.children[0])
        blocks = self.blocks(node.children[0])
        if blocks and blocks[0].startswith("Proof. "):
            blocks[0] = f"*Proof.* {blocks[0].removeprefix('Proof. ')}"
        return blocks

    def block_exercise_enumerable_node(self, node):
        title = self.inline(node.children[0]).strip()
        number = self.number("exercise", node)
        title = " ".join(filter(None, ["Exercise", number, title]))
        return self.quoted(f"{title}.", [b for c in node.children[1:] for b in self.block(c)])

    def block_exercise_node(self, node):
        title = self.inline(node.children[0]).strip()
        return self.quoted(f"{title}.", [b for c in node.children[1:] for b in self.block(c)])

    def block_solution_node(self, node):
        title = re.sub(r"\s+", " ", node.children[0].astext()).strip()
        return self.folded(title, [b for c in node.children[1:] for b in self.block(c)])

    # containers

    def block_container(self, node):
        if node.get("nb_element") == "cell_code":
            self.cells += 1
            found: list = [Cell(self.cells)]
            for figure in node.findall(nodes.figure):
                for caption in figure.findall(nodes.caption):
                    found += self.caption(caption, figure)
            return found
        if "literal-block-wrapper" in node["classes"]:
            return self.blocks(node)
        if node.get("design_component") == "dropdown":
            opening, *rest = node.children
            return self.folded(self.inline(opening), [b for c in rest for b in self.block(c)])
        component = node.get("design_component", "dropdown-body")
        if component == "card-title":
            return [f"**{self.inline(node)}**"]
        if component != "dropdown-body" and not component.startswith(("grid-", "card")):
            return self.unknown(node, f"{node['design_component']} container")
        return self.blocks(node)

    def block_dropdown_main(self, node):
        title, *rest = node.children
        return self.folded(self.inline(title), [b for c in rest for b in self.block(c)])

    def block_caption(self, node):
        return [f"**{self.inline(node)}**"]

    def block_HideCodeCellNode(self, node):
        return self.blocks(node)

    def block_raw(self, node):
        if node.get("format") != "html" or node.get("silent"):
            return []
        if "anchor" in node:  # see drag.py
            link = f"{self.page}#{node['anchor']}"
            return [f"**Figure to drag: [{node['title']}]({link})** (on the page, in a browser)."]
        return [f"*There is a figure to move here, on [the page]({self.page}).*"]

    def block_footnote(self, node):
        label, *rest = node.children
        blocks = [b for child in rest for b in self.block(child)]
        return [f"<sup>{label.astext()}</sup> " + "\n\n".join(map(str, blocks))]


def cells_of(blocks: list) -> list:
    """Blocks become Markdown cells, a new one at each heading; code cells keep their places."""
    found: list = []
    text: list[str] = []

    def flush():
        if text:
            found.append("\n\n".join(text))
            text.clear()

    for block in blocks:
        if isinstance(block, Cell):
            flush()
            found.append(block)
        else:
            if isinstance(block, Heading):
                flush()
            text.append(str(block))
    flush()
    return found


def notebook(builder, docname: str, doctree) -> nbformat.NotebookNode:
    """The page as a notebook without outputs."""
    root = Path(builder.srcdir)
    address = load_address(root)
    writer = Writer(builder, docname, address)
    blocks = writer.block(doctree)
    code = code_cells(docname, root)
    if writer.cells != len(code):
        raise ExtensionError(
            f"{docname}: {len(code)} code cells in the source, {writer.cells} on the page; "
            "tags remove-cell, remove-input and remove-output are not for this book"
        )
    if docname != builder.config.root_doc:
        origin = f"*From [{builder.config.html_title}]({writer.page}).*"
        first = next((k for k, b in enumerate(blocks) if isinstance(b, Heading)), -1)
        blocks.insert(first + 1, origin)
    cells = [bootstrap_cell(address.repository)]
    cells[0].id = "code-0"
    for k, block in enumerate(cells_of(blocks)):
        if isinstance(block, Cell):
            cell = new_code_cell(code[block - 1].source, metadata=code[block - 1].metadata)
            cell.id = f"code-{int(block)}"
        else:
            cell = new_markdown_cell(block, id=f"text-{k}")
        cells.append(cell)
    return new_notebook(cells=cells, metadata={
        "colab": {"provenance": [], "toc_visible": True},
        "kernelspec": KERNELSPEC,
        "language_info": {"name": "python"},
    })


# ---- the extension


def set_addresses(app, config) -> None:
    """All that follows from repository.url; and the pages do without thebe.

    jupyter-book always loads sphinx-thebe, which puts a script's address on another host into
    every page, for a button that this book does not have.
    """
    site = load_address(Path(app.srcdir)).site
    config.html_baseurl = site
    config.ogp_site_url = site
    for files in (app.registry.css_files, app.registry.js_files):
        files[:] = [one for one in files if "thebe" not in str(one[0])]
    for listeners in app.events.listeners.values():
        listeners[:] = [
            one for one in listeners if not one.handler.__module__.startswith("sphinx_thebe")
        ]


def title_folded_proofs(app, doctree) -> None:
    """A folded proof needs a title to unfold it by; sphinx-proof writes 'Proof. ' in its text."""
    for box in doctree.findall(nodes.admonition):
        if {"proof", "dropdown"} <= set(box["classes"]) and not isinstance(box[0], nodes.title):
            text = next(iter(box.findall(nodes.Text)))
            text.parent.replace(text, nodes.Text(text.astext().removeprefix("Proof. ")))
            box.insert(0, nodes.title("", "Proof"))


def write_notebook(app, doctree, docname: str) -> None:
    """On doctree-resolved, last of all: the page exactly as the HTML writer will get it."""
    root = Path(app.srcdir)
    if app.builder.name != "html" or not (root / f"{docname}.md").exists():
        return
    if not code_cells(docname, root):
        return
    path = root / NOTEBOOKS.relative_to(ROOT) / f"{docname}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook(app.builder, docname, doctree), path)


def copy_mathjax(app, error) -> None:
    """MathJax from the PyPI package sphinx-mathjax-offline: no page needs another host."""
    if error or app.builder.format != "html":
        return
    origin = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent
    for part in MATHJAX:
        source, target = origin / "static/mathjax" / part, Path(app.outdir, "_static/mathjax", part)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)


def round_brackets() -> BracketStyle:
    return BracketStyle(left="(", right=")")


@dataclass
class AuthorYearRound(AuthorYearReferenceStyle):
    """Barrett and Dherin (2021); (Rosca et al., 2023)."""

    bracket_parenthetical: BracketStyle = field(default_factory=round_brackets)
    bracket_textual: BracketStyle = field(default_factory=round_brackets)
    bracket_author: BracketStyle = field(default_factory=round_brackets)
    bracket_label: BracketStyle = field(default_factory=round_brackets)
    bracket_year: BracketStyle = field(default_factory=round_brackets)


def setup(app):
    register_plugin(
        "sphinxcontrib.bibtex.style.referencing", "author_year_round", AuthorYearRound, force=True
    )
    app.connect("config-inited", set_addresses)
    app.connect("doctree-read", title_folded_proofs)
    app.connect("doctree-resolved", write_notebook, priority=950)
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
