"""The book on paper: nothing cut, everything unfolded, numbers and links where they belong."""

from io import BytesIO

import pytest
from bookkit import browser, printed
from bookkit.driven import driven
from pypdf import PdfReader

#: One with long lines of code and folded cells, one with wide formulas and tables.
PAGES = ("book/5-drift/trial", "book/2-backward-error/forest")
needs_browser = pytest.mark.skipif(
    browser.find() is None, reason="nothing was printed: no Chromium here; install chromium")


def page(body: str) -> str:
    return f"<article class='bd-article'><h1>Title</h1>{body}</article>"


def shown(pdf: bytes) -> str:
    """All text, without white space: a line that was broken is whole again."""
    text = "".join(sheet.extract_text() for sheet in PdfReader(BytesIO(pdf)).pages)
    return "".join(text.split())


@needs_browser
@pytest.mark.parametrize("name", PAGES)
def test_a_chapter_on_paper(html, name):
    from bs4 import BeautifulSoup

    with driven() as window:
        done = printed.print_page(window, name, ["exercises"])
    assert done.wide == []
    text = shown(done.pdf)
    article = BeautifulSoup((html / f"{name}.html").read_text(), "html.parser").article
    lines = ["".join(line.split()) for code in article.select("div.highlight pre")
             for line in code.get_text().splitlines()]
    lines = [line for line in lines if len(line) > 60 and line.isascii()]
    lost = [line for line in lines if line not in text]  # a line may go on over a page's foot
    assert len(lines) > 3 and len(lost) <= 0.03 * len(lines), lost
    numbers = [n.get_text().strip("#") for n in article.select(".eqno, .caption-number")]
    assert numbers and [n for n in numbers if "".join(n.split()) not in text] == []
    assert "".join(article.h1.get_text().strip("#").split()) in text
    # of what the screen folds, the words before a formula
    folded = [p.get_text().split("\\(")[0][:40] for p in article.select(".solution p")]
    folded = [words for words in folded if len(words) > 20 and words.isascii()]
    assert folded and [words for words in folded if "".join(words.split()) not in text] == []
    assert 5 < len(done.reader().pages) < 60


@needs_browser
def test_what_is_too_wide_is_set_smaller_or_told(tmp_path):
    (tmp_path / "page.html").write_text(page(
        f"<table><tr><td style='white-space:nowrap'>{'fits ' * 30}</td></tr></table>"
        f"<table><tr><td style='white-space:nowrap'>{'never ' * 90}</td></tr></table>"
        f"<pre>{'x' * 300}</pre>"))
    with driven() as window:
        done = printed.print_page(window, "page", [], tmp_path)
    assert {tag for tag, *_ in done.wide} == {"table", "pre"}
    assert not any("fits" in text for *_, text in done.wide)


@needs_browser
def test_joined_pages_have_numbers_contents_and_links(tmp_path, monkeypatch):
    monkeypatch.setattr(printed, "HTML", tmp_path)
    monkeypatch.setattr(printed, "captions", lambda: {"one": "A part"})
    (tmp_path / "one.html").write_text(page('<p><a href="two.html#there">to two</a></p>'))
    (tmp_path / "two.html").write_text(page(
        "<p style='break-after:page'><a href='other.html#x'>only on the site</a></p>"
        "<h2 id='there'>There</h2>"))
    assert printed.anchors(tmp_path, ["one", "two"]) == {"one": [], "two": ["there"]}
    parts = []
    for name, wanted in (("one", []), ("two", ["there"])):
        with driven() as window:
            parts.append(printed.print_page(window, name, wanted, tmp_path))
    cover = printed.sheet(printed.front(parts, [0, 1], "1.2.3"), printed.MARGIN)
    writer = printed.join(parts, cover, printed.sheet(printed.numbers(parts), 0))
    out = BytesIO()
    writer.write(out)
    book = PdfReader(out)
    texts = [sheet.extract_text() for sheet in book.pages]
    assert len(texts) == 5 and "1.2.3" in texts[0] and "A part" in texts[1]
    assert [text.split()[-1] for text in texts[2:]] == ["1", "2", "3"]
    assert book.page_labels == ["i", "ii", "1", "2", "3"]
    (link,) = (a.get_object() for a in book.pages[2]["/Annots"])
    assert book.get_page_number(link["/Dest"][0].get_object()) == 4
    (away, *_) = (a.get_object() for a in book.pages[3]["/Annots"])
    assert away["/A"]["/URI"].endswith("/other.html#x") and "file:" not in away["/A"]["/URI"]
    assert [entry.title for entry in book.outline] == ["Title", "Title"]
