"""A search space for the largest eigenvalues of a symmetric operator, enlarged a vector at a time.

Davidson's method. Each round costs one product: the residual of the Ritz pair that is furthest
off, after a correction by what is known of the operator from elsewhere, joins the space. With
nothing known this is Lanczos' method with full orthogonalisation. What is known, along a path, is
the operator at the point before (see :class:`gdflows.curvature.Tracker`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gdflows.errors import ConvergenceError

NARROW = 0.02  # relative gap between neighbouring eigenvalues that a first search reckons with


@dataclass(frozen=True, eq=False)
class Space:
    """Orthonormal rows and their images under the operator, exact or of some time ago."""

    rows: Tensor
    images: Tensor

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Ritz values, descending, and their coefficients as rows; in float64."""
        projected = (self.rows @ self.images.T).double()
        values, columns = torch.linalg.eigh((projected + projected.T) / 2)
        return values.flip(0), columns.T.flip(0)

    def combine(self, coefficients: Tensor) -> Space:
        """The space of these combinations of the rows; no product is needed."""
        c = coefficients.to(self.rows)
        return Space(c @ self.rows, c @ self.images)

    def append(self, row: Tensor, image: Tensor) -> Space:
        return Space(torch.cat([self.rows, row[None]]), torch.cat([self.images, image[None]]))

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
                whole = whole.append(row / length, image / length)
        return Space(whole.rows[n:], whole.images[n:])


@dataclass(frozen=True, eq=False)
class Solved:
    """The k largest Ritz pairs, the space they were found in, and estimated relative errors."""

    values: Tensor
    pairs: Space
    residuals: Tensor
    errors: Tensor
    space: Space
    products: int


def largest(
    product: Callable[[Tensor], Tensor],
    start: Tensor,
    k: int,
    tol: float | Tensor,
    *,
    known: Space | None = None,
    most: int = 1000,
    width: int = 60,
) -> Solved:
    """The k largest eigenvalues of a symmetric operator.

    Parameters
    ----------
    product : callable
        The operator on one vector ``(D,)``.
    start : Tensor
        Rows that span the first space, ``(m, D)``, linearly independent, 1 ≤ m ≤ D.
    k : int
        How many.
    tol : float or Tensor
        Accuracy asked of the eigenvalues, for all or for each, relative to itself or, if that is
        larger, to a ten-thousandth of the operator's norm.
    known : Space, optional
        A space with nearly right images; not taken as truth but as a preconditioner.
    most : int
        Products to spend.
    width : int
        Rows after which the space is reduced to its best Ritz vectors.

    Raises
    ------
    ConvergenceError
        If ``most`` products do not suffice.
    """
    dim, products = start.shape[1], 0
    tol = torch.as_tensor(tol, dtype=torch.float64).expand(k)
    space = Space(start[:0], start[:0])
    width = max(width, 2 * k + 10, len(start))

    def add(row: Tensor) -> bool:
        nonlocal space, products
        length = torch.linalg.vector_norm(row)
        for _ in range(2):
            row = row - (space.rows @ row) @ space.rows
        left = torch.linalg.vector_norm(row)
        if not left > 100 * torch.finfo(row.dtype).eps * length:
            return False
        row = row / left
        # Once more, because little may have been left.
        row = row - (space.rows @ row) @ space.rows
        row = row / torch.linalg.vector_norm(row)
        space = space.append(row, product(row))
        products += 1
        return True

    for row in start:
        add(row)
    while True:
        values, coefficients = space.ritz()
        pairs = space.combine(coefficients[:k])
        wanted = values[: len(pairs.rows)]
        residuals = pairs.images - wanted.to(pairs.rows)[:, None] * pairs.rows
        norms = torch.linalg.vector_norm(residuals, dim=1).double()
        norm = float(values.abs().max())
        scale = wanted.abs().clamp_min(max(1e-4 * norm, torch.finfo(torch.float64).tiny))
        errors, corrections = _outlook(
            wanted, values, residuals, norms, known, tol[: len(wanted)] * scale
        )
        errors = errors / scale
        complete = len(space.rows) == dim or (len(wanted) == k and bool((errors < tol).all()))
        if complete:
            return Solved(wanted, pairs, norms, errors, space, products)
        if products >= most:
            raise ConvergenceError(
                f"{products} Hessian-vector products reached a relative accuracy of "
                f"{float(errors.max()):.1g}, not {float(tol.min()):g}. Ask for less, or for fewer "
                "eigenpairs."
            )
        if len(space.rows) >= width:
            space = space.combine(coefficients[: k + (width - k) // 3])
        # The worst first; a direction that is already there makes room for the next.
        if not any(
            add(corrections[i]) for i in torch.argsort(errors / tol[: len(errors)], descending=True)
        ):
            # Everything is exact to rounding, or the space is invariant and misses something.
            if len(wanted) == k:
                return Solved(wanted, pairs, norms, errors, space, products)
            generator = torch.Generator().manual_seed(products)
            fresh = torch.randn(dim, generator=generator, dtype=torch.float64)
            add(fresh.to(start))


def _outlook(wanted, values, residuals, norms, known, floor):
    """By how much each Ritz value may still rise, and the direction in which it would."""
    if known is None:
        # All that is left lies outside. How near the next eigenvalue is, the first Ritz values do
        # not tell: a narrow gap is assumed until it turns out narrower still.
        lowest = values[len(wanted)] if len(values) > len(wanted) else -values.abs().max()
        gaps = torch.minimum(wanted - lowest, NARROW * wanted.abs())
        return norms**2 / torch.maximum(gaps, floor), residuals
    old, basis = known.ritz()
    rows = known.combine(basis).rows
    inside = residuals @ rows.T
    outside = residuals - inside @ rows
    gaps = torch.maximum((wanted[:, None] - old).abs(), floor[:, None])
    beyond = torch.maximum(wanted - old[-1], floor)
    rise = (inside.double() ** 2 / gaps).sum(1)
    rise = rise + torch.linalg.vector_norm(outside, dim=1).double() ** 2 / beyond
    # Outside the known space the operator is taken for zero: its bulk is small beside its top.
    bulk = torch.maximum(wanted, floor).to(rows)[:, None]
    return rise, outside / bulk + (inside / gaps.to(rows)) @ rows
