"""Figures on a phone: where a picture is cut, without a browser and in one."""

import io
import json

import matplotlib
import matplotlib.lines

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from bookkit import browser, build, panels
from bookkit.driven import driven
from PIL import Image

from gdflows import plotting

BESIDE = {"bbox_to_anchor": (1, 1), "loc": "upper left"}


@pytest.fixture(autouse=True)
def house_style():
    with matplotlib.rc_context():
        plotting.style()
        yield
    plt.close("all")


def read(figure) -> panels.Figure:
    out = io.BytesIO()
    figure.set_dpi(200)
    figure.savefig(out, dpi=200)
    return panels.Figure(Image.open(out))


def drawn(rows=1, columns=2, size=(9, 3.4), **shared):
    """A figure of panels with curves, numbers and names; and its axes."""
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **shared)
    for k, ax in enumerate(axes.flat):
        ax.semilogy(range(1, 20), np.arange(1, 20.0) ** (k + 1))
        ax.set(title=f"panel {k}", xlabel="step", ylabel="loss")
    return figure, axes


def places(figure) -> list[str]:
    return [piece.where for piece in figure.pieces()]


def whole(figure) -> tuple[int, int]:
    """Pixels of ink in the figure, and in its pieces without repeated labels."""
    boxes = [piece.box for piece in figure.pieces()]
    return int(figure.ink.sum()), sum(int(figure.ink[t:b, x:r].sum()) for x, t, r, b in boxes)


def test_panels_are_where_matplotlib_put_them():
    figure, axes = drawn(2, 3)
    made = read(figure)
    assert len(made.frames) == 6
    for ax, frame in zip(axes.flat, made.frames, strict=True):
        box = ax.get_position()
        true = (box.x0 * made.width, (1 - box.y1) * made.height, box.x1 * made.width,
                (1 - box.y0) * made.height)
        # an axis goes on into the last tick of the other
        assert np.allclose(frame, true, atol=panels.TICK), (frame, true)


def test_panels_side_by_side_are_cut_and_nothing_is_lost():
    figure = read(drawn(1, 3)[0])
    assert places(figure) == ["left", "middle", "right"]
    all_, inside = whole(figure)
    assert all_ == inside
    assert max(piece.parts()[0] for piece in figure.pieces()) < 0.4 * figure.width


def test_rows_and_columns_have_their_names_and_titles():
    figure, axes = drawn(2, 2, (9, 7))
    made = read(figure)
    assert places(made) == ["top left", "top right", "bottom left", "bottom right"]
    assert whole(made)[0] == whole(made)[1]
    for ax, piece in zip(axes.flat, made.pieces(), strict=True):
        parts = (ax.title, ax.xaxis.label, ax.yaxis.label)
        for extent in (part.get_window_extent() for part in parts):
            assert piece.box[0] <= extent.x0 + 3 and extent.x1 - 3 <= piece.box[2]
            top, bottom = made.height - extent.y1, made.height - extent.y0
            assert piece.box[1] <= top + 3 and bottom - 6 <= piece.box[3]


def test_labels_of_a_shared_axis_are_shown_at_each():
    figure, axes = drawn(1, 3, sharey=True)
    for ax in axes[0, 1:]:
        ax.set_ylabel("")
    made = read(figure)
    first, *others = made.pieces()
    assert first.strip is None and all(piece.strip for piece in others)
    for piece, frame in zip(others, made.frames[1:], strict=True):
        (left, _, right, _), at = piece.strip
        assert right <= made.frames[0][0] and at + right - left <= frame[0]
        assert piece.parts()[0] >= right - left + frame[2] - frame[0]


def test_a_column_that_shares_its_lower_axis_stays_together():
    figure, axes = drawn(2, 2, (9, 5), sharex=True)
    for ax in axes[0]:
        ax.set_xlabel("")
    assert places(read(figure)) == ["left", "right"]


def test_a_common_title_and_legend_come_before_and_after():
    figure, axes = drawn(1, 2)
    figure.suptitle("a title across both of the panels, as long as that")
    figure.legend([axes[0, 0].lines[0]] * 6, [f"entry {k} of the legend" for k in range(6)],
                  loc="outside lower center", ncols=6, fontsize=7)
    made = read(figure)
    found = places(made)
    assert found[0] == found[-1] == "" and [w for w in found if w] == ["left", "right"]
    assert whole(made)[0] == whole(made)[1]
    # the wide legend is set in several lines
    assert found.count("") >= 3


def test_a_legend_beside_a_panel_comes_below_it_and_a_bar_of_colours_stays():
    figure, axes = drawn(1, 1, (6.5, 3.4))
    axes[0, 0].legend([f"a model of order {axes.size}"], **BESIDE)
    first, legend = read(figure).pieces()
    assert legend.where == "" and legend.box[0] >= first.box[2] - panels.GAP
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
    for ax in axes:
        ax.grid(False)
        figure.colorbar(ax.imshow(np.random.default_rng(0).random((9, 9)), aspect="auto"), ax=ax)
    made = read(figure)
    assert places(made) == ["left", "right"]
    assert whole(made)[0] == whole(made)[1]


def test_numbers_on_the_right_stay_with_their_panel():
    figure, axes = drawn(1, 2)
    for ax in axes[0]:
        other = ax.twinx()
        other.spines.right.set_visible(True)
        other.plot([0, 9], [1, 5])
        other.set_ylabel("sharpness")
    made = read(figure)
    cut = made.pieces()[0].box[2]
    left, right = figure.axes[2].yaxis.label, figure.axes[1].yaxis.label
    assert left.get_window_extent().x1 <= cut + 3
    assert right.get_window_extent().x0 >= cut - 3


@pytest.mark.parametrize("rows", [1, 3])
def test_one_column_stays_whole(rows):
    assert panels.Figure.pieces(read(drawn(rows, 1, (6.4, 2.6 * rows))[0])) == []


def test_what_cannot_be_cut_stays_whole():
    figure, axes = drawn(1, 2)
    figure.add_artist(matplotlib.lines.Line2D([0.3, 0.7], [0.5, 0.6]))  # from one into the other
    assert read(figure).pieces() == []
    assert panels.Figure(Image.new("RGB", (800, 300), "white")).pieces() == []


def test_pages_are_told_once(tmp_path):
    (tmp_path / "_images").mkdir()
    (tmp_path / "book").mkdir()
    drawn(1, 2)[0].savefig(tmp_path / "_images/two.png")
    drawn(1, 1, (6, 3))[0].savefig(tmp_path / "_images/one.png")
    page = tmp_path / "book/page.html"
    page.write_text('<img alt="a" src="../_images/two.png"/><img src="../_images/one.png"/>')
    panels.mark(tmp_path)
    made = page.read_text()
    panels.mark(tmp_path)
    assert page.read_text() == made and made.count("data-panels") == 1
    said = json.loads(made.split('data-panels="')[1].split('"')[0].replace("&quot;", '"'))
    assert [piece["where"] for piece in said["pieces"]] == ["left", "right"]


# ---- in a browser

needs_browser = pytest.mark.skipif(
    browser.find() is None, reason="figures were not looked at on a phone: install chromium")
PAGE = """<!doctype html><meta name=viewport content="width=device-width">
<link rel=stylesheet href="custom.css"><div class=bd-article><div class=cell_output><figure>
<a class=image-reference href="_images/two.png"><img alt="Two curves" src="_images/two.png"
style="width: 900px"></a></figure></div></div><script src="site.js"></script>"""


@pytest.fixture
def page(tmp_path):
    (tmp_path / "_images").mkdir()
    (tmp_path / "book").mkdir()
    drawn(1, 2)[0].savefig(tmp_path / "_images/two.png")
    (tmp_path / "book/page.html").write_text(PAGE)
    panels.mark(tmp_path)
    (tmp_path / "page.html").write_text((tmp_path / "book/page.html").read_text())
    for name in ("custom.css", "site.js"):
        (tmp_path / name).write_text((build.ROOT / "book/_static" / name).read_text())
    return (tmp_path / "page.html").as_uri()


@needs_browser
def test_a_phone_shows_a_stack_that_can_be_enlarged(page):
    seen = ("[...document.querySelectorAll('figure img, .panels')].filter(e => e.offsetParent)"
            ".map(e => e.className)")
    with driven() as window:
        window.open(page, width=390)
        assert window.js(seen) == ["panels can-enlarge"]
        first, second = window.js(
            "[...document.querySelectorAll('.panel')].map(e => {const r = "
            "e.getBoundingClientRect(); return [r.x, r.y, r.right, r.bottom]})")
        assert second[1] >= first[3] and first[2] - first[0] > 330 and first[2] <= 390
        assert window.js("document.documentElement.scrollWidth") == 390
        # read once, under its text; the parts are hidden from a screen reader
        assert window.js("document.querySelector('.panels').getAttribute('aria-label')"
                         ) == "Enlarge the figure: Two curves"
        assert window.js("document.querySelectorAll('.panel:not([aria-hidden=true])').length") == 0
        window.js("document.querySelector('.panels').focus()")
        window.press("Enter")
        assert window.js("document.querySelector('dialog img').getBoundingClientRect().width"
                         ) >= 1000
        window.js("document.querySelector('dialog button').click()")
        window.drawn()
        assert window.js("document.activeElement.className") == "panels can-enlarge"
        window.call("Emulation.setEmulatedMedia", media="print")
        assert window.js(seen) == ["can-enlarge has-panels"]
        window.open(page, width=1280)
        assert window.js(seen) == ["can-enlarge has-panels"]
        assert window.errors == [] and len(set(window.files)) == 4


@needs_browser
def test_the_parts_show_what_the_picture_shows(page, tmp_path):
    """Every part, drawn by the browser, against the same part cut out of the file."""
    with driven() as window:
        window.open(page, width=390)
        window.picture(tmp_path / "seen.png", ".panel-frame")
        said = json.loads(window.js("document.querySelector('img').dataset.panels"))
    piece = said["pieces"][0]
    seen = Image.open(tmp_path / "seen.png").convert("L")
    (x, y, left, top, wide, high), = piece["parts"]
    true = Image.open(tmp_path / "_images/two.png").convert("L").crop(
        (left, top, left + wide, top + high)).resize(seen.size, Image.Resampling.LANCZOS)
    assert (x, y) == (0, 0)
    off = np.abs(np.asarray(seen, dtype=int) - np.asarray(true, dtype=int))
    assert off.mean() < 4  # of 255: two ways to make a picture smaller; a pixel's shift has 8
