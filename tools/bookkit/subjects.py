"""Sphinx extension: the subject index, from `book/subjects.yml` and the chapters' text.

The file lists what a reader may look up, with the words to find it by and where else to look. The
places are found: the sections that speak of it most, so that nobody has to keep them. A test asks
that each subject has some, and that each cross-reference leads to a subject.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml
from sphinx.errors import ExtensionError

from .chapters import pages, source
from .lists import CODE_CELL, GLOSSARY, glossary

PAGE, FILE = "book/appendix/subjects", "book/subjects.yml"
MARKER = "<!-- subjects -->"
LEFT_OUT = {"In five lines", "Exercises", "What to read next"}
MOST, PART = 5, 0.25  # places of a subject, and of the best one's weight what each must have
HEADING = re.compile(r"^(?:\((\S+)\)=\n)?(#{1,4}) (.+)$", re.M)
NOT_PROSE = re.compile(r"`{3,}python\n.*?^`{3,}|\{(?:cite|py|doc|ref|numref|eq|prf)[:\w]*\}`[^`]*`",
                       re.M | re.S)


@dataclass
class Section:
    """A part of a chapter with a label, and what is said in it."""

    page: str
    label: str
    heading: str
    text: str


def sections(root: Path) -> list[Section]:
    """Of all chapters, in their order; a part without a label belongs to the one before it."""
    found: list[Section] = []
    for page in pages(root):
        if page in (GLOSSARY, "book/index") or page.startswith("book/appendix/"):
            continue
        text = NOT_PROSE.sub(" ", CODE_CELL.sub("", source(page, root).read_text()))
        heads = list(HEADING.finditer(text))
        for head, end in zip(heads, [h.start() for h in heads[1:]] + [len(text)], strict=True):
            label, _, words = head.groups()
            said = text[head.end():end]
            if label:
                found.append(Section(page, label, words, said))
            elif words not in LEFT_OUT and found and found[-1].page == page:
                found[-1].text += f"\n{words}\n{said}"
    return found


@dataclass
class Subject:
    """What a reader looks up."""

    name: str
    find: str  # a regular expression
    see: list[str]
    also: list[str]

    def weight(self, section: Section) -> int:
        """How much a section speaks of it; its heading counts more."""
        pattern = re.compile(rf"(?<![\w-])(?:{self.find})", re.I)
        return len(pattern.findall(section.text)) + 5 * len(pattern.findall(section.heading))

    def places(self, all_: list[Section]) -> list[Section]:
        """The sections that speak of it most, in the book's order."""
        weights = {k: self.weight(section) for k, section in enumerate(all_)}
        best = sorted((k for k in weights if weights[k]), key=lambda k: (-weights[k], k))[:MOST]
        return [all_[k] for k in sorted(best) if weights[k] >= PART * weights[best[0]]]


def subjects(root: Path) -> list[Subject]:
    """All of the file, by name."""
    found = []
    for name, said in yaml.safe_load((root / FILE).read_text()).items():
        said = {"find": said} if isinstance(said, str) else said or {}
        unknown = set(said) - {"find", "see", "also"}
        if unknown:
            raise ExtensionError(f"{FILE}: {name} has {', '.join(sorted(unknown))}")
        lists = {key: [said[key]] if isinstance(said.get(key), str) else said.get(key, [])
                 for key in ("see", "also")}
        words = re.escape(name).replace(r"\ ", r"\s+")
        found.append(Subject(name, said.get("find", words), **lists))
    return sorted(found, key=lambda s: key(s.name))


def key(name: str) -> str:
    """By which a name is sorted: its letters."""
    return re.sub(r"[^a-z0-9 ]", "", name.lower().replace("é", "e").replace("ö", "o"))


def line(subject: Subject, all_: list[Section], terms: set[str]) -> str:
    name = f"{{term}}`{subject.name}`" if subject.name in terms else subject.name
    name = f"**{name}**"
    if subject.see:
        return f"- {name}: see *{'*, *'.join(subject.see)}*"
    said: dict[str, list[str]] = {}
    for place in subject.places(all_):
        parts = said.setdefault(place.page, [])
        if not place.label.startswith("ch-"):
            parts.append(f"{{ref}}`{place.label}`")
    merged = "; ".join(f"{{doc}}`/{page}`" + (f": {', '.join(parts)}" if parts else "")
                       for page, parts in said.items())
    also = f". See also *{'*, *'.join(subject.also)}*" if subject.also else ""
    return f"- {name}: {merged}{also}"


def index(root: Path) -> str:
    all_, terms, letter, lines = sections(root), set(glossary(root)), "", []
    for subject in subjects(root):
        first = key(subject.name)[0].upper()
        if first != letter:
            letter = first
            lines += ["", f"## {letter}", ""]
        lines.append(line(subject, all_, terms))
    return "\n".join(lines)


def read_source(app, docname: str, text: list[str]) -> None:
    if docname == PAGE:
        text[0] = text[0].replace(MARKER, index(Path(app.srcdir)))


def setup(app) -> dict:
    app.connect("source-read", read_source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
