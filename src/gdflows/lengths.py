"""Lengths of vectors of any size.

The square of a float32 leaves its range below 1e-23 and above 1e19, so entries are first scaled by
a power of two, which changes no digit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SAFE = (1e-12, 1e15)  # lengths whose squares are far from the ends of float32


def power(size: float, dtype: torch.dtype) -> float:
    """The power of two below a size, such that both it and its inverse exist in the dtype."""
    most = 126 if torch.finfo(dtype).bits <= 32 else 1022
    return 2.0 ** max(-most, min(most, math.frexp(size)[1] - 1))


def length(x: Tensor) -> float:
    """The Euclidean norm, as a Python float."""
    return unit_vector(x)[1]


def largest_entry(x: Tensor) -> float:
    """The largest magnitude of an entry: zero for zeros only, NaN or inf if one is not finite.

    Of complex entries, the larger of real and imaginary part. One fast pass, several times faster
    than ``isfinite`` or a norm of infinite order.
    """
    low, high = torch.aminmax(torch.view_as_real(x) if x.is_complex() else x)
    return float(torch.maximum(-low, high))


def unit_vector(x: Tensor) -> tuple[Tensor, float]:
    """x over its length, and the length; zero and what is not finite are left as they are."""
    norm, size = float(torch.linalg.vector_norm(x)), 1.0
    if not SAFE[0] < norm < SAFE[1]:
        largest = largest_entry(x)
        if largest == 0 or not math.isfinite(largest):
            return x, largest
        size = power(largest, x.dtype)
        x = x / size
        norm = float(torch.linalg.vector_norm(x))
    return x / norm, norm * size
