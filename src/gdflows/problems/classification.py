"""A network and a data set, joined into an objective."""

from __future__ import annotations

import os

import torch

from gdflows.errors import InputError
from gdflows.objective import Objective
from gdflows.problems.data import Dataset, load
from gdflows.problems.losses import cross_entropy, squared_error

LOSSES = {"mse": squared_error, "cross-entropy": cross_entropy}


def classification(
    data: str | Dataset,
    network: torch.nn.Module,
    *,
    loss: str = "mse",
    n: int | None = None,
    chunk: int | None = None,
    shard: bool = False,
    folder: str | os.PathLike | None = None,
) -> Objective:
    """The full-batch training loss of a network on a data set.

    Parameters
    ----------
    data : str or Dataset
        A name for :func:`load`, or what it returned. Its training samples are taken to the
        network's dtype and device.
    network : torch.nn.Module
        With one output a class, or for regression one a target.
    loss : {"mse", "cross-entropy"}
        :func:`squared_error` (one-hot targets, with ½ and a mean over samples only) or
        :func:`cross_entropy`.
    n : int, optional
        Only the first n training samples.
    chunk, shard : int, bool
        Samples evaluated at a time, and whether the processes of a group share them, as in
        :meth:`gdflows.Objective.from_module`.
    folder : path, optional
        As in :func:`load`.

    Returns
    -------
    Objective
        With ``theta0``, ``write`` and ``unflatten``.

    Raises
    ------
    InputError
        If the loss is unknown, the network has no parameters, or n is too large.
    DataError
        As in :func:`load`.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> network = gf.problems.mlp([64, 20, 10], "tanh", seed=0, dtype=torch.float64)
    >>> E = gf.problems.classification("digits", network, n=300)
    >>> E.dim
    1510
    """
    if loss not in LOSSES:
        raise InputError(f"loss must be 'mse' or 'cross-entropy', got {loss!r}.")
    first = next(network.parameters(), None)
    if first is None:
        raise InputError(f"{type(network).__name__} has no parameters: nothing to train.")
    if isinstance(data, str):
        data = load(data, folder=folder, dtype=first.dtype)
    if n is not None:
        data = data.take(n)
    # Numbers of classes and characters keep their dtype.
    x, y = (
        t.to(first) if t.is_floating_point() else t.to(first.device)
        for t in (data.x_train, data.y_train)
    )
    return Objective.from_module(network, LOSSES[loss], (x, y), chunk=chunk, shard=shard)
