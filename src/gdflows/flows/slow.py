"""Which part of a point is oscillation: the split by which a centre moves slowly from the start."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gdflows.curvature.eigen import Eigenpairs, extreme_eigenpairs
from gdflows.errors import InputError
from gdflows.lengths import length
from gdflows.objective import Objective

MOST_SHARP = 64  # directions with hλ > 1 that a start may have
FILTER = 10  # differences that separate the smooth part of a path from the swinging one
ROUNDS = 12  # of them, at most; each brings the rod some twenty times closer


def halves(objective: Objective, centre: Tensor, rod: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and half the difference of the gradients at the rod's ends."""
    front, back = objective.grad(centre + rod), objective.grad(centre - rod)
    return (front + back) / 2, (front - back) / 2


class Slow:
    """The slow manifold of the map of centre and half-rod, at a learning rate h.

    Only what gradient descent multiplies by a negative number in each step, the part along
    eigenvectors with hλ > 1, is oscillation; all the rest is the centre's.
    """

    def __init__(self, objective: Objective, lr: float):
        self.objective, self.lr = objective, lr

    def split(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The part of θ that swings, and the sharpest direction; shapes ``(D,)``.

        The part is zero where no direction has hλ > 1.
        """
        sharp, nothing = self._sharp(theta), torch.zeros_like(theta)
        if not self._swings(sharp):
            return nothing, sharp.vectors[0]
        rod, _ = self._settle(theta, nothing, sharp, 1, 1)
        sharp = self._sharp(theta - rod)
        if not self._swings(sharp):
            return nothing, sharp.vectors[0]
        rod, _ = self._settle(theta, rod, sharp, 1, 3)
        # Sharper, but only where the oscillation changes little within some steps.
        finer, changes = self._settle(theta, rod, sharp, FILTER, ROUNDS)
        if changes[-1] < 0.01 * changes[0]:
            rod = finer
        return rod, sharp.vectors[0]

    def _settle(self, theta: Tensor, rod: Tensor, sharp: Eigenpairs, n: int, rounds: int):
        """Shift what swings of the centre to the rod, some times; also by how much each time.

        Along a sharp eigenvector a swinging part of the centre is multiplied by 1 − hλ in each
        step, so that (1 − shift)ⁿ multiplies it by (hλ)ⁿ. What moves smoothly is reduced to its
        n-th difference. With n = 1 this is Newton's step towards a vanishing mean gradient.
        """
        weights, changes = (self.lr * sharp.values) ** -n, []
        for _ in range(rounds):
            swing = torch.zeros_like(theta)
            c, e = theta - rod, rod
            for j in range(n + 1):
                swing += (-1) ** j * math.comb(n, j) * c
                if j < n:
                    mean, half = halves(self.objective, c, e)
                    c, e = c - self.lr * mean, self.lr * half - e
            change = (sharp.vectors @ swing * weights) @ sharp.vectors
            changes.append(length(change))
            rod = rod + change
            if len(changes) > 2 and changes[-1] > changes[-2] / 2:  # that is rounding
                break
        return rod, changes

    def _swings(self, sharp: Eigenpairs) -> bool:
        """Whether gradient descent alternates along the sharpest direction at all."""
        return self.lr * float(sharp.values[0]) > 1

    def _sharp(self, theta: Tensor) -> Eigenpairs:
        """All eigenpairs with hλ > 1; the top one in any case."""
        point, dim, k = self.objective.at(theta), theta.numel(), 4
        while True:
            k = min(k, dim)
            pairs = extreme_eigenpairs(point, k, "LA", 1e-6)
            found = int((self.lr * pairs.values > 1).sum())
            if found < k or k == dim:
                break
            if k > MOST_SHARP:
                raise InputError(
                    f"More than {MOST_SHARP} directions have hλ > 1 at the start; the learning "
                    "rate is far above the edge, where gradient descent is no slow motion."
                )
            k *= 2
        keep = max(found, 1)
        return Eigenpairs(
            pairs.values[:keep], pairs.vectors[:keep], pairs.residuals[:keep], pairs.hvps
        )
