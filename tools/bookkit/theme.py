"""Sphinx extension: what the theme lacks for readers with keys, a phone or a screen reader.

The template `book/_templates/layout.html` passes the theme's HTML through `mended`. Each mending is
a small replacement; a test runs axe-core over every page in both themes, and says which is missing.
What depends on the window's width is done by `book/_static/site.js`.
"""

from __future__ import annotations

import re
from html import unescape as html_entities

from . import icons

TABLE = re.compile(r"<table\b.*?</table>", re.S)
EMPTY_HEAD = re.compile(r"<th\b([^>]*)>(?:\s|<p>|</p>|&nbsp;|<span[^>]*>|</span>)*</th>")
CAPTION = re.compile(r"<caption([^>]*)>(.*?)</caption>", re.S)
SUMMARY = re.compile(r"<summary>(?=\s*<span class=\"toctree-toggle\")")
PRINTED = re.compile(r'(<div class="output [^>]*><div class="highlight">)<pre>(.*?)</pre>', re.S)
#: A formula in the text, with what must not be torn from it at the end of a line.
GLUED = re.compile(r'([(\[“‘]*)(<span class="math notranslate nohighlight">\\\(.*?\\\)</span>)'
                   r"([.,;:!?)\]’”]*)", re.S)
PRE = re.compile(r"(<pre\b.*?</pre>)", re.S)
PERCENT = re.compile(r"(?<=\d) (?=%)")
#: The mark behind a claim, with the blank before it.
CLAIM = re.compile(r'( ?)<a class="reference internal" (href="[^"]*claims\.html#claim-[^"]*">'
                   r'<span class="std std-ref">✓</span></a>)')
PROOF = re.compile(r'(<div class="proof [^">]*)" id="proof">')
CELL = re.compile(r"<td\b.*?</td>", re.S)
WORDY = 60  # characters of a cell that is read and not looked up
LINE = 100  # characters that fit the column of a desktop
REPLACED = [
    (' role="doc-biblioentry"', ""),  # not for a div, says WAI-ARIA
    ('<div role="list" class="citation-list">', '<div class="citation-list">'),  # no list items
    ('<div class="bd-sidebar-primary bd-sidebar',
     '<div role="navigation" aria-label="Book" class="bd-sidebar-primary bd-sidebar'),
    ('<form class="bd-search', '<form role="search" aria-label="SEARCH" class="bd-search'),
    ('<nav class="bd-toc-nav page-toc">',
     '<nav class="bd-toc-nav page-toc" aria-label="This page">'),
    ('class="sidebar-toggle primary-toggle btn btn-sm" title=',
     'class="sidebar-toggle primary-toggle btn btn-sm" aria-label="Contents of the book" title='),
    ('class="sidebar-toggle secondary-toggle btn btn-sm" title=',
     'class="sidebar-toggle secondary-toggle btn btn-sm" aria-label="Contents of the page" title='),
    ('Solution to<a class=', 'Solution to <a class='),  # the link has the blank inside
    ('class="overlay overlay-primary"', 'aria-hidden="true" class="overlay overlay-primary"'),
    ('class="overlay overlay-secondary"', 'aria-hidden="true" class="overlay overlay-secondary"'),
]


def table(match: re.Match) -> str:
    """Scrolled in a box of its own, so that it stays a table; no header without words.

    The caption's words are in a line of their own, which stays in sight while the table scrolls.
    """
    text = EMPTY_HEAD.sub(r"<td\1></td>", match.group(0))
    text = CAPTION.sub(r'<caption\1><span class="caption-line">\2</span></caption>', text)
    if any(len(re.sub(r"<[^>]+>", "", cell)) > WORDY for cell in CELL.findall(text)):
        text = re.sub(r'<table class="([^"]*)"', r'<table class="wordy \1"', text, count=1)
    return f'<div class="table-scroll">{text}</div>'


def sentences(match: re.Match) -> str:
    """Printed lines that are too long are wrapped, but not where there is a table among them."""
    text = html_entities(re.sub(r"<[^>]+>", "", match.group(2)))
    long = [line for line in text.splitlines() if len(line) > LINE]
    row = re.compile(r"\S {2,}\S+ {2,}\S")
    command = any(line.endswith("\\") for line in text.splitlines())  # of a recorded run
    if not long or command or any(re.search(r"\S {3,}\S", line) for line in long) \
            or row.search(text):
        return match.group(0)
    return f'{match.group(1)}<pre class="sentences">{match.group(2)}</pre>'


def glued(match: re.Match) -> str:
    """A formula is a box of its own, and a full stop behind it may begin a line if not held."""
    before, formula, after = match.groups()
    return f'<span class="glued">{match.group(0)}</span>' if before or after else formula


def glued_words(html: str) -> str:
    """A number stays with its per cent sign, a sentence with the mark of its claim."""
    html = PERCENT.sub("&nbsp;", html)
    html = CLAIM.sub(r'\1<a class="reference internal claim-mark" \2', html)
    return html.replace(' <a class="reference internal claim-mark"',
                        '&nbsp;<a class="reference internal claim-mark"')


def searches(html: str) -> str:
    """Two fields on a page may not have one id and one name."""
    parts = html.split('aria-label="SEARCH"')
    for k in range(1, len(parts)):
        name = "Search the book" if k == 1 else f"Search the book, field {k}"
        parts[k] = f'aria-label="{name}"' + parts[k].replace(
            'id="search-input"', 'id="search-input"' if k == 1 else f'id="search-input-{k}"')
    return "".join(parts)


def mended(html: str) -> str:
    """A page's body as the theme made it, with what it lacks."""
    for old, new in REPLACED:
        html = html.replace(old, new)
    html = "".join(
        part if part.startswith("<pre") else glued_words(part) for part in PRE.split(html))
    html = SUMMARY.sub('<summary aria-label="Chapters of this part">', html)
    # Each proof has the same name, by which only the first would be folded.
    html = GLUED.sub(glued, PROOF.sub(r'\1 bare-proof">', html))
    return TABLE.sub(table, PRINTED.sub(sentences, searches(html)))


def give(app, pagename, templatename, context, doctree) -> None:
    context["mended"], context["lean"] = mended, icons.lean


def setup(app) -> dict:
    app.connect("html-page-context", give)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
