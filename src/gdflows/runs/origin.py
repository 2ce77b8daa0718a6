"""Where a record comes from: the command, the machine, the versions, the commit, the data."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

from gdflows import __version__
from gdflows.errors import InputError
from gdflows.runs.run import NOT_KNOWN

_DATA: ContextVar[dict[str, str] | None] = ContextVar("data", default=None)


def used(name: str, sha256: Callable[[], str]) -> None:
    """Tell the record that is being made, if one is, which data its study uses.

    Parameters
    ----------
    name : str
        The data's name.
    sha256 : callable
        Gives their SHA-256 in hexadecimal. Called only if a record is being made.

    Raises
    ------
    InputError
        If a run that was broken off is being continued with other data.

    Examples
    --------
    >>> import gdflows as gf
    >>> gf.runs.used("my data", lambda: "0" * 64)  # no record is being made: nothing happens
    """
    kept = _DATA.get()
    if kept is None:
        return
    now = sha256()
    if kept.setdefault(name, now) != now:
        raise InputError(
            f"The data {name} are not those that this run was begun with (SHA-256 "
            f"{kept[name][:12]}…): bring them back, or start anew in another folder."
        )


@contextmanager
def noting(kept: dict[str, str]) -> Iterator[None]:
    """Let :func:`used` write into a dict."""
    before = _DATA.set(kept)
    try:
        yield
    finally:
        _DATA.reset(before)


def versions() -> dict:
    """Of Python, of the packages that decide numbers, and the commit of this one."""
    packages = {p: metadata.version(p) for p in ("torch", "numpy", "scipy")}
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {"gdflows": __version__} | packages,
        "commit": commit(),
    }


@cache  # what runs is what was loaded
def commit() -> str:
    """The commit of the package that runs, and whether its files are others; or 'not known'."""
    here = Path(__file__).resolve().parents[1]

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *words],
            capture_output=True, text=True, timeout=20, check=True,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
        ).stdout.strip()  # fmt: skip

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # a site-packages inside a repository
        changed = git("status", "--porcelain", "-uno", "--", ".", ":!runs/recorded")
        return git("rev-parse", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        pass
    try:  # installed by pip from a repository
        text = metadata.distribution("gdflows").read_text("direct_url.json")
        return json.loads(text)["vcs_info"]["commit_id"]
    except (metadata.PackageNotFoundError, TypeError, ValueError, KeyError):
        return NOT_KNOWN


def command(folder: Path) -> str:
    """The command line, without the places on this machine of the program and of the record."""
    program, *words = sys.argv
    program = Path(program)
    name = program.parent.name if program.name == "__main__.py" else program.name  # python -m
    return shlex.join([name, *(folder.name if Path(w) == folder else w for w in words)])


def device_name(device: str) -> str:
    """The processor's own name."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    try:  # Linux
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
