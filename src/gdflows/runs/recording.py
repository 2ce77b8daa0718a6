"""Making a record: carry out a study, note down how, and lose nothing on the way."""

from __future__ import annotations

import json
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch

from gdflows import parallel
from gdflows.errors import GdflowsError, InputError, InterruptedRunError, StoppedRun
from gdflows.runs import files, origin
from gdflows.runs.lock import locked
from gdflows.runs.log import STAMP, Log, of_first
from gdflows.runs.run import STATE, Run, check_free, describe, write
from gdflows.runs.stopping import stopping

# What a state that does not fit is met with: parts missing, of another length, of another kind.
_UNFIT = (KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError)


def record(
    folder: str | Path,
    config: Mapping,
    study: Callable[..., pd.DataFrame],
    *,
    device: str = "cpu",
    resumable: bool = False,
    title: str = "",
) -> Run:
    """Carry out a study, note down where, when, with what and for how long, and save all that.

    Parameters
    ----------
    folder : str or Path
        Where to write the record; its last part is the run's name. Until the end no other process
        can write there.
    config : mapping
        What decides the numbers; must be JSON.
    study : callable
        Returns the table.
    device : str
        The torch device that the study uses.
    resumable : bool
        The study takes a :class:`Log` and goes on from its state. If the folder holds a run of
        this configuration that was broken off, that is continued, with as many threads.
    title : str
        What the run shows, in a line; if empty, that of an older record in this folder is kept.

    Returns
    -------
    Run

    Raises
    ------
    InputError
        Before any work, if the folder holds a run of another configuration, or another process
        writes there, or its state does not fit.
    InterruptedRunError
        If the study stops for want of memory or of space on the disk, or cannot be kept.
    StoppedRun
        If it was stopped by Ctrl-C or SIGTERM: at the next checkpoint if it is resumable, else,
        and the second time, at once.

    Examples
    --------
    >>> import pandas as pd, gdflows as gf
    >>> table = pd.DataFrame({"n": [1, 2], "square": [1, 4]})
    >>> run = gf.runs.record("squares", {}, lambda: table)
    >>> gf.runs.load("squares").table.square.tolist()
    [1, 4]
    """
    folder, config = Path(folder), json.loads(json.dumps(dict(config)))
    with _held(folder, config), stopping(at_checkpoint=resumable) as stop:
        log = Log(folder, config, device, stop) if resumable else Log()
        log.title = title or log.title or _old_title(folder)
        started = datetime.now(UTC)
        with _told(folder, config, log, resumable), origin.noting(log.data):
            table = study(log) if resumable else study()
        seconds = log.elapsed()
        environment = {
            "command": log.command or origin.command(folder),
            "device": ", then ".join(log.machines) if resumable else origin.device_name(device),
            "threads": torch.get_num_threads(),
            "started": log.started or started.strftime(STAMP),
            "seconds": round(seconds, 1),
            **(log.versions if resumable else origin.versions()),
        }
        if log.data:
            environment["data"] = log.data
        if log.begun:
            environment["begun"] = log.begun
        if parallel.size() > 1:
            environment["processes"] = parallel.size()
        if log.ended:
            environment["ended"] = log.ended
        run = Run(folder.name, config, table, environment, log.title)
        if parallel.first():
            _save(run, folder, config, log)
    return run


@contextmanager
def _held(folder: Path, config: dict) -> Iterator[None]:
    """The folder, locked by the first process and known to be free by all."""
    with ExitStack() as stack:

        def take() -> None:
            stack.enter_context(locked(folder))
            check_free(folder, config)

        of_first(take)
        yield


@contextmanager
def _told(folder: Path, config: dict, log: Log, resumable: bool) -> Iterator[None]:
    """What stops the study is told with where it stands and how it goes on."""
    try:
        yield
    except KeyboardInterrupt as e:
        number = getattr(e, "signal", signal.SIGINT)
        said = f"{folder} was stopped at step {log.step}" if log.kept else f"{folder} was stopped"
        raise StoppedRun(f"{said}. {_advice(folder, config, log, resumable)}", number) from e
    except InterruptedRunError as e:
        raise InterruptedRunError(f"{e} {_advice(folder, config, log, resumable)}") from e
    except GdflowsError:
        raise
    except (OSError, MemoryError, *_UNFIT) as e:
        if what := files.shortage(e):
            advice = _advice(folder, config, log, resumable)
            raise InterruptedRunError(
                f"{folder} stopped after step {log.step}: {what} ({e}). {advice}"
            ) from e
        if log.restoring and isinstance(e, _UNFIT):
            raise InputError(
                f"{folder / STATE} does not fit this version of the study ({e!r}). It was written "
                f"with {_written(log)}: continue it with these, or run anew in another folder."
            ) from e
        raise


def _advice(folder: Path, config: dict, log: Log, resumable: bool) -> str:
    if not log.kept:
        return "Nothing of it had been kept yet." if resumable else "It cannot be continued."
    how = "record it again into this folder"
    if "study" in config:
        how = f"gdflows resume {folder}"
    return f"All up to step {log.step} is kept; when what stopped it is gone, continue with: {how}"


def _written(log: Log) -> str:
    versions = log.begun or log.versions
    packages = ", ".join(f"{k} {v}" for k, v in versions["packages"].items())
    return f"{packages}, commit {versions['commit']}"


def _save(run: Run, folder: Path, config: dict, log: Log) -> None:
    try:
        write(run, folder)
    except OSError as e:
        what = files.shortage(e) or str(e)
        said = f"{folder}: the study is done, but its record cannot be written ({what})."
        advice = _advice(folder, config, log, True) if log.kept else _elsewhere(run)
        raise InterruptedRunError(f"{said} {advice}") from e
    log.discard()


def _elsewhere(run: Run) -> str:
    """A record that cannot be repeated from a state is kept where there may be room."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="gdflows-")) / run.name
        run.save(folder)
    except OSError as e:
        return f"It is lost: neither is there a place for it in {tempfile.gettempdir()} ({e})."
    return f"It is kept in {folder}: take it from there."


def _old_title(folder: Path) -> str:
    try:
        return describe(folder).get("title", "")
    except GdflowsError:
        return ""
