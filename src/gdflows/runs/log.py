"""The rows and the state of a study under way, and the file in which they are kept."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch

from gdflows import parallel
from gdflows.errors import GdflowsError, InputError, InterruptedRunError, StoppedRun
from gdflows.runs import files, origin
from gdflows.runs.progress import progress
from gdflows.runs.run import DESCRIPTION, STATE, refuse_another
from gdflows.runs.stopping import Stop

FORMAT = 2
STAMP = "%Y-%m-%d %H:%M UTC"
#: What a state file begins with: this, the SHA-256 of the rest in hexadecimal, an end of line.
MAGIC = b"gdflows state 2 "
_HEADER = len(MAGIC) + 64 + 1
_PARTS = (
    "format", "config", "device", "rows", "state", "step", "threads", "processes", "seconds",
    "started", "command", "versions", "machines", "data",
)  # fmt: skip
#: Keeping the state takes at most one part in so many of the time.
SHARE = 20


class Log:
    """The rows and the state of a study under way.

    With a folder, both are kept there in one file, replaced as a whole, so that a run killed at
    any moment goes on from its last checkpoint. Without one they are in memory only.

    Attributes
    ----------
    rows : list of dict
        The table so far; a study appends to it.
    state : dict or None
        What the study handed to :meth:`checkpoint` last; None at the beginning. Tensors (on the
        CPU when a run goes on), numbers, strings, lists and dicts of these.
    step : int
        Of the state that was kept last.
    kept : bool
        Whether any was.
    title : str
        Of the record to be; kept with the state.
    ended : str or None
        Why the study ended before its time, if it did; a study sets it.
    seconds_between : float
        At least so long between two checkpoints; longer where keeping the state takes long.

    Examples
    --------
    >>> import gdflows as gf
    >>> log = gf.runs.Log()
    >>> for n in log.through(range(3)):
    ...     log.rows.append({"n": n, "square": n**2})
    >>> log.table()["square"].tolist()
    [0, 1, 4]
    """

    FILE = STATE
    seconds_between = 1.0

    def __init__(
        self,
        folder: Path | None = None,
        config: Mapping | None = None,
        device: str = "cpu",
        stop: Stop | None = None,
    ):
        self.rows: list[dict] = []
        self.state: dict | None = None
        self.step, self.ended, self.kept = 0, None, False
        self.seconds, self.started, self.command, self.title = 0.0, None, None, ""
        self.data: dict[str, str] = {}
        self.restoring, self.begun = False, None
        self._folder, self._config, self._device = folder, config, device
        self._stop = stop or Stop()
        if folder is not None:
            self.versions, self.machines = origin.versions(), [origin.device_name(device)]
            self._continue(folder, device)
        self._pause = self.seconds_between
        self._since = self._saved = time.perf_counter()

    def _continue(self, folder: Path, device: str) -> None:
        kept = of_first(lambda: unfinished(folder) if (folder / STATE).exists() else None)
        if kept is None:
            return
        refuse_another(folder, kept["config"], self._config)
        if kept["processes"] != parallel.size():
            raise InputError(
                f"{folder} was begun by {kept['processes']} processes and cannot go on with "
                f"{parallel.size()}: sums would be rounded differently."
            )
        self.rows, self.state, self.step = kept["rows"], kept["state"], kept["step"]
        self.seconds, self.started = kept["seconds"], kept["started"]
        self.command, self.data = kept["command"], kept["data"]
        self.title = kept.get("title", "")  # states of gdflows before this have none
        self.kept = self.restoring = True
        # Who continues it elsewhere gets other roundings: the record will say so.
        self.machines = kept["machines"] + [m for m in self.machines if m != kept["machines"][-1]]
        self.begun = kept["versions"] if kept["versions"] != self.versions else None
        torch.set_num_threads(kept["threads"])  # another number would round differently

    def through(self, plan: Sequence, unit: str = "run") -> Iterator:
        """The items of a plan one by one, with progress; a run that was broken off goes on.

        Parameters
        ----------
        plan : sequence
            The same each time. Rows of an item are to be appended before the next is asked for.
        unit : str
            What an item is, for the progress.
        """
        begin = 0 if self.state is None else self.state["done"]
        if not 0 <= begin <= len(plan):
            raise InputError(f"The state has done {begin} of {len(plan)} {unit}s.")
        quiet = not parallel.first()
        for done in progress(range(begin, len(plan)), unit, initial=begin, quiet=quiet):
            self.checkpoint(done, lambda done=done: {"done": done})
            yield plan[done]

    def checkpoint(self, step: int, state: Callable[[], dict], *, now: bool = False) -> None:
        """Keep rows and state, if the last time is some while ago, or now.

        A run that was asked to stop does so here.

        Parameters
        ----------
        step : int
            How far the study is.
        state : callable
            Makes the state; called only when it is written.
        now : bool
            Do not wait.

        Raises
        ------
        InterruptedRunError
            If the state cannot be written.
        StoppedRun
            If a signal has asked for it.
        """
        self.restoring = False
        if self._folder is None:
            return
        asked = self._stop.asked
        due = now or asked or time.perf_counter() - self._saved >= self._pause
        if due and parallel.first():  # all know the state, one keeps it
            self._keep(step, state())
        if asked:
            raise StoppedRun("", asked)

    def _keep(self, step: int, state: dict) -> None:
        begin = time.perf_counter()
        content = {
            "format": FORMAT,
            "config": self._config,
            "device": self._device,
            "rows": self.rows,
            "state": state,
            "step": step,
            "threads": torch.get_num_threads(),
            "processes": parallel.size(),
            "seconds": self.elapsed(),
            "started": self.started or datetime.now(UTC).strftime(STAMP),
            "command": self.command or origin.command(self._folder),
            "versions": self.begun or self.versions,
            "machines": self.machines,
            "data": self.data,
            "title": self.title,
        }
        file = self._folder / STATE
        try:
            files.replace(file, lambda f: _write(content, f))
        except (OSError, RuntimeError) as e:
            what = files.shortage(e) or f"its state cannot be written ({e})"
            raise InterruptedRunError(f"{self._folder} stopped at step {step}: {what}.") from e
        self.step, self.state, self.kept = step, state, True
        self._saved = time.perf_counter()
        took = self._saved - begin
        self._pause = self.seconds_between * max(1.0, SHARE * took)

    def elapsed(self) -> float:
        """Seconds spent on the run, those before it was broken off included."""
        return self.seconds + time.perf_counter() - self._since

    def table(self) -> pd.DataFrame:
        """The rows as a table."""
        return pd.DataFrame(self.rows)

    def discard(self) -> None:
        """Remove the file, and what a kill in mid-writing has left of it: the run is complete."""
        if self._folder is not None:
            for file in self._folder.glob(f"{STATE}*"):
                files.remove(file)


def of_first(make: Callable):
    """What ``make()`` gives, or raises, in the first process, in all of them."""

    def attempt() -> tuple:
        try:
            return make(), None
        except GdflowsError as e:
            return None, e

    result, error = parallel.of_first(attempt)
    if error is not None:
        raise error
    return result


def unfinished(folder: str | Path) -> dict:
    """What a broken-off run left: ``config``, ``device``, ``rows``, ``state``, ``step`` and more.

    Parameters
    ----------
    folder : str or Path
        Of the run.

    Returns
    -------
    dict
        Its tensors are on the CPU, wherever they were.

    Raises
    ------
    InputError
        If there is none, or it is damaged, or of another version.

    Examples
    --------
    >>> import gdflows as gf
    >>> try:
    ...     gf.runs.unfinished("no-such-folder")
    ... except gf.errors.GdflowsError as error:
    ...     print(type(error).__name__)
    InputError
    """
    file = Path(folder) / STATE
    if not file.is_file():
        done = (Path(folder) / DESCRIPTION).is_file()
        raise InputError(
            f"{folder} holds {'a finished run' if done else 'no run'}: there is nothing to resume."
        )
    try:
        raw = file.read_bytes()
    except OSError as e:
        raise InputError(f"{file} cannot be read: {e}.") from e
    if raw[: len(MAGIC)] != MAGIC:
        old = "was written by an earlier gdflows: continue it with that version"
        raise InputError(f"{file} {old if raw[:2] == b'PK' else _damaged(file)}.")
    content = memoryview(raw)[_HEADER:]
    if raw[len(MAGIC) : _HEADER - 1] != hashlib.sha256(content).hexdigest().encode():
        raise InputError(f"{file} {_damaged(file)}.")
    try:
        kept = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as e:
        raise InputError(
            f"{file} is whole, but this torch {torch.__version__} cannot read it ({e}): continue "
            "it with the version that wrote it."
        ) from e
    missing = [part for part in _PARTS if not isinstance(kept, dict) or part not in kept]
    if missing or kept["format"] != FORMAT:
        what = f"lacks {missing[0]!r}" if missing else f"has format {kept['format']!r}"
        raise InputError(f"{file} {what}: continue it with the gdflows that wrote it.")
    return kept


def _damaged(file: Path) -> str:
    return (
        "is damaged (its SHA-256 differs) and cannot be continued. Take a copy if you have one; "
        f"to begin the run anew remove {file.name}"
    )


class _Summed:
    """A file that is written and summed at once."""

    def __init__(self, file):
        self._file, self.sum, self.error = file, hashlib.sha256(), None

    def write(self, data) -> int:
        self.sum.update(data)
        try:
            return self._file.write(data)
        except OSError as e:
            self.error = e
            raise

    def flush(self) -> None:
        self._file.flush()


def _write(content: dict, file) -> None:
    file.write(b" " * _HEADER)
    summed = _Summed(file)
    try:
        torch.save(content, summed)
    except RuntimeError:
        if summed.error is not None:  # which torch has lost on the way
            raise summed.error from None
        raise
    file.seek(0)
    file.write(MAGIC + summed.sum.hexdigest().encode() + b"\n")
