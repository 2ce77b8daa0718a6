"""Numbers in a chapter's prose that nothing holds: no output, no code, no entry of the ledger.

A number in a sentence is held if some number of the chapter's cells (their code or their printed
outputs) or of its ledger (scope, what was measured) rounds to it. Numbers that are mathematics
are exempt: small whole numbers, years, what stands in formulas without a decimal point, in
theorems, proofs and solutions, and the numbers of sections and equations.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path

from . import claims
from .chapters import ROOT, source

SMALL = 20  # whole numbers up to here are words more than measurements
FENCE = re.compile(r"^(`{3,}|:{3,})(?:\{([\w:-]+)\})?.*$")
CODE, MATHEMATICS = {"code-cell", "raw", None}, ("prf:", "exercise", "solution", "math")
CAPTION = re.compile(r"^ +caption: \|\n((?: {6}.*\n|\n)+)", re.M)
ROLE = re.compile(r"\{[\w:]+\}`[^`]*`")
INLINE = re.compile(r"`[^`]*`")
LINK = re.compile(r"\]\([^)]*\)|https?://\S+")
PLACES = re.compile(
    r"\b([Tt]heorem|[Ll]emma|[Pp]roposition|[Ss]ections?|[Ee]quations?|[Ee]qs?\.|[Ff]igures?|Figs?\.|"
    r"[Aa]ppendix|[Cc]hapters?|[Aa]lgorithm|[Tt]able|[Nn]otes?|[Vv]ersion|pp?\.|arXiv:?)"
    r"[\s~]*\(?[\d.,–-]+[a-z]?\)?(\s*(and|to|,)\s*\(?[\d.]+\)?)*|\b[IVX]+\.\d[\d.]*")
NUMBER = re.compile(r"(?<![\w.^_{\\])(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(?:\s*(%|per cent))?(?![\w^])")
ANY = re.compile(r"\d+(?:,\d{3})+(?:\.\d+)?|\d*\.?\d+(?:e[+-]?\d+)?", re.I)
TEX = re.compile(r"(\$\$.*?\$\$)|(\$[^$]+\$)", re.S)


def prose(text: str) -> str:
    """A chapter's sentences and captions, without front matter, code, theorems and exercises."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S)
    kept: list[str] = []
    fences: list[tuple[str, bool]] = []  # the open ones, and whether their text is left out
    for line in text.split("\n"):
        bare = line.strip()
        fence = FENCE.match(bare)
        if fence and fences and bare == fences[-1][0]:
            fences.pop()
            continue
        if fence and not (fences and fences[-1][1]):
            kind = fence.group(2)
            out = kind in CODE or kind.startswith(MATHEMATICS)
            fences.append((fence.group(1), out))
            continue
        if fence and fences:  # a fence inside what is left out
            if bare.strip("`:"):
                fences.append((fence.group(1), True))
            continue
        if not any(out for _, out in fences) and not re.match(r":[\w-]+:", bare):
            kept.append(line)
    return "\n".join([*kept, *CAPTION.findall(text)])


def mentioned(text: str) -> list[tuple[str, float, float, str]]:
    """(as written, value, half of the last place, the words around) of each number to be held."""
    text = prose(text)
    text = TEX.sub(lambda m: " " if m.group(1) else decimals(m.group(2)), text)
    for pattern in (ROLE, INLINE, LINK, PLACES):
        text = pattern.sub(" ", text)
    found = []
    for match in NUMBER.finditer(text):
        whole, part, percent = match.groups()
        value = float(whole.replace(",", "") + (part or ""))
        if not part and not percent and (value <= SMALL or 1600 <= value < 2100):
            continue
        place = 10.0 ** -(len(part) - 1) if part else 1.0
        if not part:  # 4,400 may be rounded to hundreds, 50 to tens
            while value and value % (10 * place) == 0:
                place *= 10
        around = claims.plain(text[max(0, match.start() - 40) : match.end() + 30])
        found.append((match.group(0).strip(), value, place / 2, around))
    return found


def decimals(formula: str) -> str:
    """Of an inline formula, the numbers with a decimal point: they are settings or measurements."""
    return " " + " ".join(re.findall(r"(?<![\w.])\d+\.\d+(?!\w)", formula)) + " "


def numbers_in(texts: Iterable[str]) -> set[float]:
    """All numbers written in some texts."""
    found = set()
    for text in texts:
        for word in ANY.findall(text):
            value = float(word.replace(",", ""))
            if math.isfinite(value):
                found.add(value)
    return found


def holds(value: float, half: float, percent: bool, held: set[float]) -> bool:
    slack = half * (1 + 1e-9) + 1e-12
    return any(
        abs(one - value) <= slack or (percent and abs(100 * one - value) <= slack) for one in held
    )


def unheld(
    page: str, texts: Iterable[str], found: dict[str, dict], root: Path = ROOT
) -> list[str]:
    """What of a chapter's prose is held by nothing; texts are the code and outputs of its cells."""
    ledger = [f"{c.on} {' '.join(c.shows.values())} {c.holds}"
              for c in claims.load(page, root)]
    seen = [str(value) for result in found.values() for value in result.values()]
    held = numbers_in([*texts, *ledger, *seen])
    return [
        f"{written} in '…{around}…'"
        for written, value, half, around in mentioned(source(page, root).read_text())
        if not holds(value, half, written.endswith(("%", "cent")), held)
    ]
