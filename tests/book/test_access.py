"""Every page for every reader: axe-core in both themes, a phone's width, focus, weight.

In headless Chromium. With EVERY_PAGE=1 in the environment all pages are tried with everything,
which takes half an hour; without it, those of the API and the dark are samples of what the theme
and numpydoc make everywhere alike. What is left out: axe does not look inside MathJax's own drawing
of formulas, which is hidden from screen readers (they get MathML) and takes it minutes a page.
"""

import importlib.util
import json
import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bookkit import browser, build, driven
from bookkit.chapters import pages

AXE = importlib.util.find_spec("axe_playwright_python")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
# the one rule that a theme can break which the other does not
IN_THE_DARK = ["color-contrast"]
BOOK = [*pages(), "search", "genindex"]
API = sorted(path.relative_to(build.HTML).with_suffix("").as_posix()
             for path in (build.HTML / "book/appendix/generated").glob("*.html"))
EVERY = bool(os.environ.get("EVERY_PAGE"))
API = API if EVERY else API[::12]
DARK = {*BOOK} if EVERY else {"book/index", "book/4-edge-of-stability/edge", "search",
                              "book/appendix/bibliography", "book/appendix/lists"}
EACH = 25  # API pages a test: one browser, a readable report
ROOMS = [API[k:k + EACH] for k in range(0, len(API), EACH)]
# Bytes of a page with all that it fetches, uncompressed. The heaviest is the list of claims, with
# 3.2 million, of which 1.3 are words that a server's compression makes a tenth; chapters have
# under 3.
WEIGHT = 3_600_000
INTERACTIVE = 10.0  # seconds; a second on a quiet machine, and tests share two cores
SET = ("document.readyState === 'complete' && (!document.querySelector('.math, div.math') || "
       "(window.MathJax && MathJax.startup && MathJax.startup.promise && (window.isSet || "
       "(MathJax.startup.promise.then(() => { window.isSet = true; }), false))))")

pytestmark = pytest.mark.skipif(
    browser.find() is None,
    reason="no Chromium: pages were not tried with axe, at a phone's width or for their weight; "
           "install chromium to try it")
needs_axe = pytest.mark.skipif(
    AXE is None, reason="no axe-core: accessibility was not tried; make setup brings it")


@pytest.fixture(scope="module")
def chromium():
    with driven.driven() as page:
        yield page


@pytest.fixture(scope="module")
def axe() -> str:
    return (Path(AXE.origin).parent / "axe.min.js").read_text()


def show(chromium, html, page, width=1280, dark=False, wait=SET):
    chromium.open((html / f"{page}.html").as_uri(), width=width, dark=dark, still=True, wait=wait)
    chromium.drawn()


def violations(chromium, axe, rules: list[str], kind: str) -> list[str]:
    """What axe says against the page that is open: rule, element, why."""
    chromium.js(f"{axe}; 1")
    found = chromium.js(
        "axe.run({exclude: ['mjx-container']}, {preload: false, resultTypes: ['violations'], "
        "runOnly: "
        f"{{type: '{kind}', values: {json.dumps(rules)}}}}}).then(r => r.violations.flatMap(v => "
        "v.nodes.filter(n => !(v.id === 'empty-table-header' && "  # a formula is its text
        "document.querySelector(n.target[0]).querySelector('mjx-container')))"
        ".map(n => `${v.id}: ${n.target.join(' ')}: ` + "
        "([...n.any, ...n.all, ...n.none][0] || {}).message)))")
    return found


@needs_axe
@pytest.mark.parametrize("page", BOOK)
def test_axe_has_nothing_against_a_page(html, chromium, axe, page):
    show(chromium, html, page)
    found = violations(chromium, axe, RULES, "tag")
    if page in DARK:
        show(chromium, html, page, dark=True)
        assert chromium.js("document.documentElement.dataset.theme") == "dark"
        found += [f"dark: {line}" for line in violations(chromium, axe, IN_THE_DARK, "rule")]
    assert found == []


@needs_axe
@pytest.mark.parametrize("room", ROOMS, ids=[room[0].rsplit("/", 1)[-1] for room in ROOMS])
def test_axe_has_nothing_against_the_api(html, chromium, axe, room):
    found = []
    for page in room:
        show(chromium, html, page)
        found += [f"{page}: {line}" for line in violations(chromium, axe, RULES, "tag")]
        show(chromium, html, page, dark=True)
        found += [f"{page}, dark: {line}"
                  for line in violations(chromium, axe, IN_THE_DARK, "rule")]
    assert found == []


@needs_axe
def test_axe_finds_what_it_should(chromium, axe, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<html><body><img src='a.png'><p style='color:#aaa'>grey on white</p>")
    chromium.open(page.as_uri())
    rules = {line.split(":")[0] for line in violations(chromium, axe, RULES, "tag")}
    assert {"image-alt", "color-contrast", "html-has-lang"} <= rules
    chromium.errors.clear()


# ---- a phone

WIDE = """(() => {
  const scrolls = (e) => { for (let p = e; p; p = p.parentElement)
    if (/auto|scroll/.test(getComputedStyle(p).overflowX)) return true; return false; };
  return [...document.querySelectorAll('.bd-article *')].filter((e) => {
    const r = e.getBoundingClientRect();
    return r.width && r.right > innerWidth + 1 && !e.closest('.visually-hidden, dialog') &&
      !scrolls(e);
  }).slice(0, 5).map((e) => e.tagName + '.' + e.className + ': ' + e.textContent.slice(0, 40));
})()"""


def at_390(chromium, html, page) -> list[str]:
    """What of a page cannot be seen on a phone: it sticks out, and does not scroll by itself."""
    show(chromium, html, page, width=390)
    wide = chromium.js("document.documentElement.scrollWidth")
    return [*([f"{page}: {wide} wide"] if wide > 390 else []),
            *(f"{page}: {what}" for what in chromium.js(WIDE))]


@pytest.mark.parametrize("page", BOOK)
def test_a_page_fits_a_phone(html, chromium, page):
    assert at_390(chromium, html, page) == []


@pytest.mark.parametrize("room", ROOMS, ids=[room[0].rsplit("/", 1)[-1] for room in ROOMS])
def test_api_pages_fit_a_phone(html, chromium, room):
    assert [line for page in room for line in at_390(chromium, html, page)] == []


def test_a_page_that_does_not_fit_is_found(chromium, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<meta name=viewport content='width=device-width'><div class=bd-article>"
                    "<p style='width:600px'>wide</p></div>")
    assert len(at_390(chromium, tmp_path, "page")) == 2


# ---- keys, figures, terms

FIRST = "book/1-integrators/euler"


def test_the_focus_is_seen_on_every_button_of_the_header(html, chromium):
    show(chromium, html, FIRST)
    for _ in range(60):
        chromium.press("Tab")
        here = chromium.js(
            "(() => {const e = document.activeElement, s = getComputedStyle(e); return [!!e.closest"
            "('.article-header-buttons'), s.outlineStyle, parseFloat(s.outlineWidth), "
            "e.outerHTML.slice(0, 90)]})()")
        if here[0]:
            assert here[1] != "none" and here[2] >= 2, here[3]
            break
    else:
        pytest.fail("no button of the header is reached by keys")
    buttons = chromium.js(
        "[...document.querySelectorAll('.article-header-buttons .btn')].filter(b => "
        "b.offsetParent).length")
    for _ in range(buttons - 1):
        chromium.press("Tab")
        seen = chromium.js("getComputedStyle(document.activeElement).outlineStyle")
        assert seen != "none", chromium.js("document.activeElement.outerHTML.slice(0, 90)")


def test_a_figure_is_enlarged_by_a_key_and_closed_again(html, chromium):
    show(chromium, html, FIRST, width=390)
    image = ("[...document.querySelectorAll('.bd-article figure .can-enlarge')]"
             ".find(e => e.offsetParent)")
    small = chromium.js(f"{image}.getBoundingClientRect().width")
    chromium.js(f"{image}.focus()")
    chromium.press("Enter")
    assert chromium.js("document.querySelector('dialog.enlarged img').getBoundingClientRect()"
                       ".width") >= 2.4 * small
    chromium.js("document.querySelector('dialog.enlarged button').click()")
    chromium.drawn()
    assert chromium.js("!document.querySelector('dialog.enlarged')")
    assert chromium.js(f"document.activeElement === {image}")


def test_figures_in_the_dark_keep_their_colours(html, chromium):
    show(chromium, html, FIRST, dark=True)
    filters = chromium.js("[...document.querySelectorAll('.bd-article figure img')].map(i => "
                          "getComputedStyle(i).filter)")
    assert filters and set(filters) == {"none"}


def test_a_term_says_what_it_means(html, chromium):
    show(chromium, html, FIRST)
    chromium.js("document.querySelector('a.has-tip').focus()")
    tip = "document.getElementById('term-tip')"
    chromium.until(f"!{tip}.hidden")
    assert len(chromium.js(f"{tip}.textContent")) > 30
    assert chromium.js("document.querySelector('a.has-tip').getAttribute('aria-describedby')")
    chromium.js("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}))")
    assert chromium.js(f"{tip}.hidden")


def test_the_search_answers_as_a_reader_sees_it(html, chromium):
    url = (html / "search.html").as_uri() + "?q=implicit+regularization"
    chromium.open(url, wait="document.querySelector('#search-results li a')")
    assert chromium.js("document.querySelector('#search-results li a').href").split("?")[0].split(
        "#")[0].endswith("book/2-backward-error/igr.html")
    # from a file a browser may not fetch the pages for their summaries
    chromium.errors.clear()


# ---- weight


def test_pages_are_light_and_soon_there(html, chromium):
    """All pages of the book, listed in _build/weight.txt, heaviest first."""
    rows = []
    show(chromium, html, BOOK[0])  # what a page before it still complains of is not its own
    for page in BOOK:
        chromium.files.clear()
        chromium.errors.clear()
        show(chromium, html, page)
        fetched = {Path(unquote(urlsplit(url).path)) for url in chromium.files}
        weight = sum(path.stat().st_size for path in fetched if path.is_file())
        ready = chromium.js("performance.getEntriesByType('navigation')[0].domInteractive") / 1000
        rows.append((weight, ready, page))
        assert chromium.errors == [] and chromium.hosts == [], page
    rows.sort(reverse=True)
    lines = [f"{weight / 1e6:6.2f} MB  interactive after {ready:5.2f} s  {page}"
             for weight, ready, page in rows]
    (build.BUILD / "weight.txt").write_text("\n".join(lines) + "\n")
    assert [line for line, row in zip(lines, rows, strict=True) if row[0] > WEIGHT] == []
    assert [line for line, row in zip(lines, rows, strict=True) if row[1] > INTERACTIVE] == []
