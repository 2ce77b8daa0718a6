"""The data of a study, and their mark in its record."""

from __future__ import annotations

import hashlib

import torch

from gdflows import problems, runs
from gdflows.problems import Dataset


def samples(name: str, dtype: torch.dtype = torch.float32) -> Dataset:
    """A data set by its name, as in :func:`gdflows.problems.load`; the record is told its sum."""
    data = problems.load(name, dtype=dtype)
    mark(data)
    return data


def mark(data: Dataset, *, named: bool = True) -> None:
    """Tell the record which data these are.

    Parameters
    ----------
    data : Dataset
        What is used.
    named : bool
        Whether :func:`gdflows.problems.load` knows them by their name. Then the sum is that of
        the data as they were loaded: means and deviations are rounded as the machine likes. So
        are targets that are made of the inputs: of made data the sum is that of the inputs.
    """

    def digest() -> str:
        raw = problems.load(data.name, standardise="none") if named else data
        total = hashlib.sha256()
        parts = (raw.x_train, raw.y_train, raw.x_test, raw.y_test)
        for x in parts if named else parts[::2]:
            total.update(f"{x.dtype} {tuple(x.shape)}".encode())
            total.update(x.detach().cpu().contiguous().numpy().tobytes())
        return total.hexdigest()

    runs.used(data.name, digest)
