"""A function of the Hessian times a vector, φ(H)v, without the Hessian."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from gdflows.curvature.subspace import Krylov
from gdflows.errors import ConvergenceError, InputError, SingularityError
from gdflows.objective import LARGEST_DENSE, Objective, Point

DENSE = 32  # up to here the whole Hessian is quicker than a Krylov space
METHODS = ("auto", "krylov", "dense")

Function = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Applied:
    """φ(H)v, and how far to trust it.

    Attributes
    ----------
    value : Tensor
        φ(H)v, shape ``(D,)``; complex if θ or φ is.
    error : float
        Estimated error, relative to ‖φ(H)v‖: the last change of a Krylov space, which has so far
        always been larger than the error itself; rounding times the eigenbasis' condition number
        of a dense computation.
    hvps : int
        Hessian-vector products spent.
    eigenvalues : Tensor
        Of the Hessian (dense) or of its projection to the Krylov space (Ritz values), descending
        by real part. The first approximates the sharpness, from below.
    """

    value: Tensor = field(repr=False)
    error: float
    hvps: int
    eigenvalues: Tensor


def apply_function(
    objective: Objective,
    theta: Tensor,
    phi: Function,
    v: Tensor,
    *,
    tol: float = 1e-6,
    max_hvps: int = 200,
    method: str = "auto",
    full_output: bool = False,
) -> Tensor | Applied:
    r"""A function of the Hessian times a vector, :math:`\varphi(\nabla^2E(\theta))\,v`.

    Parameters
    ----------
    objective : Objective
        The loss.
    theta : Tensor
        Where, shape ``(D,)``; complex if the loss is holomorphic.
    phi : callable
        φ, from an array of eigenvalues to an array of the same shape; analytic where the
        eigenvalues are. Called with real values at real θ, may return complex ones.
    v : Tensor
        Shape ``(D,)``, like θ.
    tol : float
        Relative accuracy asked for.
    max_hvps : int
        The largest Krylov space to try.
    method : {"auto", "krylov", "dense"}
        ``"krylov"``: Lanczos' space at real θ, Arnoldi's at complex θ, where the Hessian is
        symmetric but not Hermitian; both orthogonalised in full. One Hessian-vector product a
        dimension, some twenty for a tolerance of 1e-6. ``"dense"``: the whole Hessian and its
        eigenvectors. ``"auto"``: dense up to 32 parameters.
    full_output : bool
        Return an :class:`Applied`, with the error estimate and the cost.

    Returns
    -------
    Tensor or Applied
        Shape ``(D,)``.

    Raises
    ------
    SingularityError
        If φ is infinite at an eigenvalue along which v has a component.
    ConvergenceError
        If ``max_hvps`` products do not reach the tolerance.
    InputError
        For arguments that cannot be used.

    References
    ----------
    Higham, Functions of Matrices, sections 4.5 and 13.2; Saad (1992), "Analysis of some Krylov
    subspace approximations to the matrix exponential operator".
    """
    applied = function_at(objective.at(theta), phi, v, tol=tol, max_hvps=max_hvps, method=method)
    return applied if full_output else applied.value


def function_at(
    point: Point,
    phi: Function,
    v: Tensor,
    *,
    tol: float = 1e-6,
    max_hvps: int = 200,
    method: str = "auto",
) -> Applied:
    """As :func:`apply_function`, at a point whose gradient is already paid for."""
    (v,) = point.objective._vectors(point.theta, v, "v")
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
    if not tol > 0:
        raise InputError(f"tol must be positive, got {tol}.")
    if max_hvps < 1:
        raise InputError(f"max_hvps must be at least 1, got {max_hvps}.")
    size = float(torch.linalg.vector_norm(v))
    if size == 0:
        return Applied(torch.zeros_like(v), 0.0, 0, torch.zeros(0, dtype=v.dtype))
    if method == "dense" or (method == "auto" and v.numel() <= DENSE):
        return _dense(point, phi, v, tol)
    return _krylov(point, phi, v, size, tol, max_hvps)


def _dense(point: Point, phi: Function, v: Tensor, tol: float) -> Applied:
    dim = v.numel()
    if dim > LARGEST_DENSE:
        raise InputError(f"A dense Hessian of {dim:,} parameters does not fit; use 'krylov'.")
    h = point.hvp(torch.eye(dim, dtype=v.dtype, device=v.device)).cpu().numpy()
    basis, coefficients, values, images, loss = _spectral((h + h.T) / 2, phi, v.cpu().numpy())
    if loss > max(tol, 1e-8):
        raise ConvergenceError(
            "The Hessian at this complex θ is close to having no basis of eigenvectors, and the "
            f"dense computation would lose all but {max(0.0, -np.log10(loss)):.0f} digits: use "
            "method='krylov', or restart from the real part of θ."
        )
    value = torch.from_numpy(np.ascontiguousarray(basis @ (images * coefficients)))
    return Applied(_like(value, v), loss, dim, _descending(values, v))


def _krylov(point: Point, phi: Function, v: Tensor, size: float, tol: float, limit: int) -> Applied:
    dim = v.numel()
    limit = min(limit, dim)
    space = Krylov(point.hvp, v)
    previous, change, singular = np.zeros(0), np.inf, None
    for m in range(1, limit + 1):
        space.grow()
        start = np.zeros(m, space.small.dtype)
        start[0] = size
        exact = space.invariant
        try:
            vectors, coefficients, values, images, loss = _spectral(space.small, phi, start)
        except SingularityError as e:
            # A Ritz value may pass by a singularity; one that stays there is an eigenvalue.
            stays = singular is not None and abs(singular - e.eigenvalue) <= 1e-8 * abs(singular)
            if exact or stays:
                raise
            singular, previous, change = e.eigenvalue, np.zeros(0), np.inf
        else:
            singular = None
            y = vectors @ (images * coefficients)
            change = np.linalg.norm(y - np.pad(previous, (0, m - len(previous))))
            length = np.linalg.norm(y)
            if exact or change <= tol * length:
                error = loss if exact else max(loss, change / length if length > 0 else 0.0)
                wide = torch.from_numpy(np.ascontiguousarray(y)).to(v.device)
                value = _combine(wide, space.basis)
                return Applied(value, float(error), m, _descending(values, v))
            previous = y
    raise ConvergenceError(
        f"φ(H)v has not converged within {limit} Hessian-vector products: the last changed it by "
        f"{change / max(np.linalg.norm(previous), 1e-300):.1e}, {tol:.0e} was asked for. Raise "
        "max_hvps or tol; at complex θ, try a shorter time or a restart from the real part."
    )


def _spectral(a: np.ndarray, phi: Function, b: np.ndarray):
    """Eigenbasis of a, b in it, eigenvalues, φ of them, and the digits lost on the way.

    The basis is orthogonal for a real symmetric matrix. Any other is used through a linear
    solve: unit eigenvectors of a complex symmetric matrix are not orthogonal, and coefficients
    taken as inner products with them are wrong.
    """
    eps = np.finfo(a.dtype).eps
    if np.isrealobj(a):
        # divide and conquer, not scipy's default driver: some five times closer (to 1e-14)
        values, vectors = scipy.linalg.eigh(a, driver="evd")
        coefficients, loss = vectors.T @ b, eps
    else:
        values, vectors = scipy.linalg.eig(a)
        condition = np.linalg.cond(vectors)
        loss = eps * condition
        if not loss < 1:  # defective: leave the verdict to the caller
            return vectors, np.zeros_like(b), values, np.zeros_like(values), np.inf
        coefficients = np.linalg.solve(vectors, b)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        images = np.asarray(phi(values))
    if images.shape != values.shape:
        raise InputError(
            f"phi returned shape {images.shape} for {values.shape} eigenvalues; "
            "it must map an array to an array of the same shape."
        )
    bad = ~np.isfinite(images)
    if bad.any():
        # Nothing along an eigenvector is nothing after φ, whatever φ is there.
        active = bad & (np.abs(coefficients) > 100 * eps * np.linalg.norm(b))
        if active.any():
            worst = values[np.argmax(np.abs(coefficients) * active)]
            raise SingularityError(
                f"The function of the Hessian is infinite at its eigenvalue {worst:.10g}, "
                "and the vector has a component along it.",
                eigenvalue=worst.item(),
            )
        images = np.where(bad, 0, images)
    return vectors, coefficients, values, images, loss


def _combine(y: Tensor, basis: Tensor) -> Tensor:
    """Σ yᵢ basisᵢ, complex if either is."""
    if y.is_complex() and not basis.is_complex():
        narrow = basis.dtype
        return torch.complex(y.real.to(narrow) @ basis, y.imag.to(narrow) @ basis)
    return y.to(basis.dtype) @ basis


def _like(value: Tensor, v: Tensor) -> Tensor:
    dtype = v.dtype.to_complex() if value.is_complex() else v.dtype
    return value.to(v.device, dtype)


def _descending(values: np.ndarray, v: Tensor) -> Tensor:
    return _like(torch.from_numpy(values[np.argsort(-values.real, kind="stable")].copy()), v)
