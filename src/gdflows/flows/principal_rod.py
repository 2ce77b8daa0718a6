"""The principal rod flow: the edge's map of two points, to any order."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from gdflows.errors import InputError
from gdflows.flows.decay import series
from gdflows.flows.rod import Rod, visible_length
from gdflows.lengths import length
from gdflows.objective import Objective

LOWEST = 5.0  # a rod that shrinks faster than by e⁻⁵ a step is gone at once
JUMP = 1.5  # of log m from one iterate to the next, at most
PUSHES = 1e-5  # length, relative to the centre's, from which the rod's push may be seen
STEEP = 0.2  # growth of the push in a step from which its differences miss something
SHRINKS = 0.1  # the push of a rod with a smaller multiplier is gone


class PrincipalRodFlow(Rod):
    r"""The principal rod flow: backward error analysis of two iterates at once.

    The rod flow is to the map (c, ε) what the gradient flow is to gradient descent: its
    first term. This flow keeps the next ones,

    .. math:: \tilde F_n = \frac1h \sum_{j=1}^{n+1}
              \frac{(-1)^{j-1}}{j}\, \Delta^j (c, \varepsilon),

    differences of the map's own iterates (gradient descent from both ends of the rod), so that
    one step of the map is met to :math:`O(h^{n+2})`. Two series are summed further. The rod's
    length is followed by its logarithm: with m the multiplier along the rod,

    .. math:: \frac{d}{dt}\log\|\varepsilon\| = \frac1h \sum_{j=0}^{n}
              \frac{(-1)^j}{j+1}\, \Delta^j \log m ,

    log(m)/h where m does not change, the principal flow's real part. And what the rod pushes the
    centre by, b = g(c) − ½[g(c+ε) + g(c−ε)], grows by r = m² a step; its flow is
    log(r)/(r − 1) b in place of the series' beginning. The flow starts on the *slow manifold*:
    only the part of θ₀ along eigenvectors with hλ > 1 is oscillation, the rest is centre. Where
    log m would change by more than 1.5 from one iterate to the next, as in a jump far above the
    edge, the change counts as 1.5.

    Parameters
    ----------
    objective : Objective
        The loss.
    lr : float
        The learning rate h of gradient descent.
    order : int
        n, 0 … 3; 2(n + 1) gradients an evaluation, and one more where the rod grows or shrinks
        fast. Order 3 follows an outbreak best, at twice the cost of order 1; order 2 is better
        than order 1 only while nothing swings much (chapter *Two points at once*).
    noise : float, "float" or "measured"
        As for :class:`RodFlow`, but by default "measured".
    start : {"slow", "pair"}
        As for :class:`RodFlow`, but by default "slow".

    Notes
    -----
    Companions: ``direction`` and ``log_length`` of the half-rod, as for :class:`RodFlow`.

    Unlike gradient descent's, this map's slow part has positive multipliers only, 1 − hλ < 1
    where hλ < 1 and hλ − 1 where hλ > 1. A real logarithm exists and no resonance is left: where
    a product of positive multipliers equals another one, so do the sums of their logarithms.

    References
    ----------
    Ours. The map is that of Regis and Chewi (2026), the differences those of
    :class:`gdflows.flows.Truncated`.
    """

    label = "principal rod"

    def __init__(
        self,
        objective: Objective,
        lr: float,
        *,
        order: int = 1,
        noise: float | Literal["float", "measured"] = "measured",
        start: Literal["slow", "pair"] = "slow",
    ):
        if order not in range(4):
            raise InputError(f"order must be 0, 1, 2 or 3, got {order!r}.")
        self.order = order
        super().__init__(objective, lr, noise=noise, start=start)
        #: Weights of the increments 0 … n: Σ (−1)^{j−1}/j Δ^{j−1}, multiplied out.
        self.weights = [
            sum(math.comb(j, i) / (j + 1) for j in range(i, order + 1)) * (-1) ** i
            for i in range(order + 1)
        ]

    def field(self, theta: Tensor, *, direction: Tensor, log_length: Tensor):
        h, centre = self.lr, theta
        v = direction / torch.linalg.vector_norm(direction)
        size = visible_length(theta, log_length)
        rod, along = size * v, size
        centre_rate, turn, growth = torch.zeros_like(centre), torch.zeros_like(v), 0.0
        logarithm = 0.0
        for i, weight in enumerate(self.weights):
            mean, half = self._halves(centre, rod)
            moved = h * half - rod
            if i == 0:
                push = self._push(theta, mean, float(torch.dot(v, moved)) / along, size)
            centre_rate -= weight * mean
            turn += weight / (h * size) * (moved - rod)
            centre, rod = centre - h * mean, moved
            # Of the rod only what lies along it at first: the rest decays, and swings in the map.
            before, along = along, float(torch.dot(v, rod))
            found = self._logarithm(along, before)
            # Where it collapses within the next steps, differences would tell nothing.
            near = found if i == 0 else min(max(found, logarithm - JUMP), logarithm + JUMP)
            growth, logarithm = growth + weight / h * near, near
        return centre_rate + push, {
            "direction": turn - torch.dot(v, turn) * v,
            "log_length": self._growth(v.new_tensor(growth), theta, log_length).reshape(1),
        }

    @staticmethod
    def _logarithm(after: float, before: float) -> float:
        if not (before > 0 and after > 0):  # hλ < 1 along the rod
            return -LOWEST
        return max(math.log(after / before), -LOWEST)

    def _push(self, theta: Tensor, mean: Tensor, multiplier: float, size: float) -> Tensor:
        """What the differences leave out of log(r)/(r − 1) b, where r is far from 1."""
        y = max(multiplier, SHRINKS) ** 2 - 1
        share = (abs(y) - STEEP) / STEEP
        if share < 0 or size < PUSHES * length(theta):
            return torch.zeros_like(mean)
        missing = (math.log1p(y) - series(y, self.order)) / y
        # in gently, so that a solver sees no jump
        missing *= 1.0 if share > 1 else share**2 * (3 - 2 * share)
        return missing * (self.objective.grad(theta) - mean)
