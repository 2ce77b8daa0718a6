"""Numbers that a user gives, checked at the door."""

from __future__ import annotations

import math
import operator

from gdflows.errors import InputError


def number(value, name: str, *, positive: bool = False) -> float:
    """A finite real number as a float; above 0 if asked.

    Takes whatever is one number: Python's, numpy's, a tensor with one entry. Text is none.
    """
    wanted = "positive and finite" if positive else "a finite number"
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        x = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise InputError(f"{name} must be {wanted}, got {_shown(value)}.") from None
    if not math.isfinite(x) or (positive and not x > 0):
        raise InputError(f"{name} must be {wanted}, got {x}.")
    return x


def whole(value, name: str, least: int = 1) -> int:
    """A whole number of at least ``least``; 3.0 is one, 2.5 is not."""
    try:
        n = operator.index(value)
    except TypeError:
        try:
            x = number(value, name)
        except InputError:
            x = math.nan
        n = int(x) if x == x and x.is_integer() else least - 1
    if n < least:
        raise InputError(f"{name} must be a whole number of at least {least}, got {_shown(value)}.")
    return n


def _shown(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"
