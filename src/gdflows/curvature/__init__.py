"""Curvature of a loss without its Hessian."""

from gdflows.curvature.eigen import Eigenpairs, bottom_eigenpairs, top_eigenpairs

__all__ = ["Eigenpairs", "bottom_eigenpairs", "top_eigenpairs"]
