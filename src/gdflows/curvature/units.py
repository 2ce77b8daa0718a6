"""Operators of any size, in units that are powers of two; moves between dtypes and devices.

A power of two changes no digit: what is computed in such a unit has the same bits as without.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gdflows.errors import NonFiniteError
from gdflows.lengths import largest_entry, power

USUAL = (1e-8, 1e8)  # largest entries of a product that need no unit


def alike(x: Tensor, other: Tensor) -> Tensor:
    """x in the dtype and on the device of another tensor.

    The dtype first: there are devices that have no float64.
    """
    return x.to(other.dtype).to(other.device)


def double(x: Tensor) -> Tensor:
    """x in double precision on the CPU, where small dense algebra is done."""
    wide = torch.complex128 if x.is_complex() else torch.float64
    return x.detach().cpu().to(wide)


def narrow(values: Tensor, other: Tensor, what: str, size: float | None = None) -> Tensor:
    """Values in double precision as the caller's dtype, or an error if they do not fit there.

    ``size`` is what they are measured against, by default the largest of them: what is small
    beside it is rounding, and may vanish.
    """
    size = float(values.abs().max()) if size is None and values.numel() else size or 0.0
    limits = torch.finfo(other.dtype)
    if size > limits.max or 0 < size < limits.tiny:
        raise NonFiniteError(
            f"{what} is of the size {size:.1e}, which {other.dtype} cannot hold. "
            "Use float64, or rescale the loss."
        )
    return alike(values, other)


class Operator:
    """A linear operator by its products, in units of a power of two.

    The unit is taken from the first product that is not zero, and 1 in usual cases.

    Parameters
    ----------
    product : callable
        On one vector ``(D,)`` or rows ``(k, D)``.
    factor : float
        By which the products are too small.

    Attributes
    ----------
    unit : float
        What products, and eigenvalues made of them, are to be multiplied with.
    """

    def __init__(self, product: Callable[[Tensor], Tensor], factor: float = 1.0):
        self._product, self._factor, self._size = product, factor, None

    @property
    def unit(self) -> float:
        return self._factor * (self._size or 1.0)

    def __call__(self, v: Tensor) -> Tensor:
        w = self._product(v)
        if self._size is None:
            size = largest_entry(w)
            if not math.isfinite(size):
                raise NonFiniteError(
                    f"A product with the scaled Hessian is not finite in {w.dtype}: use float64, "
                    "or rescale."
                )
            if size > 0:
                usual = USUAL[0] < size < USUAL[1]
                self._size = 1.0 if usual else power(size, w.dtype)
        return w if self._size in (None, 1.0) else w / self._size
