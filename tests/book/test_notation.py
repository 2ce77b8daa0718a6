"""The law of notation: in Parts I and II the symbols of book/notation.md mean one thing.

A machine cannot see what a symbol means. It can see where it is used, and what stands behind an
equals sign. `python tests/book/test_notation.py` lists what every chapter of Parts I and II owes.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("1-integrators", "2-backward-error")

FENCE = r"^(`{3,})%s.*?^\1[ \t]*$"
CAPTION = re.compile(r"^ +caption: \|\n((?: {6}.*\n|\n)+)", re.M)
FORMULA = re.compile(r"\$\$(.*?)\$\$|\$([^$]+)\$", re.S)
# Letters in another type are other symbols, and words are none.
OTHER = re.compile(r"\\(mathcal|mathbb|mathsf|mathrm|mathbf|text|operatorname)\s*(\{[^{}]*\}|\w)")
NUMBER = re.compile(r"-?\s*(\\d?frac\s*\{?\d|[\d.]+)")


def formulas(text: str) -> list[str]:
    """All formulas of a chapter: of its prose, captions, proofs and exercises, not of its code."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S)
    captions = lambda cell: "\n".join(CAPTION.findall(cell.group(0)))  # noqa: E731
    text = re.sub(FENCE % r"\{code-cell\}", captions, text, flags=re.S | re.M)
    text = re.sub(FENCE % "python", "", text, flags=re.S | re.M)
    return [OTHER.sub(" ", display or inline) for display, inline in FORMULA.findall(text)]


def pattern(symbol: str) -> str:
    """The symbol alone: no part of a longer command or of a word of letters in a command."""
    before = "" if symbol.startswith("\\") else r"(?<![A-Za-z\\])(?<!\\[A-Za-z])"
    return before + re.escape(symbol) + r"(?![A-Za-z])"


def law(text: str) -> list[tuple[str, list[str], set[str]]]:
    """The rows of the law: symbol, what it may be defined as, the chapters ({'all'} for all)."""
    table = re.search(r":name: tab-notation-law\n(.*?)^```", text, re.S | re.M).group(1)
    rows = []
    for row in re.split(r"^\* - ", table, flags=re.M)[2:]:  # after the head
        symbol, _, definitions, chapters = re.split(r"^  -", row, flags=re.M)
        names = set(re.findall(r"`([\w-]+)`", chapters)) or {chapters.strip()}
        rows.append((symbol.strip().strip("$"), re.findall(r"\$([^$]+)\$", definitions), names))
    return rows


def complaints(page: Path, rows: list) -> list[str]:
    """What in one chapter is against the law."""
    found, name = [], page.stem
    written = formulas(page.read_text())
    for symbol in dict.fromkeys(row[0] for row in rows):
        mine = [row for row in rows if row[0] == symbol]
        allowed = set().union(*(row[2] for row in mine))
        users = [f for f in written if re.search(pattern(symbol), f)]
        if users and not allowed & {name, "all"}:
            found.append(
                f"{name}: {symbol} in {len(users)} formulas, first ${users[0].strip()[:60]}$; "
                "no row of book/notation.md gives it to this chapter: take another letter, or, "
                "if it means what a row says, add the chapter there"
            )
        definitions = [d for _, ds, names in mine if names & {name, "all"} for d in ds]
        for formula in users if definitions else []:
            for match in re.finditer(pattern(symbol) + r"\s*:?=\s*(.*)", formula, re.S):
                said = re.sub(r"\s", "", match.group(1))
                fits = any(said.startswith(re.sub(r"\s", "", d)) for d in definitions)
                before = formula[: match.start()].rstrip()
                begins = not before or before.endswith((",", "quad", "&", "\\\\"))
                if begins and not fits and not NUMBER.match(said):
                    found.append(f"{name}: {symbol} = {match.group(1)[:40]}… is not its definition")
    return found


def pages() -> list[Path]:
    return [page for part in PARTS for page in sorted((ROOT / "book" / part).glob("*.md"))]


ROWS = law((ROOT / "book/notation.md").read_text())


def test_the_law_is_read():
    by_symbol = {row[0]: row for row in ROWS}
    assert by_symbol[r"\kappa"][1] == [r"\lambda_{\max}/\lambda_{\min}", r"L/\mu"]
    assert by_symbol["H"][2] == {"all"} and by_symbol[r"\Phi"][2] == {"analysis", "igr"}


def test_no_chapter_has_two_meanings_of_a_letter():
    for symbol in {row[0] for row in ROWS}:
        names = [name for row in ROWS if row[0] == symbol for name in row[2]]
        assert len(names) == len(set(names)), f"{symbol} has two rows for one chapter"
        assert "all" not in names or names == ["all"], f"{symbol} has a row beside one for all"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_symbols_mean_one_thing(page):
    assert complaints(page, ROWS) == []


@pytest.mark.parametrize(
    ("text", "many"),
    [
        ("The condition number $\\kappa = L/\\mu$.", 0),
        ("With $\\kappa = \\int_0^t \\ell$ the bound is $e^\\kappa$.", 1),
        ("Let $H = \\grad^2 E$, $g = \\grad E$ and $L = 3$, where $\\mathcal L$ is no $L$.", 0),
        ("Trees $\\tau$ do not belong here.", 1),
        ("```{code-cell} ipython3\n# $\\tau$\n```\n", 0),
        ("```{code-cell} ipython3\n---\n    caption: |\n      A $\\tau$.\n---\n```\n", 1),
        ("Here $H = W_1W_2$ is a product.", 1),
    ],
)
def test_a_breach_is_seen(tmp_path, text, many):
    page = tmp_path / "euler.md"
    page.write_text(text)
    assert len(complaints(page, ROWS)) == many


if __name__ == "__main__":
    for one in pages():
        print(*(complaints(one, ROWS) or [f"{one.stem}: keeps the law"]), sep="\n")
