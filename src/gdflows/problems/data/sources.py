"""What the sets of each name are read from: files, scikit-learn, a formula."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from gdflows.errors import DataError, InputError
from gdflows.problems.data import formats
from gdflows.problems.data.files import FILES, damaged, fetch, package, present
from gdflows.problems.generated import CLASSES, gratings

NAMES = (
    "gratings, chebyshev-d for degrees d of 1 to 9, iris, breast-cancer, wine, wine-moved, "
    "digits, diabetes, mnist, mnist-1k to mnist-9k, cifar10, cifar10-1k to "
    "cifar10-49k, numerals-T and shakespeare-T for sequences of T characters"
)
SCIKIT_LEARN = ("iris", "breast-cancer", "wine", "wine-moved", "digits", "diabetes")
_DIGITS = tuple(str(i) for i in range(10))
_CIFAR_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x_train, y_train, x_test, y_test
Named = tuple[Arrays, tuple[str, ...]]  # and the classes' names

MNIST = tuple(f for f in FILES if f.endswith("ubyte.gz"))  # in the order of Arrays
CIFAR, TEXT = "cifar-10-binary.tar.gz", "tinyshakespeare.txt"
MNIST_NPZ, CIFAR_NPZ = "mnist_10k.npz", "cifar10_5k.npz"


class Source(NamedTuple):
    """How a set comes about.

    ``read`` takes the folder and a seed; ``files`` are those it needs there, or the one that is
    ``instead`` of all of them. Of a text ``sequences`` is the length of its sequences.
    """

    read: Callable[[Path, int], Named] | None = None
    files: tuple[str, ...] = ()
    instead: str | None = None
    standardise: str = "pixel"
    sequences: int = 0


def source_of(name: str) -> Source:
    """The source of a set.

    Raises
    ------
    DataError
        If there is none of that name.
    """
    if not isinstance(name, str):
        raise InputError(f"A data set is known by its name, a str; got {name!r}.")
    if name in SCIKIT_LEARN:
        scale = "channel" if name == "digits" else "pixel"
        return Source(partial(_scikit_learn, name), standardise=scale)
    if name == "gratings":
        return Source(_gratings, standardise="channel")
    if degree := re.fullmatch(r"chebyshev-([1-9])", name):
        return Source(partial(_chebyshev, int(degree[1])), standardise="none")
    if name == "mnist":
        return Source(_mnist, MNIST, standardise="channel")
    if name == "cifar10":
        return Source(_cifar10, (CIFAR,))
    if sequences := re.fullmatch(r"(numerals|shakespeare)-([1-9]\d{0,3})", name):
        files = (TEXT,) if sequences[1] == "shakespeare" else ()
        return Source(files=files, sequences=int(sequences[2]))
    if subset := re.fullmatch(r"(mnist|cifar10)-([1-9]\d?)k", name):
        thousands = int(subset[2])
        if subset[1] == "mnist" and thousands <= 9:
            read = partial(_mnist_subset, thousands)
            return Source(read, MNIST[2:], MNIST_NPZ, "channel")
        if subset[1] == "cifar10" and thousands <= 49:
            read = partial(_cifar10_subset, thousands)
            return Source(read, (CIFAR,), CIFAR_NPZ if thousands <= 5 else None)
    raise DataError(f"There is no data set {name!r}. There are: {NAMES}.")


# -- without files --------------------------------------------------------------------------------


def _gratings(*_) -> Named:
    return gratings(), tuple(f"{180 * c // CLASSES}°" for c in range(CLASSES))


def _chebyshev(degree: int, *_) -> Named:
    """20 points of a polynomial to learn, and those between them to test."""
    x, between = np.linspace(-1, 1, 20)[:, None], np.linspace(-1, 1, 39)[1::2, None]
    return (x, np.cos(degree * np.arccos(x)), between, np.cos(degree * np.arccos(between))), ()


def _scikit_learn(name: str, _: Path | None, seed: int) -> Named:
    datasets = package("sklearn.datasets", "scikit-learn")
    read: Callable = {
        "iris": datasets.load_iris,
        "breast-cancer": datasets.load_breast_cancer,
        "wine": datasets.load_wine,
        "digits": datasets.load_digits,
        "diabetes": datasets.load_diabetes,
    }[name.removesuffix("-moved")]
    try:
        bunch = read()
    except (OSError, EOFError, ValueError) as error:
        raise DataError(
            f"scikit-learn cannot read its own files of {name!r} ({error}). Install it anew."
        ) from error
    x, y = bunch.data, bunch.target
    if name == "digits":
        x = x.reshape(-1, 1, 8, 8) / 16
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).numpy()
    test, train = np.split(order, [len(x) // 5])
    if name == "diabetes":  # a disease's progression, a number
        return (x[train], y[train, None], x[test], y[test, None]), ()
    y = y.astype(np.int64)  # on some systems it is shorter
    names = tuple(map(str, bunch.target_names))
    if name.endswith("-moved"):
        y[::3] = (y[::3] + 1) % len(names)
    return (x[train], y[train], x[test], y[test]), names


# -- MNIST ---------------------------------------------------------------------------------------


def _mnist(folder: Path, _: int) -> Named:
    hint = ""
    if present(there := folder / MNIST_NPZ):
        hint = f"{there} holds only the test images: with it, use 'mnist-1k' to 'mnist-9k'."
    paths = [fetch(f, folder, hint) for f in MNIST]
    return (*_pair(*paths[:2]), *_pair(*paths[2:])), _DIGITS


def _mnist_subset(thousands: int, folder: Path, _: int) -> Named:
    if present(npz := folder / MNIST_NPZ):
        x, y = formats.npz(npz, x=(10_000, 28, 28), y=(10_000,))
        x = x[:, None]
    else:
        hint = f"Or put {MNIST_NPZ} there."
        paths = [fetch(f, folder, hint) for f in MNIST[2:]]
        x, y = _pair(*paths)
        if len(x) != 10_000:
            raise damaged(paths[0], f"it has {len(x)} images, not 10000")
    n = 1000 * thousands
    return (x[:n], y[:n], x[-1000:], y[-1000:]), _DIGITS


def _pair(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    x, y = formats.idx(images, 3), formats.idx(labels, 1)
    if len(x) != len(y):
        raise damaged(labels, f"it has {len(y)} labels for the {len(x)} images of {images.name}")
    return x, y


# -- CIFAR-10 ------------------------------------------------------------------------------------


def _cifar10(folder: Path, _: int) -> Named:
    hint = ""
    if present(there := folder / CIFAR_NPZ):
        hint = f"{there} holds 5,000 training images: with it, use 'cifar10-1k' to 'cifar10-5k'."
    return formats.cifar(fetch(CIFAR, folder, hint)), _CIFAR_CLASSES


def _cifar10_subset(thousands: int, folder: Path, _: int) -> Named:
    if thousands <= 5 and present(path := folder / CIFAR_NPZ):
        shape = (3, 32, 32)
        x, y, x_test, y_test = formats.npz(
            path, x_train=(5000, *shape), y_train=(5000,), x_test=(1000, *shape), y_test=(1000,)
        )
    else:
        hint = f"For up to 5,000 images, {CIFAR_NPZ} there will do." if thousands <= 5 else ""
        path = fetch(CIFAR, folder, hint)
        x, y, x_test, y_test = formats.cifar(path)
    batches = np.arange(len(x)).reshape(5, -1)  # one row a training batch
    if batches.shape[1] < 200 * thousands or len(x_test) < 1000:
        raise damaged(path, f"its batches have {batches.shape[1]} and {len(x_test)} images")
    chosen = batches[:, : 200 * thousands].ravel()
    return (x[chosen], y[chosen], x_test[:1000], y_test[:1000]), _CIFAR_CLASSES
