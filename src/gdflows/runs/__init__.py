"""Runs: what a study saw, with everything needed to make it again.

``load("NAME")`` reads one that ships with the package; ``load("path/to/folder")`` any other.
"""

from gdflows.runs.record import Log, Run, available, load, record, unfinished

__all__ = ["Log", "Run", "available", "load", "record", "unfinished"]
