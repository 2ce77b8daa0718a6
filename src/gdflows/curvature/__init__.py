"""Curvature of a loss without its Hessian."""

from gdflows.curvature.density import (
    BatchSharpness,
    SpectralDensity,
    batch_sharpness,
    spectral_density,
)
from gdflows.curvature.eigen import Eigenpairs, bottom_eigenpairs, top_eigenpairs
from gdflows.curvature.function import Applied, apply_function
from gdflows.curvature.tracking import Tracked, Tracker

__all__ = [
    "Applied",
    "BatchSharpness",
    "Eigenpairs",
    "SpectralDensity",
    "Tracked",
    "Tracker",
    "apply_function",
    "batch_sharpness",
    "bottom_eigenpairs",
    "spectral_density",
    "top_eigenpairs",
]
