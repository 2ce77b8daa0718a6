"""The extreme eigenpairs of the Hessian at one point."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gdflows.arguments import number, whole
from gdflows.curvature.lanczos import largest
from gdflows.curvature.subspace import Solved, Space, lengths
from gdflows.curvature.units import USUAL, Operator, alike, double, narrow
from gdflows.errors import InputError
from gdflows.lengths import power, unit_vector
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
        ``‖H u − λ u‖``, shape ``(k,)``, and no less than rounding. Some eigenvalue lies within
        that of each value.
    hvps : int
        Hessian-vector products spent.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.problems.quadratic([1.0, 3.0])
    >>> found = gf.curvature.top_eigenpairs(E, torch.ones(2).double())
    >>> [abs(round(x, 6)) for x in found.vectors[0].tolist()], bool(found.residuals[0] < 1e-3)
    ([0.0, 1.0], True)
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
        If k is not in 1 … D, θ is complex or in half precision, or autocast is on.
    ConvergenceError
        If a thousand products do not reach the accuracy.
    NonFiniteError
        If the eigenvalues are larger or smaller than θ's dtype can hold.

    Notes
    -----
    Up to 200 parameters the whole Hessian. Beyond, Lanczos' method with full orthogonalisation,
    from the gradient and a random vector in equal parts: the gradient leans towards the top
    eigenvectors, the random part makes sure that none is missed. A small residual alone would not
    tell the second eigenvalue from the first: where the gradient lies along the second eigenvector,
    of many parameters a random vector holds so little of the first that it passes for the
    residual. So the search goes on until the products leave no room for a larger one, but with
    probability 0.01: on networks 1.3 to 2.7 times the products that the residual asks for. With
    k = 1 two eigenvalues closer together than a relative :math:`\sqrt{0.02\,tol}` may be taken
    for one between them. An eigenvalue that occurs more than once is found as often, if k > 1: the
    search then goes on from further random vectors, for some ten products more.

    References
    ----------
    Saad, *Numerical Methods for Large Eigenvalue Problems*, chapter 6.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.problems.quadratic([-5.0, 1.0, 3.0])
    >>> found = gf.curvature.top_eigenpairs(E, torch.ones(3).double(), k=2)
    >>> [round(v, 3) for v in found.values.tolist()]
    [3.0, 1.0]
    """
    return extreme_eigenpairs(objective.at(require_real(theta)), k, "LA", tol, scale=scale)


def bottom_eigenpairs(
    objective: Objective, theta: Tensor, k: int = 1, *, tol: float = 1e-4
) -> Eigenpairs:
    """The k algebraically smallest eigenvalues of ∇²E(θ), in ascending order.

    Arguments and result as for :func:`top_eigenpairs`.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.problems.quadratic([-5.0, 1.0, 3.0])
    >>> found = gf.curvature.bottom_eigenpairs(E, torch.ones(3).double(), k=2)
    >>> [round(v, 3) for v in found.values.tolist()]
    [-5.0, 1.0]
    """
    return extreme_eigenpairs(objective.at(require_real(theta)), k, "SA", tol)


def extreme_eigenpairs(
    point: Point, k: int, which: str, tol: float, *, scale: Tensor | None = None
) -> Eigenpairs:
    """Eigenpairs at a point whose gradient is already paid for; ``which`` is "LA" or "SA"."""
    theta, dim = require_real(point.theta), point.theta.numel()
    if not 1 <= whole(k, "k", 0) <= dim:
        raise InputError(f"k must be in 1 … {dim}, got {k}.")
    k, tol = whole(k, "k"), number(tol, "tol", positive=True)
    sign = 1 if which == "LA" else -1
    product = scaled_product(point, scale, sign)
    if dim > max(DENSE, k + 1):
        return pairs_of(cold(product, point, k, tol), k, sign, theta)
    return pairs_of(whole_spectrum(product, theta), k, sign, theta)


def whole_spectrum(product: Operator, theta: Tensor) -> Solved:
    """All eigenpairs, from all products."""
    rows = product(torch.eye(theta.numel(), dtype=theta.dtype, device=theta.device))
    hessian = double(rows)
    values, columns = torch.linalg.eigh((hessian + hessian.T) / 2)
    kept = Space(columns.T.flip(0), (hessian @ columns).T.flip(0))
    values = values.flip(0)
    residuals, norm = lengths(kept.residuals(values)), float(values.abs().max())
    return Solved(values, residuals, kept, len(rows), norm).times(product.unit)


def scaled_product(point: Point, scale: Tensor | None, sign: int = 1) -> Operator:
    """v → S H S v, or minus that."""
    if scale is None:
        return Operator(point.hvp if sign > 0 else lambda v: -point.hvp(v))
    if not isinstance(scale, Tensor) or scale.shape != point.theta.shape:
        raise InputError(f"scale must be a tensor of θ's shape {tuple(point.theta.shape)}.")
    if not torch.isfinite(scale).all():
        raise InputError("scale must be finite.")
    scale = scale.to(point.theta)
    size, unit = float(scale.abs().max()), 1.0
    if size > 0 and not USUAL[0] < size < USUAL[1]:
        unit = power(size, scale.dtype)
        scale = scale / unit
    left = sign * scale
    return Operator(lambda v: left * point.hvp(scale * v), unit**2)


def cold(
    product: Operator,
    point: Point,
    k: int,
    tol: float,
    *,
    keep: int | None = None,
    seed: int = 0,
) -> Solved:
    """A search for the top that knows nothing but the gradient."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    noise = torch.randn(point.theta.numel(), generator=generator, dtype=torch.float64, device="cpu")
    start = unit_vector(alike(noise, point.theta))[0]
    gradient, size = unit_vector(point.grad)
    if size > 0:
        start = start + gradient
    share = 1 / float(torch.linalg.vector_norm(start)) ** 2
    return largest(product, start, k, tol, keep=keep, share=share)


def pairs_of(solved: Solved, k: int, sign: int, theta: Tensor) -> Eigenpairs:
    """The first k of them, in θ's dtype."""
    rows = alike(solved.kept.rows[:k], theta)
    vectors = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    # Products are exact to rounding only, and so is any statement about them.
    rounding = torch.finfo(theta.dtype).eps * solved.norm
    values = narrow(solved.values[:k], theta, "The Hessian's spectrum", solved.norm)
    residuals = alike(solved.residuals[:k].clamp_min(rounding), theta)
    return Eigenpairs(sign * values, vectors, residuals, solved.products)


def require_real(theta: Tensor) -> Tensor:
    """θ, or an error if it is complex, or its curvature would be computed in half precision."""
    if isinstance(theta, Tensor) and theta.is_complex():
        raise InputError("Eigenvalues are ordered at real θ only; pass theta.real.")
    return require_precise(theta)


def require_precise(theta: Tensor) -> Tensor:
    """θ, or an error if what is computed there has half precision."""
    if not isinstance(theta, Tensor):
        return theta  # the objective says what is wrong
    if theta.is_floating_point() and torch.finfo(theta.dtype).bits < 32:
        raise InputError(
            f"θ is {theta.dtype}: in half precision curvature drowns in rounding. Keep the "
            "parameters in float32 (training may use autocast), or look at a float32 copy."
        )
    kind = theta.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        raise InputError(
            "Autocast is on, and in half precision curvature drowns in rounding. Leave the "
            "autocast block, or put this call under torch.autocast(..., enabled=False)."
        )
    return theta
