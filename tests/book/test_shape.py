"""Chapters with a ledger are of the shape that CONTRIBUTING asks for."""

import re

import pytest
from bookkit import claims
from bookkit.chapters import chapters, source

SHAPED = [page for page in chapters() if claims.ledger(page).exists() and page != "book/index"]
LONGEST = 3500  # words, formulas counted: a sitting


def words(text: str) -> int:
    """Of a chapter up to its exercises, without code; a formula counts as its parts do."""
    text = text.split("\n## Exercises\n")[0]
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S)
    text = re.sub(r"^(`{3,})\{code-cell\}.*?^\1$", "", text, flags=re.S | re.M)
    text = re.sub(r"^```python\n.*?^```$", "", text, flags=re.S | re.M)
    return len(re.findall(r"\S*\w\S*", text))


@pytest.mark.parametrize("page", SHAPED)
def test_a_chapter_says_first_what_it_is_good_for(page):
    text = source(page).read_text()
    begin = re.search(r"^# .+\n\n(.+)\n:class: goals\n\n(.+)\n:::$", text, re.M)
    assert begin and begin.group(1) == ":::{admonition} In this chapter"
    for word in ("You will be able to", "**Reading**", "**Running**", "**Needs**"):
        assert word in begin.group(2), word


@pytest.mark.parametrize("page", SHAPED)
def test_a_chapter_ends_with_five_lines(page):
    summary = re.search(r"^## In five lines\n\n(.*?)^#", source(page).read_text(), re.M | re.S)
    assert summary and len(re.findall(r"^(?:[-*]|\d\.) ", summary.group(1), re.M)) == 5


@pytest.mark.parametrize("page", SHAPED)
def test_a_chapter_can_be_read_in_a_sitting(page):
    assert words(source(page).read_text()) <= LONGEST


# "What is known, what is new here, what is open" is a page of tables, and asks in its third.
NUMBERED = [p for p in chapters() if re.match(r"book/\d", p) and p != "book/7-bridges/open"]
RESEARCH = "A small research question"  # how the title of such an exercise begins
FENCED = re.compile(r"^(`{3,}|:{3,})\{(exercise|solution)(?:-start)?\}[ ]?(.*)\n((?::.*\n)*)", re.M)


def exercises(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """The titles of the exercises by label; the options of the solutions by the label they name."""
    titles, solved = {}, {}
    for _, kind, words_, options in FENCED.findall(text):
        if kind == "exercise":
            titles[re.search(r"^:label: (\S+)", options, re.M).group(1)] = words_.strip()
        else:
            solved[words_.strip()] = options
    return titles, solved


@pytest.mark.parametrize("page", NUMBERED)
def test_a_chapter_asks_something_of_its_reader(page):
    text = source(page).read_text()
    assert text.count("\n:class: goals\n") == 1
    titles, solved = exercises(text.split("\n## Exercises\n")[1])
    assert len(titles) >= 4, list(titles)
    assert set(solved) == set(titles)
    assert all(":class: dropdown" in options for options in solved.values())
    assert any(title.startswith(RESEARCH) for title in titles.values())


def test_exercises_are_found_in_all_their_forms():
    text = """
```{exercise} One
:label: ex-a-one

…
```

````{solution} ex-a-one
:label: sol-a-one
:class: dropdown

````

```{exercise-start} Two
:label: ex-a-two
```
"""
    assert exercises(text) == (
        {"ex-a-one": "One", "ex-a-two": "Two"},
        {"ex-a-one": ":label: sol-a-one\n:class: dropdown\n"},
    )
