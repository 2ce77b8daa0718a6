"""Sphinx extension: entries of the bibliography lead somewhere, forth and back, and can be copied.

Each gets a link to its paper (an arXiv number, a DOI or an address in references.bib; where there
is none, a search for its title), the chapters that cite it, and its BibTeX. At the end of each
chapter stands how to cite it.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from urllib.parse import quote_plus

from docutils import nodes

from .chapters import chapters, load_address, load_config, pages, source
from .claims import title

BIBLIOGRAPHY = "book/appendix/bibliography"
CITE = re.compile(r"\{cite(?::\w+)?\}`([^`]+)`")
ENTRY = re.compile(r"^@\w+\{([^,\s]+),\n.*?^\}", re.M | re.S)
ARXIV = re.compile(r"\b(\d{4}\.\d{4,5}|[a-z-]+/\d{7})\b")


def entries(root: Path) -> dict[str, str]:
    """By key: the entry as references.bib has it."""
    text = (root / "book/references.bib").read_text()
    return {match.group(1): match.group(0) for match in ENTRY.finditer(text)}


def value(entry: str, key: str) -> str:
    found = re.search(rf"^\s*{key}\s*=\s*[{{\"](.*)[}}\"],?\s*$", entry, re.M | re.I)
    return found.group(1) if found else ""


def address(entry: str) -> tuple[str, str]:
    """(what it is, where) of the paper."""
    if url := value(entry, "url"):
        return "link", url
    if doi := value(entry, "doi"):
        return "DOI", f"https://doi.org/{doi}"
    named = f"{value(entry, 'eprint')} {value(entry, 'note')} {value(entry, 'journal')}"
    if number := ARXIV.search(named):
        return f"arXiv:{number.group(1)}", f"https://arxiv.org/abs/{number.group(1)}"
    words = re.sub(r"\\\w+|[{}\\$`\"]|--", " ", value(entry, "title"))
    asked = quote_plus(" ".join(words.split()))
    return "search", f"https://search.crossref.org/search/works?q={asked}"


def citing(root: Path) -> dict[str, list[str]]:
    """By key: the pages that cite it, in their order."""
    found: dict[str, list[str]] = {}
    for page in pages(root):
        text = source(page, root).read_text()
        for key in dict.fromkeys(k.strip() for m in CITE.findall(text) for k in m.split(",")):
            found.setdefault(key, []).append(page)
    return found


def bibtex(text: str, name: str, kind: str = "") -> nodes.raw:
    """Folded, with a button that copies it. Not in notebooks; on paper only that of the book."""
    return nodes.raw("", f'<details class="bibtex{kind}"><summary>BibTeX'
                         f'<span class="visually-hidden"> of {escape(name)}</span></summary>'
                         f'<pre>{escape(text)}</pre>'
                         '<button type="button" class="btn btn-sm">Copy</button></details>',
                     format="html", silent=True)


def complete(app, doctree, docname: str) -> None:
    if app.builder.format != "html" or docname != BIBLIOGRAPHY:
        return
    root = Path(app.srcdir)
    known, where = entries(root), citing(root)
    ids = {c.citation_id: c.key for c in app.env.get_domain("cite").citations}
    for node in doctree.findall(nodes.citation):
        key = next((ids[name] for name in node["ids"] if name in ids), None)
        if key not in known:
            continue
        what, url = address(known[key])
        line = nodes.paragraph(classes=["cited-in"])
        if not any(link.get("refuri") for link in node.findall(nodes.reference)):
            line += nodes.reference("", what if what != "search" else "find it", refuri=url,
                                    internal=False)
            line += nodes.Text(". ")
        for k, page in enumerate(where.get(key, [])):
            line += nodes.Text("Cited in " if k == 0 else ", ")
            line += nodes.reference("", title(page, root), internal=True,
                                    refuri=app.builder.get_relative_uri(docname, page))
        line += nodes.Text("." if where.get(key) else "")
        node += line
        node += bibtex(known[key], key)


def own_entry(page: str, root: Path) -> str:
    """BibTeX of a chapter of this book."""
    config, site = load_config(root), load_address(root).site
    if page == pages(root)[0]:
        return (f"@book{{gdflows,\n  author = {{{{{config['author']}}}}},\n"
                f"  title  = {{{config['title']}}},\n  year   = {{{config['copyright']}}},\n"
                f"  url    = {{{site}}},\n}}")
    name = re.sub(r"\$([^$]*)\$", r"$\1$", title(page, root))
    return (f"@incollection{{gdflows-{page.rsplit('/', 1)[-1]},\n"
            f"  author    = {{{{{config['author']}}}}},\n"
            f"  title     = {{{name}}},\n"
            f"  booktitle = {{{config['title']}}},\n"
            f"  year      = {{{config['copyright']}}},\n"
            f"  url       = {{{site}{page}.html}},\n}}")


def how_to_cite(app, doctree, docname: str) -> None:
    """At a chapter's end: its BibTeX, and how long its cells took when the book was built."""
    root = Path(app.srcdir)
    if app.builder.format != "html" or docname not in chapters(root):
        return
    from .execute import Execution

    section = next(iter(doctree.findall(nodes.section)), None)
    if section is None:
        return
    done, what = Execution.load(docname), "this chapter"
    if docname == app.config.root_doc:
        what = "the book"
    said = f"Its cells ran in {done.seconds:.0f} s when these pages were built. " if done else ""
    kind = " of-book" if docname == app.config.root_doc else ""
    section += nodes.raw("", f'<p class="cite-this{kind}">{said}To cite {what}:</p>',
                         format="html", silent=True)
    section += bibtex(own_entry(docname, root), what, kind)


def setup(app) -> dict:
    app.connect("doctree-resolved", complete)
    app.connect("doctree-resolved", how_to_cite)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
