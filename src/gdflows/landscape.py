"""Slices of a network's loss around a point, along directions that are comparable."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gdflows.errors import InputError
from gdflows.objective import FlatModule, Objective


def filter_normalised(
    E: FlatModule, theta: Tensor, *, seed: int, count: int = 2
) -> tuple[Tensor, ...]:
    """Random directions in which every filter has the norm that it has at θ.

    A network with ReLU can scale one layer up and the next down and be the same function; its
    loss then looks flatter or sharper along plain random directions. These see no difference.

    Parameters
    ----------
    E : FlatModule
        From :meth:`gdflows.Objective.from_module`: it knows which numbers belong together.
    theta : Tensor
        The point, ``(D,)``.
    seed : int
        Of the random numbers.
    count : int
        How many directions.

    Returns
    -------
    tuple of Tensor
        ``(D,)`` each. A filter is what one output of a layer is computed from: a row of a weight
        matrix, a kernel of a convolution with all its inputs. Biases, and whatever else has less
        than two axes, do not move.

    Raises
    ------
    InputError
        If the objective knows of no layers, or count is below 1.

    References
    ----------
    Li, Xu, Taylor, Studer and Goldstein (2018), "Visualizing the loss landscape of neural nets",
    section 4.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.problems.classification("digits", gf.problems.mlp([64, 5, 10], seed=0), n=50)
    >>> d, _ = gf.landscape.filter_normalised(E, E.theta0, seed=0)
    >>> gf.landscape.slice_of(E, E.theta0, [d], [-1.0, 0.0, 1.0]).shape
    (3,)
    """
    if not isinstance(E, FlatModule):
        raise InputError("Only an objective made by Objective.from_module has layers.")
    if count < 1:
        raise InputError(f"count must be at least 1, got {count}.")
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        parts = []
        for weight in E.unflatten(theta).values():
            drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            drawn = drawn.to(weight)
            if weight.ndim < 2:
                parts.append(torch.zeros_like(weight).flatten())
                continue
            axes = tuple(range(1, weight.ndim))
            now, then = (
                torch.linalg.vector_norm(w, dim=axes, keepdim=True) for w in (weight, drawn)
            )
            parts.append((now / then * drawn).flatten())
        found.append(torch.cat(parts))
    return tuple(found)


def slice_of(
    E: Objective, theta: Tensor, directions: Sequence[Tensor], at: Sequence[float]
) -> np.ndarray:
    """The loss on a line, or on the grid of a plane, through θ.

    Parameters
    ----------
    E : Objective
        The loss.
    theta : Tensor
        The centre, ``(D,)``.
    directions : sequence of Tensor
        One or two, ``(D,)`` each.
    at : sequence of float
        Positions along each, in units of the direction; n of them.

    Returns
    -------
    numpy.ndarray
        ``(n,)``, or ``(n, n)`` with the second direction along the first axis, as matplotlib's
        ``contour`` takes it. Not finite where the loss is not.

    Raises
    ------
    InputError
        For another number of directions.

    Notes
    -----
    One evaluation of the loss for each point.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E, direction = gf.problems.quadratic([1.0, 3.0]), torch.tensor([0.0, 1.0]).double()
    >>> gf.landscape.slice_of(E, torch.zeros(2).double(), [direction], at=[0.0, 1.0, 2.0]).tolist()
    [0.0, 1.5, 6.0]
    """
    if len(directions) not in (1, 2):
        raise InputError(f"One or two directions are needed, got {len(directions)}.")
    with torch.no_grad():
        rows = [theta] if len(directions) == 1 else [theta + b * directions[1] for b in at]
        losses = [[float(E.value(row + a * directions[0])) for a in at] for row in rows]
    return np.array(losses[0] if len(directions) == 1 else losses)
