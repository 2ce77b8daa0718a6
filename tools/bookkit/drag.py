"""Sphinx extension: figures to drag. One directive, no kernel, no other host.

    ```{drag} quadratic
    {numref}`fig-principal-bowls` shows three of its states.
    ```

The content stands where the figure cannot: without JavaScript, in print, in a notebook (there with
a link to the page). A figure is a file of `book/_static/drag`; its first lines say its title and
which modules of `math/` it needs. Those have no page around them, so that the tests can compare
them with the package.
"""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from .chapters import ROOT

FOLDER = ROOT / "book/_static/drag"
SHARED = ("colours.js", "colour.js", "contours.js", "plot.js", "figure.js")
COLOURS = "colours.js"  # not in the repository: written from the package
LARGEST = 60_000  # bytes of a figure with all that it loads


def colours() -> str:
    """Those of gdflows.plotting, for the figures."""
    from gdflows import plotting

    known = {"COLOURS": plotting.COLOURS, "CYCLE": plotting.CYCLE}
    return (f"globalThis.gdflows = Object.assign(globalThis.gdflows || {{}}, "
            f"{json.dumps(known)});\n")


def figures() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.js") if path.name not in SHARED)


def head(name: str, key: str) -> str:
    """What the first lines of a figure's file say of it."""
    found = re.search(rf"^// {key}: (.+)$", (FOLDER / f"{name}.js").read_text(), re.M)
    if not found:
        raise ExtensionError(f"book/_static/drag/{name}.js lacks its line '// {key}: …'")
    return found.group(1).strip()


def scripts(name: str) -> list[str]:
    """The files of a figure in the order in which they are loaded."""
    modules = head(name, "Needs").replace(",", " ").split()
    return [*SHARED, *(f"math/{module}.js" for module in modules), f"{name}.js"]


def weight(name: str) -> int:
    """Bytes that a reader loads for the figure, if it is the first of its page."""
    here = [path for path in [*scripts(name), "drag.css"] if path != COLOURS]
    return len(colours()) + sum((FOLDER / path).stat().st_size for path in here)


def opening(name: str) -> str:
    title = escape(head(name, "Title"))
    return (f'<div class="drag" id="drag-{name}" data-drag="{name}" role="group" '
            f'aria-labelledby="drag-{name}-title">\n<p class="drag-title" id="drag-{name}-title">'
            f'Figure to drag: {title}</p>\n<div class="drag-body">\n')


def closing(name: str, static: str) -> str:
    tags = "".join(f'<script defer src="{static}/{path}"></script>\n' for path in scripts(name))
    return f'</div>\n<link rel="stylesheet" href="{static}/drag.css">\n{tags}</div>\n'


def bare(name: str, folder: Path) -> Path:
    """A page with nothing but the figure, for the tests and for whoever writes one."""
    (folder / COLOURS).write_text(colours())
    text = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>figure</title>'
        '<meta name="viewport" content="width=device-width">'
        "<style>body {margin: 8px; font-family: sans-serif}</style>\n"
        f"{opening(name)}<p>Needs JavaScript.</p>{closing(name, FOLDER.as_uri())}"
    ).replace(f"{FOLDER.as_uri()}/{COLOURS}", COLOURS)
    page = folder / f"{name}.html"
    page.write_text(text)
    return page


class Drag(SphinxDirective):
    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        if name not in figures():
            raise self.error(f"no figure {name!r} in book/_static/drag; there are: "
                             f"{', '.join(figures())}")
        self.assert_has_content()
        depth = self.env.docname.count("/")
        static = "../" * depth + "_static/drag"
        note = nodes.container(classes=["drag-note"])
        self.state.nested_parse(self.content, self.content_offset, note)
        return [
            nodes.raw("", opening(name), format="html", anchor=f"drag-{name}",
                      title=head(name, "Title")),
            note,
            nodes.raw("", closing(name, static), format="html", silent=True),
        ]


def write_colours(app, error) -> None:
    if error or app.builder.format != "html":
        return
    folder = Path(app.outdir) / "_static/drag"
    if folder.is_dir():  # a build without our static files has no use for it
        (folder / COLOURS).write_text(colours())


def setup(app) -> dict:
    app.add_directive("drag", Drag)
    app.connect("build-finished", write_colours)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
