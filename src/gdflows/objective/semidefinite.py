"""What may be a covariance: variances, or a matrix that is symmetric and positive semidefinite."""

from __future__ import annotations

import torch
from torch import Tensor

from gdflows.errors import InputError

NEGATIVE = 1e-9  # of the largest eigenvalue: below it a negative one is rounding


def require_finite(x: Tensor) -> None:
    """Refuse a covariance with an infinity or a NaN in it."""
    if not bool(torch.isfinite(x).all()):
        raise InputError("The covariance is not finite.")


def factor_of(covariance: Tensor) -> Tensor:
    """A root of variances ``()``, ``(D,)``, or F of a matrix F Fᵀ ``(D, D)``; in float64.

    Raises
    ------
    InputError
        That says why there is none: not finite, a negative variance, not symmetric, a negative
        eigenvalue.
    """
    covariance = covariance.cpu().double()  # the dtype last: there are devices without float64
    require_finite(covariance)
    if covariance.ndim < 2:
        if bool((covariance < 0).any()):
            raise InputError(
                f"The covariance has a negative variance, {float(covariance.min()):.3g}: pass "
                "variances, and not slopes or logarithms."
            )
        return covariance.sqrt()
    size = float(covariance.abs().max())
    if float((covariance - covariance.T).abs().max()) > NEGATIVE * size:
        raise InputError("The covariance is not symmetric: pass (Σ + Σᵀ)/2.")
    values, columns = torch.linalg.eigh((covariance + covariance.T) / 2)
    if float(values[0]) < -NEGATIVE * max(size, float(values[-1])):
        raise InputError(
            f"The covariance is not positive semidefinite: it has the eigenvalue "
            f"{float(values[0]):.3g} (and the largest is {float(values[-1]):.3g})."
        )
    kept = values > 0
    return columns[:, kept] * values[kept].sqrt() if bool(kept.any()) else columns[:, :1] * 0
