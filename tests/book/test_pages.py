"""The built pages: links, pictures, nothing from other hosts, boxes that run, a real browser."""

import os
import re
import subprocess
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest
import yaml
from bookkit import browser, build, files, reader
from bookkit.chapters import chapters, code_cells, load_address, pages, source
from bs4 import BeautifulSoup

HTML = Path(__file__).resolve().parents[2] / "_build/html"
FILES = sorted(HTML.rglob("*.html")) if HTML.exists() else []
PAGES = [p for p in FILES if "_static" not in p.parts]
BOOK = [page for page in pages()]


@cache
def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(), "html.parser")


@cache
def anchors(path: Path) -> set:
    return {tag.get("id") or tag.get("name") for tag in soup(path).find_all(True)
            if tag.get("id") or tag.get("name")}


def name(path: Path) -> str:
    return path.relative_to(HTML).as_posix()


def here(path: Path) -> str:
    return f"file://{path}"


@cache
def published() -> str:
    """Where the book is read: asked for at every link of every page."""
    return load_address().site


def local(path: Path, reference: str):
    """(file, anchor) that a reference on a page leads to; None if it leaves the book."""
    address = published()
    if reference.startswith(address):  # canonical and social links to the published page
        reference = (HTML / reference.removeprefix(address)).as_uri()
    url, anchor = urldefrag(urljoin(path.as_uri(), reference))
    if urlsplit(url).scheme != "file":
        return None
    return Path(unquote(urlsplit(url).path)), unquote(anchor)


def test_the_book_is_built():
    """The one failure where it is not: all tests of its pages then skip."""
    assert build.why_not_built() == ""


def test_every_page_of_the_contents_is_built(html):
    assert [page for page in BOOK if not (html / f"{page}.html").exists()] == []


def test_links_and_anchors(html):
    broken = []
    for path in PAGES:
        for tag in soup(path).find_all(["a", "link", "script", "img", "iframe", "source"]):
            reference = tag.get("href") or tag.get("src")
            if not reference or reference.startswith(("mailto:", "data:", "javascript:")):
                continue
            target = local(path, reference)
            if target is None:
                continue
            file, anchor = target
            if file.is_dir():
                file = file / "index.html"
            if not file.exists():
                broken.append(f"{name(path)}: {reference} leads nowhere")
            elif anchor and file.suffix == ".html" and tag.name == "a" and (
                    anchor not in anchors(file)):
                broken.append(f"{name(path)}: {reference}: no such anchor")
    assert broken == []


def external(reference: str) -> bool:
    return bool(re.match(r"\s*(https?:)?//", reference))


def fetched(path: Path) -> list[str]:
    """Everything on a page that a browser fetches without a click."""
    found = []
    for tag in soup(path).find_all(["script", "img", "iframe", "source", "video", "audio",
                                    "embed", "object", "link"]):
        if tag.name == "link" and not set(tag.get("rel", [])) & {
                "stylesheet", "preload", "icon", "preconnect", "dns-prefetch", "modulepreload"}:
            continue
        found += filter(None, [tag.get("src"), tag.get("data"),
                               tag.get("href") if tag.name == "link" else None])
        found += [part.split()[0] for part in (tag.get("srcset") or "").split(",") if part.strip()]
    styles = [tag.text for tag in soup(path).find_all("style")]
    styles += [tag["style"] for tag in soup(path).find_all(style=True)]
    return found + [reference for style in styles for reference in css_references(style)]


def css_references(text: str) -> list[str]:
    quoted = re.findall(r"@import\s+['\"]([^'\"]+)", text)
    return quoted + re.findall(r"url\(\s*['\"]?([^'\")]+)", text)


def test_nothing_is_fetched_from_another_host(html):
    asked = [f"{name(path)}: {r}" for path in PAGES for r in fetched(path) if external(r)]
    for path in html.rglob("*.css"):
        asked += [f"{name(path)}: {r}" for r in css_references(path.read_text()) if external(r)]
    assert asked == []
    assert not [name(path) for path in PAGES if "unpkg.com" in path.read_text()]


def test_the_search_for_other_hosts_finds_them(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        "<script src='//a.org/x.js'></script><img src='https://b.org/x.png'>"
        "<style>@import 'https://c.org/x.css'; p {background: url(http://d.org/x)}</style>"
        "<link rel=stylesheet href='https://e.org/x.css'><a href='https://fine.org'>x</a>"
        "<img src='x.png'>"
    )
    assert len([r for r in fetched(page) if external(r)]) == 5


def test_mathjax_is_complete(html):
    folder = html / "_static/mathjax"
    assert (folder / "tex-chtml.js").exists()
    assert len(list((folder / "output/chtml/fonts/woff-v2").glob("*.woff"))) > 20
    assert (folder / "input/tex/extensions/boldsymbol.js").exists()
    with_math = [p for p in PAGES if soup(p).find(class_="math")]
    assert with_math
    assert [name(p) for p in with_math
            if not any("mathjax/tex-chtml.js" in (s.get("src") or "")
                       for s in soup(p).find_all("script"))] == []


def test_every_picture_has_a_text(html):
    bare = []
    for path in PAGES:
        for image in soup(path).find_all("img"):
            if not (image.get("alt") or "").strip() or image["alt"] == image.get("src"):
                bare.append(f"{name(path)}: {image.get('src')}")
    assert bare == []


def test_every_computed_picture_has_a_caption_and_a_number(html):
    bare = []
    for page in chapters():
        content = soup(html / f"{page}.html")
        for image in content.select(".cell_output img"):
            figure = image.find_parent("figure")
            caption = figure and figure.find("figcaption")
            if not caption or not caption.find(class_="caption-number"):
                bare.append(f"{page}: {image.get('alt') or image.get('src')}")
            elif re.fullmatch(r"\S*\.png", image["alt"]):
                bare.append(f"{page}: the text of {caption.text[:40]!r} is a file's name")
    assert bare == []


def test_every_page_has_a_description_and_a_language(html):
    lacking = []
    for page in BOOK:
        content = soup(html / f"{page}.html")
        description = content.find("meta", attrs={"name": "description"})
        if not description or len(description.get("content", "")) < 20:
            lacking.append(f"{page}: description")
        if content.html.get("lang") != "en":
            lacking.append(f"{page}: language")
    assert lacking == []


def test_every_public_name_has_its_page(html):
    import types

    import gdflows

    lacking = []
    for room in [gdflows, *(getattr(gdflows, name) for name in gdflows.__all__)]:
        if not isinstance(room, types.ModuleType):
            continue
        public = getattr(room, "__all__", None) or [
            n for n, thing in vars(room).items()
            if not n.startswith("_") and getattr(thing, "__module__", None) == room.__name__
        ]
        for name in public:
            dotted = f"{room.__name__}.{name}"
            page = html / f"book/appendix/generated/{dotted}.html"
            if callable(getattr(room, name)) and not page.exists():
                lacking.append(dotted)
    assert lacking == []


# ---- the boxes 'Try it in your own code'

FENCE = re.compile(r"^(`{3,}|:{3,})\{admonition\}[^\n]*\n:class: try-it\n(.*?)^\1 *$", re.M | re.S)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.M | re.S)


def boxes(page: str) -> list[str]:
    return [code for _, box in FENCE.findall(source(page).read_text())
            for code in PYTHON.findall(box)]


CHAPTERS = [page for page in chapters() if page != "book/index"]


@pytest.mark.parametrize("page", CHAPTERS)
def test_a_chapter_has_one_box(page):
    assert len(boxes(page)) == 1


@pytest.mark.parametrize("page", [page for page in pages() if boxes(page)])
def test_the_box_runs_as_printed(page, tmp_path):
    python = reader.ready()
    box = tmp_path / "box.py"
    empty = tmp_path / "empty"
    empty.mkdir()
    box.write_text(boxes(page)[0])
    done = subprocess.run([python, box], cwd=empty, capture_output=True, text=True,
                          env=reader.environment(python.parents[1]))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "the box prints nothing"


@pytest.mark.parametrize("page", chapters())
def test_figure_cells_say_what_they_show(page):
    """In the source: a name, a caption and a text wherever a figure is configured."""
    import jupytext

    for cell in jupytext.reads(source(page).read_text(), fmt="md:myst").cells:
        settings = cell.metadata.get("mystnb", {})
        if "figure" in settings:
            assert settings["figure"].get("name", "").startswith("fig-")
            assert len(settings["figure"].get("caption", "")) > 30
            assert len(settings.get("image", {}).get("alt", "")) > 10
    assert code_cells(page)


# ---- a real browser

needs_browser = pytest.mark.skipif(browser.find() is None, reason="no Chromium on this machine")


@needs_browser
@pytest.mark.parametrize("page", [*BOOK, "search", "genindex"])
def test_in_a_browser(html, page):
    seen = browser.render((html / f"{page}.html").as_uri())
    assert seen.hosts == []
    assert seen.errors == []
    content = BeautifulSoup(seen.dom, "html.parser")
    math = content.find_all(class_="math")
    assert all(node.find("mjx-container") for node in math), "mathematics left unset"
    assert not content.find_all(["mjx-merror", "merror"]), "TeX that MathJax does not understand"


@needs_browser
def test_the_browser_sees_what_it_should(tmp_path):
    """The check above fails where it must."""
    page = tmp_path / "page.html"
    page.write_text("<img src='http://other-host.invalid/x.png'><script>nonsense()</script>")
    seen = browser.render(page.as_uri(), milliseconds=3000)
    assert seen.hosts == ["other-host.invalid"]
    assert any("nonsense" in error for error in seen.errors)


def test_configuration_names_the_address_once():
    """The one place where the repository's address is written is _config.yml."""
    root = Path(__file__).resolve().parents[2]
    address = load_address()
    owner = re.fullmatch(r"https://([^.]+)\..*", address.site).group(1)
    found = [
        path.relative_to(root).as_posix() for path in files.own(root)
        if path.suffix != ".ipynb" and path.name not in ("PKG-INFO", "setup.cfg")
        and re.search(rf"github\.com/{re.escape(owner)}\b|{re.escape(owner)}\.github\.io",
                      path.read_text(errors="ignore"))
    ]
    assert found == ["_config.yml"]
    assert yaml.safe_load((root / "_config.yml").read_text())["repository"]["url"]
    assert os.path.exists(root / "_toc.yml")
