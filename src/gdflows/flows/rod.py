r"""Two points at once: flows of a centre and of half the distance between two iterates.

At the edge of stability gradient descent jumps to and fro. No smooth curve through θ₀, θ₁, θ₂, …
is governed by a vector field there, but two smooth curves can be: the centre c and the half-rod
ε, with

.. math:: \theta_k = c(kh) + (-1)^k\,\varepsilon(kh).

Gradient descent is then *exactly* the map
:math:`c \to c - h\bar g, \; \varepsilon \to -\varepsilon + h d`, with
:math:`\bar g = \tfrac12[g(c+\varepsilon) + g(c-\varepsilon)]` and
:math:`d = \tfrac12[g(c+\varepsilon) - g(c-\varepsilon)]`: a step of length h along the field
:math:`F = (-\bar g,\; d - \tfrac2h\varepsilon)`. The flows of this module are the backward error
analysis of that step; they differ in how many terms they keep, and in where they start.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from gdflows.arguments import number
from gdflows.curvature.eigen import Eigenpairs, extreme_eigenpairs
from gdflows.curvature.units import alike
from gdflows.errors import InputError
from gdflows.flows.base import Flow
from gdflows.lengths import length, unit_vector
from gdflows.objective import Objective
from gdflows.trajectory import Trajectory

MOST_SHARP = 64  # directions with hλ > 1 that a start may have
FILTER = 6  # differences that separate the smooth part of a path from the swinging one
LOWEST = 5.0  # a rod that shrinks faster than by e⁻⁵ a step is gone at once


class TwoPoints(Flow):
    """A flow of a centre c and a half-rod ε, between which the iterates c ± ε alternate."""

    @abstractmethod
    def rods(self, path: Trajectory) -> Tensor:
        """The half-rod ε at the path's times, shape ``(T, D)``."""

    def companions(self, theta: Tensor) -> dict[str, Tensor]:
        return self.start(theta)[1]

    def vector_field(self, theta: Tensor) -> Tensor:
        raise InputError(f"The field of '{self.label}' needs the rod too: use field.")

    def oscillation(self, path: Trajectory) -> Tensor:
        return torch.exp(path.companions["log_length"][:, 0])

    def mean_loss(self, path: Trajectory) -> Tensor:
        rods = self.rods(path)
        return torch.stack(
            [
                (self.objective.value(c + e) + self.objective.value(c - e)) / 2
                for c, e in zip(path.states, rods, strict=True)
            ]
        )

    def iterates(self, path: Trajectory) -> Tensor:
        """c + (−1)ᵏ ε, at times t = kh; shape ``(T, D)``.

        Raises
        ------
        InputError
            If the path holds other times.
        """
        steps = path.times / self.lr
        k = steps.round()
        if not torch.allclose(steps, k, rtol=0, atol=1e-6):
            raise InputError("Iterates are at times t = kh only; integrate with such times.")
        sign = alike(1 - 2 * (k % 2), path.states)
        return path.states + sign[:, None] * self.rods(path)


def visible_length(centre: Tensor, log_length: Tensor) -> float:
    """The length at which a rod's rates are taken: its own, but none that drowns in rounding.

    The rates do not change any more as a rod gets shorter, but differences of gradients do drown.
    It moves the centre by rounding only.
    """
    eps = torch.finfo(centre.dtype).eps
    closest = math.sqrt(eps) * (length(centre) or 1.0)
    return max(math.exp(min(float(log_length), 700.0)), closest)


class _Rod(TwoPoints):
    """What the flows share whose half-rod turns and grows by a field of its own.

    The half-rod is kept as a unit vector and the logarithm of its length: below the edge it
    shrinks over hundreds of orders of magnitude, and what counts when the edge is crossed is by
    how much.
    """

    def start(self, theta: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if theta.is_complex():
            raise InputError(f"The flow '{self.label}' is real; start it at theta.real.")
        rod = self._half_rod(theta)
        return theta - rod, self._polar(rod)

    @abstractmethod
    def _half_rod(self, theta: Tensor) -> Tensor:
        """ε at the start: which part of θ is oscillation."""

    @abstractmethod
    def _field(self, centre: Tensor, rod: Tensor) -> tuple[Tensor, Tensor]:
        """dc/dt and dε/dt."""

    def field(self, theta: Tensor, *, direction: Tensor, log_length: Tensor):
        """Time derivatives of the centre, of the rod's direction and of the log of its length.

        Parameters
        ----------
        theta : Tensor
            Centre c, shape ``(D,)``.
        direction : Tensor
            Of the half-rod, shape ``(D,)``; normalised here.
        log_length : Tensor
            Logarithm of the half-rod's length, shape ``(1,)``.
        """
        v = direction / torch.linalg.vector_norm(direction)
        size = visible_length(theta, log_length)
        centre_rate, rod_rate = self._field(theta, size * v)
        stretch = rod_rate / size
        growth = torch.dot(v, stretch)
        return centre_rate, {
            "direction": stretch - growth * v,
            "log_length": self._growth(growth, theta, log_length).reshape(1),
        }

    def _growth(self, growth: Tensor, centre: Tensor, log_length: Tensor) -> Tensor:
        return growth

    def rods(self, path: Trajectory) -> Tensor:
        """The half-rod ε at the path's times, shape ``(T, D)``."""
        directions = path.companions["direction"]
        unit = directions / torch.linalg.vector_norm(directions, dim=1, keepdim=True)
        return torch.exp(path.companions["log_length"]) * unit

    def _polar(self, rod: Tensor) -> dict[str, Tensor]:
        direction, size = unit_vector(rod)
        if not size > 0:
            raise InputError(
                f"'{self.label}' cannot start at a critical point: nothing moves there, "
                "and the rod has no direction. Start beside it."
            )
        return {"direction": direction, "log_length": torch.log(rod.new_tensor([size]))}

    def _halves(self, centre: Tensor, rod: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and half the difference of the gradients at the rod's ends."""
        front, back = self.objective.grad(centre + rod), self.objective.grad(centre - rod)
        return (front + back) / 2, (front - back) / 2


class RodFlow(_Rod):
    r"""The rod flow: two consecutive iterates are the ends of a rod.

    .. math:: \dot c = -\tfrac12[g(c+\varepsilon) + g(c-\varepsilon)], \qquad
              \dot\varepsilon = \tfrac12[g(c+\varepsilon) - g(c-\varepsilon)]
                                - \tfrac2h\,\varepsilon

    It starts with the rod from θ₀ to θ₁: :math:`\varepsilon = \tfrac h2 g(\theta_0)`,
    :math:`c = \theta_0 - \varepsilon`. Two gradients an evaluation.

    Parameters
    ----------
    objective : Objective
        The loss.
    lr : float
        The learning rate h of gradient descent.

    Notes
    -----
    Companions: ``direction``, shape ``(D,)``, and ``log_length``, shape ``(1,)``, of the half-rod
    ε; ``rods(path)`` joins them.

    References
    ----------
    Regis and Chewi (2026), "Rod Flow"; here in polar coordinates.
    """

    label = "rod"

    def __init__(self, objective: Objective, lr: float):
        super().__init__(objective, lr)

    def _half_rod(self, theta: Tensor) -> Tensor:
        return self.lr / 2 * self.objective.grad(theta)

    def _field(self, centre: Tensor, rod: Tensor) -> tuple[Tensor, Tensor]:
        mean, half = self._halves(centre, rod)
        return -mean, half - 2 / self.lr * rod


class EdgeFlow(_Rod):
    r"""The edge flow: centre, direction and magnitude of the oscillation.

    .. math:: \dot c = -\tfrac12[g(c+\rho v) + g(c-\rho v)], \quad
              \dot v = (I - vv^\top)H(c)v, \quad
              \dot\rho = (v^\top H(c) v - \tfrac2h)\,\rho

    The rod flow with the curvature at the centre in place of the mean curvature along the rod.
    Two gradients and one Hessian-vector product an evaluation.

    Parameters
    ----------
    objective : Objective
        The loss.
    lr : float
        The learning rate h of gradient descent.

    Notes
    -----
    Companions: ``direction`` v and ``log_length`` = log ρ, as for :class:`RodFlow`. It starts as
    the rod flow does.

    References
    ----------
    Marion (2026), "Edge Flow".
    """

    label = "edge"

    def __init__(self, objective: Objective, lr: float):
        super().__init__(objective, lr)

    def _half_rod(self, theta: Tensor) -> Tensor:
        return self.lr / 2 * self.objective.grad(theta)

    def _field(self, centre: Tensor, rod: Tensor) -> tuple[Tensor, Tensor]:
        mean, _ = self._halves(centre, rod)
        return -mean, self.objective.hvp(centre, rod) - 2 / self.lr * rod


class PrincipalRodFlow(_Rod):
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
    noise : float, optional
        Standard deviation of one step's rounding along a direction. Far below the edge an
        oscillation dies out down to rounding, from where it grows again when the edge is
        crossed; without noise it would go on dying. By default that of θ₀'s dtype, eps/√12 times
        the root mean square of θ₀; 0 for exact arithmetic.

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
        self, objective: Objective, lr: float, *, order: int = 2, noise: float | None = None
    ):
        super().__init__(objective, lr)
        if order not in range(4):
            raise InputError(f"order must be 0, 1, 2 or 3, got {order!r}.")
        noise = None if noise is None else number(noise, "noise")
        if noise is not None and noise < 0:
            raise InputError(f"noise must be at least 0, got {noise}.")
        self.order, self.noise = order, noise
        #: Weights of F at the iterates 0 … n: Σ (−1)^{j−1}/j Δ^{j−1}, multiplied out.
        self.weights = [
            sum(math.comb(j, i) / (j + 1) for j in range(i, order + 1)) * (-1) ** i
            for i in range(order + 1)
        ]

    def start(self, theta: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        centre, companions = super().start(theta)
        noise = self._sigma(theta)
        if noise > 0:
            lowest = companions["log_length"].new_tensor([math.log(noise)])
            companions["log_length"] = torch.maximum(companions["log_length"], lowest)
        return centre, companions

    def _half_rod(self, theta: Tensor) -> Tensor:
        sharp, nothing = self._sharp(theta), torch.zeros_like(theta)
        rod, _ = self._settle(theta, nothing, sharp, 1, 1)
        sharp = self._sharp(theta - rod)
        rod, _ = self._settle(theta, rod, sharp, 1, 3)
        # Sharper, but only where the oscillation changes little within some steps.
        finer, changes = self._settle(theta, rod, sharp, FILTER, 4)
        if changes[-1] < 0.1 * changes[0]:
            rod = finer
        if not rod.any():
            rod = self._sigma(theta) * sharp.vectors[0]
        return rod

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
                    mean, half = self._halves(c, e)
                    c, e = c - self.lr * mean, self.lr * half - e
            change = (sharp.vectors @ swing * weights) @ sharp.vectors
            changes.append(length(change))
            rod = rod + change
        return rod, changes

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

    def _sigma(self, theta: Tensor) -> float:
        if self.noise is not None:
            return self.noise
        rms = length(theta) / theta.numel() ** 0.5
        return torch.finfo(theta.dtype).eps / math.sqrt(12) * (rms or 1.0)

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

    def _growth(self, growth: Tensor, centre: Tensor, log_length: Tensor) -> Tensor:
        # d⟨ε²⟩/dt = 2 r ε² + σ²/h
        noise = self._sigma(centre)
        if noise == 0:
            return growth
        # A solver's trial step may throw the length far below the noise, and is refused then.
        above = min(math.log(noise) - float(log_length), 100.0)
        return growth + math.exp(2 * above) / (2 * self.lr)
