"""Sphinx extension: the lists at the end of the book, gathered from the chapters themselves.

On the page `book/appendix/lists` stand, in place of lines `<!-- list: NAME -->`: the figures and
how each was made, the recorded runs, the theorems, what the book corrects in its sources, and where
each term of the glossary is used. `terms.js` gives every page the glossary's definitions, shown at
a term's links.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import yaml
from bs4 import BeautifulSoup

from . import drag
from .chapters import code_cells, pages, source
from .claims import LABEL, RECORDED, load, plain, record, title
from .files import read_json

PAGE = "book/appendix/lists"
GLOSSARY = "book/notation"
MARKER = re.compile(r"^<!-- list: (\w+) -->$", re.M)
CODE_CELL = re.compile(r"^(`{3,})\{code-cell\}[^\n]*\n(.*?)^\1 *$", re.M | re.S)
THEOREM = re.compile(r"^`{3,}\{prf:(\w+)\}([^\n]*)\n(?::[^\n]*\n)*?:label: (\S+)", re.M)
CORRECTION = re.compile(
    r"^(`{3,}|:{3,})\{admonition\} ([^\n]*)\n:class: correction\n(.*?)^\1 *$", re.M | re.S)
MANY = 12  # runs of a figure that are named one by one
NAMING = re.compile(r"\s--(?:title|out) (?:'[^']*'|\S+)")  # of a command
DRAG = re.compile(r"^```\{drag\} (\S+)$", re.M)
TERM_ROLE = re.compile(r"\{term\}`(?:[^`<]*<)?([^`>]+)>?`")
DOC_ROLE = re.compile(r"\{doc\}`(?:([^`<]*?) *<)?([^`>]+)>?`")


# -- figures: which record a picture is drawn from -------------------------------------------------


def pattern(text: ast.JoinedStr) -> str:
    return "".join(re.escape(part.value) if isinstance(part, ast.Constant) else "(.+)"
                   for part in text.values)


class Sources(ast.NodeVisitor):
    """Which names of a chapter hold what was read from which recorded Run, statement by statement.

    A name assigned from an expression takes over whatever the expression's names hold. That may
    find too much (a learning rate taken from a record marks what is computed with it), never too
    little, but for what a function reads inside itself and only passes on by its own name. Names
    that a function or a comprehension binds are its own.
    """

    def __init__(self, cells: list[str]):
        self.held: dict[str, set[str]] = {}
        self.recorded = {path.parent.name for path in RECORDED.glob("*/run.json")}
        parts = [part for cell in cells for part in ast.walk(ast.parse(cell))]
        self.strings = {part.value for part in parts
                        if isinstance(part, ast.Constant) and isinstance(part.value, str)}
        self.patterns = [pattern(part) for part in parts if isinstance(part, ast.JoinedStr)]

    def of(self, node) -> set[str]:
        found, own = set(), bound(node)
        for part in ast.walk(node):
            if isinstance(part, ast.Name):
                found |= self.held.get(part.id, set()) if part.id not in own else set()
            elif isinstance(part, ast.Call) and getattr(part.func, "attr", "") == "recorded":
                found |= planned(part)
            elif isinstance(part, ast.JoinedStr):
                found |= self.named(part)
            elif isinstance(part, ast.Constant) and part.value in self.recorded:
                found.add(part.value)
        return found

    def named(self, text: ast.JoinedStr) -> set[str]:
        """Recorded Runs that an f-string names, with any of the chapter's strings in its braces."""
        wanted = pattern(text)
        if not re.search(r"[a-z]{3,}", wanted):
            return set()
        matches = (re.fullmatch(wanted, name) for name in self.recorded)
        return {m.string for m in matches if m and all(map(self.known, m.groups()))}

    def known(self, text: str) -> bool:
        """Whether the chapter writes this string, or makes it from one that it writes."""
        made = (re.fullmatch(one, text) for one in self.patterns)
        return text in self.strings or any(m and set(m.groups()) <= self.strings for m in made)

    def give(self, target, runs: set[str], more: bool = False) -> None:
        """Names take it in place of what they held; what is a part of something, besides."""
        if isinstance(target, ast.Tuple | ast.List):
            for part in target.elts:
                self.give(part, runs, more)
        elif isinstance(target, ast.Name):
            self.held[target.id] = runs | (self.held.get(target.id, set()) if more else set())
        elif isinstance(target, ast.Subscript | ast.Attribute | ast.Starred):
            self.give(target.value, runs, more=not isinstance(target, ast.Starred))

    def statement(self, node) -> set[str]:
        """Runs that a statement draws from; what it assigns holds them afterwards."""
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            runs = self.of(node)
            self.held[node.name] = runs
            return set()
        if isinstance(node, ast.Assign):
            runs = self.of(node.value)
            for target in node.targets:
                self.give(target, runs)
            return runs
        if isinstance(node, ast.AugAssign | ast.AnnAssign) and node.value is not None:
            runs = self.of(node.value)
            self.give(node.target, runs, more=True)
            return runs
        if isinstance(node, ast.For | ast.With | ast.If | ast.While | ast.Try):
            runs = set()
            if isinstance(node, ast.For):
                runs = self.of(node.iter)
                self.give(node.target, runs)
            else:
                for head in ("test", "items"):
                    part = getattr(node, head, [])
                    for one in part if isinstance(part, list) else [part]:
                        runs |= self.of(one)
            for _ in range(2 if isinstance(node, ast.For | ast.While) else 1):
                for block in ("body", "orelse", "finalbody"):
                    for inner in getattr(node, block, []):
                        runs |= self.statement(inner)
            return runs
        return self.of(node)

    def cell(self, code: str) -> set[str]:
        return set().union(*(self.statement(node) for node in ast.parse(code).body))


def bound(node) -> set[str]:
    """Names that a statement, or functions and comprehensions in it, make for themselves."""
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.arg):
            found.add(part.arg)
        elif isinstance(part, ast.comprehension):
            found |= {name.id for name in ast.walk(part.target) if isinstance(name, ast.Name)}
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        found |= {name.id for name in ast.walk(node)
                  if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)}
    return found


def planned(call: ast.Call) -> set[str]:
    """The trial's records that `plan.recorded()` reads, or `plan.recorded(plan.EDGES)`."""
    from gdflows.experiments.trial import plan

    which = [getattr(arg, "attr", "") for arg in call.args] or ["PLAN"]
    return set(plan.recorded(getattr(plan, which[0])))


def figures(page: str, root: Path) -> list[tuple[str, str, set[str]]]:
    """(label, caption's first sentence, recorded Runs) of each figure that a chapter draws."""
    cells = code_cells(page, root)
    traced, found = Sources([cell.source for cell in cells]), []
    texts = CODE_CELL.findall(source(page, root).read_text())
    for cell, (_, text) in zip(cells, texts, strict=True):
        runs = traced.cell(cell.source)
        settings = re.match(r"---\n(.*?)^---$", text, re.M | re.S)
        figure = settings and yaml.safe_load(settings.group(1)).get("mystnb", {}).get("figure")
        if figure:
            found.append((figure["name"], first_sentence(figure["caption"]), runs))
    return found


def first_sentence(text: str) -> str:
    text = plain(text)
    end = re.search(r"(?<=[^.A-Z])[.?!](?= [A-Z$])", re.sub(r"\$[^$]*\$", lambda m: "x" * len(m[0]),
                                                         text))
    return text[: end.end()] if end else text


def how(runs: set[str], seconds: float | None) -> str:
    if not runs:
        time = f", whose cells ran in {seconds:.0f} s" if seconds else ""
        return f"*Live, on the CPU, by the chapter{time}.*"
    if len(runs) > MANY:
        return f"Recorded: {len(runs)} runs, {record(min(runs))} to {record(max(runs))}."
    return f"Recorded: {', '.join(map(record, sorted(runs)))}."


def length(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def list_figures(root: Path) -> list[str]:
    from .execute import Execution

    lines = []
    for page in pages(root):
        done = Execution.load(page)
        rows = [f"- {{numref}}`{name}`. {caption} {how(runs, done and done.seconds)}"
                for name, caption, runs in figures(page, root)]
        rows += [f"- A figure to drag: {drag.head(name, 'Title')}. *Computed in the page, by its "
                 "own script, which is tested against the package.*"
                 for name in DRAG.findall(source(page, root).read_text())]
        if rows:
            lines += [f"### {title(page, root)}", "", *rows, ""]
    return lines


# -- recorded runs: what made each, once ----------------------------------------------------------


def readers(root: Path) -> dict[str, list[str]]:
    """By record: the chapters that read it, in code or for a claim."""
    found: dict[str, list[str]] = {}
    for page in pages(root):
        cells = [cell.source for cell in code_cells(page, root)]
        traced = Sources(cells)
        read = set().union(*map(traced.cell, cells), *(claim.run for claim in load(page, root)))
        for name in read:
            found.setdefault(name, []).append(page)
    return found


def list_records(root: Path) -> list[str]:
    read, lines = readers(root), []
    for path in sorted(RECORDED.glob("*/run.json")):
        name, run = path.parent.name, read_json(path)
        made = run["environment"]
        where = ", ".join(f"{{doc}}`/{page}`" for page in read.get(name, []))
        lines += [
            f"(record-{name})=", "", "{.record}",
            f"**{name}** {run['title'].rstrip('.')}. {made['device']}, {length(made['seconds'])}, "
            f"{made['started'].split()[0]}{f'; read in {where}' if where else ''}.\\",
            f"`{NAMING.sub('', made['command'])}`", "",
        ]
    return lines


# -- theorems, corrections, terms ------------------------------------------------------------------


def list_theorems(root: Path) -> list[str]:
    lines = []
    for page in pages(root):
        found = THEOREM.findall(source(page, root).read_text())
        if found:
            lines += [f"### {title(page, root)}", ""]
            lines += [f"- {{prf:ref}}`{label}`" + (f": {name.strip()}" if name.strip() else "")
                      for _, name, label in found]
            lines.append("")
    return lines


def moved(text: str, page: str) -> str:
    """A passage of a chapter on another page: relative {doc} references are made absolute."""
    def absolute(match: re.Match) -> str:
        words, target = match.groups()
        if not target.startswith("/"):
            parts: list[str] = []
            for part in [*Path(page).parent.parts, *target.split("/")]:
                if part == "..":
                    parts.pop()
                elif part != ".":
                    parts.append(part)
            target = "/" + "/".join(parts)
        return f"{{doc}}`{words} <{target}>`" if words else f"{{doc}}`{target}`"

    return DOC_ROLE.sub(absolute, text)


def list_corrections(root: Path) -> list[str]:
    lines = []
    for page in pages(root):
        text = source(page, root).read_text()
        for box in CORRECTION.finditer(text):
            where = (LABEL.findall(text[: box.start()]) or [""])[-1]
            heading = box.group(2).strip()
            name = "" if heading == "A correction" else f" {heading}."
            place = f"In {{ref}}`{where}`" if where else f"In {{doc}}`/{page}`"
            lines += [f"**{place}:**{name} {moved(box.group(3).strip(), page)}", "", "---", ""]
    return lines[:-2] if lines else lines


def glossary(root: Path) -> list[str]:
    """The terms, as the glossary's source has them."""
    text = source(GLOSSARY, root).read_text()
    block = re.search(r"^```\{glossary\}\n(.*?)^```", text, re.M | re.S).group(1)
    return [line.strip() for line in block.splitlines() if line and not line.startswith(" ")]


def prose(page: str, root: Path) -> str:
    return CODE_CELL.sub("", source(page, root).read_text()).lower()


def list_terms(root: Path) -> list[str]:
    texts = {page: prose(page, root) for page in pages(root)
             if page not in (GLOSSARY, PAGE, "book/index") and "/appendix/" not in page}
    lines = []
    for term in sorted(glossary(root), key=str.lower):
        stem = re.escape(term.lower()).replace(r"\ ", r"\s+")
        many = {page: len(re.findall(rf"\b{stem}", text)) for page, text in texts.items()}
        used = [page for page in texts if many[page]]
        most = sorted(used, key=lambda p: -many[p])[:5]
        where = ", ".join(f"{{doc}}`/{page}`" for page in used if page in most)
        more = f" and {len(used) - len(most)} more" if len(used) > len(most) else ""
        lines.append(f"- {{term}}`{term}`: {where}{more}" if where else f"- {{term}}`{term}`")
    return lines


LISTS = {"figures": list_figures, "records": list_records, "theorems": list_theorems,
         "corrections": list_corrections, "terms": list_terms}


def read_source(app, docname: str, text: list[str]) -> None:
    if docname == PAGE:
        root = Path(app.srcdir)
        text[0] = MARKER.sub(lambda m: "\n".join(LISTS[m.group(1)](root)), text[0])


def write_terms(app, error) -> None:
    """The glossary's definitions, as its page has them, for the hovers."""
    page = Path(app.outdir, f"{GLOSSARY}.html")
    if error or app.builder.format != "html" or not page.exists():
        return
    content = BeautifulSoup(page.read_text(), "html.parser")
    found = {}
    for entry in content.select("dl.glossary dt[id]"):
        meaning = entry.find_next_sibling("dd")
        for link in meaning.find_all("a"):
            link.unwrap()
        found[entry["id"]] = meaning.decode_contents().strip()
    Path(app.outdir, "_static/terms.js").write_text(
        f"globalThis.gdflowsTerms = {json.dumps(found, ensure_ascii=False)};\n")


def setup(app) -> dict:
    app.connect("source-read", read_source)
    app.connect("build-finished", write_terms)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
