"""The Run: a folder with ``run.json`` and ``table.csv``, written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from dataclasses import dataclass
from importlib.resources import files as resources
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from gdflows.errors import InputError
from gdflows.runs import files
from gdflows.runs.lock import FILE as LOCK
from gdflows.runs.lock import locked

FORMAT = 2
DESCRIPTION, TABLE, STATE = "run.json", "table.csv", "unfinished.pt"
NOT_KNOWN = "not known"
BOOK = "gdflows_runs"  # where the runs that only the book reads are installed
_COMMON = {"format": int, "name": str, "config": dict, "environment": dict}
_PARTS = {1: _COMMON, 2: _COMMON | {"table": dict, "sha256": str}}  # in format 1 no sums
_ENVIRONMENT = {
    "command": str, "device": str, "threads": int, "started": str, "seconds": (int, float),
    "python": str, "packages": dict,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Run:
    """What a study saw.

    Attributes
    ----------
    name : str
        The run's name.
    config : dict
        Everything that decides the numbers: study, data, network, learning rate, seed, …
    table : pandas.DataFrame
        What the probes saw.
    environment : dict
        ``command``, ``device``, ``threads``, ``started`` (UTC), ``seconds``, ``python``,
        ``platform`` and the ``packages``' versions; ``commit`` of the package, and the SHA-256 of
        the ``data`` by their names; ``processes``, if there were several; ``ended``, why, if the
        study broke off; ``begun``, with which versions, if it was continued with others.
    title : str
        What it shows, in a line; may be empty.

    Examples
    --------
    >>> import gdflows as gf
    >>> run = gf.runs.load("validity-digits")
    >>> run.name, "command" in run.environment, len(run.table) > 0
    ('validity-digits', True, True)
    """

    name: str
    config: dict
    table: pd.DataFrame
    environment: dict
    title: str = ""

    def save(self, folder: str | Path) -> Path:
        """Write the run to a new folder, or over an older run of the same configuration.

        Raises
        ------
        InputError
            If the folder holds a run of another configuration, or something else, or another
            process is writing there.
        """
        folder = Path(folder)
        with locked(folder):
            check_free(folder, self.config)
            write(self, folder)
        return folder

    def __repr__(self) -> str:
        e = self.environment
        packages = ", ".join(f"{k} {v}" for k, v in e["packages"].items())
        return (
            f"Run {self.name}: {len(self.table)} rows × {len(self.table.columns)} columns\n"
            f"  made by  {_folded(e['command'])}\n"
            f"  on       {e['device']}, {e['threads']} threads, {e['started']}, "
            f"{e['seconds']:.0f} s"
            + (f", {e['processes']} processes\n" if "processes" in e else "\n")
            + f"  with     Python {e['python']}, {packages}"
            + (f"\n  ended    {e['ended']}" if "ended" in e else "")
            + (f"\n  note     {e['note']}" if "note" in e else "")
        )


def _folded(command: str, width: int = 80) -> str:
    """A long command in lines that a shell takes as one; never broken inside a quoted word."""
    lines = [""]
    for word in re.findall(r"""(?:'[^']*'|"[^"]*"|[^\s'"])+""", command):
        if lines[-1] and len(lines[-1]) + len(word) + 1 > width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return " \\\n           ".join(lines)


def load(name: str | Path) -> Run:
    """Read a run: one that ships with the package by its name, any other by its folder.

    Parameters
    ----------
    name : str or Path
        ``"NAME"`` (see :func:`available`) or ``"path/to/folder"``.

    Returns
    -------
    Run

    Raises
    ------
    InputError
        If there is none, or it is not complete, or its table is not the one that was recorded.

    Examples
    --------
    >>> import gdflows as gf
    >>> gf.runs.load("validity-digits").title
    'What is foreseen of the models of a run, and what happens: digits'
    """
    folder = _folder(name)
    meta, raw = _consistent(folder)
    try:
        table = _table(raw)
    except ValueError as e:
        raise InputError(f"{folder / TABLE} is no table ({e}). Record the run again.") from e
    return Run(meta["name"], meta["config"], table, meta["environment"], meta.get("title", ""))


def describe(name: str | Path) -> dict:
    """What ``run.json`` says: ``name``, ``title``, ``config``, ``environment``, ``table``.

    Parameters
    ----------
    name : str or Path
        As in :func:`load`; the table is not read.

    Returns
    -------
    dict
        ``table`` holds the table's ``sha256``, ``rows`` and ``columns``; older records have none.

    Raises
    ------
    InputError
        If there is none, or it is damaged.

    Examples
    --------
    >>> import gdflows as gf
    >>> gf.runs.describe("validity-digits")["environment"]["device"]
    'Intel(R) Xeon(R) Processor'
    """
    return _description(_folder(name) / DESCRIPTION)


def available() -> list[str]:
    """Names of the runs that are at hand: the package's own, and the book's with ``gdflows-runs``.

    The book's runs are most of what all would weigh, and a package of their own. In a clone of
    the repository both are at hand.

    Examples
    --------
    >>> import gdflows as gf
    >>> "validity-digits" in gf.runs.available()
    True
    """
    return sorted({f.parent.name for place in _places() for f in place.glob(f"*/{DESCRIPTION}")})


# -- writing, with the folder locked ---------------------------------------------------------------


def write(run: Run, folder: Path) -> None:
    """Description and table; a reader sees the old two or the new two, whenever this is killed."""
    raw = run.table.to_csv(index=False, lineterminator="\n").encode()
    meta = {"format": FORMAT, "name": run.name}
    if run.title:
        meta["title"] = run.title
    meta |= {"config": run.config, "environment": run.environment}
    meta["table"] = {"sha256": hashlib.sha256(raw).hexdigest(), **_shape(_table(raw))}
    meta["sha256"] = _sum(meta)
    text = json.dumps(meta, indent=1, ensure_ascii=False) + "\n"
    # The new description lies ready before the table changes: with it the two can be told to
    # belong together, and settled afterwards.
    ready = files.prepare(folder / DESCRIPTION, lambda f: f.write(text.encode()))
    try:
        files.replace(folder / TABLE, lambda f: f.write(raw))
    except Exception:
        files.remove(ready)
        raise
    os.replace(ready, folder / DESCRIPTION)


def check_free(folder: Path, config: dict) -> None:
    """Raise InputError unless the folder is empty, or holds a record or state of this config."""
    _settle(folder)
    there = {f.name for f in folder.iterdir()} - {LOCK}
    # What a process that was killed while it wrote has left does not count.
    there = {name for name in there if name == STATE or not name.startswith(STATE)}
    if not there:
        return
    if not there & {DESCRIPTION, STATE}:
        raise InputError(
            f"{folder} holds {', '.join(sorted(there)[:3])} and no run; choose an empty folder."
        )
    if DESCRIPTION in there:
        refuse_another(folder, _description(folder / DESCRIPTION)["config"], config)


def refuse_another(folder: Path, old: dict, config: dict) -> None:
    """Raise InputError if the two configurations differ."""
    pairs = ((k, old.get(k), config.get(k)) for k in sorted({*old, *config}))
    changes = "; ".join(f"{k}: {a!r}, not {b!r}" for k, a, b in pairs if _text(a) != _text(b))
    if changes:
        raise InputError(
            f"{folder} holds a run of another configuration ({changes}); choose another folder."
        )


def _settle(folder: Path) -> None:
    """Finish, or undo, what a process that was killed between its two files began."""
    ready = folder / (DESCRIPTION + files.NEW)
    if ready.exists():
        if _belong(ready, folder / TABLE):
            os.replace(ready, folder / DESCRIPTION)
        else:
            files.remove(ready)
    files.remove(folder / (TABLE + files.NEW))


def _belong(description: Path, table: Path) -> bool:
    try:
        meta, raw = _description(description), table.read_bytes()
    except (InputError, OSError):
        return False
    return meta.get("table", {}).get("sha256") == hashlib.sha256(raw).hexdigest()


# -- reading -------------------------------------------------------------------------------------


def _places() -> list[Path]:
    """Where recorded runs are: with the package, and in the one that holds the book's."""
    places = [Path(str(resources("gdflows.runs").joinpath("recorded")))]
    book = find_spec(BOOK)
    return places + [Path(place) for place in (book.submodule_search_locations if book else [])]


def _folder(name: str | Path) -> Path:
    if Path(name).is_dir():
        return Path(name)
    for inside in (place / str(name) for place in _places()):
        if inside.is_dir():
            return inside
    whole = find_spec(BOOK) or (_places()[0] / "pyproject.toml").exists()  # or a clone
    book = (
        ""
        if whole
        else (
            " The runs of the book are a package of their own: pip install gdflows-runs, or, in a "
            "clone of the repository, pip install ./src/gdflows/runs/recorded."
        )
    )
    raise InputError(
        f"No run named {str(name)!r}, and no such folder. "
        f"Shipped runs: {', '.join(available()) or 'none'}.{book}"
    )


def _consistent(folder: Path) -> tuple[dict, bytes]:
    """Description and table that belong together, also while a new pair is being written."""
    ready, complaint = folder / (DESCRIPTION + files.NEW), None
    for _ in range(3):
        if _belong(ready, folder / TABLE):
            description = ready
        else:
            description = folder / DESCRIPTION
        try:
            meta, raw = _description(description), (folder / TABLE).read_bytes()
        except OSError as e:
            complaint = _incomplete(folder, e)
            continue
        except InputError as e:
            complaint = e
            continue
        kept = meta.get("table")
        if kept is None or kept["sha256"] == hashlib.sha256(raw).hexdigest():
            return meta, raw
        complaint = InputError(
            f"{folder / TABLE} is not the table that was recorded (its SHA-256 differs"
            f"{_how(kept, raw)}). Take a good copy, or record the run again."
        )
    raise complaint


def _how(kept: dict, raw: bytes) -> str:
    """Where the shape tells how a table was damaged."""
    try:
        now = _shape(_table(raw))
    except ValueError:
        return ", and it is no table"
    if now["rows"] != kept["rows"]:
        return f"; {now['rows']} rows, where there were {kept['rows']}"
    if now["columns"] != kept["columns"]:
        names = sorted({*now["columns"]} ^ {*kept["columns"]})
        return f"; columns {', '.join(names)}"
    return ""


def _description(file: Path) -> dict:
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise _incomplete(file.parent, e) from e
    wrong = _wrong(meta)
    if wrong:
        raise InputError(f"{file} is damaged: {wrong}. Take a good copy, or record the run again.")
    return meta


def _wrong(meta) -> str | None:
    """What is wrong with a description, if anything is."""
    if not isinstance(meta, dict) or "format" not in meta:
        return "it does not describe a run"
    number = meta["format"]
    # A record that has lost a digit of its format must not pass for one without sums.
    if number not in _PARTS or (number == 1 and {"table", "sha256"} & {*meta}):
        return f"it has format {number!r}; this gdflows reads {', '.join(map(str, _PARTS))}"
    for key, kind in _PARTS[number].items():
        if not isinstance(meta.get(key), kind):
            return f"{key!r} is {'wrong' if key in meta else 'missing'}"
    for key, kind in _ENVIRONMENT.items():
        if not isinstance(meta["environment"].get(key), kind):
            what = "wrong" if key in meta["environment"] else "missing"
            return f"'environment' has {key!r} {what}"
    if not isinstance(meta.get("title", ""), str):
        return "'title' is wrong"
    if number > 1 and meta["sha256"] != _sum(meta):
        return "its SHA-256 differs"
    return None


def _incomplete(folder: Path, error: Exception) -> InputError:
    if (folder / STATE).exists() and not (folder / DESCRIPTION).exists():
        return InputError(
            f"{folder} is not a complete run: it was broken off. Continue it with: "
            f"gdflows resume {folder}"
        )
    return InputError(f"{folder} is not a complete run ({error}). Record it again.")


def _sum(meta: dict) -> str:
    """Of everything in a description but itself."""
    return hashlib.sha256(
        _text({k: v for k, v in meta.items() if k != "sha256"}).encode()
    ).hexdigest()


def _text(value) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _table(raw: bytes) -> pd.DataFrame:
    # Before version 3 pandas' own reader of numbers was off by a last digit now and then.
    old = int(pd.__version__.split(".")[0]) < 3
    exact = {"float_precision": "round_trip"} if old else {}
    return pd.read_csv(io.BytesIO(raw), **exact)


def _shape(table: pd.DataFrame) -> dict:
    return {"rows": len(table), "columns": list(table.columns)}
