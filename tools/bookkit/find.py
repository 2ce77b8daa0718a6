"""Sphinx extension: a search that puts first the page that a reader looks for.

Sphinx's index knows which words stand on a page, not how often. So the build writes, for each page,
the words that set it apart, and `book/search.yml` gives names by which readers know a subject and
the book does not, or has on many pages. `book/_static/find.js` ranks with both: titles before
sections, chapters before API pages, American and British spellings alike.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.search.en import SearchEnglish

from .chapters import pages

NAMES = "book/search.yml"
KEPT = 80  # words a page
WORD = re.compile(r"[a-zà-öø-ÿ]{3,}", re.I)


def names(root: Path) -> dict[str, list[str]]:
    """By page: other words for what it is about."""
    path = root / NAMES
    found = yaml.safe_load(path.read_text()) if path.exists() else {}
    unknown = sorted(set(found) - set(pages(root)))
    if unknown:
        raise ExtensionError(f"{NAMES} names {', '.join(unknown)}, which _toc.yml does not")
    return found


def count(app, doctree) -> None:
    """The words of a page, as Sphinx's search writes them."""
    if app.env.docname not in pages(Path(app.srcdir)):
        return
    search = SearchEnglish({})
    words = Counter()
    for node in doctree.findall(nodes.Text):
        if not isinstance(node.parent, nodes.literal_block | nodes.raw | nodes.math):
            words.update(search.stem(w.lower()) for w in WORD.findall(node.astext()))
    kept = getattr(app.env, "gdflows_words", {})
    kept[app.env.docname] = dict(words)
    app.env.gdflows_words = kept


def telling(words: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Of each page, the words that set it apart: tf-idf, the highest 100."""
    pages_with = Counter(word for found in words.values() for word in found)
    result = {}
    for page, found in words.items():
        weight = {word: math.sqrt(n) * math.log(1 + len(words) / pages_with[word])
                  for word, n in found.items() if n > 1}
        best = sorted(weight, key=lambda w: (-weight[w], w))[:KEPT]
        top = weight[best[0]] if best else 1.0
        result[page] = {word: round(100 * weight[word] / top) for word in best}
    return result


def write_words(app, error) -> None:
    if error or app.builder.format != "html":
        return
    data = {"names": names(Path(app.srcdir)),
            "words": telling(getattr(app.env, "gdflows_words", {}))}
    target = Path(app.outdir, "_static/find-words.js")
    target.write_text(f"globalThis.gdflowsFind = {json.dumps(data, sort_keys=True)};\n")


def merge(app, env, docnames, other) -> None:
    env.gdflows_words = getattr(env, "gdflows_words", {}) | getattr(other, "gdflows_words", {})


def load(app, pagename, templatename, context, doctree) -> None:
    """Only on the page of the search; after Sphinx's own, which that page loads at its end."""
    if pagename == "search":
        for name in ("find-words.js", "find.js"):
            app.add_js_file(name, loading_method="defer")


def setup(app) -> dict:
    app.connect("doctree-read", count)
    app.connect("env-merge-info", merge)
    app.connect("html-page-context", load)
    app.connect("build-finished", write_words)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
