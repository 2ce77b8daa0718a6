"""What to look at on the way. A probe is a function of a point; it never changes the path.

Hand them to :meth:`gdflows.Trajectory.observe`. Any function of a
:class:`gdflows.Point` that returns a number, or numbers by name, is a probe.
"""

from __future__ import annotations

import torch

from gdflows.curvature.eigen import extreme_eigenpairs
from gdflows.errors import InputError
from gdflows.objective import FlatModule, Point


def loss(point: Point) -> float:
    """The loss E(θ)."""
    return float(point.value)


def gradient_norm(point: Point) -> float:
    """‖∇E(θ)‖."""
    return float(torch.linalg.vector_norm(point.grad))


def sharpness(point: Point) -> float:
    """The largest eigenvalue of ∇²E(θ), to a relative 1e-4."""
    return float(extreme_eigenpairs(point, 1, "LA", 1e-4).values[0])


def smallest_eigenvalue(point: Point) -> float:
    """The algebraically smallest eigenvalue of ∇²E(θ), to a relative 1e-4.

    Minus its negative part is the rate at which neighbouring trajectories of the gradient flow
    can part.
    """
    return float(extreme_eigenpairs(point, 1, "SA", 1e-4).values[0])


def layer_gradient_norms(point: Point) -> dict[str, float]:
    """‖∂E/∂W‖ (Frobenius) for each parameter tensor of a module, by its name."""
    if not isinstance(point.objective, FlatModule):
        raise InputError("Only an objective made by Objective.from_module has layers.")
    parts = point.objective.unflatten(point.grad)
    return {name: float(torch.linalg.vector_norm(g)) for name, g in parts.items()}
