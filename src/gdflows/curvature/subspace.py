"""Search spaces in which an operator is nearly known, as along a path, and how to correct them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gdflows.curvature.units import Operator, alike, double
from gdflows.errors import ConvergenceError, NonFiniteError
from gdflows.lengths import length


@dataclass(frozen=True, eq=False)
class Space:
    """Orthonormal rows and their images under an operator, exact or of some time ago."""

    rows: Tensor
    images: Tensor

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Ritz values, descending, and their coefficients as rows; in float64, on the CPU."""
        projected = double(self.rows @ self.images.T)
        if not torch.isfinite(projected).all():
            raise NonFiniteError(
                f"The Hessian in the space of the last point overflows {self.rows.dtype}: use "
                "float64, or rescale the loss."
            )
        values, columns = torch.linalg.eigh((projected + projected.T) / 2)
        return values.flip(0), columns.T.flip(0)

    def combine(self, coefficients: Tensor) -> Space:
        """The space of these combinations of the rows; no product is needed."""
        c = alike(coefficients, self.rows)
        return Space(c @ self.rows, c @ self.images)

    def residuals(self, values: Tensor) -> Tensor:
        """A u − λ u of the first rows."""
        n = len(values)
        return self.images[:n] - alike(values, self.rows)[:, None] * self.rows[:n]

    def times(self, unit: float) -> Space:
        """With all images multiplied by a number."""
        return self if unit == 1 else Space(self.rows, self.images * unit)

    def join(self, other: Space) -> Space:
        return Space(torch.cat([self.rows, other.rows]), torch.cat([self.images, other.images]))

    def facing(self, other: Space) -> Space:
        """The same rows, each with the sign that it has in another space."""
        n = min(len(self.rows), len(other.rows))
        back = (self.rows[:n] * other.rows[:n]).sum(1) < 0
        if not back.any():
            return self
        signs = torch.ones_like(self.rows[:, :1])
        signs[:n][back] = -1
        return Space(signs * self.rows, signs * self.images)

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

    ``kept`` holds the largest Ritz vectors with their images, at least k, in descending order;
    ``norm`` is the largest Ritz value in magnitude.
    """

    values: Tensor
    residuals: Tensor
    kept: Space
    products: int
    norm: float

    def times(self, unit: float) -> Solved:
        """In other units."""
        values, residuals, kept = self.values * unit, self.residuals * unit, self.kept.times(unit)
        return Solved(values, residuals, kept, self.products, self.norm * unit)


def lengths(rows: Tensor) -> Tensor:
    """Of each row, in float64, on the CPU."""
    return torch.tensor([length(row) for row in rows], dtype=torch.float64, device="cpu")


def improve(
    product: Operator,
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
    product : Operator
        On one vector ``(D,)``.
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

    def add(row: Tensor) -> bool:
        nonlocal space, products
        size = torch.linalg.vector_norm(row)
        for _ in range(2):
            row = row - (space.rows @ row) @ space.rows
        left = torch.linalg.vector_norm(row)
        if not left > 100 * torch.finfo(row.dtype).eps * size:
            return False
        row = row / left
        if left < 0.1 * size:  # rounding has grown with what was taken away
            row = row - (space.rows @ row) @ space.rows
            row = row / torch.linalg.vector_norm(row)
        space = space.join(Space(row[None], product(row)[None]))
        products += 1
        return True

    for row in known.rows[:k]:
        add(row)
    known = known.times(1 / product.unit)
    old, basis = known.ritz()
    around = alike(basis, known.rows) @ known.rows
    waiting = list(range(k, len(around)))  # known, but not looked at here
    asked = int((tol == tol.min()).sum())
    while True:
        values, coefficients = space.ritz()
        pairs = space.combine(coefficients[:k])
        wanted = values[:k]
        residuals = pairs.residuals(wanted)
        scale = torch.from_numpy(relative_to(wanted.numpy(), float(values.abs().max())))
        floor = tol * scale
        inside = residuals @ around.T
        outside = residuals - inside @ around
        gaps = torch.maximum((wanted[:, None] - old).abs(), floor[:, None])
        # Outside the known space there may be anything up to its smallest Ritz value.
        beyond = torch.maximum(wanted - old[-1], floor)
        rise = (double(inside) ** 2 / gaps).sum(1)
        rise = rise + double(torch.linalg.vector_norm(outside, dim=1)) ** 2 / beyond
        errors = rise / scale
        worst = torch.argsort(errors / tol, descending=True)
        # For the direction the bulk of the operator is taken for zero, small beside its top.
        bulk = alike(torch.maximum(wanted, floor), outside)
        done = bool((errors < tol).all())
        # What was below the last one asked for, guards apart, may be above it here.
        if done and waiting and float(old[waiting[0]]) > float((wanted + floor)[asked - 1]):
            add(around[waiting.pop(0)])
            continue
        if done or not any(
            add(outside[i] / bulk[i] + (inside[i] / alike(gaps[i], inside)) @ around) for i in worst
        ):
            rest = space.combine(coefficients)
            found = Solved(wanted, lengths(residuals), rest, products, float(values.abs().max()))
            return found.times(product.unit)
        if products > most:
            raise ConvergenceError(
                f"{products} Hessian-vector products reached a relative accuracy of "
                f"{float(errors.max()):.1g}, not {float(tol.min()):g}. Ask for less, or for fewer "
                "eigenpairs."
            )


def relative_to(values: np.ndarray, norm: float) -> np.ndarray:
    """What an eigenvalue's accuracy is measured against: itself, or a little of the norm."""
    return np.maximum(np.abs(values), max(1e-4 * norm, np.finfo(float).tiny))
