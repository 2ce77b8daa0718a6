"""The whole book as one PDF, printed by a headless Chromium from the built pages.

Each page of _toc.yml is laid out for paper, with everything open that the screen folds; what is
too wide is set smaller, and what still does not fit is told. Then the pages are joined: title,
contents, numbers, bookmarks, and links to other pages of the book lead to their places in it.
"""

from __future__ import annotations

import base64
import html
import json
import re
import tempfile
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import yaml
from pypdf import PdfReader, PdfWriter
from pypdf.generic import (
    ArrayObject,
    DictionaryObject,
    FloatObject,
    NameObject,
    NullObject,
    TextStringObject,
)

from . import browser, build
from .build import BUILD, HTML
from .chapters import ROOT, BookError, load_address, load_config, pages
from .driven import Driven, driven
from .progress import say

PDF = BUILD / "gdflows-book.pdf"
MARGIN, PAPER = 18, (210, 297)  # mm, A4
INCH, PIXELS = 25.4, 96 / 25.4  # mm in an inch; CSS pixels in a mm
WIDTH = round((PAPER[0] - 2 * MARGIN) * PIXELS)

#: Opens what is folded, and waits for formulas, fonts and pictures.
OPEN = """void (async () => {
  document.documentElement.dataset.theme = document.documentElement.dataset.mode = 'light';
  document.querySelectorAll('details').forEach(d => { d.open = true; });
  document.querySelectorAll('.toggle-hidden').forEach(e => e.classList.remove('toggle-hidden'));
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  document.querySelectorAll('img').forEach(i => { i.loading = 'eager'; });
  await Promise.all([...document.images].map(i => i.decode().catch(() => {})));
  await document.fonts.ready;
  window.laidOut = true;
})()"""
PATIENCE = 1200  # seconds for a page's formulas, on a busy machine
LONG = 300  # CSS pixels, of 986 on a sheet: from here on a box or table may go on over the page
#: Sets smaller what is wider than its place, down to half, and lets boxes that are long go on over
#: the page; returns what is wider still.
FIT = """(() => {
  const article = document.querySelector('article.bd-article'), SMALLEST = 0.5;
  const wide = [];
  // Printed tables: a row that is wrapped cannot be read. Sentences and commands among them may be.
  const ROW = /\\S {2,}\\S/, READABLE = 0.58;
  for (const e of article.querySelectorAll('.cell_output pre:not(.sentences)')) {
    const rows = e.textContent.split('\\n').filter(line => ROW.test(line));
    const ruler = document.createElement('span');
    ruler.style.cssText = 'position:absolute;visibility:hidden;white-space:pre';
    ruler.textContent = 'x'.repeat(100);
    e.append(ruler);
    const style = getComputedStyle(e), letter = ruler.getBoundingClientRect().width / 100;
    const room = e.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight) - 1;
    ruler.remove();
    const longest = Math.max(0, ...rows.map(line => line.trimEnd().length)
      .filter(length => length * letter * READABLE <= room));
    const size = parseFloat(style.fontSize) * room / (longest * letter);
    if (longest * letter > room) e.style.setProperty('font-size', `${size}px`, 'important');
  }
  const place = e => {
    let box = e.parentElement;
    while (box !== article && !['block', 'list-item', 'table-cell', 'flex'].includes(
        getComputedStyle(box).display)) box = box.parentElement;
    const style = getComputedStyle(box);
    let room = box.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const number = box.querySelector(':scope > .eqno');
    return number ? room - number.getBoundingClientRect().width - 6 : room;
  };
  const shrink = (e, width) => {
    const size = parseFloat(getComputedStyle(e).fontSize);
    let part = 1;
    while (width() > place(e) + 0.5 && part > SMALLEST) {
      part = Math.max(SMALLEST, Math.min(part * 0.97, part * place(e) / width()));
      e.style.fontSize = part * size + 'px';
    }
  };
  for (const e of article.querySelectorAll('table'))
    shrink(e, () => Math.max(e.scrollWidth, e.getBoundingClientRect().width));
  for (const e of article.querySelectorAll('mjx-container'))
    if (!e.closest('table') || e.getAttribute('display'))
      shrink(e, () => (e.querySelector('mjx-math') || e).getBoundingClientRect().width);
  for (const e of article.querySelectorAll('table, .admonition, .claim'))
    e.classList.toggle('long-on-paper', e.offsetHeight > LONG);
  const edge = article.getBoundingClientRect().right + 1;
  for (const e of article.querySelectorAll('pre, table, img, svg, p, li, mjx-math, .math, code')) {
    if (e.closest('mjx-assistive-mml') || !e.getClientRects().length) continue;
    const right = Math.max(...[...e.getClientRects()].map(r => r.right));
    const scrolls = e.tagName === 'PRE' && e.scrollWidth > e.clientWidth + 1;
    if (right > edge || scrolls)
      wide.push([e.tagName.toLowerCase(), Math.round(right - edge + 1),
                 e.textContent.trim().slice(0, 60)]);
  }
  return wide;
})()""".replace("LONG", str(LONG))
TITLE = """(() => {
  const title = document.querySelector('article h1').cloneNode(true);
  title.querySelectorAll('.headerlink, mjx-assistive-mml').forEach(e => e.remove());
  return title.textContent.trim().replace(/\\s+/g, ' ');
})()"""
#: A place in the PDF for what other pages lead to: Chromium gives one to all that is linked.
ANCHORS = """(names => {
  const line = document.createElement('div');
  line.style.cssText = 'position:absolute;top:0;left:0;font-size:1px;line-height:1px;height:1px;' +
    'overflow:hidden;opacity:0.01';  // out of the flow: at the end it can take a sheet of its own
  for (const name of names) if (document.getElementById(name)) {
    const link = document.createElement('a');
    link.href = '#' + name; link.textContent = '.'; line.append(link);
  }
  document.querySelector('article.bd-article').append(line);
})(%s)"""


@dataclass
class Printed:
    """One page of the book on paper."""

    page: str
    title: str
    pdf: bytes
    wide: list = field(default_factory=list)  # what does not fit: (tag, pixels, text)

    def reader(self) -> PdfReader:
        return PdfReader(BytesIO(self.pdf))


def to_pdf(window: Driven, margin: float = MARGIN) -> bytes:
    inches = {f"margin{side}": margin / INCH for side in ("Top", "Bottom", "Left", "Right")}
    done = window.call("Page.printToPDF", printBackground=True, paperWidth=PAPER[0] / INCH,
                        paperHeight=PAPER[1] / INCH, **inches)
    return base64.b64decode(done["data"])


def print_page(window: Driven, page: str, anchors: list[str], folder: Path = HTML) -> Printed:
    """Lay one page out for paper and print it."""
    window.patience = PATIENCE  # formulas and printing of the longest pages
    window.open((folder / f"{page}.html").as_uri(), width=WIDTH, wait="true")
    window.until("document.readyState === 'complete'", PATIENCE)
    window.call("Emulation.setEmulatedMedia", media="print", features=[
        {"name": "prefers-color-scheme", "value": "light"}])
    window.js(OPEN)
    window.until("window.laidOut", PATIENCE)
    wide = window.js(FIT)
    window.js(ANCHORS % json.dumps(anchors))
    window.drawn()
    return Printed(page, window.js(TITLE), to_pdf(window), wide)


def anchors(folder: Path = HTML, names: list[str] | None = None) -> dict[str, list[str]]:
    """For each page, what of it the others lead to."""
    names = names or pages()
    found: dict[str, set[str]] = {page: set() for page in names}
    for page in names:
        here = folder / f"{page}.html"
        for link in re.findall(r'href="([^"#:]+\.html#[^"]+)"', here.read_text()):
            path, anchor = urldefrag(html.unescape(link))
            other = (here.parent / path).resolve().relative_to(folder.resolve()).with_suffix("")
            if other.as_posix() in found:
                found[other.as_posix()].add(unquote(anchor))
    return {page: sorted(wanted) for page, wanted in found.items()}


# -- front and numbers ---------------------------------------------------------------------------

STYLE = """<meta charset="utf-8"><style>
body { font: 11pt/1.45 Georgia, 'DejaVu Serif', serif; margin: 0 }
h1 { font-size: 30pt; line-height: 1.2; margin: 60mm 0 8mm } .cover { break-after: page }
h2 { font-size: 18pt } h3 { font-size: 11pt; margin: 5mm 0 1mm; break-after: avoid }
.line { display: flex; gap: 2mm; break-inside: avoid } .line a { color: inherit;
  text-decoration: none }
.line i { flex: 1; border-bottom: 0.4pt dotted #999; margin-bottom: 1.5mm }
section { position: relative; height: 296.8mm; break-after: page; overflow: hidden }
section p { position: absolute; bottom: 9mm; left: 18mm; right: 18mm; margin: 0; color: #555;
  font-size: 8.5pt; display: flex; justify-content: space-between }
</style>"""


def captions() -> dict[str, str]:
    """The part's name before the first page of each part."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    return {part["chapters"][0]["file"]: part["caption"] for part in toc["parts"]}


def front(parts: list[Printed], starts: list[int], version: str) -> str:
    config, heads = load_config(), captions()
    lines = []
    for part, start in zip(parts, starts, strict=True):
        if part.page in heads:
            lines.append(f"<h3>{html.escape(heads[part.page])}</h3>")
        uri = (HTML / f"{part.page}.html").as_uri()
        lines.append(f'<div class="line"><a href="{uri}">{html.escape(part.title)}</a><i></i>'
                     f"<span>{start + 1}</span></div>")
    return (f'{STYLE}<div class="cover"><h1>{html.escape(config["title"])}</h1>'
            f'<p>{html.escape(config["author"])}</p><p>With gdflows {html.escape(version)}</p>'
            "<p>Text: CC BY 4.0. Code: MIT.</p></div>"
            f"<h2>Contents</h2>{''.join(lines)}")


def numbers(parts: list[Printed]) -> str:
    """One sheet for each printed one, with its title and number at the foot."""
    sheets, number = [], 0
    for part in parts:
        for _ in part.reader().pages:
            number += 1
            sheets.append(f"<section><p><span>{html.escape(part.title)}</span>"
                          f"<span>{number}</span></p></section>")
    return f"{STYLE}{''.join(sheets)}"


def sheet(text: str, margin: float) -> PdfReader:
    with tempfile.TemporaryDirectory(prefix="sheet-") as folder, driven() as window:
        path = Path(folder, "sheet.html")
        path.write_text(text)
        window.open(path.as_uri())
        return PdfReader(BytesIO(to_pdf(window, margin)))


# -- joining --------------------------------------------------------------------------------------


def join(parts: list[Printed], cover: PdfReader, feet: PdfReader) -> PdfWriter:
    """One document of all, in which links within the book lead to their places."""
    writer = PdfWriter()
    for sheet_ in cover.pages:
        writer.add_page(sheet_)
    before, places, owner, foot = len(cover.pages), {}, {}, 0
    for part in parts:
        reader, first = part.reader(), len(writer.pages)
        places[part.page, ""] = (first, None)
        for name, place in reader.named_destinations.items():
            number = reader.get_destination_page_number(place)
            if number is not None and number >= 0:
                places[part.page, name.removeprefix("/")] = (first + number, place.get("/Top"))
        for sheet_ in reader.pages:
            owner[len(writer.pages)] = part.page
            added = writer.add_page(sheet_)
            added.merge_page(feet.pages[foot])
            foot += 1
        writer.add_outline_item(title=part.title, page_number=first)
    if foot != len(feet.pages):
        raise BookError(f"{len(feet.pages)} numbers for {foot} printed pages")
    for number, sheet_ in enumerate(writer.pages):
        relink(writer, sheet_, owner.get(number, ""), places)
    writer.set_page_label(0, before - 1, style="/r")
    writer.set_page_label(before, len(writer.pages) - 1, style="/D", start=1)
    writer.compress_identical_objects()
    return writer


def relink(writer: PdfWriter, sheet_, page: str, places: dict) -> None:
    for reference in sheet_.get("/Annots", ()):
        link = reference.get_object()
        if link.get("/Subtype") != "/Link":
            continue
        action = link.get("/A", {})
        uri = str(action.get("/URI", ""))
        name = link.get("/Dest", action.get("/D"))
        target, anchor = Path(f"{page}.html"), ""
        if uri.startswith("file:"):
            path, anchor = urldefrag(uri)
            inside = Path(unquote(urlsplit(path).path))
            target = inside.relative_to(HTML) if inside.is_relative_to(HTML) else inside
            key = (target.with_suffix("").as_posix(), unquote(anchor))
            place = places.get(key) or places.get((key[0], ""))
        elif isinstance(name, str):
            place = places.get((page, name.removeprefix("/")))
        else:
            continue
        for part in ("/A", "/Dest"):
            link.pop(part, None)
        if place:
            number, top = place
            link[NameObject("/Dest")] = ArrayObject([
                writer.pages[number].indirect_reference, NameObject("/XYZ"), NullObject(),
                NullObject() if top is None else FloatObject(top), NullObject()])
        else:  # to a page that is only on the site, such as that of one function
            there = f"{load_address().site}{target.as_posix()}" + (f"#{anchor}" if anchor else "")
            link[NameObject("/A")] = DictionaryObject({
                NameObject("/S"): NameObject("/URI"), NameObject("/URI"): TextStringObject(there)})


def make(names: list[str] | None = None, out: Path = PDF) -> tuple[int, list[str]]:
    """Print the book, or some pages of it. Returns the number of sheets, and what does not fit."""
    import gdflows

    if not browser.find():
        raise BookError("printing needs Chromium, and none was found: install chromium")
    if build.why_not_built():
        raise BookError(build.why_not_built())
    names = names or pages()
    wanted, parts, bad = anchors(names=names), [], []
    for k, page in enumerate(names, start=1):
        with driven() as window:  # a new one: after printing, one may not answer any more
            parts.append(print_page(window, page, wanted[page]))
        bad += [f"{page}: {tag} is {over} pixels too wide: {text}"
                for tag, over, text in parts[-1].wide]
        say(f"printed {k} of {len(names)}: {page}, {len(parts[-1].reader().pages)} sheets")
    starts, total = [], 0
    for part in parts:
        starts.append(total)
        total += len(part.reader().pages)
    cover = sheet(front(parts, starts, gdflows.__version__), MARGIN)
    feet = sheet(numbers(parts), 0)
    writer = join(parts, cover, feet)
    config = load_config()
    writer.add_metadata({"/Title": config["title"], "/Author": config["author"]})
    with out.open("wb") as file:
        writer.write(file)
    return len(writer.pages), bad
