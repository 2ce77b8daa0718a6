"""Sphinx extension (first slice)."""

from __future__ import annotations

import shutil
from pathlib import Path

from .chapters import ROOT, load_address

MATHJAX_PARTS = ("tex-chtml.js", "input/tex/extensions", "output/chtml/fonts", "a11y/assistive-mml.js")


def set_addresses(app, config) -> None:
    site = load_address(ROOT).site
    config.html_baseurl = site
    config.ogp_site_url = site


def copy_mathjax(app, error) -> None:
    """MathJax from the PyPI package sphinx-mathjax-offline: no page needs another host."""
    import importlib.util

    if error or app.builder.format != "html":
        return
    origin = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent
    for part in MATHJAX_PARTS:
        source, target = origin / "static/mathjax" / part, Path(app.outdir, "_static/mathjax", part)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)


def setup(app):
    app.connect("config-inited", set_addresses)
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
