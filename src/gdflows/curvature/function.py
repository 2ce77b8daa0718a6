"""A function of the Hessian times a vector, φ(H)v, without the Hessian."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from gdflows.arguments import number, whole
from gdflows.curvature.eigen import require_precise
from gdflows.curvature.krylov import Krylov
from gdflows.curvature.units import Operator, double, narrow
from gdflows.errors import ConvergenceError, InputError, NonFiniteError, SingularityError
from gdflows.lengths import unit_vector
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
        Estimated error, relative to ‖φ(H)v‖. The larger of two: the last change of a Krylov
        space, which has so far always been larger than its error; and what rounding does in
        θ's dtype, to the eigenvalues (by φ's slope), to v's parts along the eigenvectors (where
        they cancel, or φ is large along a small one), to an eigenbasis that is not orthogonal.
    hvps : int
        Hessian-vector products spent.
    eigenvalues : Tensor
        Of the Hessian (dense) or of its projection to the Krylov space (Ritz values), descending
        by real part. The first approximates the sharpness, from below.

    Examples
    --------
    >>> import numpy as np, torch, gdflows as gf
    >>> E, v = gf.problems.quadratic([1.0, 4.0]), torch.ones(2).double()
    >>> root = gf.curvature.apply_function(E, v, np.sqrt, v, full_output=True)
    >>> [round(x, 6) for x in root.value.tolist()], root.error < 1e-6
    ([1.0, 2.0], True)
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
        Relative accuracy asked for. What θ's dtype cannot hold is not sought: ``error`` says
        what was reached.
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
        If ``max_hvps`` products do not reach the tolerance, or rounding takes more than half of
        the digits.
    NonFiniteError
        If the result is larger or smaller than its dtype can hold.
    InputError
        For arguments that cannot be used.

    References
    ----------
    Higham, Functions of Matrices, sections 4.5 and 13.2; Saad (1992), "Analysis of some Krylov
    subspace approximations to the matrix exponential operator".

    Examples
    --------
    >>> import numpy as np, torch, gdflows as gf
    >>> E, v = gf.problems.quadratic([1.0, 3.0]), torch.ones(2).double()
    >>> found = gf.curvature.apply_function(E, v, np.exp, v)
    >>> [round(x, 4) for x in found.tolist()]  # e, and e³
    [2.7183, 20.0855]
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
    if not callable(phi):
        raise InputError(f"phi must be a function of an array, got {type(phi).__name__}.")
    tol, max_hvps = number(tol, "tol", positive=True), whole(max_hvps, "max_hvps")
    require_precise(point.theta)
    v, size = unit_vector(v)
    if size == 0:
        return Applied(torch.zeros_like(v), 0.0, 0, torch.zeros(0, dtype=v.dtype, device=v.device))
    if not np.isfinite(size):
        raise InputError("v must be finite.")
    if method == "dense" or (method == "auto" and v.numel() <= DENSE):
        return _dense(point, phi, v, size, tol)
    return _krylov(point, phi, v, size, tol, max_hvps)


def _dense(point: Point, phi: Function, v: Tensor, size: float, tol: float) -> Applied:
    dim = v.numel()
    if dim > LARGEST_DENSE:
        raise InputError(f"A dense Hessian of {dim:,} parameters does not fit; use 'krylov'.")
    product = Operator(point.hvp)
    h = double(product(torch.eye(dim, dtype=v.dtype, device=v.device))).numpy()
    eps = torch.finfo(v.dtype).eps
    seen = _Spectral((h + h.T) / 2, product.unit, phi, double(v).numpy(), eps)
    loss = seen.rounding()
    _refuse(loss, tol, eps, v)
    return Applied(_value(seen, size, None, v), loss, dim, _descending(seen.values, v))


def _krylov(point: Point, phi: Function, v: Tensor, size: float, tol: float, limit: int) -> Applied:
    limit = min(limit, v.numel())
    space = Krylov(Operator(point.hvp), v)
    eps = torch.finfo(v.dtype).eps
    fine = max(tol, 10 * eps)
    previous, change, singular = None, np.inf, None
    for m in range(1, limit + 1):
        space.grow()
        start = np.zeros(m, space.small.dtype)
        start[0] = 1.0
        exact = space.invariant
        try:
            seen = _Spectral(space.small, space.product.unit, phi, start, eps)
        except SingularityError as e:
            # A Ritz value may pass by a singularity; one that stays there is an eigenvalue.
            stays = singular is not None and abs(singular - e.eigenvalue) <= 1e-8 * abs(singular)
            if exact or stays:
                raise
            singular, previous, change = e.eigenvalue, None, np.inf
        else:
            singular = None
            change = seen.change(previous)
            if exact or change <= fine:
                loss = seen.rounding()
                _refuse(loss, tol, eps, v)
                error = float(loss if exact else max(loss, change))
                value = _value(seen, size, space, v)
                return Applied(value, error, m, _descending(seen.values, v))
            previous = seen
    if previous is not None and previous.length == 0:
        raise ConvergenceError(
            f"φ is 0 at all that {limit} Hessian-vector products show of the spectrum: φ(H)v is "
            "zero, or φ underflows. Rescale φ, or raise max_hvps."
        )
    raise ConvergenceError(
        f"φ(H)v has not converged within {limit} Hessian-vector products: the last changed it by "
        f"{change:.1e}, {tol:.0e} was asked for. Raise max_hvps or tol; at complex θ, try a "
        "shorter time or a restart from the real part."
    )


class _Spectral:
    """φ of a small matrix times a vector, by eigenvectors.

    The basis is orthogonal for a real symmetric matrix. Any other is used through a linear
    solve: unit eigenvectors of a complex symmetric matrix are not orthogonal, and coefficients
    taken as inner products with them are wrong.

    Parameters
    ----------
    a : ndarray
        The matrix, in units of ``unit``.
    b : ndarray
        The vector, of length 1.
    eps : float
        Rounding of the products that the matrix was made of.

    Attributes
    ----------
    values : ndarray
        Eigenvalues.
    y, length : ndarray, float
        The result is ``length * y``; y has length 1, or is 0.
    """

    def __init__(self, a: np.ndarray, unit: float, phi: Function, b: np.ndarray, eps: float):
        self.phi, self.eps, self.condition = phi, eps, 1.0
        if np.isrealobj(a):
            # divide and conquer, not scipy's default driver: some five times closer (to 1e-14)
            values, vectors = scipy.linalg.eigh(a, driver="evd")
            coefficients = vectors.T @ b
        else:
            values, vectors = scipy.linalg.eig(a)
            self.condition = np.linalg.cond(vectors)
            if not eps * self.condition < 1:  # defective
                self.condition, coefficients = np.inf, np.zeros_like(b)
            else:
                coefficients = np.linalg.solve(vectors, b)
        self.values, self.coefficients = values * unit, coefficients
        images = self._images(self.values)
        bad = ~np.isfinite(images)
        if bad.any():
            # Nothing along an eigenvector is nothing after φ, whatever φ is there.
            active = bad & (np.abs(coefficients) > 100 * eps)
            if active.any():
                worst = self.values[np.argmax(np.abs(coefficients) * active)]
                raise SingularityError(
                    f"The function of the Hessian is infinite at its eigenvalue {worst:.10g}, "
                    "and the vector has a component along it.",
                    eigenvalue=worst.item(),
                )
            images = np.where(bad, 0, images)
        self.good, self.images = ~bad, images
        # Scaled first: squares of what φ makes may leave the range of numbers.
        self.peak = float(np.abs(images).max()) or 1.0
        self.parts = images / self.peak * coefficients
        y = vectors @ self.parts
        largest = float(np.abs(y).max()) or 1.0
        y = y / largest
        norm = float(np.linalg.norm(y))
        self.y = y / (norm or 1.0)
        self.relative = norm * largest  # of the peak
        self.length = self.relative * self.peak

    def _images(self, values: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
            images = np.asarray(self.phi(values))
        if images.shape != values.shape:
            raise InputError(
                f"phi returned shape {images.shape} for {values.shape} eigenvalues; "
                "it must map an array to an array of the same shape."
            )
        return images

    def change(self, previous: _Spectral | None) -> float:
        """Distance from the result of a smaller space, relative to this one's length."""
        if not (self.length > 0 and np.isfinite(self.condition)):
            return np.inf
        if previous is None:
            return 1.0
        ratio = min(previous.length / self.length, 1e200)
        before = np.pad(previous.y, (0, len(self.y) - len(previous.y)))
        return float(np.linalg.norm(self.y - ratio * before))

    def rounding(self) -> float:
        """What rounding may have changed, relative to the result."""
        if not np.isfinite(self.condition):
            return np.inf
        if self.length == 0:
            return 0.0
        # Coefficients are exact to rounding of the whole vector; a zero comes of a symmetry.
        known = self.coefficients != 0
        noise = self.eps * np.linalg.norm(self.images[known] / self.peak)
        shift, moved = self.eps * np.abs(self.values).max(), 0.0
        for sign in (1, -1):
            there = self._images(self.values + sign * shift)
            with np.errstate(invalid="ignore", over="ignore"):
                steps = (there - self.images)[self.good] / self.peak * self.coefficients[self.good]
            size = np.linalg.norm(steps)
            moved = max(moved, size if np.isfinite(size) else np.inf)
        lost = max(self.eps, np.hypot(noise, moved) / self.relative)
        return float(lost * self.condition)


class RoundingError(ConvergenceError):
    """Rounding would take more than half of the digits of φ(H)v at this θ."""


def _refuse(loss: float, tol: float, eps: float, v: Tensor) -> None:
    """An error where rounding leaves less than half of the digits."""
    if loss <= max(tol, eps**0.5):
        return
    left = f"all but {max(0.0, -np.log10(loss)):.0f} digits"
    if v.is_complex():
        raise RoundingError(
            "The Hessian at this complex θ is close to having no basis of eigenvectors, or φ to "
            f"being infinite, and rounding in {v.dtype} would take {left}: use method='krylov', "
            "or restart from the real part of θ."
        )
    raise RoundingError(
        f"Rounding in {v.dtype} would take {left} of φ(H)v: φ is steep at an eigenvalue, or large "
        "where v has next to nothing. Use float64, a larger tol, or a tamer φ."
    )


def _value(seen: _Spectral, size: float, space: Krylov | None, v: Tensor) -> Tensor:
    """The result in v's dtype: Σ yᵢ times basis vectors, and its length; complex if anything is."""
    y = torch.from_numpy(np.ascontiguousarray(seen.y))
    real, dtype = v.dtype.to_real(), v.dtype
    if y.is_complex():
        dtype = v.dtype.to_complex()
    if seen.length == 0:
        return torch.zeros(v.shape, dtype=dtype, device=v.device)
    length, limits = seen.length * size, torch.finfo(dtype)
    if not limits.tiny <= length <= limits.max:
        raise NonFiniteError(
            f"φ(H)v has the length {length:.1e}, which {dtype} cannot hold. Rescale φ or v, or use "
            "float64."
        )
    y = y.to(dtype).to(v.device)
    if space is not None and y.is_complex() and not v.is_complex():
        y = torch.complex(space.combine(y.real.to(real)), space.combine(y.imag.to(real)))
    elif space is not None:
        y = space.combine(y.to(v.dtype))
    return y * length


def _descending(values: np.ndarray, v: Tensor) -> Tensor:
    ordered = torch.from_numpy(values[np.argsort(-values.real, kind="stable")].copy())
    dtype = v.dtype.to_complex() if ordered.is_complex() else v.dtype
    return narrow(ordered, v.new_empty(0, dtype=dtype), "The Hessian's spectrum")
