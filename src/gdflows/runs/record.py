"""The Run record: a folder with ``run.json`` and ``table.csv``, written whole or not at all."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pandas as pd
import torch

from gdflows.errors import InputError

FORMAT = 1
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
        ``platform`` and the ``packages``' versions.
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
            f"{e['seconds']:.0f} s\n"
            f"  with     Python {e['python']}, {packages}"
        )


def record(
    folder: str | Path,
    config: Mapping,
    study: Callable[[], pd.DataFrame],
    *,
    device: str = "cpu",
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

    Returns
    -------
    Run

    Raises
    ------
    InputError
        Before any work, if the folder holds a run of another configuration.
    """
    folder, config = Path(folder), json.loads(json.dumps(dict(config)))
    _check_free(folder, config)
    started, clock = datetime.now(UTC), time.perf_counter()
    table = study()
    seconds = time.perf_counter() - clock
    environment = {
        "command": _command(folder),
        "device": _device(device),
        "threads": torch.get_num_threads(),
        "started": started.strftime("%Y-%m-%d %H:%M UTC"),
        "seconds": round(seconds, 1),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {p: version(p) for p in PACKAGES},
    }
    run = Run(folder.name, config, table, environment)
    run.save(folder)
    return run


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
    """Through a temporary file and a rename, so that a reader never sees half a file."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as f:
            f.write(text)
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
    old = _read(folder).config
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
