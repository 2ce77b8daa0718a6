"""Gradient descent kept stable by force, and what its swing about that path is predicted to be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gdflows.arguments import number, whole
from gdflows.curvature import Tracker
from gdflows.errors import ConvergenceError, InputError
from gdflows.flows.base import check_lr
from gdflows.objective import Objective, Point

TRIALS = 30  # of the projection; it usually takes three
EXACT = 1e-3  # of tol: accuracy of the eigenvalue, whose eigenvector is as good as its root


@dataclass(frozen=True, eq=False)
class StablePoint:
    r"""A point θ† of the stable set, with what the cubic model needs to know of it.

    Attributes
    ----------
    point : Point
        θ†, with its loss, gradient and Hessian.
    vector : Tensor
        u, the unit eigenvector of the sharpness, shape ``(D,)``; along a path it does not flip.
    slope : Tensor
        :math:`\nabla\lambda^\perp`, the gradient of the sharpness less its part along u,
        shape ``(D,)``.
    sharpness, second : float
        The two largest eigenvalues λ, λ₂ of the Hessian.
    on_edge : bool
        Whether the constraint λ ≤ 2/h holds with equality.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.problems.valley(kappa=0.2, y_star=44.0)
    >>> inside = gf.flows.StableSet(E, lr=0.05).project(torch.tensor([0.0, 30.0]).double())
    >>> inside.on_edge
    False
    """

    point: Point
    vector: Tensor
    slope: Tensor
    sharpness: float
    second: float
    on_edge: bool

    @property
    def theta(self) -> Tensor:
        """θ†, shape ``(D,)``."""
        return self.point.theta

    @property
    def sharpening(self) -> float:
        r"""α = −∇E·∇λ⊥, the rate at which the gradient flow would raise the sharpness."""
        return -float(self.point.grad @ self.slope)

    @property
    def stabilisation(self) -> float:
        r"""β = ‖∇λ⊥‖²."""
        return float(self.slope @ self.slope)

    @property
    def rest(self) -> float:
        """δ² = 2α/β, the square of the swing that holds the sharpness; 0 where it falls anyway."""
        return max(2 * self.sharpening / self.stabilisation, 0.0) if self.on_edge else 0.0


class StableSet:
    r"""The set on which gradient descent is stable, and projected gradient descent on it.

    .. math:: M = \{\theta : \lambda(\theta) \le \tfrac2h,\; u(\theta)\cdot\nabla E(\theta) = 0\}

    with λ the largest eigenvalue of the Hessian and u its eigenvector: not too sharp, and on the
    floor of the sharpest direction.

    Parameters
    ----------
    objective : Objective
        The loss.
    lr : float
        The learning rate h of gradient descent.
    tol : float
        How exactly a projected point lies in M: of abs(hλ − 2), and of abs(hu·∇E) relative
        to 1 + ‖θ‖.

    Notes
    -----
    A projection takes about three rounds, each with a gradient, the eigenpair (some ten
    Hessian-vector products) and a third-derivative contraction.

    References
    ----------
    Damian, Nichani and Lee (2023), "Self-stabilization: the implicit bias of gradient descent at
    the edge of stability", section 4 (the set), definition 3 (the constrained trajectory).

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.problems.valley(kappa=0.2, y_star=44.0)
    >>> stable = gf.flows.StableSet(E, lr=0.05)
    >>> point = stable.project(torch.tensor([0.0, 42.0]).double())
    >>> round(point.sharpness, 3)  # 2/h
    40.0
    """

    def __init__(self, objective: Objective, lr: float, *, tol: float = 1e-6):
        if objective.dim < 2:
            raise InputError(
                "A stable set needs a floor beside the sharp direction: two parameters or more."
            )
        self.objective, self.lr = objective, check_lr(lr)
        self.tol = number(tol, "tol", positive=True)
        self._tracker = Tracker(objective, 2, tol=EXACT * self.tol)
        self._last: Tensor | None = None

    def project(self, theta: Tensor) -> StablePoint:
        r"""A point of M next to θ, shape ``(D,)``.

        Newton's method along u and ∇λ⊥, both where it stands; down the sharpness only as far as
        needed. For a θ at a small distance d from M that is the nearest point up to O(d²), but
        for one thing: the gradient of u·∇E is taken to be λu, without the turning of u.

        Raises
        ------
        InputError
            For a complex θ.
        ConvergenceError
            If there is no such point that is found: θ is too far from M, or two eigenvalues
            cross there, where λ has no gradient.
        """
        if theta.is_complex():
            raise InputError("The stable set is real; project theta.real.")
        edge, at, lowered = 2 / self.lr, theta, 0.0
        size = 1 + float(torch.linalg.vector_norm(theta))
        for _ in range(TRIALS):
            found = self._look(at, on_edge=lowered > 0)
            off = float(found.vector @ found.point.grad)
            excess = found.sharpness - edge
            wrong = abs(excess) if lowered > 0 else excess
            if abs(off) * self.lr <= self.tol * size and self.lr * wrong <= self.tol:
                self._last = found.vector
                return found
            across = -off / found.sharpness if found.sharpness > 0 else 0.0
            excess += float(self._gradient @ found.vector) * across
            down = max(excess / found.stabilisation, -lowered) if found.stabilisation > 0 else 0.0
            lowered += down
            at = at + across * found.vector - down * found.slope
            if not (math.isfinite(across) and math.isfinite(down)):
                break
        raise ConvergenceError(
            f"No point of the stable set was found near θ (hλ = {self.lr * found.sharpness:.4g}, "
            f"the next {self.lr * found.second:.4g}, h u·∇E = {self.lr * off:.1e}). Do two "
            "eigenvalues cross there, or is θ far beyond the edge?"
        )

    def descend(self, theta: Tensor, steps: int) -> list[StablePoint]:
        """The constrained trajectory: projected gradient descent from the projection of θ.

        Parameters
        ----------
        theta : Tensor
            Where gradient descent is, shape ``(D,)``.
        steps : int
            How many.

        Returns
        -------
        list of StablePoint
            Of length ``steps + 1``.

        Raises
        ------
        InputError, ConvergenceError
            As :meth:`project`.
        """
        path = [self.project(theta)]
        for _ in range(whole(steps, "steps")):
            here = path[-1]
            path.append(self.project(here.theta - self.lr * here.point.grad))
        return path

    def _look(self, theta: Tensor, on_edge: bool) -> StablePoint:
        point = self.objective.at(theta)
        pairs = self._tracker.update(point)
        u = pairs.vectors[0]
        if self._last is not None and torch.dot(u, self._last) < 0:
            u = -u
        self._gradient = point.third(u, u)
        slope = self._gradient - torch.dot(self._gradient, u) * u
        first, second = pairs.values.tolist()
        return StablePoint(point, u, slope, first, second, on_edge)


def predicted_swing(path: Sequence[StablePoint], displacement: Tensor, lr: float) -> Tensor:
    r"""Gradient descent's displacement from its constrained trajectory, predicted.

    With :math:`x = u\cdot v` and :math:`y = \nabla\lambda^\perp\cdot v`, all at θ†ₖ, and P the
    projection off the next u,

    .. math:: v_{k+1} = -(1 + hy_k)\,x_k\,u_{k+1} + P\Bigl[(I - hH_k)(v_k - x_ku_k)
              + \tfrac h2\,(\delta_k^2 - x_k^2)\,\nabla\lambda_k^\perp\Bigr].

    Where the trajectory is below the edge the factor is 1 − hλ − hy.

    Parameters
    ----------
    path : sequence of StablePoint
        The constrained trajectory, from :meth:`StableSet.descend`.
    displacement : Tensor
        Where gradient descent starts, less ``path[0].theta``; shape ``(D,)``.
    lr : float
        The learning rate h.

    Returns
    -------
    Tensor
        v₀, v₁, …, shape ``(len(path), D)``. It takes a Hessian-vector product a step.

    Raises
    ------
    InputError
        For an empty path, or a displacement of another shape.

    References
    ----------
    Damian, Nichani and Lee (2023), definition 4 ("predicted dynamics").

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.problems.valley(kappa=0.2, y_star=44.0)
    >>> stable = gf.flows.StableSet(E, lr=0.05)
    >>> path = stable.descend(torch.tensor([0.0, 39.9]).double(), steps=4)
    >>> gf.flows.predicted_swing(path, torch.tensor([0.1, 0.0]).double(), lr=0.05).shape
    torch.Size([5, 2])
    """
    lr = check_lr(lr)
    if not path or displacement.shape != path[0].theta.shape:
        raise InputError(
            "predicted_swing needs the points of StableSet.descend, and a displacement of the "
            f"same shape as one of them; got {len(path)} points and {tuple(displacement.shape)}."
        )
    v, found = displacement, [displacement]
    for here, following in zip(path, path[1:], strict=False):
        x = torch.dot(v, here.vector)
        y = torch.dot(v, here.slope)
        rest = v - x * here.vector
        rest = rest - lr * here.point.hvp(rest) + lr / 2 * (here.rest - x**2) * here.slope
        u = following.vector
        v = rest - torch.dot(rest, u) * u + (1 - lr * here.sharpness - lr * y) * x * u
        found.append(v)
    return torch.stack(found)
