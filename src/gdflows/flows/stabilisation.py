"""Self-stabilisation: the cubic model of what stops gradient descent from diverging."""

from __future__ import annotations

import torch
from torch import Tensor

from gdflows.curvature import Tracker
from gdflows.errors import InputError
from gdflows.flows.rod import TwoPoints
from gdflows.lengths import length
from gdflows.objective import Objective
from gdflows.trajectory import Trajectory


class SelfStabilisation(TwoPoints):
    r"""The cubic model: an oscillation along the top eigenvector, which lowers the sharpness.

    .. math:: \dot c = -\nabla E(c) - \tfrac{\rho^2}2\, \nabla\lambda(c), \qquad
              \frac{d}{dt}\log\rho = \lambda(c) - \tfrac2h

    with λ the largest eigenvalue of the Hessian at c, u its eigenvector and
    :math:`\nabla\lambda = \nabla^3E[u, u]`. In x = ρ and y = λ − 2/h this is the pair
    :math:`\dot x = xy`, :math:`\dot y = \alpha - \tfrac\beta2x^2` with
    :math:`\alpha = -\nabla\lambda\cdot\nabla E` (progressive sharpening) and
    :math:`\beta = \|\nabla\lambda\|^2`: it turns around the edge and around
    :math:`\rho^2 = 2\alpha/\beta`.

    Parameters
    ----------
    objective : Objective
        The loss.
    lr : float
        The learning rate h of gradient descent.
    tol : float
        Relative accuracy of the eigenvalue, as for :class:`gdflows.flows.CentralFlow`.

    Notes
    -----
    Companion: ``log_length``, log ρ, shape ``(1,)``. It starts with the part of θ₀ that is off
    the valley's floor along u, :math:`\rho = |u\cdot\nabla E|/\lambda`. An evaluation costs a
    gradient, a few Hessian-vector products and a third-derivative contraction.

    Where :class:`gdflows.flows.EdgeFlow` takes the loss at both ends of the oscillation, this
    model takes its expansion about the middle, to the third derivative; and its direction is the
    eigenvector itself. The field jumps where the two largest eigenvalues cross.

    References
    ----------
    Damian, Nichani and Lee (2023), "Self-stabilization: the implicit bias of gradient descent at
    the edge of stability", section 4. There the motion is told relative to a path constrained to
    the edge; here it is that of the centre itself.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.problems.valley(kappa=0.2, y_star=44.0)
    >>> path = gf.integrate(gf.flows.SelfStabilisation(E, lr=0.05), E.theta0, t=10.0)
    >>> path.states.shape[1], sorted(path.companions)
    (2, ['log_length'])
    """

    label = "self-stabilisation"

    def __init__(self, objective: Objective, lr: float, *, tol: float = 1e-6):
        super().__init__(objective, lr)
        self._tol = tol
        self._tracker = Tracker(objective, tol=tol)

    def start(self, theta: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if theta.is_complex():
            raise InputError(f"The flow '{self.label}' is real; start it at theta.real.")
        self._tracker = Tracker(self.objective, tol=self._tol)
        rod = self._half_rod(theta)
        size = length(rod)
        if not size > 0:
            raise InputError(
                "Self-stabilisation cannot start where the gradient has no part along the top "
                "eigenvector: there is no oscillation that could grow. Start beside it."
            )
        return theta - rod, {"log_length": torch.log(rod.new_tensor([size]))}

    def field(self, theta: Tensor, *, log_length: Tensor):
        point = self.objective.at(theta)
        pair = self._tracker.update(point)
        u, weight = pair.vectors[0], torch.exp(2 * log_length) / 2
        return -point.grad - weight * point.third(u, u), {
            "log_length": pair.values - 2 / self.lr,
        }

    def rods(self, path: Trajectory) -> Tensor:
        tracker = Tracker(self.objective, tol=self._tol)
        rods, before = [], None
        for c, log_length in zip(path.states, path.companions["log_length"], strict=True):
            if before is None:
                before = self._half_rod(c)
            u = tracker.update(c).vectors[0]
            before = u if torch.dot(u, before) >= 0 else -u
            rods.append(torch.exp(log_length) * before)
        return torch.stack(rods)

    def _half_rod(self, theta: Tensor) -> Tensor:
        point = self.objective.at(theta)
        pair = self._tracker.update(point)
        u = pair.vectors[0]
        return torch.dot(u, point.grad) / pair.values[0] * u
