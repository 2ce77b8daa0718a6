"""The extreme eigenpairs of the Hessian at one point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gdflows.curvature.subspace import Solved, largest
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
    vectors: Tensor = field(repr=False)
    residuals: Tensor
    hvps: int


def top_eigenpairs(
    objective: Objective,
    theta: Tensor,
    k: int = 1,
    *,
    tol: float = 1e-4,
    scale: Tensor | None = None,
) -> Eigenpairs:
    r"""The k algebraically largest eigenvalues of ∇²E(θ), with eigenvectors.

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
        Relative accuracy asked of the eigenvalues. It is reached by estimate; the residuals say
        what is certain.
    scale : Tensor, optional
        Entries s of a diagonal matrix S, shape ``(D,)``: eigenpairs of S H S. With the roots of
        :func:`gdflows.optim.preconditioner` the first is the *preconditioned sharpness*.

    Returns
    -------
    Eigenpairs
        In descending order.

    Raises
    ------
    InputError
        If k is not in 1 … D.
    ConvergenceError
        If a thousand products do not reach the accuracy.

    Notes
    -----
    Lanczos' method with full orthogonalisation, from the gradient and a random vector in equal
    parts: the gradient leans towards the top eigenvectors, the random part makes sure that none
    is missed by symmetry. An eigenvalue that occurs more than once is found once.

    References
    ----------
    Saad, *Numerical Methods for Large Eigenvalue Problems*, chapter 6.
    """
    return extreme_eigenpairs(objective.at(require_real(theta)), k, "LA", tol, scale=scale)


def bottom_eigenpairs(
    objective: Objective, theta: Tensor, k: int = 1, *, tol: float = 1e-4
) -> Eigenpairs:
    """The k algebraically smallest eigenvalues of ∇²E(θ), in ascending order.

    Arguments and result as for :func:`top_eigenpairs`.
    """
    return extreme_eigenpairs(objective.at(require_real(theta)), k, "SA", tol)


def extreme_eigenpairs(
    point: Point, k: int, which: str, tol: float, *, scale: Tensor | None = None
) -> Eigenpairs:
    """Eigenpairs at a point whose gradient is already paid for; ``which`` is "LA" or "SA"."""
    theta, dim = point.theta, point.theta.numel()
    if not 1 <= k <= dim:
        raise InputError(f"k must be in 1 … {dim}, got {k}.")
    require_real(theta)
    sign, product = (1 if which == "LA" else -1), scaled_product(point, scale)
    if dim <= max(DENSE, k + 1):
        hessian = product(torch.eye(dim, dtype=theta.dtype, device=theta.device))
        values, columns = torch.linalg.eigh(sign * (hessian + hessian.T) / 2)
        values, vectors = values.flip(0)[:k], columns.T.flip(0)[:k]
        images = sign * (vectors @ hessian)
        residuals = torch.linalg.vector_norm(images - values[:, None] * vectors, dim=1)
        return Eigenpairs(sign * values, vectors, residuals, dim)
    return pairs_of(cold(lambda v: sign * product(v), point, k, tol), k, sign, theta)


def scaled_product(point: Point, scale: Tensor | None) -> Callable[[Tensor], Tensor]:
    """v → S H S v."""
    if scale is None:
        return point.hvp
    if scale.shape != point.theta.shape:
        raise InputError(f"scale must have θ's shape {tuple(point.theta.shape)}.")
    scale = scale.to(point.theta)
    return lambda v: scale * point.hvp(scale * v)


def cold(product, point: Point, k: int, tol: float, *, keep: int | None = None, seed: int = 0):
    """A search for the top that knows nothing but the gradient."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(point.theta.numel(), generator=generator, dtype=torch.float64)
    noise = noise.to(point.theta)
    length = torch.linalg.vector_norm(point.grad)
    start = noise / torch.linalg.vector_norm(noise)
    if length > 0:
        start = start + point.grad / length
    return largest(product, start, k, tol, keep=keep)


def pairs_of(solved: Solved, k: int, sign: int, theta: Tensor) -> Eigenpairs:
    """The first k of them, in θ's dtype."""
    rows = solved.kept.rows[:k]
    vectors = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    values, residuals = solved.values[:k].to(theta), solved.residuals[:k].to(theta)
    return Eigenpairs(sign * values, vectors, residuals, solved.products)


def require_real(theta: Tensor) -> Tensor:
    """θ, or an error if it is complex."""
    if theta.is_complex():
        raise InputError("Eigenvalues are ordered at real θ only; pass theta.real.")
    return theta
