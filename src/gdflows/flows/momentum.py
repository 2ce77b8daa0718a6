r"""Two points at once for optimisers with momentum.

Heavy ball and Nesterov's method are maps of a position and a velocity, z = (θ, v) with v = hm.
Everything said in :mod:`gdflows.flows.rod` holds for such a map Φ: with
:math:`z_k = c_k + (-1)^k\varepsilon_k`,

.. math:: c \to \tfrac12[\Phi(c + \varepsilon) + \Phi(c - \varepsilon)], \qquad
          \varepsilon \to -\tfrac12[\Phi(c + \varepsilon) - \Phi(c - \varepsilon)]

exactly, and slow at the optimiser's own edge, where the linearised Φ has the eigenvalue −1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gdflows.errors import InputError
from gdflows.flows.modified import check_beta
from gdflows.flows.rod import TwoPoints, visible_length
from gdflows.lengths import unit_vector
from gdflows.objective import Objective
from gdflows.trajectory import Trajectory


class MomentumRodFlow(TwoPoints):
    r"""The rod flow of heavy ball and of Nesterov's method, in torch's form.

    With F what the map of centre and half-rod adds to them, divided by h, the flow follows F
    (order 0), or its backward error analysis to the next term,
    :math:`F - \tfrac12\,\Delta F` with the difference ΔF along the map (order 1).

    Parameters
    ----------
    objective : Objective
        The loss.
    lr : float
        Learning rate h.
    beta : float
        β, 0 ≤ β < 1.
    nesterov : bool
        Whether the gradient is looked at ahead.
    order : {0, 1}
        The first costs two gradients an evaluation, the second four. A third term would make
        stable oscillations of the slow directions unstable: the series
        :math:`\log z = (z - 1) - \tfrac12(z - 1)^2 + \dots` cut after it has a positive real
        part for some z inside the unit circle, as the backward difference formulas of order three
        and above do.

    Notes
    -----
    Companions: ``velocity``, the centre's, shape ``(D,)``; ``direction`` of the half-rod in the
    space of positions and velocities, shape ``(2D,)``, and ``log_length``, shape ``(1,)``. The
    state's θ is the centre. It starts at rest, with the rod between the first two points of the
    optimiser.

    References
    ----------
    Regis and Chewi (2026), "A rod flow model for Adam at the edge of stability", for the first
    order in the space of positions and velocities; the second order is ours.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E, start = gf.problems.quadratic([1.0]), torch.ones(1).double()
    >>> path = gf.integrate(gf.flows.MomentumRodFlow(E, lr=0.01, beta=0.5), start, t=1.0)
    >>> ball = gf.descend(E, start, lr=0.01, steps=100, momentum=0.5)
    >>> abs(float(path.states[-1] - ball.states[-1])) < 0.01
    True
    """

    def __init__(
        self,
        objective: Objective,
        lr: float,
        *,
        beta: float = 0.9,
        nesterov: bool = False,
        order: int = 0,
    ):
        super().__init__(objective, lr)
        if order not in (0, 1):
            raise InputError(f"order must be 0 or 1, got {order!r}.")
        self.beta, self.nesterov, self.order = check_beta(beta), nesterov, order
        self.label = f"{'Nesterov' if nesterov else 'heavy-ball'} rod"

    def step(self, z: Tensor) -> Tensor:
        """The optimiser's map Φ on (θ, v), shape ``(2D,)``."""
        theta, v = z.chunk(2)
        push = self.lr * self.objective.grad(theta)
        v = self.beta * v + push
        return torch.cat([theta - (push + self.beta * v if self.nesterov else v), v])

    def start(self, theta: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if theta.is_complex():
            raise InputError(f"The flow '{self.label}' is real; start it at theta.real.")
        here = torch.cat([theta, torch.zeros_like(theta)])
        ahead = self.step(here)
        rod, centre = (here - ahead) / 2, (here + ahead) / 2
        direction, size = unit_vector(rod)
        if not size > 0:
            raise InputError(f"'{self.label}' cannot start at a critical point: nothing moves.")
        position, velocity = centre.chunk(2)
        return position, {
            "velocity": velocity,
            "direction": direction,
            "log_length": torch.log(rod.new_tensor([size])),
        }

    def field(self, theta: Tensor, *, velocity: Tensor, direction: Tensor, log_length: Tensor):
        unit = direction / torch.linalg.vector_norm(direction)
        length = visible_length(theta, log_length)
        points = [(torch.cat([theta, velocity]), length * unit)]
        for _ in range(self.order + 1):
            centre, rod = points[-1]
            front, back = self.step(centre + rod), self.step(centre - rod)
            points.append(((front + back) / 2, (back - front) / 2))
        centre_rate, rod_rate = (
            (b - a if self.order == 0 else 2 * b - 1.5 * a - 0.5 * c) / self.lr
            for a, b, c in ((p[0], p[1], p[-1]) for p in zip(*points, strict=True))
        )
        stretch = rod_rate / length
        growth = torch.dot(unit, stretch)
        position_rate, velocity_rate = centre_rate.chunk(2)
        return position_rate, {
            "velocity": velocity_rate,
            "direction": stretch - growth * unit,
            "log_length": growth.reshape(1),
        }

    def rods(self, path: Trajectory) -> Tensor:
        """The half-rod's positions at the path's times, shape ``(T, D)``."""
        directions = path.companions["direction"]
        unit = directions / torch.linalg.vector_norm(directions, dim=1, keepdim=True)
        return torch.exp(path.companions["log_length"]) * unit.chunk(2, dim=1)[0]

    def oscillation(self, path: Trajectory) -> Tensor:
        return torch.linalg.vector_norm(self.rods(path), dim=1)
