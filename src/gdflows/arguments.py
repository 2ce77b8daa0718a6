"""Numbers that a user gives, and lists of them as text, checked at the door."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable

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


def numbers(text: str, name: str, separator: str = ",") -> list[float]:
    """The numbers of ``"0.1,0.2"``; none of an empty text."""
    return [_read(p, float, name, text, separator) for p in _parts(text, separator)]


def wholes(text: str, name: str, least: int = 1, separator: str = ",") -> list[int]:
    """The whole numbers of ``"32,8"``, each at least ``least``; none of an empty text."""
    parts = _parts(text, separator)
    return [whole(_read(p, int, name, text, separator), f"Each of {name}", least) for p in parts]


def chosen(text: str, what: str, known: Iterable[str]) -> list[str]:
    """The names of ``"rod,centre"``, at least one, each one of those that are known."""
    known, found = list(known), _parts(text)
    for name in found or [text]:
        if name not in known:
            raise InputError(f"Unknown {what} {name!r}; choose among {', '.join(known)}.")
    return found


def _parts(text: str, separator: str = ",") -> list[str]:
    return [part.strip() for part in text.split(separator) if part.strip()]


def _read(part: str, kind: type, name: str, text: str, separator: str):
    try:
        x = kind(part)
    except ValueError:
        x = math.nan
    if not math.isfinite(x):
        kinds = "whole numbers" if kind is int else "numbers"
        joined = {",": "commas", "-": "hyphens", "/": "slashes"}[separator]
        raise InputError(f"{name} must be {kinds} with {joined} between them, got {text!r}.")
    return x


def _shown(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"
