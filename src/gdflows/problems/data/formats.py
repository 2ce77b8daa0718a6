"""Readers of the files' formats. What a file says of its size is checked before it is believed."""

from __future__ import annotations

import gzip
import math
import tarfile
import zipfile
from pathlib import Path

import numpy as np

from gdflows.errors import DataError
from gdflows.problems.data.files import check_stated_sum, damaged, reading

RECORD = 1 + 3 * 32 * 32  # CIFAR-10's: a label and three planes of pixels
_MOST_IMAGES = 60_000  # in one file of MNIST

_BEGINNINGS = {
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip file",
    b"\x93NUMPY": "a single array (.npy)",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\x89HDF": "an HDF5 file",
    b"version https://git-lfs": "a pointer of Git LFS",
    b"<": "a page of HTML or XML",
    b"\x80": "a pickle",
}


def npz(path: Path, **shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Arrays of bytes by their names, of the shapes given; labels are those of one axis."""
    check_stated_sum(path)
    _expect(path, b"PK\x03\x04", "an archive of arrays (.npz) is expected")
    with reading(path), zipfile.ZipFile(path) as archive:
        return [_member(path, archive, name, shape) for name, shape in shapes.items()]


def _member(path: Path, archive: zipfile.ZipFile, name: str, shape: tuple) -> np.ndarray:
    there = archive.namelist()
    if f"{name}.npy" not in there:
        held = ", ".join(n.removesuffix(".npy") for n in there[:10]) or "nothing"
        raise _other(path, f"it has no array {name}; it holds {held}")
    info = archive.getinfo(f"{name}.npy")
    # Others are unpacked in one piece, whatever its size.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _other(path, f"{name} is packed otherwise than by numpy.savez or savez_compressed")
    with archive.open(info) as f:
        version = np.lib.format.read_magic(f)
        if version != (1, 0):  # what NumPy writes, unless a dtype has hundreds of fields
            raise _other(path, f"{name} has version {version} of the format, not (1, 0)")
        found, fortran, dtype = np.lib.format.read_array_header_1_0(f)
        if dtype != np.uint8 or found != shape:
            raise _other(path, f"{name} is {dtype} {found}, where uint8 {shape} is expected")
        raw = f.read(math.prod(shape))
        # At the archive's end its checksum is compared.
        if len(raw) != math.prod(shape) or f.read(1):
            raise damaged(path, f"{name} has not as many numbers as it says")
    array = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")
    array = np.ascontiguousarray(array)  # another order would round means differently
    return _classes(path, name, array) if array.ndim == 1 else array


def idx(path: Path, axes: int) -> np.ndarray:
    """MNIST's format: two zero bytes, type, number of axes, their lengths, then the numbers."""
    _expect(path, b"\x1f\x8b", "a gzip file is expected")
    with reading(path), gzip.open(path) as f:
        head = f.read(4)
        if head != bytes([0, 0, 8, axes]):
            raise _other(path, f"it does not begin as {axes} axes of bytes in MNIST's format do")
        shape = tuple(int(n) for n in np.frombuffer(f.read(4 * axes), ">i4"))
        if (
            len(shape) != axes
            or not 0 < shape[0] <= _MOST_IMAGES
            or shape[1:] != (28, 28)[: axes - 1]
        ):
            raise _other(path, f"it says that its shape is {shape}")
        raw = f.read(math.prod(shape) + 1)
    if len(raw) != math.prod(shape):
        raise damaged(path, f"it has not as many numbers as its shape {shape} says")
    array = np.frombuffer(raw, np.uint8).reshape(shape)
    return array[:, None] if axes == 3 else _classes(path, "it", array)


def cifar(path: Path) -> tuple[np.ndarray, ...]:
    """CIFAR-10's binary version: of five training batches and the test batch images and labels.

    (The Python version holds pickles, which numpy is losing the ability to read.)
    """
    _expect(path, b"\x1f\x8b", "a gzip file is expected")
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    wanted = {f"cifar-10-batches-bin/{name}": i for i, name in enumerate(names)}
    records: dict[int, np.ndarray] = {}
    with reading(path), tarfile.open(path, "r:gz") as archive:
        for member in archive:
            if member.size > 10_000 * RECORD:
                raise _other(path, f"{member.name} says that it has {member.size} bytes")
            if member.name in wanted:
                if not member.isreg() or member.size == 0 or member.size % RECORD:
                    raise _other(
                        path, f"{member.name} does not consist of records of {RECORD} bytes"
                    )
                raw = archive.extractfile(member).read()
                records[wanted[member.name]] = np.frombuffer(raw, np.uint8).reshape(-1, RECORD)
    if len(records) < len(names):
        lacking = next(name for name, i in wanted.items() if i not in records)
        raise _other(path, f"it has no file {lacking}")
    if len({len(records[i]) for i in range(5)}) > 1:
        raise _other(path, "its training batches differ in length")
    train, test = np.concatenate([records[i] for i in range(5)]), records[5]
    parts = []
    for part in (train, test):
        parts += [part[:, 1:].reshape(-1, 3, 32, 32), _classes(path, "it", part[:, 0])]
    return tuple(parts)


# -- inside --------------------------------------------------------------------------------------


def _expect(path: Path, beginning: bytes, what: str) -> None:
    with reading(path), open(path, "rb") as f:
        head = f.read(64)
    if head.startswith(beginning):
        return
    if not head:
        raise damaged(path, "it is empty")
    for known, kind in _BEGINNINGS.items():
        if head.startswith(known):
            raise DataError(f"{path} is {kind}, where {what}. Replace it by a good copy.")
    raise damaged(path, f"it begins with {head[:8]!r}, where {what}")


def _classes(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    if array.max() > 9:
        raise _other(path, f"{name} has class {array.max()}, where 0 to 9 are expected")
    return array


def _other(path: Path, reason: str) -> DataError:
    return DataError(f"{path} does not hold what it should: {reason}. Replace it by a good copy.")
