"""What the page of open problems names exists, and each problem names something in the code."""

import re
from importlib import import_module
from inspect import signature

import pytest
from bookkit.chapters import ROOT, source

from gdflows.experiments.declared import all_declared

PAGE = source("book/7-bridges/open").read_text()


def rows(name: str) -> list[list[str]]:
    """The cells of a table, without its head."""
    table = re.search(rf"```\{{list-table\}}[^\n]*\n:name: {name}\n(.*?)\n```", PAGE, re.S)[1]
    cut = re.split(r"^\* - ", table, flags=re.M)[2:]
    return [re.split(r"\n  - ", row.strip()) for row in cut]


def found(path: str):
    """A module or what is in one, by its name: of two of one name, the function."""
    root, *names = path.split(".")
    thing, here = import_module(root), root
    for name in names:
        here = f"{here}.{name}"
        thing = getattr(thing, name) if hasattr(thing, name) else import_module(here)
    return thing


def places(cell: str) -> list[str]:
    """What of the package a cell names."""
    return re.findall(r"`~?(gdflows\.[\w.]+)`", cell)


def test_all_that_is_named_exists():
    for path in places(PAGE):
        assert found(path) is not None
    for path, names in (("gdflows.verdict.spectrum", ["Seen", "sharpening"]),
                        ("gdflows.replay", ["Spike", "others"])):  # fmt: skip
        assert f"`{path}`" in PAGE and f"`{'.'.join(names)}`" in PAGE
        assert names[1] in getattr(found(path), names[0]).__dataclass_fields__
    for cell in (row[1] for row in rows("tab-open-problems")):
        for option, path in re.findall(r"`(\w+)=[^`]*` (?:of|with) \{py:\w+\}`~?([\w.]+)`", cell):
            assert option in signature(found(path)).parameters
        for path, option in re.findall(r"\{py:\w+\}`~?([\w.]+)` with `(\w+)=", cell):
            assert option in signature(found(path)).parameters


def test_studies_with_their_options_and_records_exist():
    names = set()
    for words in re.findall(r"`gdflows run ([^`]+)`", PAGE):
        name, *rest = words.split()
        options = {word.removeprefix("--") for word in rest if word.startswith("--")}
        assert options <= {option.name for option in all_declared()[name].options}
        names.add(name)
    assert {"eos", "leaderboard", "practice", "stochastic-edge"} <= names
    for record in re.findall(r"records? `([\w*-]+)`", PAGE):
        assert list((ROOT / "src/gdflows/runs/recorded").glob(record)), record


@pytest.mark.parametrize("problem, place", rows("tab-open-problems"), ids=lambda cell: cell[:30])
def test_each_problem_has_a_place_to_start_in_the_code(problem, place):
    assert places(place) or "`gdflows run " in place, problem


def test_each_result_says_what_was_searched_for_and_what_is_nearest():
    for result, where, searched, nearest in rows("tab-open-new"):
        assert "{" in where and len(searched.split()) > 5, result
        assert "{cite:t}" in nearest, result


def test_each_idea_that_lost_has_its_evidence():
    for idea, instead, evidence in rows("tab-open-negative"):
        assert idea and instead and re.search(r"\{(prf:)?ref\}", evidence), idea


def test_what_the_first_page_calls_new_is_on_this_page():
    page = source("book/index").read_text()
    new = re.search(r"^\* - \*\*New, to our knowledge\*\*\n  - (.*)$", page, re.M)[1]
    chapters = re.findall(r"<[\d\w-]+/([\w-]+)>", new)
    named = " ".join(row[1] for row in rows("tab-open-new"))
    assert chapters and all(re.search(rf"`[a-z]+-{name}", named) for name in chapters)
