"""A study is a function with typed keyword arguments, known by a name.

Its arguments become the options of ``gdflows run NAME`` and the configuration that its Run
records; its result is the Run's table.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from importlib import import_module
from typing import NamedTuple

import pandas as pd

from gdflows.errors import InputError
from gdflows.experiments.declared import MODULES
from gdflows.runs import Log, Run
from gdflows.runs.origin import noting


class Check(NamedTuple):
    """How to see quickly that a study still gives what was recorded.

    ``keys`` are the columns that name a row; ``shorten`` turns a configuration into the changes
    that leave only the table's first rows.
    """

    keys: tuple[str, ...]
    shorten: Callable[[Mapping], Mapping]


STUDIES: dict[str, Callable[..., pd.DataFrame]] = {}
CHECKS: dict[str, Check] = {}
RESUMABLE: set[str] = set()
PICTURES: dict[str, Callable] = {}


def study(
    name: str,
    *,
    keys: tuple[str, ...],
    check: Callable[[Mapping], Mapping],
    resumable: bool = False,
    picture: Callable | None = None,
) -> Callable:
    """Register a study under a name.

    Parameters
    ----------
    name : str
        What the command line calls it.
    keys, check
        How its records are checked, a ``Check``.
    resumable : bool
        The study's first argument, ``log``, is a :class:`gdflows.runs.Log`, from whose state it
        goes on.
    picture : callable, optional
        ``picture(figure, runs)`` draws one or several of its runs on a matplotlib figure.

    Raises
    ------
    InputError
        If two studies share a name, or an argument has no default.

    Examples
    --------
    >>> import pandas as pd
    >>> from gdflows.experiments import carry_out, registry, study
    >>> @study("squares", keys=("n",), check=lambda config: {"largest": 1})
    ... def squares(*, largest: int = 3):
    ...     return pd.DataFrame({"n": range(largest), "square": [n**2 for n in range(largest)]})
    >>> carry_out("squares", {"largest": 4}).square.tolist()
    [0, 1, 4, 9]
    >>> del registry.STUDIES["squares"], registry.CHECKS["squares"]  # and forgotten again
    """

    def register(function: Callable[..., pd.DataFrame]) -> Callable[..., pd.DataFrame]:
        if name in STUDIES:
            raise InputError(f"There are two studies named {name!r}.")
        for p in options(function):
            if p.kind is not p.KEYWORD_ONLY or p.default is p.empty:
                raise InputError(
                    f"Study {name!r}: argument {p.name!r} must be keyword-only with a default."
                )
        STUDIES[name] = function
        CHECKS[name] = Check(keys, check)
        if resumable:
            RESUMABLE.add(name)
        if picture is not None:
            PICTURES[name] = picture
        return function

    return register


def options(function: Callable) -> list[inspect.Parameter]:
    """A study's arguments but for its log."""
    return [p for p in inspect.signature(function).parameters.values() if p.name != "log"]


def carry_out(name: str, config: Mapping, log: Log | None = None) -> pd.DataFrame:
    """A study's table; with a log it can be broken off and continued.

    Examples
    --------
    >>> from gdflows.experiments import carry_out
    >>> carry_out("eos", {"steps": 4, "every": 2}).step.tolist()
    [0, 2, 4]
    """
    function = find(name)
    if name in RESUMABLE:
        return function(log if log is not None else Log(), **config)
    return function(**config)


def find(name: str) -> Callable[..., pd.DataFrame]:
    """A study by its name.

    Raises
    ------
    InputError
        If there is none.
    """
    know_all()
    if name not in STUDIES:
        raise InputError(f"There is no study {name!r} in this version: {', '.join(STUDIES)}.")
    return STUDIES[name]


def know_all() -> None:
    """Import the modules of all studies, which registers them."""
    for module in MODULES:
        import_module(f"gdflows.experiments.{module}")


def repeat(run: Run) -> pd.DataFrame:
    """The first rows of a recorded run once more, beside the recorded ones.

    Parameters
    ----------
    run : Run
        Recorded by a study.

    Returns
    -------
    pandas.DataFrame
        Indexed by the study's keys; for every column of floating-point numbers ``NAME`` the
        present ``NAME`` and ``NAME_recorded``. Counts are left out: an adaptive solver may take
        another step on another machine.

    Raises
    ------
    InputError
        If the study is unknown, or repeats rows that were never recorded, or the data are not
        those of the record, where it tells their SHA-256.
    DataError
        If the study's data are not there.

    Examples
    --------
    >>> import gdflows as gf
    >>> from gdflows.experiments import repeat
    >>> list(repeat(gf.runs.load("validity-wine")).columns)[:3]
    ['foreseen', 'error', 'x']
    """
    config = dict(run.config)
    name = config.pop("study", None)
    know_all()
    if name not in STUDIES:
        raise InputError(f"Run {run.name} was made by {name!r}, which is no study of this version.")
    keys, shorten = CHECKS[name]
    data = run.environment.get("data")  # an older record does not tell
    with nullcontext() if data is None else noting(dict(data)):
        now = carry_out(name, config | dict(shorten(config))).set_index(list(keys))
    then = run.table.set_index(list(keys))
    missing = now.index.difference(then.index)
    if len(missing):
        raise InputError(f"Run {run.name} holds no row {missing[0]}; record it again.")
    numbers = now.select_dtypes("floating")
    return numbers.join(then[numbers.columns].add_suffix("_recorded"))
