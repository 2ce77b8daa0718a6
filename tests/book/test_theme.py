"""What is mended of the theme, icons, pictures: without a browser."""

import io

import numpy as np
import pytest
from bookkit import icons, pictures, theme
from PIL import Image


def png(array) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array.astype("uint8")).save(out, "PNG")
    return out.getvalue()


def test_a_plot_gets_a_palette_and_looks_the_same():
    plot = np.full((300, 400, 4), 255)
    plot[100:110, :, :3] = [0, 114, 178]
    plot[:, 200:203, :3] = [213, 94, 0]
    before, after = png(plot), pictures.smaller(png(plot))
    assert len(after) < len(before)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(after)).convert("RGB")), plot[..., :3])


def test_what_256_colours_cannot_show_stays():
    noise = png(np.random.default_rng(0).integers(0, 256, (200, 200, 3)))
    assert pictures.smaller(noise) == noise


def test_what_shines_through_stays():
    glass = np.full((50, 50, 4), 255)
    glass[:, :, 3] = 100
    assert pictures.smaller(png(glass)) == png(glass)


def test_icons_are_read_off_the_style_sheet():
    css = '.fa-house:before,.fa-home:before{content:"\\f015"}.fa-x:before{content:"\\58"}'
    assert icons.codes(css) == {"house": "f015", "home": "f015", "x": "58"}


def test_icons_that_a_sheet_names_by_the_character_are_used(tmp_path):
    (tmp_path / "a.css").write_text(':root{--bell:"\uf0f3"} .x:before{content:"\\f12a"}')
    assert icons.used(tmp_path, {}) == (set(), {"f0f3", "f12a"})


def test_the_script_that_draws_icons_is_not_loaded():
    head = ('<script src="_static/vendor/fontawesome/6/js/all.min.js?d=1"></script><script '
            'src="a.js"></script><link rel="preload" as="font" type="font/woff2" href="f.woff2"/>')
    assert icons.lean(head) == '<script src="a.js"></script>'


def test_every_icon_that_a_page_shows_is_there(html):
    css = next((html / icons.VENDOR).glob("*/css/all.min.css"))
    text = css.read_text()
    assert "\\f135" in text and ".fa-rocket:before" in text  # the button for Colab
    fonts = list((html / icons.VENDOR).glob("*/webfonts/*"))
    assert len(fonts) == 3 and sum(path.stat().st_size for path in fonts) < 20_000
    assert not list((html / icons.VENDOR).rglob("*.js"))


@pytest.mark.parametrize("cell", ["<th></th>", "<th> </th>", "<th class=head><p></p></th>"])
def test_no_header_without_words(cell):
    made = theme.mended(f"<table><tr>{cell}<th>a</th></tr></table>")
    assert made.count("<th") == 1 and made.startswith('<div class="table-scroll">')


def test_two_search_fields_have_two_ids():
    form = '<form class="bd-search x"><input id="search-input"></form>'
    made = theme.mended(form + form)
    assert made.count('id="search-input"') == 1 and made.count('role="search"') == 2


def test_each_proof_is_folded_by_itself():
    proof = '<div class="proof dropdown admonition" id="proof"><p>one</p></div>'
    made = theme.mended(proof + proof)
    assert 'id="proof"' not in made
    assert made.count('<div class="proof dropdown admonition bare-proof">') == 2


def test_a_full_stop_stays_with_its_formula():
    formula = '<span class="math notranslate nohighlight">\\(2/h\\)</span>'
    for before, after in (("", "."), ("(", ")"), ("(", ""), ("“", ",”")):
        made = theme.mended(f"<p>at {before}{formula}{after} so</p>")
        assert made == f'<p>at <span class="glued">{before}{formula}{after}</span> so</p>'
    assert theme.mended(f"<p>at {formula} so</p>") == f"<p>at {formula} so</p>"
    two = theme.mended(f"<p>{formula}, {formula}.</p>")
    assert two.count('class="glued"') == 2
