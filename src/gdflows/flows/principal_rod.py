"""The principal rod flow: the edge's map of two points, to any order."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from gdflows.errors import InputError
from gdflows.flows.rod import Rod
from gdflows.objective import Objective

LOWEST = 5.0  # a rod that shrinks faster than by e⁻⁵ a step is gone at once


class PrincipalRodFlow(Rod):
    r"""The principal rod flow: backward error analysis of two iterates at once.

    The rod flow is to the map (c, ε) what the gradient flow is to gradient descent: its
    first term. This flow keeps the next ones,

    .. math:: \tilde F_n = \frac1h \sum_{j=1}^{n+1}
              \frac{(-1)^{j-1}}{j}\, \Delta^j (c, \varepsilon),

    differences of the map's own iterates (gradient descent from both ends of the rod), so that
    one step of the map is met to :math:`O(h^{n+2})`; along the rod, where the multiplier
    m = hS − 1 is known (S is the mean curvature along it), the whole series is summed to
    log(m)/h, the principal flow's real part. And it starts on the *slow manifold*: only the part
    of θ₀ along eigenvectors with hλ > 1 is oscillation, the rest is centre.

    Parameters
    ----------
    objective : Objective
        The loss.
    lr : float
        The learning rate h of gradient descent.
    order : int
        n, 0 … 3; 2(n + 1) gradients an evaluation.
    noise : float or "float"
        As for :class:`RodFlow`, but by default the rounding of θ's dtype.
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
        order: int = 2,
        noise: float | Literal["float"] = "float",
        start: Literal["slow", "pair"] = "slow",
    ):
        super().__init__(objective, lr, noise=noise, start=start)
        if order not in range(4):
            raise InputError(f"order must be 0, 1, 2 or 3, got {order!r}.")
        self.order = order
        #: Weights of F at the iterates 0 … n: Σ (−1)^{j−1}/j Δ^{j−1}, multiplied out.
        self.weights = [
            sum(math.comb(j, i) / (j + 1) for j in range(i, order + 1)) * (-1) ** i
            for i in range(order + 1)
        ]

    def _field(self, centre: Tensor, rod: Tensor) -> tuple[Tensor, Tensor]:
        h, rod0 = self.lr, rod
        centre_rate, rod_rate = torch.zeros_like(centre), torch.zeros_like(rod)
        for i, weight in enumerate(self.weights):
            mean, half = self._halves(centre, rod)
            pull = half - 2 / h * rod
            if i == 0:  # m − 1, where m is the rod's multiplier in one step
                y = h * float(torch.dot(rod, pull) / torch.dot(rod, rod))
            centre_rate -= weight * mean
            rod_rate += weight * pull
            centre, rod = centre - h * mean, rod + h * pull
        if y > -1:
            # What the differences leave out of log(1 + y) along the rod.
            partial = sum((-1) ** (j + 1) * y**j / j for j in range(1, self.order + 2))
            rod_rate += (max(math.log1p(y), -LOWEST) - partial) / h * rod0
        return centre_rate, rod_rate
