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
