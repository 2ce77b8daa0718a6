"""A study is a function with typed keyword arguments, known by a name.

Its arguments become the options of ``gdflows run NAME`` and the configuration that its Run
records; its result is the Run's table.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pandas as pd

from gdflows.errors import InputError

STUDIES: dict[str, Callable[..., pd.DataFrame]] = {}


def study(name: str) -> Callable:
    """Register a study under a name.

    Parameters
    ----------
    name : str
        What the command line calls it.

    Raises
    ------
    InputError
        If two studies share a name, or an argument has no default.
    """

    def register(function: Callable[..., pd.DataFrame]) -> Callable[..., pd.DataFrame]:
        if name in STUDIES:
            raise InputError(f"There are two studies named {name!r}.")
        for p in inspect.signature(function).parameters.values():
            if p.kind is not p.KEYWORD_ONLY or p.default is p.empty:
                raise InputError(
                    f"Study {name!r}: argument {p.name!r} must be keyword-only with a default."
                )
        STUDIES[name] = function
        return function

    return register
