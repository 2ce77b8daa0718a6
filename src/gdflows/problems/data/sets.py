"""Sets and texts by their names, as tensors."""

from __future__ import annotations

import os

import numpy as np
import torch

from gdflows.errors import DataError, InputError
from gdflows.problems.data.dataset import Dataset, remember, sha256
from gdflows.problems.data.files import fetch, folder_of, present, reading
from gdflows.problems.data.sources import TEXT, Arrays, source_of
from gdflows.problems.generated import numerals


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
        - ``"chebyshev-4"`` or another degree of 1 to 9: 20 points of that Chebyshev polynomial
          on [−1, 1], equally spaced, and the 19 between them to test. Not standardised.
        - ``"iris"``, ``"breast-cancer"``, ``"wine"``, ``"digits"``, and for regression
          ``"diabetes"``: from scikit-learn, nothing to download. A fifth of the samples, at
          random by ``seed``, is the test set. ``"wine-moved"``: every third of the wines is
          said to be of the next class, so that there is something to learn by heart.
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
          tenth is the test set. Not standardised. ``"numerals-T"``, of the text of numbers in
          words, is cut in the same way and needs nothing.
    standardise : {None, "pixel", "channel", "none"}
        Subtract the mean and divide by the standard deviation, over the training samples in
        use: of each input on its own, or of each channel of the images as a whole; of real
        targets too. Inputs that
        never vary become zero. By default ``"channel"`` for digits and MNIST, where some pixels
        hardly ever vary, and ``"pixel"`` else. With ``"none"`` images are scaled to 0...1, and
        features left as they are.
    folder : path, optional
        Where files are kept and looked for, a folder that is there; default ``$GDFLOWS_DATA``,
        else the user's cache.
        A file ``mnist_10k.npz`` (arrays ``x``, ``y``) or ``cifar10_5k.npz`` (``x_train``,
        ``y_train``, ``x_test``, ``y_test``) there serves the subsets it can, with the same
        samples and without a download. What is in ``mnist_10k.npz.sha256`` beside it, as the
        program ``sha256sum`` writes it, is compared with it.
    seed : int
        Of the split of scikit-learn's sets. MNIST and CIFAR-10 have fixed splits.
    dtype : torch.dtype
        Of the inputs. (Shorter ones than float32 are standardised in that and then rounded.)

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        If the name is unknown, a package is missing, the folder is not there, there is no
        network or no room, or a file is damaged or cannot be read.
    InputError
        If ``standardise``, ``seed`` or ``dtype`` cannot be used.

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
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(f"The inputs need a real floating-point dtype, got {dtype!r}.")
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool):
        raise InputError(f"seed must be a whole number, got {seed!r}.")
    if folder:
        folder_of(folder)  # a mistyped one is told, also where it is not needed
    source = source_of(name)
    if source.sequences:
        whole = text(folder=folder) if source.files else text("numerals")
        data = _sequences(name, whole, source.sequences)
        remember(data, data.digest)
    else:
        arrays, classes = source.read(folder_of(folder) if source.files else None, int(seed))
        data = _dataset(name, arrays, classes, standardise or source.standardise, dtype)
        remember(data, sha256(arrays))
    return data


def text(name: str = "tinyshakespeare", *, folder: str | os.PathLike | None = None) -> str:
    """A text by its name, for models of language.

    Parameters
    ----------
    name : {"tinyshakespeare", "numerals"}
        1,115,394 characters of Shakespeare's plays, in the selection of A. Karpathy's char-rnn; or
        8,000 numbers, a line each, in digits and in words, made on the spot.
    folder : path, optional
        As in :func:`load`.

    Returns
    -------
    str

    Raises
    ------
    DataError
        As in :func:`load`.

    Examples
    --------
    >>> import gdflows as gf
    >>> try:
    ...     gf.problems.text("a poem")
    ... except gf.errors.DataError as error:
    ...     print(error)
    There is no text 'a poem'. There are: tinyshakespeare, numerals.
    """
    if name == "numerals":
        return numerals()
    if name != "tinyshakespeare":
        raise DataError(f"There is no text {name!r}. There are: tinyshakespeare, numerals.")
    path = fetch(TEXT, folder_of(folder))
    with reading(path):
        return path.read_text(encoding="utf-8")


def at_hand(name: str, *, folder: str | os.PathLike | None = None) -> bool:
    """Whether :func:`load` finds what this set is made of, sound or not, without a download.

    Parameters
    ----------
    name, folder
        As in :func:`load`.

    Returns
    -------
    bool

    Raises
    ------
    DataError
        If the name is unknown, or the folder is not there.
    """
    source = source_of(name)
    if not source.files:
        return True
    there = folder_of(folder)
    if source.instead and present(there / source.instead):
        return True
    return all(present(there / file) for file in source.files)


# -- from arrays to tensors ----------------------------------------------------------------------


def _dataset(
    name: str, arrays: Arrays, classes: tuple[str, ...], standardise: str, dtype: torch.dtype
) -> Dataset:
    x_train, y_train, x_test, y_test = arrays
    wide = dtype if dtype.itemsize >= 4 else torch.float32
    train, test = (torch.tensor(x, dtype=wide) for x in (x_train, x_test))
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
    if not classes:
        targets, others = (torch.tensor(y, dtype=wide) for y in (y_train, y_test))
        if standardise != "none":
            mean, std = targets.mean(0), targets.std(0, correction=0)
            targets, others = (targets - mean) / std, (others - mean) / std
        return Dataset(
            name, train.to(dtype), targets.to(dtype), test.to(dtype), others.to(dtype), ()
        )
    y_train, y_test = (torch.from_numpy(y.astype(np.int64)) for y in (y_train, y_test))
    return Dataset(name, train.to(dtype), y_train, test.to(dtype), y_test, classes)


def _sequences(name: str, whole: str, length: int) -> Dataset:
    characters = sorted(set(whole))
    numbers = {c: i for i, c in enumerate(characters)}
    codes = torch.tensor([numbers[c] for c in whole])
    n = (len(codes) - 1) // length
    x, y = (codes[i : i + n * length].reshape(n, length) for i in (0, 1))
    cut = n - n // 10
    return Dataset(name, x[:cut], y[:cut], x[cut:], y[cut:], tuple(characters))
