"""Data sets, as tensors: small ones from scikit-learn, images from their official addresses.

Downloads are verified against a pinned SHA-256 before they are kept, and kept in one folder:
the ``folder`` argument, else the environment variable ``GDFLOWS_DATA``, else the user's cache.
"""

from __future__ import annotations

import gzip
import importlib
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from gdflows.errors import DataError, InputError
from gdflows.problems.generated import CLASSES, gratings

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

NAMES = (
    "gratings, iris, breast-cancer, digits, mnist, mnist-1k to mnist-9k, cifar10, cifar10-1k to "
    "cifar10-49k, shakespeare-T for sequences of T characters"
)
_DIGITS = tuple(str(i) for i in range(10))
_CIFAR_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x_train, y_train, x_test, y_test


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A data set for classification, in tensors: from :func:`load`, or of one's own.

    A text is one too: what is classified is every place, by the character that comes next.

    Attributes
    ----------
    name : str
        For messages; as given to :func:`load`.
    x_train, x_test : Tensor
        Inputs, samples along the first axis: ``(N, features)`` or ``(N, channels, height,
        width)``; of a text characters' numbers ``(N, T)``, int64.
    y_train, y_test : Tensor
        Class numbers ``(N,)``, of a text ``(N, T)``; int64.
    classes : tuple of str
        The classes' names, in the order of their numbers.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: tuple[str, ...]

    def take(self, n: int) -> Dataset:
        """The same with the first n training samples alone.

        Parameters
        ----------
        n : int
            At least 1.

        Returns
        -------
        Dataset

        Raises
        ------
        InputError
            If there are fewer than n, or n is below 1.
        """
        if not 1 <= n <= len(self.x_train):
            raise InputError(f"{self.name} has {len(self.x_train)} training samples, not n = {n}.")
        return replace(self, x_train=self.x_train[:n], y_train=self.y_train[:n])

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name!r}: {len(self.x_train)} training and {len(self.x_test)} test "
            f"samples of shape {tuple(self.x_train.shape[1:])}, {len(self.classes)} classes)"
        )


def load(
    name: str,
    *,
    standardise: str | None = None,
    folder: str | os.PathLike | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """A data set by its name, standardised.

    Parameters
    ----------
    name : str
        - ``"gratings"``: 1,000 and 200 images of 8x8 pixels, noisy gratings at ten orientations;
          made on the spot, nothing needed.
        - ``"iris"``, ``"breast-cancer"``, ``"digits"``: from scikit-learn, nothing to download.
          A fifth of the samples, at random by ``seed``, is the test set.
        - ``"mnist"``: 60,000 and 10,000 images, downloaded (11 MB).
        - ``"mnist-1k"`` ... ``"mnist-9k"``: *of the 10,000 images of MNIST's test files*, the
          first n thousand to train and the last thousand to test. Enough to study training on,
          and a download of 2 MB. Not for comparing test accuracies: the first half of these
          images is known to be the easier.
        - ``"cifar10"``: 50,000 and 10,000 images, downloaded (170 MB).
        - ``"cifar10-1k"`` ... ``"cifar10-49k"``: the first n/5 thousand of each of the five
          training batches, in that order, and the first thousand test images.
        - ``"shakespeare-T"``, for instance ``"shakespeare-64"``: the text of :func:`text` in
          consecutive sequences of T characters, each with the characters that follow; the last
          tenth is the test set. Not standardised.
    standardise : {None, "pixel", "channel", "none"}
        Subtract the mean and divide by the standard deviation, over the training samples in
        use: of each input on its own, or of each channel of the images as a whole. Inputs that
        never vary become zero. By default ``"channel"`` for digits and MNIST, where some pixels
        hardly ever vary, and ``"pixel"`` else. With ``"none"`` images are scaled to 0...1, and
        features left as they are.
    folder : path, optional
        Where files are kept and looked for; default ``$GDFLOWS_DATA``, else the user's cache.
        A file ``mnist_10k.npz`` (arrays ``x``, ``y``) or ``cifar10_5k.npz`` (``x_train``,
        ``y_train``, ``x_test``, ``y_test``) there serves the subsets it can, with the same
        samples and without a download.
    seed : int
        Of the split of scikit-learn's sets. MNIST and CIFAR-10 have fixed splits.
    dtype : torch.dtype
        Of the inputs.

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        If the name is unknown, a package is missing, there is no network, or a file is damaged.
    InputError
        If ``standardise`` or ``dtype`` cannot be used.

    References
    ----------
    .. [1] Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based learning applied to
       document recognition", Proceedings of the IEEE 86(11), 1998.
    .. [2] A. Krizhevsky, "Learning multiple layers of features from tiny images", technical
       report, University of Toronto, 2009.

    Examples
    --------
    >>> import gdflows as gf
    >>> gf.problems.load("iris")
    Dataset('iris': 120 training and 30 test samples of shape (4,), 3 classes)
    """
    if standardise not in (None, "pixel", "channel", "none"):
        raise InputError(f"standardise must be 'pixel', 'channel' or 'none', got {standardise!r}.")
    if not dtype.is_floating_point:
        raise InputError(f"The inputs need a real floating-point dtype, got {dtype}.")
    if sequences := re.fullmatch(r"shakespeare-([1-9]\d{0,3})", name):
        return _sequences(name, text(folder=folder), int(sequences[1]))
    subset = re.fullmatch(r"(mnist|cifar10)-([1-9]\d?)k", name)
    classes, default = _DIGITS, "channel"
    if name in ("iris", "breast-cancer", "digits"):
        arrays, classes = _scikit_learn(name, seed)
        default = "channel" if name == "digits" else "pixel"
    elif name == "gratings":
        arrays = gratings()
        classes = tuple(f"{180 * c // CLASSES}°" for c in range(CLASSES))
    elif name == "mnist":
        arrays = _mnist(_folder(folder))
    elif subset and subset[1] == "mnist" and int(subset[2]) <= 9:
        arrays = _mnist_subset(int(subset[2]), _folder(folder))
    elif name == "cifar10":
        arrays, classes, default = _cifar10(_folder(folder)), _CIFAR_CLASSES, "pixel"
    elif subset and subset[1] == "cifar10" and int(subset[2]) <= 49:
        arrays = _cifar10_subset(int(subset[2]), _folder(folder))
        classes, default = _CIFAR_CLASSES, "pixel"
    else:
        raise DataError(f"There is no data set {name!r}. There are: {NAMES}.")
    return _dataset(name, arrays, classes, standardise or default, dtype)


def text(name: str = "tinyshakespeare", *, folder: str | os.PathLike | None = None) -> str:
    """A text by its name, for models of language.

    Parameters
    ----------
    name : {"tinyshakespeare"}
        1,115,394 characters of Shakespeare's plays, in the selection of A. Karpathy's char-rnn.
    folder : path, optional
        As in :func:`load`.

    Returns
    -------
    str

    Raises
    ------
    DataError
        As in :func:`load`.
    """
    if name != "tinyshakespeare":
        raise DataError(f"There is no text {name!r}. There is: tinyshakespeare.")
    return _fetch("tinyshakespeare.txt", _folder(folder)).read_text(encoding="utf-8")


def _sequences(name: str, whole: str, length: int) -> Dataset:
    characters = sorted(set(whole))
    numbers = {c: i for i, c in enumerate(characters)}
    codes = torch.tensor([numbers[c] for c in whole])
    n = (len(codes) - 1) // length
    x, y = (codes[i : i + n * length].reshape(n, length) for i in (0, 1))
    cut = n - n // 10
    return Dataset(name, x[:cut], y[:cut], x[cut:], y[cut:], tuple(characters))


# -- from arrays to tensors --------------------------------------------------------------------


def _dataset(
    name: str, arrays: Arrays, classes: Sequence[str], standardise: str, dtype: torch.dtype
) -> Dataset:
    x_train, y_train, x_test, y_test = arrays
    train, test = (torch.tensor(x, dtype=dtype) for x in (x_train, x_test))
    if x_train.dtype == np.uint8:
        train, test = train.div_(255), test.div_(255)
    if standardise != "none":
        axes = [0] if standardise == "pixel" else [i for i in range(train.ndim) if i != 1]
        mean = train.mean(axes, keepdim=True)
        train, test = train.sub_(mean), test.sub_(mean)
        std = train.std(axes, correction=0, keepdim=True)
        # An input that never varies has no scale. (Its mean may be off by rounding, so its
        # deviation is not exactly zero.)
        low, high = train.amin(axes, keepdim=True), train.amax(axes, keepdim=True)
        factor = torch.where(high > low, 1 / std, 0.0)
        train, test = train.mul_(factor), test.mul_(factor)
    y_train, y_test = (torch.from_numpy(y.astype(np.int64)) for y in (y_train, y_test))
    return Dataset(name, train, y_train, test, y_test, tuple(classes))


# -- the sources -------------------------------------------------------------------------------


def _scikit_learn(name: str, seed: int) -> tuple[Arrays, tuple[str, ...]]:
    datasets = _package("sklearn.datasets", "scikit-learn")
    read: Callable = {
        "iris": datasets.load_iris,
        "breast-cancer": datasets.load_breast_cancer,
        "digits": datasets.load_digits,
    }[name]
    bunch = read()
    x, y = bunch.data, bunch.target
    if name == "digits":
        x = x.reshape(-1, 1, 8, 8) / 16
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).numpy()
    test, train = np.split(order, [len(x) // 5])
    return (x[train], y[train], x[test], y[test]), tuple(map(str, bunch.target_names))


def _mnist(folder: Path) -> Arrays:
    there = folder / "mnist_10k.npz"
    hint = (
        f"{there} holds only the test images: with it, use 'mnist-1k' to 'mnist-9k'."
        if there.exists()
        else ""
    )
    files = [f for f in FILES if f.endswith("ubyte.gz")]  # in the order of Arrays
    return tuple(_idx(_fetch(f, folder, hint)) for f in files)


def _mnist_subset(thousands: int, folder: Path) -> Arrays:
    npz = folder / "mnist_10k.npz"
    if npz.exists():
        x, y = _npz(npz, x=(10_000, 28, 28), y=(10_000,))
        x = x[:, None]
    else:
        hint = "Or put mnist_10k.npz there."
        x = _idx(_fetch("t10k-images-idx3-ubyte.gz", folder, hint))
        y = _idx(_fetch("t10k-labels-idx1-ubyte.gz", folder, hint))
    n = 1000 * thousands
    return x[:n], y[:n], x[-1000:], y[-1000:]


def _idx(path: Path) -> np.ndarray:
    """MNIST's format: two zero bytes, type, number of axes, their lengths, then the numbers."""
    try:
        raw = gzip.decompress(path.read_bytes())
        axes = raw[3]
        shape = np.frombuffer(raw, ">i4", axes, offset=4)
        array = np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape)
    except (OSError, EOFError, IndexError, ValueError, zlib.error) as error:
        raise _damaged(path, error) from error
    return array[:, None] if axes == 3 else array  # images get their one channel


def _cifar10(folder: Path) -> Arrays:
    there = folder / "cifar10_5k.npz"
    hint = (
        f"{there} holds 5,000 training images: with it, use 'cifar10-1k' to 'cifar10-5k'."
        if there.exists()
        else ""
    )
    return _cifar10_archive(folder, hint)


def _cifar10_subset(thousands: int, folder: Path) -> Arrays:
    npz = folder / "cifar10_5k.npz"
    if npz.exists() and thousands <= 5:
        shape = (3, 32, 32)
        x, y, x_test, y_test = _npz(
            npz, x_train=(5000, *shape), y_train=(5000,), x_test=(1000, *shape), y_test=(1000,)
        )
    else:
        hint = "For up to 5,000 images, cifar10_5k.npz there will do." if thousands <= 5 else ""
        x, y, x_test, y_test = _cifar10_archive(folder, hint)
    batches = np.arange(len(x)).reshape(5, -1)  # one row a training batch
    chosen = batches[:, : 200 * thousands].ravel()
    return x[chosen], y[chosen], x_test[:1000], y_test[:1000]


def _cifar10_archive(folder: Path, hint: str) -> Arrays:
    # The binary version: records of a label and 3 x 32 x 32 pixels. (The Python version holds
    # pickles, which numpy is losing the ability to read.)
    path = _fetch("cifar-10-binary.tar.gz", folder, hint)
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    try:
        with tarfile.open(path) as archive:
            read = [archive.extractfile(f"cifar-10-batches-bin/{n}").read() for n in names]
        records = [np.frombuffer(r, np.uint8).reshape(-1, 1 + 3 * 32 * 32) for r in read]
    except (OSError, EOFError, KeyError, ValueError, tarfile.TarError, zlib.error) as error:
        raise _damaged(path, error) from error
    train, test = np.concatenate(records[:5]), records[5]
    image = (-1, 3, 32, 32)
    return train[:, 1:].reshape(image), train[:, 0], test[:, 1:].reshape(image), test[:, 0]


# -- files -------------------------------------------------------------------------------------


def _folder(folder: str | os.PathLike | None) -> Path:
    chosen = folder or os.environ.get("GDFLOWS_DATA")
    if chosen is None or chosen == "":
        return Path(_package("pooch", "pooch").os_cache("gdflows"))
    return Path(chosen).expanduser()


def _fetch(file: str, folder: Path, hint: str = "") -> Path:
    """The path of a verified file, downloaded if need be."""
    pooch = _package("pooch", "pooch")
    url, sha256 = FILES[file]
    path = folder / file
    damaged = path.exists()
    if damaged and pooch.file_hash(str(path)) == sha256:
        return path
    try:
        # pooch downloads to a temporary name and moves the file here only if its sum is right
        pooch.retrieve(url, f"sha256:{sha256}", fname=file, path=folder, progressbar=True)
    except (OSError, ValueError) as error:
        state = "is damaged (its SHA-256 is wrong)" if damaged else "is missing"
        raise DataError(
            f"{path} {state}, and downloading it from {url} failed: {error}. "
            "Try again with a network, or put the file there by hand "
            f"(GDFLOWS_DATA or folder= name another folder). {hint}".rstrip()
        ) from error
    return path


def _npz(path: Path, **shapes: tuple[int, ...]) -> list[np.ndarray]:
    try:
        with np.load(path) as archive:
            arrays = [archive[name] for name in shapes]
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(path, error) from error
    for array, (name, shape) in zip(arrays, shapes.items(), strict=True):
        if array.dtype != np.uint8 or array.shape != shape:
            raise _damaged(
                path, f"{name} is {array.dtype} {array.shape}, where uint8 {shape} was expected."
            )
        if len(shape) == 1 and array.max() > 9:
            raise _damaged(path, f"{name} has class {array.max()}, where 0 to 9 were expected.")
    return arrays


def _damaged(path: Path, reason: Exception | str) -> DataError:
    return DataError(
        f"{path} is damaged or incomplete: {reason} Delete it or replace it by a good copy."
    )


def _package(module: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"This data set needs {name}, which is not installed: pip install 'gdflows[data]'."
        ) from error
