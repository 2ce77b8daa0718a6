"""Wide tables and outputs on a phone and on paper, in a browser and without MathJax."""

from io import BytesIO

import pytest
from bookkit import browser, build, printed, theme
from bookkit.driven import driven
from pypdf import PdfReader

needs_browser = pytest.mark.skipif(
    browser.find() is None, reason="no table was tried: no Chromium here; install chromium")

CAPTION = "A caption that is longer than a phone is wide, and says what is in the table"
ROW = "".join(f"<td>{'word' * 5}</td>" for _ in range(8))
TABLE = (f'<table id="tab"><caption><span class="caption-text">{CAPTION}</span>'
         f'<a class="headerlink" href="#tab">#</a></caption><tbody><tr>{ROW}</tr></tbody></table>')
PRINTED = "model      " + "".join(f"{k:>12}" for k in range(11))
PAGE = """<!doctype html><html><head><meta name="viewport" content="width=device-width">
<link rel="stylesheet" href="custom.css"><link rel="stylesheet" href="print.css"></head>
<body style="margin:0"><article class="bd-article"><h1>Title</h1>%s
<div class="cell_output"><div class="output"><pre style="overflow-x:auto">%s</pre></div></div>
<script src="site.js"></script></article></body></html>"""


def test_the_words_of_a_caption_are_a_line_of_their_own():
    made = theme.mended(TABLE)
    assert made.count('<caption><span class="caption-line"><span class="caption-text">') == 1
    assert made.count("</a></span></caption>") == 1
    assert "caption-line" not in theme.mended("<table><tr><td>a</td></tr></table>")


def test_a_table_among_sentences_is_not_wrapped():
    long = "a sentence " * 12
    for rows, wrapped in (("", True), ("      mean  median\nGD     1.0     2.0\n", False)):
        made = theme.mended('<div class="output text_plain"><div class="highlight"><pre>'
                            f"{long}\n{rows}</pre></div></div>")
        assert ('class="sentences"' in made) is wrapped


@pytest.fixture
def page(tmp_path):
    (tmp_path / "page.html").write_text(PAGE % (theme.mended(TABLE), PRINTED))
    for name in ("custom.css", "print.css", "site.js"):
        (tmp_path / name).write_text((build.ROOT / "book/_static" / name).read_text())
    return tmp_path / "page.html"


@needs_browser
def test_a_wide_table_on_a_phone_keeps_its_caption_in_sight(page):
    line = ("(r => [r.left, r.right])(document.querySelector('.caption-line')"
            ".getBoundingClientRect())")
    box = "document.querySelector('.table-scroll')"
    with driven() as window:
        window.open(page.as_uri(), width=390)
        assert window.js("document.documentElement.scrollWidth") == 390
        assert window.js(f"{box}.scrollWidth") > 800
        for way in (0, 300, 10_000):
            window.js(f"{box}.scrollLeft = {way}")
            window.drawn()
            left, right = window.js(line)
            assert 0 <= left < right <= 390, way
        assert window.js(f"[{box}.tabIndex, {box}.getAttribute('role'), "
                         f"{box}.getAttribute('aria-label')]") == [
            0, "group", f"Table, wider than the page: {CAPTION}"]
        output = "document.querySelector('pre')"
        assert window.js(f"{output}.scrollWidth > {output}.clientWidth && {output}.tabIndex === 0")
        window.open(page.as_uri(), width=2000)  # nothing scrolls, so nothing takes the focus
        assert window.js(f"{box}.hasAttribute('tabindex')") is False
        assert window.js(f"{output}.hasAttribute('tabindex')") is False


@needs_browser
def test_a_printed_table_on_paper_has_whole_rows(page):
    with driven() as window:
        done = printed.print_page(window, "page", [], page.parent)
        lines = window.js("Math.round(document.querySelector('pre').getClientRects()[0].height / "
                          "parseFloat(getComputedStyle(document.querySelector('pre')).lineHeight))")
    assert lines == 1 and done.wide == []
    text = PdfReader(BytesIO(done.pdf)).pages[0].extract_text()
    assert "10" in text and CAPTION.split()[0] in text


@needs_browser
def test_what_is_folded_is_not_printed_while_it_fades_in(tmp_path):
    """A cell that the screen folds, with the animation that MyST-NB gives it."""
    (tmp_path / "print.css").write_text((build.ROOT / "book/_static/print.css").read_text())
    (tmp_path / "page.html").write_text(
        "<style>@keyframes fade {0% {opacity: 0} 100% {opacity: 1}} "
        "details[open] summary ~ * {animation: fade 5s}</style>"
        "<link rel=stylesheet href=print.css><article class=bd-article><h1>T</h1>"
        "<details><summary>code</summary><p id=in>inside</p></details></article>")
    with driven() as window:
        printed.print_page(window, "page", [], tmp_path)
        assert window.js("getComputedStyle(document.getElementById('in')).opacity") == "1"
        assert window.js("document.querySelector('details').open")
