"""The ledger of claims: evaluated, true, in the text word for word, and of the scope they say."""

import re
from pathlib import Path

import nbformat
import pytest
from bookkit import claims, execute, numbers
from bookkit.chapters import BookError, chapters, source
from bookkit.claims import Claim
from bookkit.execute import executed_notebook

LEDGERS = [page for page in chapters() if claims.ledger(page).exists()]
HIDDEN = re.compile(r"\b((?<!has )not shown|data not shown|not reported here)\b", re.I)
MEANT = "false-is-meant"


@pytest.mark.parametrize("page", LEDGERS)
def test_claims_hold_and_numbers_are_held(html, page):
    assert execute.unproved(page) == []


@pytest.mark.parametrize("page", chapters())
def test_nothing_is_claimed_of_what_is_not_shown(page):
    assert HIDDEN.findall(numbers.prose(source(page).read_text())) == []


@pytest.mark.parametrize("page", chapters())
def test_a_verdict_is_true_or_meant_to_be_false(html, page):
    cells = executed_notebook(page).cells
    bad = [cell.source.splitlines()[0] for cell in cells
           if MEANT not in cell.metadata.get("tags", []) and false(cell)]
    assert bad == [], f"prints False: mend it, or tag the cell {MEANT}"


def false(cell) -> bool:
    return any(re.search(r"\bFalse\b", text) for text in execute.said(cell)[1:])


def test_no_claim_has_the_id_of_another():
    names = [claim.id for page in LEDGERS for claim in claims.load(page)]
    assert sorted(set(names)) == sorted(names)


# ---- the mechanism itself refuses what it must


def claim(**changes) -> Claim:
    usual = dict(page="book/x/euler", id="euler-a", sentence="The gap is 2.", on="the bowl",
                 holds="gap == 2")
    return Claim(**{**usual, **changes})


def evaluated(entry: Claim, code: str) -> dict:
    """By the probe itself, in a namespace of its own."""
    import contextlib
    import io
    import json

    names: dict = {}
    exec(code, names)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(claims.probe([entry]), names)
    assert "_ledger" not in names
    return json.loads(out.getvalue())[0]


def told(entry: Claim, code: str = "gap = 2", text: str = "") -> list[str]:
    where = {"euler-a": (1, text or f"Here it is. {entry.sentence}")}
    return claims.problems([entry], where, {"euler-a": evaluated(entry, code)})


def test_a_claim_that_holds_is_no_problem():
    assert told(claim()) == []


@pytest.mark.parametrize(
    ("entry", "code", "text", "word"),
    [
        (claim(), "gap = 3", "", "is not true: gap == 2"),
        (claim(), "", "", "name 'gap' is not defined"),
        (claim(), "gap = 2", "The gap is 3.", "not the entry's sentence"),
        (claim(id="depth-a"), "gap = 2", "", "must begin with euler-"),
        (claim(sentence="It is always 2.", networks="1", seeds="5"), "gap = 2", "", "'always'"),
        (claim(sentence="It is 2 for networks.", networks="3", seeds="4"), "gap = 2", "", "rule"),
        (claim(sweep={"grid": "[1, 2]", "winner": "gap"}), "gap = 2", "", "end of its grid"),
        (claim(run=["no-such-run"]), "gap = 2", "", "no recorded run"),
    ],
)
def test_what_is_wrong_with_a_claim_is_told(entry, code, text, word):
    found = evaluated(entry, code)
    where = {entry.id: (1, text or entry.sentence)}
    (problem,) = claims.problems([entry], where, {entry.id: found})
    assert word in problem


@pytest.mark.parametrize(
    "entry",
    [
        claim(sentence="It is always 2.", networks="2", seeds="5"),
        claim(sentence="It is always 2.", networks="1", because="thm-euler-global"),
        claim(sentence="It is always 2 on the bowl."),  # a formula: no network, no seed
        claim(sentence="It is 2, at the end of its grid.",
              sweep={"grid": "[1, 2]", "winner": "gap"}),
        claim(sweep={"grid": "[1, 2, 3]", "winner": "gap"}),
    ],
)
def test_what_carries_a_rule_or_a_winner(entry):
    assert told(entry) == []


def test_a_claim_without_mark_and_a_mark_without_claim():
    found = {"euler-a": {"holds": True, "networks": 0, "seeds": 1}}
    assert claims.problems([claim()], {}, found) == ["euler-a: no mark in the chapter"]
    assert "no such entry" in claims.problems([], {"euler-b": (0, "")}, {})[0]


CHAPTER = """\
---
kernelspec: {name: python3}
---

# Euler

```{code-cell} ipython3
gap = 1
```

The gap is 1. {ref}`✓ <claim-euler-a>` More text.

```{code-cell} ipython3
gap = 2
```

The gap
is 2. {ref}`✓ <claim-euler-b>`
"""


@pytest.fixture
def small(tmp_path) -> Path:
    (tmp_path / "book").mkdir()
    (tmp_path / "book/euler.md").write_text(CHAPTER)
    (tmp_path / "book/euler.claims.yml").write_text(
        "- {id: euler-a, sentence: The gap is 1., on: x, holds: gap == 1}\n"
        "- {id: euler-b, sentence: The gap is 2., on: x, holds: gap == 2, shows: {gap: gap}}\n"
    )
    return tmp_path


def test_claims_are_evaluated_where_they_stand(small):
    page = "book/euler"
    notebook = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_code_cell("pass"),
        nbformat.v4.new_code_cell("gap = 1", execution_count=None),
        nbformat.v4.new_code_cell("gap = 2", execution_count=None),
    ])
    probed = claims.probed(notebook, claims.probes(page, small))
    (seen,) = [cells for _, cells in execute.run({"euler": probed}, limit=600)]
    own, found = claims.split(probed, seen)
    assert len(own) == 3
    assert claims.problems(claims.load(page, small), claims.placed(page, small), found) == []
    text = claims.written([page], small, {page: found})
    assert "(claim-euler-b)=" in text and "holds: gap 2." in text
    assert "| {doc}`/book/euler` | 2 | 0 | 0 | 0 | 0 |" in text


@pytest.mark.parametrize(
    "entry", ["{id: euler-a, sentence: x, on: x, holds: x, seed: 5}", "{id: euler-a, on: x}", "[1]"]
)
def test_a_malformed_entry_is_named(small, entry):
    (small / "book/euler.claims.yml").write_text(f"- {entry}\n")
    with pytest.raises(BookError, match=r"euler\.claims\.yml, entry 1"):
        claims.load("book/euler", small)


@pytest.mark.parametrize(
    ("text", "outputs", "missing"),
    [
        ("It takes 423 gradients.", "gradients 423", []),
        ("It takes 423 gradients.", "gradients 424", ["423"]),
        ("It is 0.014 away.", "gap 0.01387", []),
        ("It is 0.014 away.", "gap 0.0151", ["0.014"]),
        ("In 74 % of them.", "share 0.7431", []),
        ("In 74 % of them.", "share 0.75", ["74 %"]),
        ("Some 4,400 times.", "4,412", []),
        ("At $h = 0.3$ and $\\frac{12}{55}$.", "", ["0.3"]),
        ("By Theorem 6.1, in 1994, two of 12.", "", []),
        ("```{prf:theorem} X\n\nIt is 423.\n```\n\nSo 77.", "", ["77"]),
        ("````{note}\nIt is 423.\n````", "", ["423"]),
        ("```{code-cell} x\n---\nmystnb:\n  figure:\n    caption: |\n      Of 423.\n---\n```",
         "", ["423"]),
    ],
)
def test_numbers_of_the_prose(tmp_path, text, outputs, missing):
    (tmp_path / "book").mkdir()
    (tmp_path / "book/euler.md").write_text(f"# Euler\n\n{text}\n")
    found = numbers.unheld("book/euler", [outputs], {}, tmp_path)
    assert [line.split(" in '")[0] for line in found] == missing
