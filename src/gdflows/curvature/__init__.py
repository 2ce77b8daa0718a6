"""Curvature of a loss without its Hessian."""

from gdflows.curvature.eigen import Eigenpairs, bottom_eigenpairs, top_eigenpairs
from gdflows.curvature.function import Applied, apply_function

__all__ = ["Applied", "Eigenpairs", "apply_function", "bottom_eigenpairs", "top_eigenpairs"]
