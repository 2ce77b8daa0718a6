"""Runs: what a study saw, with everything needed to make it again.

``load("NAME")`` reads one that ships with the package; ``load("path/to/folder")`` any other.
"""

from gdflows.runs.record import Run, available, load, record

__all__ = ["Run", "available", "load", "record"]
