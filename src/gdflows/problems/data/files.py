"""Where data files are kept, how they get there, and what is said of those that cannot be used."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from gdflows.errors import DataError, GdflowsError, InputError
from gdflows.optional import need

_TORONTO = "https://www.cs.toronto.edu/~kriz/"
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"  # torchvision's mirror of LeCun's files
_CHAR_RNN = "https://raw.githubusercontent.com/karpathy/char-rnn/"

#: file name -> (address, SHA-256). The sums of MNIST are those that torchvision states (its
#: prototype data sets), that of CIFAR-10 is TensorFlow Datasets', that of the text was computed.
FILES = {
    "cifar-10-binary.tar.gz": (
        _TORONTO + "cifar-10-binary.tar.gz",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ),
    "train-images-idx3-ubyte.gz": (
        _MNIST + "train-images-idx3-ubyte.gz",
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    "train-labels-idx1-ubyte.gz": (
        _MNIST + "train-labels-idx1-ubyte.gz",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    "t10k-images-idx3-ubyte.gz": (
        _MNIST + "t10k-images-idx3-ubyte.gz",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        _MNIST + "t10k-labels-idx1-ubyte.gz",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
    "tinyshakespeare.txt": (
        _CHAR_RNN + "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
}


def folder_of(folder: str | os.PathLike | None) -> Path:
    """The folder of the data: the argument, else ``$GDFLOWS_DATA``, else the user's cache.

    One that somebody has named must be there: made anew, a mistyped one would be filled with
    downloads. The cache is made when something is kept in it.
    """
    chosen = folder or os.environ.get("GDFLOWS_DATA")
    if not chosen:
        return Path(package("pooch", "pooch").os_cache("gdflows"))
    source = "folder=" if folder else "The environment variable GDFLOWS_DATA"
    try:
        path = Path(chosen).expanduser()
        there, is_file = path.is_dir(), path.exists()
    except TypeError:
        raise InputError(f"folder must be a path, got {folder!r}.") from None
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{source} names {chosen!r}, which cannot be looked into: {error}.") from (
            error
        )
    if not there:
        what = "is a file" if is_file else "does not exist"
        raise DataError(
            f"{source} names {path}, which {what}. Correct the name, or make the folder first."
        )
    return path


def fetch(file: str, folder: Path, hint: str = "") -> Path:
    """The path of a verified file, downloaded if need be."""
    url, sha256 = FILES[file]
    path = folder / file
    state = "is missing"
    if present(path):
        if digest(path) == sha256:
            return path
        state = "is damaged (its SHA-256 is wrong)"
    pooch = package("pooch", "pooch")
    try:
        # pooch downloads to a temporary name and moves the file here only if its sum is right
        pooch.retrieve(url, f"sha256:{sha256}", fname=file, path=folder, progressbar=True)
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            remedy = f"Make room on the disk of {folder}, or name another folder"
        elif getattr(error, "errno", None) in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = f"Make {folder} writable, or name another folder"
        else:
            remedy = "Try again with a network, or put the file there by hand"
        raise DataError(
            f"{path} {state}, and downloading it from {url} failed: {error}. "
            f"{remedy} (GDFLOWS_DATA or folder= name another folder). {hint}".rstrip()
        ) from error
    return path


def present(path: Path) -> bool:
    """Whether a file is there; what is there and is no file is an error."""
    with reading(path):
        if path.is_file():
            return True
        if path.exists():
            kind = "a folder" if path.is_dir() else "something else"
            raise DataError(f"{path} is {kind}, where a file is expected. Move it away.")
    return False


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with reading(path), open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def check_stated_sum(path: Path) -> None:
    """Compare a file with the sum in ``FILE.sha256`` beside it, if there is one.

    Its form is that of the program ``sha256sum``: 64 hexadecimal digits, perhaps a name.
    """
    beside = path.with_name(f"{path.name}.sha256")
    if not present(beside):
        return
    with reading(beside), open(beside, "rb") as f:
        words = f.read(1000).decode().split()
    stated = words[0].lower().lstrip("\\") if words else ""
    if len(stated) != 64 or set(stated) - set("0123456789abcdef"):
        raise DataError(
            f"{beside} does not begin with a SHA-256 (64 hexadecimal digits). Write it anew: "
            f"sha256sum {path.name} > {beside.name}"
        )
    if (found := digest(path)) != stated:
        raise DataError(
            f"{path} is damaged or another file: its SHA-256 is {found}, and {beside.name} says "
            f"{stated}. Replace it by a good copy, or {beside.name} if it is the old one."
        )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Tell what stopped the reading of a file: its content, or the machine."""
    try:
        yield
    except GdflowsError:
        raise
    except OSError as error:
        if error.errno is None:  # what gzip and bz2 say of a file's content
            raise damaged(path, error) from error
        remedy = "See to it that the file is there and that you may read it."
        raise DataError(f"{path} cannot be read: {error.strerror}. {remedy}") from error
    except Exception as error:  # parsers of archives raise a dozen kinds
        raise damaged(path, error) from error


def damaged(path: Path, reason: Exception | str) -> DataError:
    if isinstance(reason, Exception):
        reason = f"{reason or type(reason).__name__}"
    return DataError(
        f"{path} is damaged or incomplete: {reason.rstrip('.')}. "
        "Delete it or replace it by a good copy."
    )


def package(module: str, name: str) -> ModuleType:
    """A module of a package that only data sets need."""
    return need(module, name, extra="data", what="This data set")
