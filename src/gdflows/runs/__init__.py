"""Runs: what a study saw, with everything needed to make it again.

``load("NAME")`` reads one that ships with gdflows or gdflows-runs; ``load("path/to/folder")`` any
other.
"""

from importlib import import_module

from gdflows.runs.run import Run, available, describe, load

__all__ = ["Log", "Run", "available", "describe", "load", "record", "unfinished", "used"]

# What makes runs needs torch, what reads them does not: the command line lists without waiting.
_LAZY = {"Log": "log", "record": "recording", "unfinished": "log", "used": "origin"}


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(f"gdflows.runs.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'gdflows.runs' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_LAZY})
