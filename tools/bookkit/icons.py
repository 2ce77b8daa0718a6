"""Sphinx extension: of the theme's icons, those that are used.

The theme brings Font Awesome twice: 1.5 MB of script that draws every icon, and fonts of 300 KB
with 2,000 of them. The pages show some thirty. So the script goes, and a style sheet with those
icons and fonts of a few kilobytes take the place of the theme's. Which are used is read off the
built pages, scripts and style sheets: nobody keeps a list.
"""

from __future__ import annotations

import re
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

VENDOR = "_static/vendor/fontawesome"
NAME = re.compile(r"\bfa-([a-z0-9-]+)")
RULE = re.compile(r"([^{}]+)\{(?:content|--fa):\s*\"\\\\?([0-9a-f]+)\"[^{}]*\}")
CONTENT = re.compile(r"content:\s*[\"']\\(f[0-9a-f]{2,4})[\"']")
LITERAL = re.compile("[\ue000-\uf8ff]")  # the theme's own sheets name icons by the character
SCRIPT = re.compile(r"<script[^>]*/fontawesome/[^>]*></script>\s*")
PRELOAD = re.compile(r"<link[^>]*rel=\"preload\"[^>]*as=\"font\"[^>]*>\s*")
FAMILIES = {  # file, family, weight, classes
    "fa-solid-900": ("Font Awesome 6 Free", 900, "fas fa-solid"),
    "fa-regular-400": ("Font Awesome 6 Free", 400, "far fa-regular"),
    "fa-brands-400": ("Font Awesome 6 Brands", 400, "fab fa-brands"),
}
BASE = """\
:root{--fa-style-family-classic:"Font Awesome 6 Free";--fa-font-solid:normal 900 1em/1 \
"Font Awesome 6 Free";--fa-font-regular:normal 400 1em/1 "Font Awesome 6 Free";\
--fa-font-brands:normal 400 1em/1 "Font Awesome 6 Brands"}
.fa,.fas,.far,.fab,.fa-solid,.fa-regular,.fa-brands{-moz-osx-font-smoothing:grayscale;\
-webkit-font-smoothing:antialiased;display:inline-block;font-style:normal;font-variant:normal;\
line-height:1;text-rendering:auto}
.fa-lg{font-size:1.25em;line-height:.05em;vertical-align:-.075em}
"""


def lean(head: str) -> str:
    """The page's head without the script that draws icons, and without fonts asked for early."""
    return PRELOAD.sub("", SCRIPT.sub("", head))


def codes(css: str) -> dict[str, str]:
    """By the icon's name: its place in the font, from Font Awesome's own style sheet."""
    found = {}
    for selectors, code in RULE.findall(css):
        for name in re.findall(r"\.fa-([a-z0-9-]+):before", selectors):
            found[name] = code
    return found


def used(out: Path, known: dict[str, str]) -> tuple[set[str], set[str]]:
    """Names that pages and scripts mention, and places in the font that style sheets do."""
    names, places = set(), set()
    for path in out.rglob("*"):
        if VENDOR in path.as_posix() or "mathjax" in path.parts or not path.is_file():
            continue
        if path.suffix in (".html", ".js"):
            names |= set(NAME.findall(path.read_text(errors="ignore"))) & set(known)
        elif path.suffix == ".css":
            css = path.read_text(errors="ignore")
            places |= set(CONTENT.findall(css)) | {f"{ord(c):x}" for c in LITERAL.findall(css)}
    return names, places


def cut(font: Path, places: set[str]) -> Path:
    """The font with these glyphs only, as WOFF, which needs no packages beside fontTools."""
    opened = TTFont(font)
    tool = subset.Subsetter(subset.Options(notdef_outline=True, layout_features=[]))
    tool.populate(unicodes=[int(place, 16) for place in places])
    tool.subset(opened)
    opened.flavor = "woff"
    target = font.with_suffix(".woff")
    opened.save(target)
    return target


def sheet(names: set[str], known: dict[str, str], fonts: dict[str, Path]) -> str:
    faces = "".join(
        f'@font-face{{font-family:"{FAMILIES[stem][0]}";font-style:normal;'
        f"font-weight:{FAMILIES[stem][1]};font-display:swap;"
        f'src:url(../webfonts/{path.name}) format("woff")}}\n' for stem, path in fonts.items())
    families = "".join(
        f"{','.join('.' + c for c in classes.split())}"
        f'{{font-family:"{family}";font-weight:{weight}}}\n'
        for family, weight, classes in FAMILIES.values())
    icons = "".join(f'.fa-{name}:before{{content:"\\{known[name]}"}}\n' for name in sorted(names))
    return BASE + faces + families + icons


def keep_what_is_used(app, error) -> None:
    if error or app.builder.format != "html":
        return
    out = Path(app.outdir)
    for folder in (out / VENDOR).glob("*"):
        if not (folder / "webfonts/fa-solid-900.ttf").exists():  # a build on top of another
            continue
        css = folder / "css/all.min.css"
        known = codes(css.read_text())
        names, places = used(out, known)
        places |= {known[name] for name in names}
        fonts = {stem: cut(folder / f"webfonts/{stem}.ttf", places) for stem in FAMILIES}
        for path in [*folder.glob("webfonts/*.ttf"), *folder.glob("webfonts/*.woff2"),
                     *folder.glob("js/*")]:
            path.unlink()
        css.write_text(sheet(names, known, fonts))


def setup(app) -> dict:
    app.connect("build-finished", keep_what_is_used, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
