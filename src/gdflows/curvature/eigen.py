"""The extreme eigenpairs of the Hessian at one point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse.linalg
import torch
from torch import Tensor

from gdflows.errors import InputError
from gdflows.objective import Objective, Point

DENSE = 200  # up to here a full eigendecomposition is quicker than any iteration


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """Eigenpairs of a Hessian, and how far to trust them.

    Attributes
    ----------
    values : Tensor
        Eigenvalues, shape ``(k,)``, the extreme one first.
    vectors : Tensor
        Unit eigenvectors as rows, shape ``(k, D)``.
    residuals : Tensor
        ``‖H u − λ u‖``, shape ``(k,)``. Some eigenvalue lies within that of each value.
    hvps : int
        Hessian-vector products spent.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    hvps: int


def top_eigenpairs(
    objective: Objective, theta: Tensor, k: int = 1, *, tol: float = 1e-4
) -> Eigenpairs:
    """The k algebraically largest eigenvalues of ∇²E(θ), with eigenvectors.

    The largest is the *sharpness*. Algebraically largest, not largest in magnitude: a network's
    Hessian has negative eigenvalues too.

    Parameters
    ----------
    objective : Objective
        The loss.
    theta : Tensor
        Where, shape ``(D,)``, real.
    k : int
        How many.
    tol : float
        Relative accuracy asked of the eigenvalues.

    Returns
    -------
    Eigenpairs
        In descending order.

    Raises
    ------
    InputError
        If k is not in 1 … D.

    References
    ----------
    Implicitly restarted Lanczos (ARPACK), through ``scipy.sparse.linalg.eigsh``.
    """
    return extreme_eigenpairs(objective.at(_real(theta)), k, "LA", tol)


def bottom_eigenpairs(
    objective: Objective, theta: Tensor, k: int = 1, *, tol: float = 1e-4
) -> Eigenpairs:
    """The k algebraically smallest eigenvalues of ∇²E(θ), in ascending order.

    Arguments and result as for :func:`top_eigenpairs`.
    """
    return extreme_eigenpairs(objective.at(_real(theta)), k, "SA", tol)


def extreme_eigenpairs(point: Point, k: int, which: str, tol: float) -> Eigenpairs:
    """Eigenpairs at a point whose gradient is already paid for; ``which`` is "LA" or "SA"."""
    theta, dim = point.theta, point.theta.numel()
    if not 1 <= k <= dim:
        raise InputError(f"k must be in 1 … {dim}, got {k}.")
    _real(theta)
    if dim <= max(DENSE, k + 1):
        hessian = point.hvp(torch.eye(dim, dtype=theta.dtype, device=theta.device))
        values, columns = torch.linalg.eigh((hessian + hessian.T) / 2)
        order = slice(-k, None) if which == "LA" else slice(None, k)
        values, vectors, hvps = values[order], columns.T[order], dim
        images = vectors @ hessian
    else:
        hvps = 0

        def product(v: np.ndarray) -> np.ndarray:
            nonlocal hvps
            hvps += 1
            v = torch.from_numpy(np.ascontiguousarray(v.reshape(-1))).to(theta.device, theta.dtype)
            return point.hvp(v).to("cpu", torch.float64).numpy()

        operator = scipy.sparse.linalg.LinearOperator((dim, dim), product, dtype=np.float64)
        # A fixed start makes the answer reproducible; random, so that it misses no eigenvector.
        start = np.random.default_rng(0).standard_normal(dim)
        values, columns = scipy.sparse.linalg.eigsh(operator, k=k, which=which, tol=tol, v0=start)
        values = torch.from_numpy(values).to(theta.device, theta.dtype)
        vectors = torch.from_numpy(columns.T.copy()).to(theta.device, theta.dtype)
        images = point.hvp(vectors)
        hvps += k
    residuals = torch.linalg.vector_norm(images - values[:, None] * vectors, dim=1)
    order = torch.argsort(values, descending=which == "LA")
    return Eigenpairs(values[order], vectors[order], residuals[order], hvps)


def _real(theta: Tensor) -> Tensor:
    if theta.is_complex():
        raise InputError("Eigenvalues are ordered at real θ only; pass theta.real.")
    return theta
