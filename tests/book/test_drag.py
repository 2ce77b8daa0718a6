"""Figures to drag: their files, and what they do in a browser with mouse and keys."""

import json
import re

import pytest
from bookkit import browser, drag, driven
from bookkit.chapters import chapters, source
from py_mini_racer import MiniRacer

from gdflows.plotting import COLOURS, CYCLE

FIGURES = drag.figures()
VIEWS = [(1280, False), (1280, True), (390, False), (390, True)]


def test_there_are_figures():
    assert len(FIGURES) >= 8


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_small_and_complete(name):
    assert 10 < len(drag.head(name, "Title")) < 80
    assert drag.weight(name) <= drag.LARGEST
    for path in drag.scripts(name):
        assert path == drag.COLOURS or (drag.FOLDER / path).is_file()
    text = (drag.FOLDER / f"{name}.js").read_text()
    assert "fig.try(" in text and "fig.seen(" in text


def test_no_file_names_another_host():
    for path in drag.FOLDER.rglob("*.js"):
        hosts = re.findall(r"https?://[^\"'\s]+", path.read_text())
        assert set(hosts) <= {"http://www.w3.org/2000/svg"}, path.name  # a name, never fetched


def test_mathematics_has_no_page_around_it():
    for path in (drag.FOLDER / "math").glob("*.js"):
        assert not re.search(r"\b(document|window|requestAnimationFrame)\b", path.read_text())


def test_each_figure_stands_in_one_chapter():
    """And one of them on the first page too."""
    placed = [name for page in chapters() if page != "book/index"
              for name in re.findall(r"^```\{drag\} (\S+)$", source(page).read_text(), re.M)]
    assert sorted(placed) == FIGURES


@pytest.fixture(scope="module")
def colour(request):
    engine = MiniRacer()
    request.addfinalizer(engine.close)
    engine.eval(drag.colours())
    engine.eval((drag.FOLDER / "colour.js").read_text())
    return lambda text: json.loads(engine.eval(f"JSON.stringify({text})"))


def test_colours_are_those_of_the_package(colour):
    assert colour("gdflows.COLOURS") == COLOURS
    assert colour("gdflows.CYCLE") == CYCLE


def test_contrast_is_that_of_wcag(colour):
    assert colour("gdflows.colour.contrast('#000000', '#ffffff')") == pytest.approx(21)
    assert colour("gdflows.colour.contrast('#777777', '#ffffff')") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("ground", ["#ffffff", "#14181e"])
@pytest.mark.parametrize("model", COLOURS)
def test_lines_stand_out_from_both_grounds(colour, model, ground):
    drawn = colour(f"gdflows.colour.readable('{COLOURS[model]}', '{ground}', 3)")
    assert colour(f"gdflows.colour.contrast('{drawn}', '{ground}')") >= 3
    if colour(f"gdflows.colour.contrast('{COLOURS[model]}', '{ground}')") >= 3:
        assert drawn == COLOURS[model]


# ---- in a browser

needs_browser = pytest.mark.skipif(
    browser.find() is None,
    reason="no Chromium: figures were not moved in a browser; install chromium to try it")


@pytest.fixture(scope="module")
def chromium():
    with driven.driven() as page:
        yield page


@pytest.fixture
def opened(chromium, tmp_path):
    """A function that opens a figure alone on a page; at the end nothing may have gone wrong."""
    def show(name, query="", width=1280, dark=False, still=True):
        url = drag.bare(name, tmp_path).as_uri() + (f"#drag-{name}?{query}" if query else "")
        ready = f"window.gdflows && gdflows.figures && gdflows.figures['{name}']"
        chromium.open(url, width=width, dark=dark, still=still, wait=ready)
        if dark:
            chromium.js("document.documentElement.style.cssText = '--pst-color-background: #14181e;"
                        "--pst-color-text-base: #ced6dd'")
        chromium.drawn()
        return chromium

    chromium.errors.clear()
    chromium.hosts.clear()
    yield show
    assert chromium.errors == [] and chromium.hosts == []


def state(page, name) -> dict:
    return page.js(f"gdflows.figures['{name}'].state")


def inwards(page) -> str:
    """The key that moves the slider with the focus, which may be at its lower end."""
    at_the_end = page.js("document.activeElement.value === document.activeElement.min")
    return "ArrowRight" if at_the_end else "ArrowLeft"


DRAWING = "[...document.querySelectorAll('.drag svg')].map(s => s.innerHTML).join()"
SEEN = "document.querySelector('.drag-seen').textContent"


@needs_browser
@pytest.mark.parametrize("name", FIGURES)
def test_it_fits_and_says_what_is_seen_in_every_view(opened, name):
    for width, dark in VIEWS:
        page = opened(name, width=width, dark=dark)
        assert page.js("document.documentElement.scrollWidth") <= width
        assert page.js("[...document.querySelectorAll('.drag svg')].every(s => "
                       "s.getBoundingClientRect().right <= document.querySelector('.drag')"
                       ".getBoundingClientRect().right)")
        assert page.js(f"{DRAWING}.length") > 1000
        assert len(page.js(SEEN)) > 30
        assert page.js("document.querySelector('.drag-try').textContent").startswith("Try: ")
        assert "NaN" not in page.js(f"{SEEN} + {DRAWING}")


@needs_browser
@pytest.mark.parametrize("name", FIGURES)
def test_sliders_have_labels_and_hear_the_keys(opened, name):
    page = opened(name)
    sliders = page.js("[...document.querySelectorAll('.drag input[type=range]')].map(i => i.id)")
    assert sliders
    for slider in sliders:
        assert page.js(f"document.querySelector('label[for=\"{slider}\"]').textContent.length") > 1
        before = page.js(DRAWING), state(page, name)
        page.js(f"document.getElementById('{slider}').focus()")
        page.press(inwards(page), 2)
        assert state(page, name) != before[1]
        assert page.js(DRAWING) != before[0]
        text = f"document.getElementById('{slider}')"
        assert page.js(f"{text}.getAttribute('aria-valuetext') === "
                       f"{text}.parentNode.querySelector('output').textContent")


@needs_browser
@pytest.mark.parametrize("name", FIGURES)
def test_handles_hear_keys_and_follow_the_mouse(opened, name):
    page = opened(name)
    count = page.js("document.querySelectorAll('.drag-handle').length")
    if not count:
        pytest.skip("this figure has sliders only")
    for k in range(count):
        handle = f"document.querySelectorAll('.drag-handle')[{k}]"
        for how in ("ArrowLeft", "mouse"):
            before = page.js(DRAWING), state(page, name), page.js(
                f"{handle}.getAttribute('aria-valuetext')")
            if how == "mouse":
                page.js(f"{handle}.id = 'here'")
                x, y = page.centre("#here")
                page.drag((x, y), (x - 25, y - 12))
                page.js(f"{handle}.id = ''")
            else:
                page.js(f"{handle}.focus()")
                page.press(how, 2)
            assert state(page, name) != before[1], how
            assert page.js(DRAWING) != before[0], how
            assert page.js(f"{handle}.getAttribute('aria-valuetext')") != before[2], how
        assert page.js(f"{handle}.getAttribute('aria-label').length") > 1


@needs_browser
@pytest.mark.parametrize("name", FIGURES)
def test_the_address_holds_what_was_chosen(opened, name):
    page = opened(name)
    first = state(page, name)
    page.js("document.querySelector('.drag input[type=range]').focus()")
    page.press(inwards(page), 4)
    page.until(f"location.hash.startsWith('#drag-{name}?')")
    link, chosen = page.js("document.querySelector('.drag-foot a').hash"), state(page, name)
    assert link == page.js("location.hash")
    page = opened(name, query=link.split("?")[1])
    for key, value in state(page, name).items():
        assert value == pytest.approx(chosen[key], rel=1e-4), key
    page.js("document.querySelector('.drag-foot button').click()")
    page.drawn()
    assert state(page, name) == first


@needs_browser
def test_nonsense_in_the_address_is_kept_out(opened):
    page = opened("quadratic", query="x=1e9&a=NaN&b=&evil=<b>")
    assert state(page, "quadratic") == {"a": 1.6, "b": 0.8, "x": 2.3}


@needs_browser
def test_a_press_in_the_plane_puts_the_start_there(opened):
    page = opened("banana")
    x, y = page.centre(".drag-anywhere")
    page.drag((x, y), (x - 20, y))
    assert state(page, "banana")["a"] < 0.2


@needs_browser
def test_a_screen_reader_is_told_after_a_change(opened):
    page = opened("quadratic")
    told = "document.querySelector('[role=status]').textContent"
    assert page.js(told) == ""
    page.js("document.querySelector('.drag input').focus()")
    page.js("new Promise(r => setTimeout(r, 500))")
    page.press("ArrowLeft")
    page.until(f"{told} === {SEEN}")


@needs_browser
def test_what_runs_by_itself_waits_to_be_asked(opened):
    def train(page):
        page.js("[...document.querySelectorAll('.drag button')].find("
                "b => b.textContent === 'Train').click()")

    page = opened("network", still=True)
    assert page.js(SEEN).startswith("Step 0:")
    train(page)  # with reduced motion: many steps, one picture
    page.drawn()
    assert page.js(SEEN).startswith("Step 300:")
    page = opened("network", still=False)
    page.drawn()
    assert page.js(SEEN).startswith("Step 0:")
    train(page)
    page.until(f"Number({SEEN}.match(/Step (\\d+)/)[1]) > 3")
    page.js("[...document.querySelectorAll('.drag button')].find("
            "b => b.textContent === 'Pause').click()")
    page.drawn()
    stopped = page.js(SEEN)
    page.drawn()
    assert page.js(SEEN) == stopped


@needs_browser
def test_without_javascript_the_note_stands_there(chromium, tmp_path):
    page = drag.bare("quadratic", tmp_path)
    chromium.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        seen = browser.render(page.as_uri(), 1000)  # a browser of its own, with scripts
        assert "Needs JavaScript." not in seen.dom
        chromium.call("Page.navigate", url=page.as_uri())
        chromium.until("document.readyState === 'complete'")
        assert "Needs JavaScript." in chromium.js("document.body.innerText")
    finally:
        chromium.call("Emulation.setScriptExecutionDisabled", value=False)
