r"""Heavy ball and Nesterov's method as mechanics: flows of a place and a velocity.

The optimiser's step k belongs to the time τ = k·s of the mechanics, with a step s that learning
rate and momentum determine. Flow time stays t = k·h, so that :math:`d\tau/dt = s/h`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gdflows.arguments import number
from gdflows.errors import InputError
from gdflows.flows.base import Flow
from gdflows.flows.modified import check_beta
from gdflows.objective import Objective
from gdflows.trajectory import Trajectory


class InertialFlow(Flow):
    r"""A mass with friction in the landscape: the equation that heavy ball discretises.

    .. math:: \frac{d^2\theta}{d\tau^2} + \gamma\frac{d\theta}{d\tau} + \nabla E = 0, \qquad
              \gamma s = \log\frac1\beta, \quad s^2 = \frac{h\log(1/\beta)}{1 - \beta}

    With this clock the means of neighbouring iterates, :math:`\frac12(\theta_k + \theta_{k-1})`,
    are a splitting method of second order in s for fixed γ; with the usual one,
    :math:`s = \sqrt h`, of first order. :meth:`iterates` is where that puts the iterates.

    Parameters
    ----------
    objective : Objective
        The loss.
    lr : float
        The learning rate h, in torch's form (v ← βv + g, θ ← θ − hv). Flow time is t = k·h.
    beta : float
        β, 0 < β < 1.
    nesterov : bool
        Nesterov's method: the force is that at the point looked ahead to,
        :math:`\nabla E(\theta + \beta s\,d\theta/d\tau)`.

    Attributes
    ----------
    step : float
        s.
    friction : float
        γ.

    Raises
    ------
    InputError
        At β = 0: nothing keeps moving there, and the flow is :class:`NGF`.

    Notes
    -----
    Companion: ``velocity``, dθ/dτ, shape ``(D,)``; it starts from rest. One gradient an
    evaluation.

    References
    ----------
    Polyak (1964); Kovachki and Stuart (2021) for fixed β; França, Jordan and Vidal (2021) for
    the splittings. The clock of second order is derived in the chapter *Momentum as an
    integrator*.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E, start = gf.problems.quadratic([1.0]), torch.ones(1).double()
    >>> flow = gf.flows.InertialFlow(E, lr=1e-4, beta=0.9)
    >>> path = gf.integrate(flow, start, t=0.02)
    >>> ball = gf.descend(E, start, lr=1e-4, steps=200, momentum=0.9)
    >>> abs(float(path.states[-1] - ball.states[-1])) < 1e-3
    True
    """

    def __init__(
        self, objective: Objective, lr: float, *, beta: float = 0.9, nesterov: bool = False
    ):
        super().__init__(objective, lr)
        self.beta, self.nesterov = check_beta(beta), nesterov
        if self.beta == 0:
            raise InputError("beta must be above 0: without momentum there is no inertia; use NGF.")
        self.step = math.sqrt(-self.lr * math.log(self.beta) / (1 - self.beta))
        self.friction = -math.log(self.beta) / self.step
        self.label = f"{'Nesterov' if nesterov else 'heavy-ball'} ODE"

    def vector_field(self, theta: Tensor) -> Tensor:
        raise InputError(f"{self.label}: the field needs the velocity too; use field.")

    def companions(self, theta: Tensor) -> dict[str, Tensor]:
        return {"velocity": torch.zeros_like(theta)}

    def field(self, theta: Tensor, *, velocity: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        place = theta + self.beta * self.step * velocity if self.nesterov else theta
        force = -self.objective.grad(place) - self.friction * velocity
        pace = self.step / self.lr
        return pace * velocity, {"velocity": pace * force}

    def energy(self, path: Trajectory) -> Tensor:
        """E + ½‖dθ/dτ‖² along a path, shape ``(T,)``; without look-ahead it never rises."""
        kinetic = path.companions["velocity"].pow(2).sum(1) / 2
        return torch.stack([self.objective.value(theta) for theta in path.states]) + kinetic

    def iterates(self, path: Trajectory) -> Tensor:
        """The optimiser's, half a step ahead; of Nesterov's method the points torch holds."""
        ahead = 0.5 + self.beta * self.nesterov
        return path.states + ahead * self.step * path.companions["velocity"]


class VanishingFriction(Flow):
    r"""A mass whose friction dies away: the equation of Nesterov's accelerated method.

    .. math:: \frac{d^2\theta}{d\tau^2} + \frac r\tau\,\frac{d\theta}{d\tau} + \nabla E = 0, \qquad
              \tau = k\sqrt h

    It models :func:`gdflows.walking.accelerate`, whose momentum (k − 1)/(k + r − 1) grows to 1.

    Parameters
    ----------
    objective : Objective
        The loss.
    lr : float
        The learning rate h. Flow time is t = k·h.
    friction : float
        r > 0. From 3 on the loss of a convex E falls at least as :math:`\tau^{-2}`.

    Notes
    -----
    Companions: ``velocity``, dθ/dτ, shape ``(D,)``, and ``clock``, τ, shape ``(1,)``. It starts
    from rest at τ = 0, where the acceleration is −∇E/(1 + r).

    References
    ----------
    Su, Boyd and Candès (2016), eq. 3.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E, start = gf.problems.quadratic([1.0]), torch.ones(1).double()
    >>> path = gf.integrate(gf.flows.VanishingFriction(E, lr=0.01), start, t=3.0)
    >>> round(float(path.states[-1]), 3)  # 2 J₁(τ)/τ at τ = t/√h = 30
    -0.008
    """

    label = "Nesterov ODE, r/τ"

    def __init__(self, objective: Objective, lr: float, *, friction: float = 3.0):
        super().__init__(objective, lr)
        self.friction = number(friction, "friction", positive=True)
        self.step = math.sqrt(self.lr)
        self.label = f"Nesterov ODE, {self.friction:g}/τ"

    vector_field = InertialFlow.vector_field

    def companions(self, theta: Tensor) -> dict[str, Tensor]:
        return {"velocity": torch.zeros_like(theta), "clock": theta.real.new_zeros(1)}

    def field(self, theta: Tensor, *, velocity: Tensor, clock: Tensor):
        push = -self.objective.grad(theta)
        # at the start the velocity is −τ∇E/(1 + r) to first order
        at_start = not bool(clock.abs() > 0)
        force = push / (1 + self.friction) if at_start else push - self.friction * velocity / clock
        pace = self.step / self.lr
        return pace * velocity, {"velocity": pace * force, "clock": torch.full_like(clock, pace)}
