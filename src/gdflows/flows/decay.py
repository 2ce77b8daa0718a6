"""The fast part of a flow: a linear map that damps, known well enough to be integrated exactly."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gdflows.curvature.eigen import extreme_eigenpairs
from gdflows.lengths import length
from gdflows.objective import Objective

REFRESH = 64  # evaluations of the field for which eigenvectors are kept
TOL = 1e-2  # they only tell what decays: the rest of the field makes up for it
MOST = 32


class Damped(NamedTuple):
    """−A of one part of a state: rates aᵢ ≥ 0 along orthonormal rows, one rate on all the rest."""

    vectors: Tensor
    rates: Tensor
    rest: float


class Decay(NamedTuple):
    """What of a flow's field is damping, ẋ = −A x + slow, by the names of the state's parts.

    Attributes
    ----------
    parts : dict of Damped
        "theta" or a companion's name; parts that are not named do not decay.
    longest : float
        The longest step, in flow time, that the slow remainder allows.
    """

    parts: dict[str, Damped]
    longest: float


def series(y: float, order: int) -> float:
    """The beginning of log(1 + y), by which differences up to the order multiply."""
    return sum((-1) ** (j - 1) * y**j / j for j in range(1, order + 2))


class Stiff:
    """What only relaxes in a flow of centre and half-rod, from the sharpest directions.

    The centre decays where hλ is large, and the half-rod everywhere but along itself and along
    other sharp directions. With y = −hλ and y = hλ − 2 the rates are those of the flow's own
    differences.
    """

    def __init__(self, objective: Objective, lr: float, order: int):
        self.objective, self.lr, self.order = objective, lr, order
        self.k = 2
        self.forget()

    def forget(self) -> None:
        self.sharp: tuple[Tensor, list[float]] | None = None
        self.found = 0  # when, in gradients

    def __call__(self, centre: Tensor, direction: Tensor, growth: float, slowest: float) -> Decay:
        """At a centre, with the rate at which the half-rod grows, and the least hλ of interest."""
        spent = self.objective.cost["gradients"]
        if self.sharp is None or spent - self.found >= REFRESH * 2 * (self.order + 1):
            self.sharp, self.found = self._sharpest(centre, slowest), spent
        vectors, values = self.sharp
        h, n = self.lr, self.order

        def rates(ys: list[float], plus: float) -> Tensor:
            # A rate below zero would be growth, and that is for the slow part.
            return centre.new_tensor([max(-series(y, n) / h + plus, 0.0) for y in ys])

        # The direction decays relative to the length, and not along itself.
        rows, seen = [direction / torch.linalg.vector_norm(direction)], [0.0]
        for u, rate in zip(vectors, rates([x - 2 for x in values], growth), strict=True):
            for row in rows:
                u = u - torch.dot(row, u) * row
            size = length(u)
            if size > 0.3:  # else the rows before it span it
                rows.append(u / size)
                seen.append(float(rate))
        rest = max(-series(-2.0, n) / h + growth, 0.0)
        return Decay(
            {
                "theta": Damped(vectors, rates([-x for x in values], 0.0), 0.0),
                "direction": Damped(torch.stack(rows), centre.new_tensor(seen), rest),
            },
            1.25 * h,
        )

    def _sharpest(self, centre: Tensor, slowest: float) -> tuple[Tensor, list[float]]:
        point = self.objective.at(centre)
        while True:
            k = min(self.k, centre.numel(), MOST)
            pairs = extreme_eigenpairs(point, k, "LA", TOL)
            found = int((self.lr * pairs.values > slowest).sum())
            if found < k or k in (centre.numel(), MOST):
                break
            self.k = 2 * k
        self.k = max(2, found + 1)
        return pairs.vectors[:found], [self.lr * float(x) for x in pairs.values[:found]]
