"""The subject index: subjects a reader looks up, places that there are, references that lead on."""

from bookkit import subjects
from bookkit.chapters import ROOT
from bs4 import BeautifulSoup

ALL = subjects.subjects(ROOT)
SECTIONS = subjects.sections(ROOT)


def test_there_are_subjects_enough_and_each_has_its_place():
    assert sum(not s.see for s in ALL) >= 150
    assert [s.name for s in ALL if not s.see and not s.places(SECTIONS)] == []


def test_references_lead_to_subjects_with_places():
    held = {s.name for s in ALL if not s.see}
    lost = {f"{s.name}: {other}" for s in ALL for other in s.see + s.also if other not in held}
    # one step on: a name for the same thing may lead to another such name
    names = {s.name for s in ALL}
    assert {line for line in lost if line.split(": ")[1] not in names} == set()
    assert [s.name for s in ALL if s.name in s.see + s.also] == []


def test_what_readers_ask_for_is_there():
    names = {s.name for s in ALL}
    assert {"edge of stability", "catapult", "NTK", "warm-up", "SAM", "Adam", "sharpness",
            "momentum", "EMA", "SDE", "flat minimum", "weight decay"} <= names


def made(text: str, tmp_path, **entries) -> list[list[str]]:
    """Labels of the places of each entry, in a book of one chapter."""
    (tmp_path / "book").mkdir()
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/index\nparts:\n"
                                       "  - chapters:\n      - file: book/one\n")
    (tmp_path / "book/one.md").write_text(text)
    (tmp_path / "book/index.md").write_text("# Start\n\nrods\n")
    held = subjects.sections(tmp_path)
    return [[place.label for place in subjects.Subject(name, find, [], []).places(held)]
            for name, find in entries.items()]


CHAPTER = """(ch-one)=
# One

Of rods.

(sec-one-a)=
## The rod

A rod and a rod. {cite:t}`wave2020rod`

### Without a label

A wave.

(sec-one-b)=
## Waves

A wave, a wave.

```{code-cell} ipython3
rod = wave = 1
```

## Exercises

rod rod rod
"""


def test_places_are_the_sections_that_speak_most_of_it(tmp_path):
    rod, wave, rood = made(CHAPTER, tmp_path, rod="rods?\\b", wave="wave", rood="rood")
    assert rod == ["sec-one-a"]  # its heading and text; once in the preface is too little
    assert wave == ["sec-one-b"]
    assert rood == []


def test_the_page_has_all_of_them_with_links(html):
    page = html / f"{subjects.PAGE}.html"
    article = BeautifulSoup(page.read_text(), "html.parser").article
    items = article.select("section section > ul > li")
    assert len(items) == len(ALL)
    for item, subject in zip(items, ALL, strict=True):
        places = item.select("a.reference.internal:not([href*='#term-'])")
        assert bool(places) != bool(subject.see), subject.name
        for link in places:
            file, _, anchor = link["href"].partition("#")
            target = (page.parent / file).read_text() if file else ""
            assert not anchor or f'id="{anchor}"' in target, link
