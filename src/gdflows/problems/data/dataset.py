"""What a data set is: samples and targets, checked, and a hash of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from gdflows.errors import InputError


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
        Class numbers ``(N,)``, of a text ``(N, T)``; int64. For regression real targets.
    classes : tuple of str
        The classes' names, in the order of their numbers; none for regression.

    Raises
    ------
    InputError
        If the parts do not belong together, a number is not finite, or a class has no name.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> x, y = torch.eye(10), torch.arange(10) % 2
    >>> data = gf.problems.Dataset("mine", x[:8], y[:8], x[8:], y[8:], classes=("no", "yes"))
    >>> len(data.x_train), data.classes
    (8, ('no', 'yes'))
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: tuple[str, ...]
    # The digest of what load() read, before it was scaled; never copied by dataclasses.replace.
    _read: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        _check(self)

    @property
    def digest(self) -> str:
        """A SHA-256 of the samples and targets, 64 hexadecimal digits.

        Of a set from :func:`load` it is that of the samples as they were read, before they were
        scaled: the same on every machine, whereas a mean's last bits depend on the machine. Of
        one's own set it is that of the tensors. Equal digests mean equal samples in equal order.
        """
        if self._read is not None:
            return self._read
        parts = (self.x_train, self.y_train, self.x_test, self.y_test)
        return sha256(_array(t.detach().cpu()) for t in parts)

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
        if not isinstance(n, int | np.integer) or isinstance(n, bool):
            raise InputError(f"n must be a whole number of samples, got {n!r}.")
        if not 1 <= n <= len(self.x_train):
            raise InputError(f"{self.name} has {len(self.x_train)} training samples, not n = {n}.")
        few = replace(self, x_train=self.x_train[:n], y_train=self.y_train[:n])
        if self._read is not None:
            whole = n == len(self.x_train)
            part = hashlib.sha256(f"{self._read}[:{n}]".encode()).hexdigest()
            remember(few, self._read if whole else part)
        return few

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name!r}: {len(self.x_train)} training and {len(self.x_test)} test "
            f"samples of shape {tuple(self.x_train.shape[1:])}, {len(self.classes)} classes)"
        )


def remember(data: Dataset, digest: str) -> None:
    """Give a set the digest of what it was read from."""
    object.__setattr__(data, "_read", digest)


def sha256(arrays: Iterable[np.ndarray]) -> str:
    """Of arrays with their dtypes and shapes, whatever their order in memory and the machine's."""
    found = hashlib.sha256()
    for array in arrays:
        array = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(array.reshape(-1).view(np.uint8))
    return found.hexdigest()


def _array(t: Tensor) -> np.ndarray:
    short = t.is_floating_point() and t.dtype not in (torch.float16, torch.float32, torch.float64)
    return (t.float() if short else t).numpy()  # NumPy has no bfloat16


# -- what cannot be a data set -------------------------------------------------------------------

_CODES = (torch.int32, torch.int64)


def _check(data: Dataset) -> None:
    name = data.name
    for part in ("x_train", "y_train", "x_test", "y_test"):
        value = getattr(data, part)
        if not isinstance(value, Tensor):
            raise InputError(
                f"{name}: {part} is a {type(value).__name__}, where a tensor is needed: "
                "make it one with torch.as_tensor."
            )
        if value.ndim == 0:
            raise InputError(f"{name}: {part} is a single number; it needs an axis of samples.")
        _check_numbers(f"{name}: {part}", value, inputs=part.startswith("x"))
    classes = data.classes
    if not isinstance(classes, tuple) or not all(isinstance(c, str) for c in classes):
        raise InputError(f"{name}: classes must be a tuple of names, got {classes!r}.")
    for kind in ("train", "test"):
        x, y = getattr(data, f"x_{kind}"), getattr(data, f"y_{kind}")
        if len(x) != len(y):
            raise InputError(f"{name}: x_{kind} has {len(x)} samples and y_{kind} {len(y)}.")
        if y.numel() and not y.is_floating_point():
            low, high = int(y.min()), int(y.max())
            if low < 0 or high >= len(classes):
                raise InputError(
                    f"{name}: y_{kind} holds class numbers from {low} to {high}, and there are "
                    f"{len(classes)} classes: they are numbered from 0, and each needs a name."
                )
    if len(data.x_train) == 0:
        raise InputError(f"{name} has no training samples.")
    for kind in "xy":
        one, two = getattr(data, f"{kind}_train"), getattr(data, f"{kind}_test")
        if one.shape[1:] != two.shape[1:] or one.dtype != two.dtype:
            raise InputError(
                f"{name}: a sample of {kind}_train is {one.dtype} {tuple(one.shape[1:])}, one of "
                f"{kind}_test {two.dtype} {tuple(two.shape[1:])}: they must be alike."
            )


def _check_numbers(part: str, value: Tensor, *, inputs: bool) -> None:
    if value.is_floating_point():
        if not bool(value.isfinite().all()):
            bad = value.isfinite().flatten(1).all(1) if value.ndim > 1 else value.isfinite()
            first = int((~bad).nonzero()[0])
            raise InputError(
                f"{part} holds infinite numbers or NaN, first in sample {first}: "
                "remove or replace such samples."
            )
    elif value.is_complex() or value.dtype == torch.bool:
        raise InputError(f"{part} is {value.dtype}: real or whole numbers are needed.")
    elif inputs and value.dtype not in _CODES:
        raise InputError(
            f"{part} is {value.dtype}: convert inputs to a floating-point dtype (x.float() / 255 "
            "for images), or to int64 if they are characters' numbers."
        )
