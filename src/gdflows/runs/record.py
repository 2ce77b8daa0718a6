"""The Run record: a folder with ``run.json`` and ``table.csv``, written whole or not at all."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from gdflows import parallel
from gdflows.errors import InputError, InterruptedRunError

FORMAT = 1
STAMP = "%Y-%m-%d %H:%M UTC"
PACKAGES = ("gdflows", "torch", "numpy", "scipy")


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
        ``platform`` and the ``packages``' versions; ``processes``, if there were several;
        ``ended``, why, if the study broke off.
    """

    name: str
    config: dict
    table: pd.DataFrame
    environment: dict

    def save(self, folder: str | Path) -> Path:
        """Write the run to a new folder, or over an older run of the same configuration.

        Raises
        ------
        InputError
            If the folder holds a run of another configuration, or something else.
        """
        folder = Path(folder)
        _check_free(folder, self.config)
        folder.mkdir(parents=True, exist_ok=True)
        meta = {"format": FORMAT, "name": self.name, "config": self.config}
        meta["environment"] = self.environment
        # The description goes last: a folder without run.json is not a run.
        _write(folder / "table.csv", self.table.to_csv(index=False, lineterminator="\n"))
        _write(folder / "run.json", json.dumps(meta, indent=1, ensure_ascii=False) + "\n")
        return folder

    def __repr__(self) -> str:
        e = self.environment
        packages = ", ".join(f"{k} {v}" for k, v in e["packages"].items())
        return (
            f"Run {self.name}: {len(self.table)} rows × {len(self.table.columns)} columns\n"
            f"  made by  {e['command']}\n"
            f"  on       {e['device']}, {e['threads']} threads, {e['started']}, "
            f"{e['seconds']:.0f} s"
            + (f", {e['processes']} processes\n" if "processes" in e else "\n")
            + f"  with     Python {e['python']}, {packages}"
            + (f"\n  ended    {e['ended']}" if "ended" in e else "")
        )


def record(
    folder: str | Path,
    config: Mapping,
    study: Callable[..., pd.DataFrame],
    *,
    device: str = "cpu",
    resumable: bool = False,
) -> Run:
    """Carry out a study, note down where, when, with what and for how long, and save all that.

    Parameters
    ----------
    folder : str or Path
        Where to write the record; its last part is the run's name.
    config : mapping
        What decides the numbers; must be JSON.
    study : callable
        Returns the table.
    device : str
        The torch device that the study uses.
    resumable : bool
        The study takes a :class:`Log` and goes on from its state. If the folder holds a run of
        this configuration that was broken off, that is continued, with as many threads.

    Returns
    -------
    Run

    Raises
    ------
    InputError
        Before any work, if the folder holds a run of another configuration.
    InterruptedRunError
        If a resumable study stops for want of memory or of space on the disk.
    """
    folder, config = Path(folder), json.loads(json.dumps(dict(config)))
    _check_free(folder, config)
    log = Log(folder, config, device) if resumable else Log()
    started, clock = datetime.now(UTC), time.perf_counter()
    try:
        table = study(log) if resumable else study()
    except (torch.OutOfMemoryError, OSError) as e:
        if not resumable:
            raise
        raise InterruptedRunError(
            f"{folder} stopped after step {log.step}: {e}. What was saved is kept; make room and "
            f"continue with: gdflows resume {folder}"
        ) from e
    seconds = time.perf_counter() - clock + log.seconds
    environment = {
        "command": log.command or _command(folder),
        "device": _device(device),
        "threads": torch.get_num_threads(),
        "started": log.started or started.strftime(STAMP),
        "seconds": round(seconds, 1),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {p: version(p) for p in PACKAGES},
    }
    if parallel.size() > 1:
        environment["processes"] = parallel.size()
    if log.ended:
        environment["ended"] = log.ended
    run = Run(folder.name, config, table, environment)
    if parallel.first():
        run.save(folder)
        log.discard()
    return run


class Log:
    """The rows and the state of a study under way.

    With a folder, both are kept there in one file, replaced as a whole, so that a run killed at
    any moment goes on from its last checkpoint. Without one they are in memory only.

    Attributes
    ----------
    rows : list of dict
        The table so far; a study appends to it.
    state : dict or None
        What the study handed to :meth:`checkpoint` last; None at the beginning. Tensors, numbers,
        strings, lists and dicts of these.
    step : int
        Of that state.
    ended : str or None
        Why the study ended before its time, if it did; a study sets it.
    """

    FILE = "unfinished.pt"

    def __init__(
        self,
        folder: Path | None = None,
        config: Mapping | None = None,
        device: str = "cpu",
        *,
        seconds_between: float = 10.0,
    ):
        self.rows: list[dict] = []
        self.state: dict | None = None
        self.step, self.ended = 0, None
        self.seconds, self.started, self.command = 0.0, None, None
        self._file = None if folder is None else folder / self.FILE
        self._config, self._device = config, device
        self._between = seconds_between
        self._since = self._saved = time.perf_counter()
        kept = None
        if folder is not None:
            there = parallel.of_first(self._file.exists)
            kept = parallel.of_first(lambda: unfinished(folder)) if there else None
        if kept is not None:
            if kept["processes"] != parallel.size():
                raise InputError(
                    f"{folder} was begun by {kept['processes']} processes and cannot go on with "
                    f"{parallel.size()}: sums would be rounded differently."
                )
            self.rows, self.state, self.step = kept["rows"], kept["state"], kept["step"]
            self.seconds, self.started, self.command = (
                kept["seconds"],
                kept["started"],
                kept["command"],
            )
            torch.set_num_threads(kept["threads"])  # another number would round differently
        if not parallel.first():  # all know the state, one keeps it
            self._file = None

    def through(self, plan: Sequence) -> Iterator:
        """The items of a plan one by one, with progress; a run that was broken off goes on.

        Parameters
        ----------
        plan : sequence
            The same each time. Rows of an item are to be appended before the next is asked for.
        """
        begin = 0 if self.state is None else self.state["done"]
        for done in tqdm(range(begin, len(plan)), initial=begin, total=len(plan), disable=None):
            self.checkpoint(done, lambda done=done: {"done": done})
            yield plan[done]

    def checkpoint(self, step: int, state: Callable[[], dict], *, now: bool = False) -> None:
        """Keep rows and state, if the last time is some seconds ago, or now.

        Parameters
        ----------
        step : int
            How far the study is.
        state : callable
            Makes the state; called only when it is written.
        now : bool
            Do not wait.
        """
        clock = time.perf_counter()
        if self._file is None or not (now or clock - self._saved > self._between):
            return
        self.step, self.state = step, state()
        content = {
            "format": FORMAT,
            "config": self._config,
            "device": self._device,
            "rows": self.rows,
            "state": self.state,
            "step": step,
            "threads": torch.get_num_threads(),
            "processes": parallel.size(),
            "seconds": self.seconds + clock - self._since,
            "started": self.started or datetime.now(UTC).strftime(STAMP),
            "command": self.command or _command(self._file.parent),
        }
        self._file.parent.mkdir(parents=True, exist_ok=True)
        _replace(self._file, lambda f: torch.save(content, f))
        self._saved = time.perf_counter()

    def table(self) -> pd.DataFrame:
        """The rows as a table."""
        return pd.DataFrame(self.rows)

    def discard(self) -> None:
        """Remove the file, and what a kill in mid-writing has left of it: the run is complete."""
        if self._file is not None:
            for file in self._file.parent.glob(f"{self.FILE}*"):
                file.unlink(missing_ok=True)


def unfinished(folder: str | Path) -> dict:
    """What a broken-off run left: ``config``, ``device``, ``rows``, ``state``, ``step``, ….

    Raises
    ------
    InputError
        If there is none.
    """
    file = Path(folder) / Log.FILE
    if not file.is_file():
        done = (Path(folder) / "run.json").is_file()
        raise InputError(
            f"{folder} holds {'a finished run' if done else 'no run'}: there is nothing to resume."
        )
    try:
        kept = torch.load(file, weights_only=True)
    except Exception as e:
        raise InputError(f"{file} cannot be read ({e}). Remove the folder and run again.") from e
    if kept["format"] != FORMAT:
        raise InputError(f"{file} has format {kept['format']}; this gdflows reads {FORMAT}.")
    return kept


def load(name: str | Path) -> Run:
    """Read a recorded run: one that ships with gdflows by its name, any other by its folder.

    Raises
    ------
    InputError
        If there is none, or it is incomplete.
    """
    folder = Path(name)
    shipped = Path(str(files("gdflows.runs"))) / "recorded" / str(name)
    if (shipped / "run.json").is_file():
        return _read(shipped)
    if folder.is_dir():
        return _read(folder)
    known = ", ".join(available()) or "none"
    raise InputError(f"No run named {str(name)!r}, and no such folder. Shipped runs: {known}.")


def available() -> list[str]:
    """Names of the runs that ship with the package."""
    shipped = Path(str(files("gdflows.runs"))) / "recorded"
    return sorted(p.parent.name for p in shipped.glob("*/run.json"))


# -- inside --------------------------------------------------------------------------------------


def _read(folder: Path) -> Run:
    try:
        meta = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        table = pd.read_csv(folder / "table.csv")
    except (OSError, ValueError) as e:
        raise InputError(f"{folder} is not a complete run ({e}). Record it again.") from e
    if meta.get("format") != FORMAT:
        raise InputError(f"{folder} has format {meta.get('format')}; this gdflows reads {FORMAT}.")
    return Run(meta["name"], meta["config"], table, meta["environment"])


def _write(path: Path, text: str) -> None:
    _replace(path, lambda f: f.write(text.encode()))


def _replace(path: Path, write: Callable) -> None:
    """Through a temporary file and a rename, so that a reader never sees half a file."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as f:
            write(f)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _check_free(folder: Path, config: dict) -> None:
    """A record may replace one of its own configuration only."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; a run needs a folder of its own.")
    # What a process that was killed while it wrote has left does not count.
    if all(f.name.startswith(Log.FILE) and f.name != Log.FILE for f in folder.iterdir()):
        return
    broken_off = (folder / Log.FILE).exists() and not (folder / "run.json").exists()
    old = unfinished(folder)["config"] if broken_off else _read(folder).config
    pairs = ((k, old.get(k), config.get(k)) for k in sorted({*old, *config}))
    changes = "; ".join(f"{k}: {a!r}, not {b!r}" for k, a, b in pairs if a != b)
    if changes:
        raise InputError(
            f"{folder} holds a run of another configuration ({changes}); choose another folder."
        )


def _command(folder: Path) -> str:
    """The command line, without the places on this machine of the program and of the record."""
    words = [folder.name if Path(word) == folder else word for word in sys.argv[1:]]
    return shlex.join([Path(sys.argv[0]).name, *words])


def _device(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    try:  # Linux
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
