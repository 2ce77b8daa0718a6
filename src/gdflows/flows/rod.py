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
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gdflows.arguments import number
from gdflows.curvature.units import alike
from gdflows.errors import InputError
from gdflows.flows.base import Flow
from gdflows.flows.decay import Decay, Stiff
from gdflows.flows.optimizers import ByOptimizer
from gdflows.flows.rounding import rounding
from gdflows.flows.slow import Slow, halves
from gdflows.lengths import length, unit_vector
from gdflows.objective import Objective
from gdflows.trajectory import Trajectory


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


class Rod(TwoPoints):
    """What the flows share whose half-rod turns and grows by a field of its own.

    The half-rod is kept as a unit vector and the logarithm of its length: below the edge it
    shrinks over hundreds of orders of magnitude, and what counts when the edge is crossed is by
    how much.

    Two things are options of all of them, so that they can be compared. *Noise*: far below the
    edge an oscillation dies out down to rounding, from where it grows again when the edge is
    crossed; without noise it would go on dying. *Start*: which part of θ₀ is oscillation.
    """

    order = 0  # of the differences that the field is made of

    def __init__(
        self,
        objective: Objective,
        lr: float,
        *,
        noise: float | Literal["float", "measured"] = 0.0,
        start: Literal["pair", "slow"] = "pair",
    ):
        super().__init__(objective, lr)
        if noise not in ("float", "measured"):
            noise = number(noise, "noise")
            if noise < 0:
                raise InputError(
                    f"noise must be at least 0, or 'float' or 'measured', got {noise}."
                )
        if start not in ("pair", "slow"):
            raise InputError(f"start must be 'pair' or 'slow', got {start!r}.")
        self.noise, self.begins = noise, start
        self._measured: float | None = None  # at the start that a path began from
        self._stiff = Stiff(objective, lr, self.order)

    def start(self, theta: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if theta.is_complex():
            raise InputError(f"The flow '{self.label}' is real; start it at theta.real.")
        self._stiff.forget()
        if self.begins == "pair":
            rod = self.lr / 2 * self.objective.grad(theta)
            swings = unit_vector(rod)[0]
        else:
            rod, swings = Slow(self.objective, self.lr).split(theta)
        if self.noise == "measured":
            self._measured = rounding(self.objective, theta, swings, self.lr)
        noise = self._sigma(theta)
        if self.begins == "slow" and not rod.any():
            rod = noise * swings
        companions = self._polar(rod)
        if noise > 0:
            lowest = companions["log_length"].new_tensor([math.log(noise)])
            companions["log_length"] = torch.maximum(companions["log_length"], lowest)
        return theta - rod, companions

    def _sigma(self, theta: Tensor) -> float:
        """Standard deviation of one step's noise along a direction."""
        if self.noise == "measured":
            if self._measured is None:
                raise InputError(
                    f"The noise of '{self.label}' is measured where a path starts: call "
                    "start(theta) before the field, or give noise as a number."
                )
            return self._measured
        if self.noise != "float":
            return self.noise
        rms = length(theta) / theta.numel() ** 0.5
        return torch.finfo(theta.dtype).eps / math.sqrt(12) * (rms or 1.0)

    def _growth(self, growth: Tensor, centre: Tensor, log_length: Tensor) -> Tensor:
        """The rate of log ‖ε‖ with noise: d⟨ε²⟩/dt = 2 r ε² + σ²/h."""
        noise = self._sigma(centre)
        if noise == 0:
            return growth
        # A solver's trial step may throw the length far below the noise, and is refused then.
        above = min(math.log(noise) - float(log_length), 100.0)
        return growth + math.exp(2 * above) / (2 * self.lr)

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

    def fast(self, theta, companions, rates, *, slowest: float) -> Decay:
        return self._stiff(theta, companions["direction"], float(rates["log_length"]), slowest)

    def _halves(self, centre: Tensor, rod: Tensor) -> tuple[Tensor, Tensor]:
        return halves(self.objective, centre, rod)


class FirstOrder(Rod):
    """A rod whose half-rod has a velocity ε̇, here in polar coordinates."""

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


class RodFlow(ByOptimizer, FirstOrder):
    r"""The rod flow: two consecutive iterates are the ends of a rod.

    .. math:: \dot c = -\tfrac12[g(c+\varepsilon) + g(c-\varepsilon)], \qquad
              \dot\varepsilon = \tfrac12[g(c+\varepsilon) - g(c-\varepsilon)]
                                - \tfrac2h\,\varepsilon

    Two gradients an evaluation.

    Parameters
    ----------
    objective : Objective
        The loss.
    lr : float
        The learning rate h of gradient descent.
    noise : float, "float" or "measured"
        Standard deviation of one step's rounding along a direction; "float" is that of θ's dtype,
        eps/√12 times the root mean square of θ; "measured" is that of the update and of the
        gradient at the start, see :func:`gdflows.flows.rounding`. 0, as published, is exact
        arithmetic.
    start : {"pair", "slow"}
        As published, the rod joins θ₀ and θ₁: :math:`\varepsilon = \tfrac h2 g(\theta_0)`. "slow"
        counts only the part of θ₀ as oscillation that swings, see
        :class:`gdflows.flows.PrincipalRodFlow`. It takes the curvature for slow: a direction
        that passes hλ = 1 after the start, within few steps, brings a swing that is not seen.
    optimizer : str
        "gd"; with "rmsprop", "rmsprop-scalar" or "adam" the call makes a
        :class:`gdflows.flows.AdaptiveRodFlow`, which has more options.

    Notes
    -----
    Companions: ``direction``, shape ``(D,)``, and ``log_length``, shape ``(1,)``, of the half-rod
    ε; ``rods(path)`` joins them.

    References
    ----------
    Regis and Chewi (2026), "Rod Flow"; here in polar coordinates.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.problems.valley(kappa=0.2, y_star=44.0)
    >>> flow = gf.flows.RodFlow(E, lr=0.05)
    >>> path = gf.integrate(flow, E.theta0, t=5.0)
    >>> flow.rods(path).shape == path.states.shape
    True
    """

    label = "rod"
    kinds: ClassVar[dict[str, type]] = {}

    def __init__(
        self,
        objective: Objective,
        lr: float,
        *,
        noise: float | Literal["float", "measured"] = 0.0,
        start: Literal["pair", "slow"] = "pair",
        optimizer: str = "gd",
    ):
        super().__init__(objective, lr, noise=noise, start=start)

    def _field(self, centre: Tensor, rod: Tensor) -> tuple[Tensor, Tensor]:
        mean, half = self._halves(centre, rod)
        return -mean, half - 2 / self.lr * rod


class EdgeFlow(FirstOrder):
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
    noise : float, "float" or "measured"
        Standard deviation of one step's rounding along a direction; "float" is that of θ's dtype,
        eps/√12 times the root mean square of θ; "measured" is that of the update and of the
        gradient at the start, see :func:`gdflows.flows.rounding`. 0, as published, is exact
        arithmetic.
    start : {"pair", "slow"}
        As published, the rod joins θ₀ and θ₁: :math:`\varepsilon = \tfrac h2 g(\theta_0)`. "slow"
        counts only the part of θ₀ as oscillation that swings, see
        :class:`gdflows.flows.PrincipalRodFlow`. It takes the curvature for slow: a direction
        that passes hλ = 1 after the start, within few steps, brings a swing that is not seen.

    Notes
    -----
    Companions: ``direction`` v and ``log_length`` = log ρ, as for :class:`RodFlow`.

    References
    ----------
    Marion (2026), "Edge Flow".

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.problems.valley(kappa=0.2, y_star=44.0)
    >>> flow = gf.flows.EdgeFlow(E, lr=0.05)
    >>> path = gf.integrate(flow, E.theta0, t=2.0)
    >>> sorted(path.companions)
    ['direction', 'log_length']
    """

    label = "edge"

    def _field(self, centre: Tensor, rod: Tensor) -> tuple[Tensor, Tensor]:
        mean, _ = self._halves(centre, rod)
        return -mean, self.objective.hvp(centre, rod) - 2 / self.lr * rod
