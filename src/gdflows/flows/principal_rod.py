"""The principal rod flow: the edge's map of two points, to any order."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from gdflows.errors import InputError
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
    order : int or "optimal"
        n, 0 … 3; 2(n + 1) gradients an evaluation, and one more where the rod grows or shrinks
        fast. "optimal" takes the terms of order 3, each series as far as they do not grow: at an
        outbreak, where log m changes by as much as itself in a step, they do.
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

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E, start = gf.problems.quadratic([1.9]), torch.ones(1).double()
    >>> flow = gf.flows.PrincipalRodFlow(E, lr=1.0)
    >>> path = gf.integrate(flow, start, t=10.0)
    >>> flow.rods(path).shape == path.states.shape
    True
    """

    label = "principal rod"

    def __init__(
        self,
        objective: Objective,
        lr: float,
        *,
        order: int | Literal["optimal"] = 1,
        noise: float | Literal["float", "measured"] = "measured",
        start: Literal["slow", "pair"] = "slow",
    ):
        if order != "optimal" and order not in range(4):
            raise InputError(f"order must be 0, 1, 2, 3 or 'optimal', got {order!r}.")
        self.optimal = order == "optimal"
        self.order = 3 if self.optimal else order
        super().__init__(objective, lr, noise=noise, start=start)

    def field(self, theta: Tensor, *, direction: Tensor, log_length: Tensor):
        h, centre = self.lr, theta
        v = direction / torch.linalg.vector_norm(direction)
        size = visible_length(theta, log_length)
        rod, along = size * v, size
        moves, turns, logs = [], [], []
        for _ in range(self.order + 1):
            mean, half = self._halves(centre, rod)
            centre, moved = centre - h * mean, h * half - rod
            moves.append(-mean)
            turns.append((moved - rod) / (h * size))
            # Of the rod only what lies along it at first: the rest decays, and swings in the map.
            rod, before, along = moved, along, float(torch.dot(v, moved))
            logs.append(self._logarithm(along, before))
        rate = self._pushed(theta, moves, 1 + h * float(torch.dot(v, turns[0])), size)
        turn = self._sum([d - torch.dot(v, d) * v for d in _terms(turns)], _norm)
        return rate, {
            "direction": turn,
            "log_length": self._growth(v.new_tensor(self._rate(logs)), theta, log_length).reshape(
                1
            ),
        }

    def _sum(self, terms: list, size: Callable, least: float = 0.0):
        """A series' sum; to optimal order, as far as its terms do not grow."""
        total, share, last = terms[0], 1.0, max(size(terms[0]), least)
        for term in terms[1:]:
            if self.optimal:
                here = size(term)
                share *= _fade(here / last) if last > 0 else 1.0
                if share == 0:
                    break
                last = here
            total = total + share * term
        return total

    def _rate(self, logs: list[float]) -> float:
        """The rate of log ‖ε‖, from log m at the iterates."""
        if not self.optimal:
            # Where it collapses within the next steps, differences would tell nothing.
            for i in range(1, len(logs)):
                logs[i] = min(max(logs[i], logs[i - 1] - JUMP), logs[i - 1] + JUMP)
        return self._sum(_terms(logs), abs, least=1.0) / self.lr

    @staticmethod
    def _logarithm(after: float, before: float) -> float:
        if not (before > 0 and after > 0):  # hλ < 1 along the rod
            return -LOWEST
        return max(math.log(after / before), -LOWEST)

    def _pushed(self, theta: Tensor, moves: list[Tensor], multiplier: float, size: float) -> Tensor:
        """The centre's rate, with what the rod pushes it by summed as a geometric series."""
        y = max(multiplier, SHRINKS) ** 2 - 1
        share = (abs(y) - STEEP) / STEEP
        if share < 0 or size < PUSHES * length(theta):
            return self._sum(_terms(moves), _norm)
        # in gently, so that a solver sees no jump
        share = 1.0 if share > 1 else share**2 * (3 - 2 * share)
        push = share * (self.objective.grad(theta) + moves[0])
        rest = [move - (1 + y) ** i * push for i, move in enumerate(moves)]
        return self._sum(_terms(rest), _norm) + math.log1p(y) / y * push


def _terms(values: list) -> list:
    """(−1)^{j−1}/j Δ^{j−1} of the first of some increments, j = 1, 2, …: the logarithm's series."""
    terms = []
    for j in range(1, len(values) + 1):
        terms.append(values[0] * ((-1) ** (j - 1) / j))
        values = [after - before for before, after in pairwise(values)]
    return terms


def _fade(ratio: float) -> float:
    """1 for a term that is no larger than the one before it, 0 for twice as large."""
    x = min(max(2 - ratio, 0.0), 1.0)
    return x * x * (3 - 2 * x)


def _norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x))
