"""Files that are not what their names say. Nothing is believed that a file says of its size."""

import gzip
import hashlib
import io
import os
import pickle
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fabricated import idx, labels, pixels, save_cifar

from gdflows.errors import DataError
from gdflows.problems import load, text

X, Y = pixels(10_000, 28, 28), labels(10_000)


def npz(save=np.savez, **changes):
    buffer = io.BytesIO()
    save(buffer, **{k: v for k, v in ({"x": X, "y": Y} | changes).items() if v is not None})
    return buffer.getvalue()


def npy(shape, *, dtype="|u1", order=False, data=b"", version=(1, 0)):
    """An .npy file's bytes: what it says of itself, and what it holds."""
    buffer = io.BytesIO()
    header = {"descr": dtype, "fortran_order": order, "shape": shape}
    write = {(1, 0): np.lib.format.write_array_header_1_0,
             (2, 0): np.lib.format.write_array_header_2_0}[version]  # fmt: skip
    write(buffer, header)
    return buffer.getvalue() + data


def packed(x, how=zipfile.ZIP_STORED):
    """A zip archive with such a first member, and good labels."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        archive.writestr("x.npy", x)
        archive.writestr("y.npy", npy((10_000,), data=Y.tobytes()))
    return buffer.getvalue()


def flipped(content, at):
    changed = bytearray(content)
    changed[at] ^= 16
    return bytes(changed)


def encrypted():
    content = bytearray(packed(npy(X.shape, data=X.tobytes())))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := content.find(signature, at + 1)) >= 0:
            content[at + offset] |= 1
    return bytes(content)


def tarred(compression):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as tar:
        tar.addfile(tarfile.TarInfo("x"))
    return buffer.getvalue()


# what it is: (its bytes, what must be said)
BAD_NPZ = {
    "empty": (lambda: b"", "is damaged .*it is empty"),
    "begun": (lambda: npz()[:1000], "is damaged"),
    "cut short": (lambda: npz()[:-1000], "is damaged"),
    "noise": (lambda: X.tobytes()[:5000], "is damaged .*it begins with"),
    "gzip": (lambda: gzip.compress(b"x"), "is a gzip file, where an archive of arrays"),
    "tar.gz": (lambda: tarred("gz"), "is a gzip file"),
    "tar.bz2": (lambda: tarred("bz2"), "is a bzip2 file"),
    "tar.xz": (lambda: tarred("xz"), "is an xz file"),
    "npy": (lambda: npy(X.shape, data=X.tobytes()), r"is a single array \(.npy\)"),
    "pickle": (lambda: pickle.dumps({"x": 1}), "is a pickle"),
    "html": (lambda: b"<!DOCTYPE html><title>404", "is a page of HTML"),
    "lfs": (lambda: b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    "no labels": (lambda: npz(y=None), "has no array y; it holds x"),
    "other names": (lambda: npz(x=None, y=None, a=Y), "has no array x; it holds a"),
    "too few": (lambda: npz(x=X[:9_999]), r"x is uint8 \(9999, 28, 28\), where uint8"),
    "channels": (lambda: npz(x=X[:, None]), r"x is uint8 \(10000, 1, 28, 28\)"),
    "floats": (lambda: npz(x=X / 255), "x is float64"),
    "long labels": (lambda: npz(y=Y.astype("int64")), "y is int64"),
    "signed": (lambda: npz(x=X.view("int8")), "x is int8"),
    "nan": (lambda: npz(y=np.full(10_000, np.nan)), "y is float64"),
    "class 10": (lambda: npz(y=Y + 1), "y has class 10"),
    "objects": (lambda: npz(y=Y.astype(object)), "y is object"),
    "fields": (lambda: npz(y=Y.view([("a", "u1")])), "y is .*'a'"),
    "says 4 GiB": (lambda: packed(npy((2**32,), data=b"1")), "x is uint8 \\(4294967296,\\)"),
    "says 8 EiB": (lambda: packed(npy((2**63,) * 3)), "x is uint8 \\(9223372036854775808"),
    "too short": (lambda: packed(npy(X.shape, data=b"1")), "not as many numbers as it says"),
    "too long": (lambda: packed(npy(X.shape, data=X.tobytes() + b"1")), "not as many numbers"),
    "version 2": (lambda: packed(npy(X.shape, version=(2, 0))), "has version \\(2, 0\\)"),
    "no header": (lambda: packed(b"\x93NUMPY\1\0\4\0abc\n"), "is damaged"),
    "code in the header": (
        lambda: packed(b"\x93NUMPY\1\0\x20\0" + b"__import__('os').abort()".ljust(31) + b"\n"),
        "is damaged",
    ),
    "no array": (lambda: packed(b"hello"), "is damaged"),
    "lzma": (lambda: packed(npy(X.shape), zipfile.ZIP_LZMA), "x is packed otherwise"),
    "bzip2": (lambda: packed(npy(X.shape), zipfile.ZIP_BZIP2), "x is packed otherwise"),
    "encrypted": (encrypted, "is damaged .*encrypted"),
    "a bit": (lambda: flipped(npz(), 5_000_000), "is damaged .*CRC"),
    "a packed bit": (lambda: flipped(npz(np.savez_compressed), 3_000_000), "is damaged"),
}


@pytest.mark.parametrize("what", BAD_NPZ)
def test_a_wrong_npz_is_named(folder, what):
    content, words = BAD_NPZ[what]
    path = folder / "mnist_10k.npz"
    path.write_bytes(content())
    with pytest.raises(DataError, match=f"mnist_10k.npz .*{words}") as caught:
        load("mnist-1k", folder=folder)
    assert "eplace it by a good copy." in str(caught.value)
    assert [p.name for p in folder.iterdir()] == ["mnist_10k.npz"]


def test_a_bomb_is_not_unpacked(folder):
    size = 100_000_000
    for x in (npy((size,), data=bytes(size)), npy(X.shape, data=bytes(size))):
        (folder / "mnist_10k.npz").write_bytes(packed(x, zipfile.ZIP_DEFLATED))
        del x
        tracemalloc.start()
        try:
            with pytest.raises(DataError, match="mnist_10k.npz"):
                load("mnist-1k", folder=folder)
            assert tracemalloc.get_traced_memory()[1] < 40_000_000
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_order_in_memory_and_packing_do_not_matter(folder, save):
    there = [folder / "a", folder / "b"]
    for path, x in zip(there, (X, np.asfortranarray(X)), strict=True):
        path.mkdir()
        (path / "mnist_10k.npz").write_bytes(npz(save, x=x))
    one, two = (load("mnist-1k", folder=path) for path in there)
    assert (one.x_train == two.x_train).all() and one.digest == two.digest


def test_a_sum_beside_a_file_is_compared(folder):
    path, beside = folder / "mnist_10k.npz", folder / "mnist_10k.npz.sha256"
    path.write_bytes(npz())
    total = hashlib.sha256(path.read_bytes()).hexdigest()
    for right in (total, f"{total}  mnist_10k.npz\n", f"{total.upper()} *mnist_10k.npz"):
        beside.write_text(right)
        assert len(load("mnist-1k", folder=folder).x_train) == 1000
    path.write_bytes(npz(x=255 - X))  # as good an archive as the first
    with pytest.raises(DataError, match=f"damaged or another file: .*{total}"):
        load("mnist-1k", folder=folder)
    for wrong in (b"", b"sum", total[:-1].encode(), b"\xff\xfe"):
        beside.write_bytes(wrong)
        with pytest.raises(DataError, match="mnist_10k.npz.sha256 (is damaged|does not begin)"):
            load("mnist-1k", folder=folder)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist-1k", "mnist_10k.npz"),
        ("mnist-1k", "t10k-labels-idx1-ubyte.gz"),
        ("cifar10-1k", "cifar10_5k.npz"),
        ("cifar10", "cifar-10-binary.tar.gz"),
        ("shakespeare-8", "tinyshakespeare.txt"),
    ],
)
def test_a_folder_in_place_of_a_file_is_named(folder, publish, name, file):
    publish("t10k-images-idx3-ubyte.gz", idx(X))
    (folder / file).mkdir()
    with pytest.raises(DataError, match=f"{file} is a folder, where a file is expected"):
        load(name, folder=folder)
    assert (folder / file).is_dir()


@pytest.mark.parametrize(
    ("name", "file"), [("mnist-1k", "mnist_10k.npz"), ("shakespeare-8", "tinyshakespeare.txt")]
)
def test_an_unreadable_file_is_not_called_damaged(folder, monkeypatch, name, file):
    path = folder / file
    path.write_bytes(npz())
    if os.geteuid() == 0:  # whom permissions do not stop

        def closed(file, *args, **kwargs):
            if Path(file) == path:
                raise PermissionError(13, "Permission denied", str(file))
            return open(file, *args, **kwargs)

        for module in ("files", "formats"):
            monkeypatch.setattr(f"gdflows.problems.data.{module}.open", closed, raising=False)
    else:
        path.chmod(0)
    with pytest.raises(DataError, match=f"{file} cannot be read: Permission denied") as caught:
        load(name, folder=folder)
    assert "damaged" not in str(caught.value) and "elete" not in str(caught.value)
    assert path.exists()


# -- the official files: with the right sum, and not what they should be ---------------------------


def images(shape, data=None, kind=8):
    header = bytes([0, 0, kind, len(shape)]) + np.array(shape, ">u4").tobytes()
    return header + (bytes(int(np.prod(shape))) if data is None else data)


BAD_IDX = {
    "not packed": (lambda: images((10_000, 28, 28)), "is damaged .*it begins with"),
    "zip": (lambda: npz(), "is a zip archive, where a gzip file"),
    "a word": (lambda: gzip.compress(b"nothing"), "does not begin as 3 axes"),
    "nothing in it": (lambda: gzip.compress(b""), "does not begin as 3 axes"),
    "header only": (lambda: gzip.compress(b"\0\0\x08\x03\0\0"), "is damaged"),
    "labels": (lambda: idx(Y), "does not begin as 3 axes"),
    "floats": (lambda: gzip.compress(images((10, 28, 28), kind=13)), "does not begin"),
    "says 4 GiB": (
        lambda: gzip.compress(images((2**32 - 1, 28, 28), b"1")),
        "says that its shape is",
    ),
    "other side": (lambda: gzip.compress(images((10_000, 29, 28))), "its shape is .*29"),
    "short": (lambda: gzip.compress(images((10_000, 28, 28))[:-1]), "not as many numbers"),
    "long": (lambda: gzip.compress(images((10_000, 28, 28)) + b"1"), "not as many numbers"),
    "cut short": (lambda: idx(X)[:-9], "is damaged .*end-of-stream"),
    "a bit": (lambda: flipped(idx(X), -6), "is damaged .*CRC"),
    "fewer": (lambda: idx(X[:9000]), "is damaged .*10000 labels for the 9000"),
}


@pytest.mark.parametrize("what", BAD_IDX)
def test_wrong_images_are_named(folder, publish, what):
    content, words = BAD_IDX[what]
    publish("t10k-images-idx3-ubyte.gz", content())
    publish("t10k-labels-idx1-ubyte.gz", idx(Y))
    with pytest.raises(DataError, match=f"t10k-.*-ubyte.gz .*{words}"):
        load("mnist-1k", folder=folder)


def test_wrong_labels_are_named(folder, publish):
    publish("t10k-images-idx3-ubyte.gz", idx(X))
    for labels_, words in ((Y + 1, "class 10"), (Y[:0], "its shape is"), (X, "1 axes of bytes")):
        publish("t10k-labels-idx1-ubyte.gz", idx(labels_))
        with pytest.raises(DataError, match=f"t10k-labels-idx1-ubyte.gz .*{words}"):
            load("mnist-1k", folder=folder)
    publish("t10k-images-idx3-ubyte.gz", idx(X[:70]))
    publish("t10k-labels-idx1-ubyte.gz", idx(Y[:70]))
    with pytest.raises(DataError, match="70 images, not 10000"):
        load("mnist-1k", folder=folder)


def repacked(archive, change):
    """The archive with every member as ``change(name, bytes)`` gives it: bytes or a TarInfo."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(archive)) as old:
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as new:
            for member in old:
                name = Path(member.name).name
                made = change(name, old.extractfile(member).read())
                if isinstance(made, bytes):
                    member.size = len(made)
                    new.addfile(member, io.BytesIO(made))
                elif made is not None:
                    made.name = member.name
                    new.addfile(made)
    return buffer.getvalue()


def one(name, change):
    return lambda found, content: change(content) if found == name else content


def member(kind, size=0):
    info = tarfile.TarInfo()
    info.type, info.linkname, info.size = kind, "data_batch_1.bin", size
    return info


BAD_CIFAR = {
    "no archive": (lambda a: b"no archive", "is damaged"),
    "no tar": (lambda a: gzip.compress(b"x" * 5000), "is damaged"),
    "not packed": (lambda a: gzip.decompress(a), "is damaged"),
    "cut short": (lambda a: a[: len(a) // 2], "is damaged"),
    "one lacks": (
        lambda a: repacked(a, one("data_batch_3.bin", lambda _: None)),
        "has no file .*data_batch_3.bin",
    ),
    "a folder": (
        lambda a: repacked(a, one("test_batch.bin", lambda _: member(tarfile.DIRTYPE))),
        "test_batch.bin does not consist of records",
    ),
    "a link": (
        lambda a: repacked(a, one("data_batch_1.bin", lambda _: member(tarfile.SYMTYPE))),
        "data_batch_1.bin does not consist",
    ),
    "an empty one": (
        lambda a: repacked(a, one("test_batch.bin", lambda _: b"")),
        "test_batch.bin does not consist",
    ),
    "an odd size": (
        lambda a: repacked(a, one("test_batch.bin", lambda c: c[:-1])),
        "test_batch.bin does not consist",
    ),
    "different sizes": (
        lambda a: repacked(a, one("data_batch_2.bin", lambda c: c[: -10 * 3073])),
        "batches differ in length",
    ),
    "a class": (
        lambda a: repacked(a, one("test_batch.bin", lambda c: b"\x0a" + c[1:])),
        "has class 10",
    ),
}


@pytest.mark.parametrize("what", BAD_CIFAR)
def test_a_wrong_archive_is_named(folder, publish, archive, what):
    content, words = BAD_CIFAR[what]
    publish("cifar-10-binary.tar.gz", content(archive))
    with pytest.raises(DataError, match=f"cifar-10-binary.tar.gz .*{words}"):
        load("cifar10", folder=folder)


def test_an_archive_that_says_4_gib_is_refused(folder, publish):
    info = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
    info.size = 2**32
    publish("cifar-10-binary.tar.gz", gzip.compress(info.tobuf() + bytes(5000)))
    with pytest.raises(DataError, match="says that it has 4294967296 bytes"):
        load("cifar10", folder=folder)


def test_an_archive_with_too_few_images_is_refused(folder, publish, archive):
    publish("cifar-10-binary.tar.gz", archive)  # of 1,000 images a batch
    with pytest.raises(DataError, match="batches have 1000 and 1000 images"):
        load("cifar10-6k", folder=folder)


def test_a_wrong_cifar_npz_is_named(folder, cifar):
    x, y = cifar
    save_cifar(folder, (x[:, :, :16], y))
    with pytest.raises(DataError, match=r"cifar10_5k.npz .*x_train is uint8 \(5000, 3, 16, 32\)"):
        load("cifar10-1k", folder=folder)
    save_cifar(folder, (x, y + 90))
    with pytest.raises(DataError, match="cifar10_5k.npz .*y_train has class 9"):
        load("cifar10-1k", folder=folder)


def test_a_text_of_another_encoding_is_named(folder, publish):
    publish("tinyshakespeare.txt", "Ophélie".encode("latin-1"))
    with pytest.raises(DataError, match="tinyshakespeare.txt is damaged .*utf-8"):
        text(folder=folder)
