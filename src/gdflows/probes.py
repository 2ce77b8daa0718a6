"""What to look at on the way. A probe is a function of a point; it never changes the path.

Hand them to :meth:`gdflows.Trajectory.observe`. Any function of a
:class:`gdflows.Point` that returns a number, or numbers by name, is a probe.
"""

from __future__ import annotations

import torch

from gdflows.curvature.eigen import extreme_eigenpairs
from gdflows.errors import InputError
from gdflows.objective import FlatModule, Point
from gdflows.problems.balance import balancedness, layer_names


def loss(point: Point) -> float:
    """The loss E(θ).

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> gf.probes.loss(gf.problems.quadratic([1.0, 3.0]).at(torch.ones(2).double()))
    2.0
    """
    return float(_checked(point).value)


def gradient_norm(point: Point) -> float:
    """‖∇E(θ)‖.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> gf.probes.gradient_norm(gf.problems.quadratic([3.0, 4.0]).at(torch.ones(2).double()))
    5.0
    """
    return float(torch.linalg.vector_norm(_checked(point).grad))


def sharpness(point: Point) -> float:
    """The largest eigenvalue of ∇²E(θ), to a relative 1e-4.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.problems.quadratic([-5.0, 3.0])
    >>> round(gf.probes.sharpness(E.at(torch.ones(2).double())), 3)
    3.0
    """
    return float(extreme_eigenpairs(_checked(point), 1, "LA", 1e-4).values[0])


def smallest_eigenvalue(point: Point) -> float:
    """The algebraically smallest eigenvalue of ∇²E(θ), to a relative 1e-4.

    Minus its negative part is the rate at which neighbouring trajectories of the gradient flow
    can part.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.problems.quadratic([-5.0, 3.0])
    >>> round(gf.probes.smallest_eigenvalue(E.at(torch.ones(2).double())), 3)
    -5.0
    """
    return float(extreme_eigenpairs(_checked(point), 1, "SA", 1e-4).values[0])


def layer_gradient_norms(point: Point) -> dict[str, float]:
    """‖∂E/∂W‖ (Frobenius) for each parameter tensor of a module, by its name.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> model = gf.problems.mlp([3, 4, 2], "tanh", seed=0)
    >>> data = torch.ones(5, 3), torch.ones(5, 2)
    >>> E = gf.Objective.from_module(model, gf.problems.squared_error, data)
    >>> list(gf.probes.layer_gradient_norms(E.at(E.theta0)))
    ['linear1.weight', 'linear1.bias', 'linear2.weight', 'linear2.bias']
    """
    if not isinstance(point.objective, FlatModule):
        raise InputError("Only an objective made by Objective.from_module has layers.")
    parts = point.objective.unflatten(point.grad)
    return {name: float(torch.linalg.vector_norm(g)) for name, g in parts.items()}


def imbalance(point: Point, *, units: bool = False) -> dict[str, float]:
    """How far each pair of neighbouring layers is from balance; the gradient flow conserves it.

    The Frobenius norm of :func:`gdflows.problems.balancedness`, by the names of the two layers,
    as in ``"linear1, linear2"``. For layers with a ReLU between them, whose units alone have
    conserved quantities, the norm of those: ``units=True``.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> model = gf.problems.deep_linear([3, 4, 2], init="balanced")
    >>> data = torch.ones(5, 3), torch.ones(5, 2)
    >>> E = gf.Objective.from_module(model, gf.problems.squared_error, data)
    >>> max(gf.probes.imbalance(E.at(E.theta0)).values()) < 1e-5
    True
    """
    names = layer_names(point.objective)
    found = balancedness(point.objective, point.theta, units=units)
    return {
        f"{name}, {after}": float(torch.linalg.vector_norm(q))
        for name, after, q in zip(names, names[1:], found, strict=False)
    }


def _checked(point: Point) -> Point:
    if not isinstance(point, Point):
        raise InputError(
            f"A probe looks at a point, got {type(point).__name__}: for an objective E that is "
            "E.at(theta), for instance E.at(E.theta0); a model becomes one by "
            "gdflows.Objective.from_module(model, loss, data)."
        )
    return point
