"""Sphinx extension: the page of a chapter that failed says so, first of all.

Which chapters, and why, build.py leaves in `_build/failures.json`.
"""

from __future__ import annotations

import json
from pathlib import Path

from docutils import nodes


def box(found: dict) -> nodes.admonition:
    """What a reader of the page must know before anything else on it."""
    cell = found["cell"]
    text = nodes.paragraph("", f"Code cell {cell} {found['reason']}.")
    if found["remedy"]:
        text += nodes.Text(f" Remedy: {found['remedy']}.")
    consequence = nodes.paragraph(
        "", "The figures and numbers of that cell, and of all cells after it, are missing here, "
        "and what refers to them leads nowhere."
    )
    content = [nodes.title("", "This chapter did not run to its end"), text, consequence]
    for title, code in (("The cell", found["code"]), ("What Python said", found["details"])):
        if code:
            content.append(nodes.paragraph("", "", nodes.strong("", title)))
            content.append(nodes.literal_block(code, code, language="text"))
    return nodes.admonition("", *content, classes=["danger", "chapter-failed"])


def mark(app, doctree) -> None:
    path = Path(app.srcdir) / "_build/failures.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    if app.env.docname not in found:
        return
    section = next(iter(doctree.findall(nodes.section)), doctree)
    place = section.first_child_matching_class(nodes.title)
    section.insert(0 if place is None else place + 1, box(found[app.env.docname]))


def setup(app) -> dict:
    app.connect("doctree-read", mark)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
