"""Files that are whole or not there, and what to say where there is no room for them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

#: Ends the names of files that are being written. Each has one: a folder has one writer, and
#: what a killed one has left is written over by the next.
NEW = ".new"
_ROOM = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
# torch says so in words only where the CPU's memory is short.
_MEMORY = ("allocate memory", "not enough memory", "out of memory")


def replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Through a file beside it and a rename, so that nobody ever sees half of it."""
    prepared = prepare(path, write)
    try:
        os.replace(prepared, path)
    except BaseException:
        remove(prepared)
        raise


def prepare(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    """Write the file that is to replace this one; gives its path."""
    new = path.with_name(path.name + NEW)
    try:
        with open(new, "wb") as f:
            write(f)
            f.flush()
            os.fsync(f.fileno())
    except BaseException:
        remove(new)
        raise
    return new


def remove(path: Path) -> None:
    """Remove a file, if it is there and this may be done."""
    with suppress(OSError):
        path.unlink()


def shortage(error: BaseException) -> str | None:
    """What is short, if that is what the error says: the disk's room or memory."""
    number = getattr(error, "errno", None) if isinstance(error, OSError) else None
    if number in _ROOM:
        return "there is no room on the disk"
    if number == errno.ENOMEM or isinstance(error, MemoryError):
        return "memory is short"
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return "memory is short"  # a GPU's
    if isinstance(error, RuntimeError) and any(w in str(error).lower() for w in _MEMORY):
        return "memory is short"
    return None
