"""The ledger: what the book says of experiments, each sentence with the test that carries it.

Beside a chapter `euler.md` lies `euler.claims.yml`, a list of entries (their keys: `Claim`). In the
chapter a claim's sentence is followed by the mark {ref}`✓ <claim-ID>`, which leads to its entry on
the page *Claims and their evidence*. An entry's expressions are evaluated in the chapter's one
execution, right after the last code cell above the mark; so they see what a reader has seen.

As a Sphinx extension this module writes that page, in the place of the line MARKER.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, fields
from pathlib import Path

import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_notebook

from .chapters import ROOT, BookError, chapters, source

LEDGER = "book/appendix/claims"
MARKER = "<!-- the entries, by chapter -->"
MARK = re.compile(r"\s*\{ref\}`✓ <claim-([\w-]+)>`")
LABEL = re.compile(r"^\(((?:sec|ch)-[\w-]+)\)=$", re.M)
CELL = re.compile(r"^`{3,}\{code-cell\}", re.M)
RECORDED = ROOT / "src/gdflows/runs/recorded"

# Words that make a rule of what was seen, and what it takes to use them.
RULES = re.compile(
    r"\b(always|never|networks|in general|as a rule|usually|typically|generally|in practice|"
    r"(every|any|all) (network|model|learning rate|seed|task)s?)\b", re.I)
NETWORKS, SEEDS = 2, 5
END_SAID = re.compile(r"\bend of (its|the|their) (grid|range|sweep)\b", re.I)


@dataclass(frozen=True)
class Claim:
    """An entry of the ledger, as an author writes it."""

    page: str
    id: str  # begins with the chapter's name
    sentence: str  # as it stands in the chapter
    on: str  # the scope in words: which networks, data, learning rates
    holds: str  # the expression that must be true
    networks: str = "0"  # how many different ones: a number, or an expression
    seeds: str = "1"  # likewise
    shows: dict[str, str] = field(default_factory=dict)  # what was measured: name, expression
    run: list[str] = field(default_factory=list)  # recorded Runs that it rests on
    sweep: dict[str, str] = field(default_factory=dict)  # grid, winner: expressions
    because: str = ""  # label of a theorem that carries a rule
    failed: str = ""  # what the sentence said before it was evaluated, and what became of it

    def expressions(self) -> dict[str, str]:
        """Everything to be evaluated, by a name."""
        found = {"holds": self.holds, "networks": self.networks, "seeds": self.seeds}
        found |= {f"sweep {name}": text for name, text in self.sweep.items()}
        return found | {f"shows {name}": text for name, text in self.shows.items()}


def ledger(page: str, root: Path = ROOT) -> Path:
    return source(page, root).with_suffix(".claims.yml")


def load(page: str, root: Path = ROOT) -> list[Claim]:
    """The claims of a chapter; none where it has no ledger."""
    path = ledger(page, root)
    if not path.exists():
        return []
    known = {f.name for f in fields(Claim)} - {"page"}
    # all values as text: YAML would take the key `on` for a truth value
    entries = yaml.load(path.read_text(), Loader=yaml.BaseLoader)
    claims = []
    for k, entry in enumerate(entries or [], start=1):
        where = f"{path.relative_to(root)}, entry {k}"
        if not isinstance(entry, dict) or set(entry) - known:
            extra = sorted(set(entry) - known) if isinstance(entry, dict) else entry
            raise BookError(f"{where}: unknown {extra}; an entry has {', '.join(sorted(known))}")
        missing = {"id", "sentence", "on", "holds"} - set(entry)
        if missing:
            raise BookError(f"{where}: {', '.join(sorted(missing))} missing")
        sweep = set(entry.get("sweep", {}))
        if not isinstance(entry.get("holds"), str) or (sweep and sweep != {"grid", "winner"}):
            raise BookError(f"{where}: holds must be an expression, sweep have grid and winner")
        entry["run"] = [entry["run"]] if isinstance(entry.get("run"), str) else entry.get("run", [])
        claims.append(Claim(page=page, **entry))
    return claims


def plain(text: str) -> str:
    """Text with white space made even."""
    return re.sub(r"\s+", " ", text).strip()


def placed(page: str, root: Path = ROOT) -> dict[str, tuple[int, str]]:
    """By claim: the number of code cells above its mark, and the text that ends at it."""
    text = source(page, root).read_text()
    found = {}
    for mark in MARK.finditer(text):
        before = text[: mark.start()]
        found[mark.group(1)] = len(CELL.findall(before)), plain(MARK.sub("", before))
    return found


def sections(page: str, root: Path = ROOT) -> dict[str, str]:
    """By claim: the label of the section that its sentence stands in; '' where there is none."""
    text = source(page, root).read_text()
    return {mark.group(1): (LABEL.findall(text[: mark.start()]) or [""])[-1]
            for mark in MARK.finditer(text)}


# -- evaluation ------------------------------------------------------------------------------------

PROBE = '''\
def _ledger(entries, names):
    import json, traceback

    def number(x):
        if isinstance(x, str):
            return x
        if hasattr(x, "tolist"):
            x = x.tolist()
        if isinstance(x, dict):
            return ", ".join(f"{key}: {number(one)}" for key, one in x.items())
        if isinstance(x, (list, tuple, set)) or hasattr(x, "__next__"):
            return ", ".join(map(number, x))
        return f"{x:.3g}" if isinstance(x, float) else str(x)

    def listed(x):
        return [float(one) for one in (x.tolist() if hasattr(x, "tolist") else x)]

    seen = []
    for entry in entries:
        found = {}
        try:
            for name, text in entry.items():
                value = eval(text, names)
                if name == "holds":
                    value = bool(value)
                elif name in ("networks", "seeds"):
                    value = int(value)
                elif name == "sweep grid":
                    value = listed(value)
                elif name == "sweep winner":
                    value = float(value)
                else:
                    value = number(value)
                found[name] = value
        except Exception:
            found["error"] = f"{name}: {text}: {traceback.format_exc(limit=0).strip()}"
        seen.append(found)
    print(json.dumps(seen))

'''


def probe(claims: list[Claim]) -> str:
    """Code that evaluates the claims in the chapter's namespace and prints what it found."""
    entries = [claim.expressions() for claim in claims]
    return PROBE + f"_ledger({entries!r}, globals())\ndel _ledger"


def probes(page: str, root: Path = ROOT) -> dict[int, list[Claim]]:
    """The claims to be evaluated after so many of the chapter's own code cells."""
    where = placed(page, root)
    found: dict[int, list[Claim]] = {}
    for claim in load(page, root):
        if claim.id in where:  # a claim without a mark is an error that `problems` tells
            found.setdefault(where[claim.id][0], []).append(claim)
    return dict(sorted(found.items()))


def probed(notebook: nbformat.NotebookNode, wanted: dict[int, list[Claim]]):
    """The notebook with cells that evaluate claims in their places. Its first cell is not counted.

    A probe is never compared with anything, and runs also where its chapter's cells differ.
    """
    cells = []
    for k, cell in enumerate(notebook.cells):
        cells.append(cell)
        if k in wanted:
            cells.append(new_code_cell(
                probe(wanted[k]), execution_count=None, id=f"claims-{k}",
                metadata={"tags": ["nbval-ignore-output"], "claims": [c.id for c in wanted[k]]},
            ))
    return new_notebook(cells=cells, metadata=notebook.metadata)


def split(notebook, seen: list[dict]) -> tuple[list[dict], dict[str, dict]]:
    """What was seen of the chapter's own cells, and what the probes among them found, by claim."""
    own, found = [], {}
    for cell, one in zip(notebook.cells, seen, strict=True):
        names = cell.metadata.get("claims")
        if names is None:
            own.append(one)
            continue
        said = "".join(out.get("text", "") for out in one["outputs"])
        try:
            found |= dict(zip(names, json.loads(said.strip().splitlines()[-1]), strict=True))
        except (json.JSONDecodeError, IndexError, ValueError):
            found |= {name: {"error": one["message"] or "not evaluated"} for name in names}
    return own, found


# -- what is wrong ---------------------------------------------------------------------------------


def problems(claims: list[Claim], where: dict, found: dict[str, dict]) -> list[str]:
    """All that is wrong with a chapter's claims, given where they stand and what was found."""
    wrong: list[str] = []
    names = [claim.id for claim in claims]
    twice = sorted({name for name in names if names.count(name) > 1})
    wrong += [f"{name}: two entries have this id" for name in twice]
    wrong += [f"{name}: marked in the chapter, but the ledger has no such entry"
              for name in where if name not in names]
    for claim in claims:
        def say(text: str, c: Claim = claim) -> None:
            wrong.append(f"{c.id}: {text}")

        chapter = claim.page.rsplit("/", 1)[-1]
        if not claim.id.startswith(f"{chapter}-"):
            say(f"the id must begin with {chapter}-")
        if claim.id not in where:
            say("no mark in the chapter")
            continue
        if not where[claim.id][1].endswith(plain(claim.sentence)):
            say(f"before its mark stands '…{where[claim.id][1][-90:]}', not the entry's sentence")
        result = found.get(claim.id, {"error": "not evaluated"})
        if "error" in result:
            say(result["error"])
            continue
        if result["holds"] is not True:
            shown = [f"{k[6:]} {v}" for k, v in result.items() if k.startswith("shows ")]
            say(f"is not true: {claim.holds} ({'; '.join(shown) or 'nothing shown'})")
        rule = RULES.search(claim.sentence)
        if rule and not claim.because and result["networks"] and (
            result["networks"] < NETWORKS or result["seeds"] < SEEDS
        ):
            say(f"'{rule.group(0)}' of {result['networks']} networks and {result['seeds']} seeds: "
                f"a rule needs {NETWORKS} and {SEEDS}, or a theorem")
        if claim.sweep:
            grid, winner = result["sweep grid"], result["sweep winner"]
            if winner in (min(grid), max(grid)) and not END_SAID.search(claim.sentence):
                say(f"the winner {winner:g} stands at the end of its grid: widen it, or say so")
        for name in claim.run:
            if not (RECORDED / name / "run.json").exists():
                say(f"there is no recorded run {name}")
    return wrong


# -- the page --------------------------------------------------------------------------------------


def record(name: str) -> str:
    """A link to what made a record, on the page of lists."""
    return f"{{ref}}`{name} <record-{name}>`"


def evidence(claim: Claim, section: str) -> str:
    """Where it is computed, and how to see it for oneself."""
    place = f"in {{ref}}`{section}`" if section else "in the chapter"
    if not claim.run:
        return f"Computed {place}."
    return f"Read {place} from {', '.join(map(record, claim.run))}."


def entry(claim: Claim, found: dict, section: str) -> list[str]:
    """One claim on the page, in MyST."""
    # a table is shown on one line: indented ones would be code in MyST
    measured = [f"{name.removeprefix('shows ')} {plain(str(value))}"
                for name, value in found.items() if name.startswith("shows ")]
    holds = {True: "holds", False: "**does not hold**"}.get(found.get("holds"), "**not evaluated**")
    networks, seeds = found.get("networks", 0), found.get("seeds", 1)
    scope = [claim.on]
    if networks:
        scope.append(f"{networks} network{'s' if networks > 1 else ''}")
    if networks or seeds > 1:
        scope.append(f"{seeds} seed{'s' if seeds > 1 else ''}")
    rule = f" The rule is {{prf:ref}}`{claim.because}`." if claim.because else ""
    return [
        f"(claim-{claim.id})=", ":::{card}", ":class-card: claim", "", plain(claim.sentence), "",
        f"{{.claim-test}}\n`{plain(claim.holds)}` {holds}"
        + (f": {'; '.join(measured)}." if measured else "."), "",
        f"{{.claim-scope}}\nOn {'; '.join(scope)}. {evidence(claim, section)}{rule}", ":::", "",
    ]


def title(page: str, root: Path) -> str:
    return re.search(r"^# (.+)$", source(page, root).read_text(), re.M).group(1)


def written(pages: list[str], root: Path, results: dict[str, dict[str, dict]]) -> str:
    """All entries by chapter, a table of contents above them and the failures below."""
    rows, body, mended = [], [], []
    for page in pages:
        claims = load(page, root)
        if not claims:
            continue
        found = results.get(page, {})
        many = sum(1 for c in claims if found.get(c.id, {}).get("seeds", 1) >= SEEDS)
        nets = sum(1 for c in claims if found.get(c.id, {}).get("networks", 0) > 0)
        runs = sum(1 for c in claims if c.run)
        bad = [c for c in claims if c.failed]
        rows.append(f"| {{doc}}`/{page}` | {len(claims)} | {nets} | {many} | {runs} | {len(bad)} |")
        body += [f"## {title(page, root)}", ""]
        where = sections(page, root)
        for claim in claims:
            body += entry(claim, found.get(claim.id, {}), where.get(claim.id, ""))
        mended += [f"- {{ref}}`{c.id} <claim-{c.id}>`. {plain(c.failed)}" for c in bad]
    head = ["| chapter | claims | of networks | with five seeds or more | read from a recorded run "
            "| failed at first |", "|---|--:|--:|--:|--:|--:|", *rows, ""]
    tail = ["## What failed when it was first evaluated", "",
            "These sentences stood in the book, or in a draft of it, until they were evaluated. "
            "What is said now is what was measured.", "", *mended, ""] if mended else []
    return "\n".join(head + tail + body)


def read_source(app, docname: str, text: list[str]) -> None:
    if docname == LEDGER:
        from .execute import Execution

        root = Path(app.srcdir)
        known = {page: Execution.load(page) for page in chapters(root)}
        results = {page: done.claims for page, done in known.items() if done}
        text[0] = text[0].replace(MARKER, written(chapters(root), root, results))


def setup(app) -> dict:
    app.connect("source-read", read_source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
