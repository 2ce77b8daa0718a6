"""One process at a time writes to a run's folder."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from gdflows.errors import InputError
from gdflows.runs.files import remove

FILE = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder, made if need be; removed at the end if nothing was written into it.

    The operating system lets go of a killed process's lock.

    Raises
    ------
    InputError
        If another process holds it, or it is a file.
    """
    file = folder / FILE
    while True:
        descriptor = _opened(file)
        try:
            lock = _acquired(file)
            # Who held it before has removed the file that is locked now: then it locks nothing.
            # (The open descriptor keeps that file's number from being given to another.)
            if _is(file, descriptor):
                break
            lock.release()
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    try:
        with suppress(OSError):  # said to others; a full disk is no reason to stop
            os.truncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()} on {platform.node()}".encode())
        yield
    finally:
        remove(file)
        os.close(descriptor)
        lock.release()
        with suppress(OSError):
            folder.rmdir()  # only if it is empty


def _opened(file: Path) -> int:
    while True:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            return os.open(file, os.O_CREAT | os.O_RDWR, 0o644)
        except (FileExistsError, NotADirectoryError):
            raise InputError(f"{file.parent} is a file; a run needs a folder of its own.") from None
        except FileNotFoundError:
            pass  # another process has just removed the empty folder


def _acquired(file: Path) -> FileLock:
    holder = ""
    with suppress(OSError, UnicodeDecodeError):
        holder = file.read_text().strip()
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = f"process {holder}" if holder else "another process"
        raise InputError(
            f"{file.parent} is being written by {who}: wait for its end, or choose another folder."
        ) from None
    except NotImplementedError:
        warnings.warn(
            f"{file.parent} lies on a file system that knows no locks: see to it that one process "
            "at a time writes there.",
            stacklevel=4,
        )
    return lock


def _is(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(file), os.fstat(descriptor))
    except OSError:
        return False
