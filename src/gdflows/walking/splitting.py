r"""Splitting methods for a mass with friction, and whether a map is conformally symplectic.

The equation :math:`\ddot\theta + \gamma\dot\theta + \nabla E = 0` is the sum of three that are
solved in closed form: a *kick* :math:`\dot v = -\nabla E`, a *drag* :math:`\dot v = -\gamma v` and
a *drift* :math:`\dot\theta = v`. Heavy ball is drag, kick and drift, one after the other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gdflows.arguments import number, whole
from gdflows.errors import InputError
from gdflows.flows.base import check_lr
from gdflows.flows.modified import check_beta
from gdflows.objective import Objective
from gdflows.trajectory import Trajectory
from gdflows.walking.start import starting_point

PARTS = ("kick", "drag", "drift", "pull")


class Splitting:
    r"""A splitting method for :math:`\ddot\theta + \gamma\dot\theta + \nabla E = 0`.

    Parameters
    ----------
    objective : Objective
        The loss E.
    step : float
        s, the length of a step in the equation's own time.
    friction : float
        γ ≥ 0.
    parts : sequence of str
        In the order in which they are done: ``"kick"``, ``"drag"`` and ``"drift"``; or ``"pull"``
        for kick and drag together, :math:`\dot v = -\gamma v - \nabla E` with θ held, also in
        closed form.
    symmetric : bool
        Each part but the last for half a step, and back in the opposite order: second order
        where the plain sequence has order one.

    Raises
    ------
    InputError
        If a force, the friction or the drift would be lacking or double.

    References
    ----------
    McLachlan and Quispel (2002), "Splitting methods"; França, Jordan and Vidal (2021).

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.problems.quadratic([1.0, 4.0])
    >>> ball = gf.walking.Splitting.heavy_ball(E, lr=0.01, beta=0.9)
    >>> J = ball.jacobian(E.theta0, torch.zeros(2).double())
    >>> factor, defect = gf.walking.conformal_factor(J)
    >>> round(factor, 12), defect < 1e-15
    (0.9, True)
    """

    def __init__(
        self,
        objective: Objective,
        step: float,
        friction: float,
        *,
        parts: tuple[str, ...] = ("drag", "kick", "drift"),
        symmetric: bool = False,
    ):
        if not isinstance(objective, Objective):
            raise InputError(f"Splitting needs an Objective, got {type(objective).__name__}.")
        self.objective = objective
        self.step, self.friction = number(step, "step", positive=True), number(friction, "friction")
        if self.friction < 0:
            raise InputError(f"friction must be at least 0, got {friction}.")
        whole_sets = ({"kick", "drag", "drift"}, {"pull", "drift"})
        if isinstance(parts, str) or len(set(parts)) < len(parts) or set(parts) not in whole_sets:
            raise InputError(
                "parts must be 'kick', 'drag' and 'drift' in some order, or 'pull' and 'drift'; "
                f"got {parts!r}."
            )
        shares = [(part, 1.0) for part in parts]
        if symmetric:
            half = [(part, 0.5) for part in parts[:-1]]
            shares = [*half, (parts[-1], 1.0), *half[::-1]]
        self.shares = shares

    @classmethod
    def heavy_ball(cls, objective: Objective, lr: float, beta: float = 0.9) -> Splitting:
        r"""The splitting that is heavy ball in torch's form: :math:`s = \sqrt h`, β = e^{−γs}.

        Its velocity is :math:`-\sqrt h` times torch's buffer.
        """
        lr, beta = check_lr(lr), check_beta(beta)
        if beta == 0:
            raise InputError("beta must be above 0: a drag to rest in one step is no friction.")
        step = math.sqrt(lr)
        return cls(objective, step, -math.log(beta) / step)

    def __call__(self, theta: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """One step from place and velocity, both of shape ``(D,)``."""
        for part, share in self.shares:
            keep, force, drift = self._coefficients(part, share)
            if force:
                v = keep * v - force * self.objective.grad(theta)
            elif drift:
                theta = theta + drift * v
            else:
                v = keep * v
        return theta, v

    def jacobian(self, theta: Tensor, v: Tensor) -> Tensor:
        """The step's derivative in (θ, v), shape ``(2D, 2D)``: the product of its parts' own.

        Costs D Hessian-vector products for each kick.
        """
        dim = theta.numel()
        eye = torch.eye(dim, dtype=theta.dtype, device=theta.device)
        J = torch.eye(2 * dim, dtype=theta.dtype, device=theta.device)
        for part, share in self.shares:
            keep, force, drift = self._coefficients(part, share)
            M = torch.eye(2 * dim, dtype=theta.dtype, device=theta.device)
            M[dim:, dim:] *= keep
            M[:dim, dim:] = drift * eye
            if force:
                point = self.objective.at(theta)
                M[dim:, :dim] = -force * point.hvp(eye)
                v = keep * v - force * point.grad
            else:
                theta, v = theta + drift * v, keep * v
            J = M @ J
        return J

    def walk(self, theta0: Tensor, steps: int, v0: Tensor | None = None) -> Trajectory:
        """So many steps, by default from rest; times are the equation's own, k·s."""
        theta = starting_point(self.objective, theta0)
        v = torch.zeros_like(theta) if v0 is None else v0
        if v.shape != theta.shape or v.dtype != theta.dtype:
            raise InputError("v0 must be like theta0: of its shape and dtype.")
        states, velocities = [theta], [v]
        for _ in range(whole(steps, "steps", 0)):
            theta, v = self(theta, v)
            states.append(theta)
            velocities.append(v)
        return Trajectory(
            times=torch.arange(len(states), dtype=torch.float64, device="cpu") * self.step,
            states=torch.stack(states),
            label="splitting",
            companions={"velocity": torch.stack(velocities)},
            cost={"steps": len(states) - 1},
        )

    def _coefficients(self, part: str, share: float) -> tuple[float, float, float]:
        """What a part multiplies v by, how much of the force it takes, and how far it drifts."""
        length = share * self.step
        if part == "drift":
            return 1.0, 0.0, length
        if part == "kick":
            return 1.0, length, 0.0
        keep = math.exp(-self.friction * length)
        if part == "drag":
            return keep, 0.0, 0.0
        lost = -math.expm1(-self.friction * length)
        return keep, lost / self.friction if self.friction else length, 0.0


def conformal_factor(jacobian: Tensor) -> tuple[float, float]:
    r"""How nearly :math:`J^\top\Omega J = c\,\Omega` for the derivative J of a map of (θ, v).

    Parameters
    ----------
    jacobian : Tensor
        J in (θ, v), shape ``(2D, 2D)``.

    Returns
    -------
    factor : float
        The c that fits best. It is 1 for a symplectic map, and the map's volume is multiplied by
        :math:`c^D` if the defect is 0.
    defect : float
        :math:`\|J^\top\Omega J - c\,\Omega\|_F/\|J\|_F^2`; rounding is some 1e-16 in float64.
        At most 1, of any multiple of J the same, and 0 for J = 0.

    Raises
    ------
    InputError
        If J is not a finite real matrix of floats, square with an even number of rows, or so large
        that c overflows.

    References
    ----------
    McLachlan and Perlmutter (2001); França, Jordan and Vidal (2021).

    Examples
    --------
    >>> import torch
    >>> from gdflows.walking import conformal_factor
    >>> turned = torch.tensor([[0.8, 0.6], [-0.6, 0.8]]).double()
    >>> [round(x, 6) for x in conformal_factor(turned)]  # symplectic
    [1.0, 0.0]
    """
    if not isinstance(jacobian, Tensor) or not jacobian.is_floating_point():
        kind = getattr(jacobian, "dtype", type(jacobian).__name__)
        raise InputError(f"jacobian must be a tensor of real floats, got {kind}.")
    if jacobian.ndim != 2 or jacobian.shape[0] != jacobian.shape[1] or jacobian.shape[0] % 2:
        raise InputError(f"jacobian must have shape (2D, 2D), got {tuple(jacobian.shape)}.")
    if not len(jacobian) or not bool(torch.isfinite(jacobian).all()):
        raise InputError("jacobian must hold finite numbers.")
    dim = len(jacobian) // 2
    omega = torch.zeros_like(jacobian)
    omega[:dim, dim:] = torch.eye(dim, dtype=omega.dtype, device=omega.device)
    omega = omega - omega.T
    scale = float(jacobian.abs().max())
    if scale == 0:
        return 0.0, 0.0
    unit = jacobian / scale  # its squares neither overflow nor vanish
    form = unit.T @ omega @ unit
    factor = float((form * omega).sum() / (2 * dim))
    defect = torch.linalg.matrix_norm(form - factor * omega)
    if not math.isfinite(factor * scale * scale):
        raise InputError("jacobian is too large: its conformal factor overflows; scale it down.")
    return factor * scale * scale, float(defect / torch.linalg.matrix_norm(unit) ** 2)
