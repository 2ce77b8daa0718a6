"""Search spaces for what is wanted of a matrix that can only be multiplied with.

:class:`Krylov` starts from one vector and knows nothing else. :func:`improve` starts from a space
in which the operator is nearly known, as along a path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gdflows.errors import ConvergenceError

NARROW = 0.02  # relative gap between neighbouring eigenvalues that a first search reckons with


class Krylov:
    """An orthonormal basis of span{v, Av, A²v, …}, and A in it.

    Lanczos' method for a symmetric A, Arnoldi's for any other; orthogonalised in full. One
    product a dimension.

    Attributes
    ----------
    small : ndarray
        A in the basis, ``(m, m)``; for a real basis made exactly symmetric.
    beta : float
        Length of what the last product has outside the basis.
    """

    def __init__(self, product: Callable[[Tensor], Tensor], start: Tensor):
        self.product, self.m, self.beta = product, 0, float("inf")
        self._basis = start.new_empty((min(16, start.numel()), start.numel()))
        self._next = start / torch.linalg.vector_norm(start)
        kind = np.complex128 if start.is_complex() else np.float64
        self._small = np.zeros((0, 0), kind)

    @property
    def basis(self) -> Tensor:
        """Rows, ``(m, D)``."""
        return self._basis[: self.m]

    @property
    def small(self) -> np.ndarray:
        return (self._small + self._small.T) / 2 if np.isrealobj(self._small) else self._small

    @property
    def invariant(self) -> bool:
        """Whether products lead out of the space by no more than rounding."""
        if self.m == self._basis.shape[1]:
            return True
        eps = torch.finfo(self._basis.dtype).eps
        return self.beta <= 10 * eps * np.abs(self._small).max()

    def grow(self) -> None:
        """One more dimension."""
        m = self.m
        if m == len(self._basis):
            room = min(m, self._basis.shape[1] - m)
            self._basis = torch.cat([self._basis, self._basis.new_empty((room, len(self._next)))])
        self._basis[m] = self._next
        if m > 0:
            self._small = np.pad(self._small, ((0, 1), (0, 1)))
            self._small[m, m - 1] = self.beta
        else:
            self._small = np.zeros((1, 1), self._small.dtype)
        self.m = m + 1
        w = self.product(self._next)
        column = 0
        length = float(torch.linalg.vector_norm(w))
        for _ in range(2):
            part = self.basis.conj() @ w
            w = w - part @ self.basis
            column = column + part
            self.beta = float(torch.linalg.vector_norm(w))
            if self.beta > 0.7 * length:
                break  # twice is enough, and once where little was taken away
        self._small[: m + 1, m] = column.cpu().numpy()
        self._next = w / self.beta if self.beta > 0 else w

    def restart(self, direction: Tensor) -> bool:
        """Go on with another vector, once the space is invariant; False if nothing is left."""
        for _ in range(3):
            direction = direction - (self.basis.conj() @ direction) @ self.basis
            length = float(torch.linalg.vector_norm(direction))
            if self.m == direction.numel() or length == 0:
                return False
            direction = direction / length
        self._next, self.beta = direction, 0.0
        return True


@dataclass(frozen=True, eq=False)
class Space:
    """Orthonormal rows and their images under an operator, exact or of some time ago."""

    rows: Tensor
    images: Tensor

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Ritz values, descending, and their coefficients as rows; in float64, on the CPU."""
        projected = (self.rows @ self.images.T).double().cpu()
        values, columns = torch.linalg.eigh((projected + projected.T) / 2)
        return values.flip(0), columns.T.flip(0)

    def combine(self, coefficients: Tensor) -> Space:
        """The space of these combinations of the rows; no product is needed."""
        c = coefficients.to(self.rows)
        return Space(c @ self.rows, c @ self.images)

    def join(self, other: Space) -> Space:
        return Space(torch.cat([self.rows, other.rows]), torch.cat([self.images, other.images]))

    def without(self, other: Space, least: float) -> Space:
        """This space orthogonal to another one; rows of which less than that is left are dropped.

        Images follow the same combinations, so that what is old in them stays old.
        """
        whole, n = other, len(other.rows)
        for row, image in zip(self.rows, self.images, strict=True):
            for _ in range(2):
                c = whole.rows @ row
                row, image = row - c @ whole.rows, image - c @ whole.images
            length = torch.linalg.vector_norm(row)
            if length > least:
                whole = whole.join(Space(row[None] / length, image[None] / length))
        return Space(whole.rows[n:], whole.images[n:])


@dataclass(frozen=True, eq=False)
class Solved:
    """The k largest eigenvalues found, and more of the space than these.

    ``kept`` holds the largest Ritz vectors with their images, at least k, in descending order.
    """

    values: Tensor
    residuals: Tensor
    kept: Space
    products: int


def largest(
    product: Callable[[Tensor], Tensor],
    start: Tensor,
    k: int,
    tol: float,
    *,
    keep: int | None = None,
    most: int = 1000,
) -> Solved:
    """The k largest eigenvalues of a symmetric operator, from one vector.

    Parameters
    ----------
    product : callable
        The operator on one vector ``(D,)``.
    start : Tensor
        Shape ``(D,)``, not zero.
    k : int
        How many, k ≤ D.
    tol : float
        Accuracy asked of each eigenvalue, relative to itself or, if that is larger, to a
        ten-thousandth of the operator's norm.
    keep : int, optional
        Ritz vectors to return; default k.
    most : int
        Products to spend.

    Raises
    ------
    ConvergenceError
        If ``most`` products do not suffice.
    """
    space = Krylov(product, start)
    while True:
        space.grow()
        values, columns = np.linalg.eigh(space.small)
        values, columns = values[::-1], columns[:, ::-1]
        wanted = values[:k]
        norms = space.beta * np.abs(columns[-1, :k])
        scale = _scale(wanted, np.abs(values).max())
        # How near the next eigenvalue is, the first Ritz values do not tell: a narrow gap is
        # assumed until it turns out narrower still.
        lowest = values[k] if len(values) > k else -np.abs(values).max()
        gaps = np.minimum(wanted - lowest, NARROW * np.abs(wanted))
        errors = norms**2 / np.maximum(gaps, tol * scale) / scale
        done = len(wanted) == k and (errors < tol).all()
        if space.invariant and not done:
            generator = torch.Generator().manual_seed(space.m)
            fresh = torch.randn(len(start), generator=generator, dtype=torch.float64)
            done = not space.restart(fresh.to(start)) and len(wanted) == k
        if done:
            break
        if space.m >= most:
            raise ConvergenceError(
                f"{space.m} Hessian-vector products reached a relative accuracy of "
                f"{errors.max():.1g}, not {tol:g}. Ask for less, or for fewer eigenpairs."
            )
    n = min(keep or k, space.m)
    c = torch.from_numpy(np.ascontiguousarray(columns[:, :n].T)).to(start)
    rows = c @ space.basis
    # A·basis without another product: what leads out of the space is in the last column.
    images = (torch.from_numpy(columns[:, :n].T @ space.small).to(start)) @ space.basis
    images += space.beta * c[:, -1:] * space._next
    found = torch.from_numpy(wanted.copy())
    residuals = torch.linalg.vector_norm(images[:k] - found.to(start)[:, None] * rows[:k], dim=1)
    return Solved(found, residuals, Space(rows, images), space.m)


def improve(
    product: Callable[[Tensor], Tensor],
    known: Space,
    k: int,
    tol: Tensor,
    *,
    most: int = 1000,
) -> Solved:
    """The k largest eigenvalues of a symmetric operator that is nearly known in a space.

    Davidson's method. The known images are not taken for truth but as a preconditioner: each
    product is spent on the direction in which, judged by them, the eigenvalue that is furthest
    off has most to gain.

    Parameters
    ----------
    product : callable
        The operator on one vector ``(D,)``.
    known : Space
        At least k rows, the most promising first.
    k : int
        How many.
    tol : Tensor
        Accuracy asked of each, shape ``(k,)``, float64, as in :func:`largest`.
    most : int
        Products to spend.

    Returns
    -------
    Solved
        ``kept`` is the whole new space, not yet joined with the known one.

    Raises
    ------
    ConvergenceError
        If ``most`` products do not suffice.
    """
    empty = known.rows[:0]
    space, products = Space(empty, empty), 0
    old, basis = known.ritz()
    around = known.combine(basis).rows

    def add(row: Tensor) -> bool:
        nonlocal space, products
        length = torch.linalg.vector_norm(row)
        for _ in range(2):
            row = row - (space.rows @ row) @ space.rows
        left = torch.linalg.vector_norm(row)
        if not left > 100 * torch.finfo(row.dtype).eps * length:
            return False
        row = row / left
        row = row - (space.rows @ row) @ space.rows  # once more: little may have been left
        row = row / torch.linalg.vector_norm(row)
        space = space.join(Space(row[None], product(row)[None]))
        products += 1
        return True

    for row in known.rows[:k]:
        add(row)
    while True:
        values, coefficients = space.ritz()
        pairs = space.combine(coefficients[:k])
        wanted = values[:k]
        residuals = pairs.images - wanted.to(pairs.rows)[:, None] * pairs.rows
        norms = torch.linalg.vector_norm(residuals, dim=1)
        scale = torch.from_numpy(_scale(wanted.numpy(), float(values.abs().max())))
        floor = tol * scale
        inside = residuals @ around.T
        outside = residuals - inside @ around
        gaps = torch.maximum((wanted[:, None] - old).abs(), floor[:, None])
        # Outside the known space there may be anything up to its smallest Ritz value.
        beyond = torch.maximum(wanted - old[-1], floor)
        rise = (inside.double().cpu() ** 2 / gaps).sum(1)
        rise = rise + torch.linalg.vector_norm(outside, dim=1).double().cpu() ** 2 / beyond
        errors = rise / scale
        worst = torch.argsort(errors / tol, descending=True)
        # For the direction the bulk of the operator is taken for zero, small beside its top.
        bulk = torch.maximum(wanted, floor).to(outside)
        if bool((errors < tol).all()) or not any(
            add(outside[i] / bulk[i] + (inside[i] / gaps[i].to(inside)) @ around) for i in worst
        ):
            rest = space.combine(coefficients)
            return Solved(wanted, norms, rest, products)
        if products > most:
            raise ConvergenceError(
                f"{products} Hessian-vector products reached a relative accuracy of "
                f"{float(errors.max()):.1g}, not {float(tol.min()):g}. Ask for less, or for fewer "
                "eigenpairs."
            )


def _scale(values: np.ndarray, norm: float) -> np.ndarray:
    return np.maximum(np.abs(values), max(1e-4 * norm, np.finfo(float).tiny))
