"""Curvature of a loss without its Hessian."""

from gdflows.curvature.eigen import Eigenpairs, bottom_eigenpairs, top_eigenpairs
from gdflows.curvature.function import Applied, apply_function
from gdflows.curvature.tracking import Tracked, Tracker

__all__ = [
    "Applied",
    "Eigenpairs",
    "Tracked",
    "Tracker",
    "apply_function",
    "bottom_eigenpairs",
    "top_eigenpairs",
]
