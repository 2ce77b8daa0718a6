"""Krylov spaces: all that products with an operator tell, from one vector or from several."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gdflows.curvature.units import Operator, alike, double
from gdflows.errors import NonFiniteError
from gdflows.lengths import unit_vector

SMALL = 2**20  # numbers in a basis up to which it lies in one piece
PIECE = 4  # vectors for which room is made at a time in a larger one


@dataclass(eq=False)
class Lead:
    """A direction in which the space can grow.

    Attributes
    ----------
    direction : Tensor
        Of unit length, orthogonal to the basis.
    origin : int or None
        The basis vector whose product leads there; None for a new start.
    length : float
        How much of that product does; 0 for a new start.
    """

    direction: Tensor
    origin: int | None
    length: float


class Krylov:
    """An orthonormal basis of span{v, Av, A²v, …}, and A in it.

    Lanczos' method for a symmetric A, Arnoldi's for any other; orthogonalised in full. One
    product a dimension. To a symmetric operator's space further starts can be added at any time:
    a single one sees only one direction of each eigenspace.

    Attributes
    ----------
    small : ndarray
        A in the basis, ``(m, m)``, in units of ``product.unit``; for a real basis made exactly
        symmetric.
    leads : list of Lead
        Where products lead out of the space. Empty once it is invariant, up to rounding.
    """

    def __init__(self, product: Operator, start: Tensor):
        self.product, self.m, self.dim = product, 0, start.numel()
        rows = min(16 if 16 * self.dim <= SMALL else PIECE, self.dim)
        self._pieces = [start.new_empty((rows, self.dim))]
        self.leads = [Lead(unit_vector(start)[0], None, 0.0)]
        kind = np.complex128 if start.is_complex() else np.float64
        self._small = np.zeros((0, 0), kind)

    @property
    def small(self) -> np.ndarray:
        return (self._small + self._small.T) / 2 if np.isrealobj(self._small) else self._small

    @property
    def full(self) -> bool:
        return self.m == self.dim

    @property
    def invariant(self) -> bool:
        """Whether products lead out of the space by no more than rounding."""
        return not self.leads

    def grow(self, which: int = -1) -> None:
        """One more dimension, along one of the leads."""
        m, lead = self.m, self.leads.pop(which)
        self._room()[...] = lead.direction
        self._small = np.pad(self._small, ((0, 1), (0, 1)))
        if lead.origin is not None:
            self._small[m, lead.origin] = lead.length
        self.m = m + 1
        self._retract(m)
        w = self.product(lead.direction)
        column = 0
        before = float(torch.linalg.vector_norm(w))
        for _ in range(2):
            part = self.inner(w)
            w = w - self.combine(part)
            column = column + part
            left = float(torch.linalg.vector_norm(w))
            if left > 0.7 * before:
                break  # twice is enough, and once where little was taken away
        if not math.isfinite(left):
            raise NonFiniteError(f"A Hessian-vector product overflows {w.dtype}: use float64.")
        self._small[: m + 1, m] = double(column).numpy()
        eps = torch.finfo(w.dtype).eps
        if not self.full and left > 10 * eps * np.abs(self._small).max():
            self.leads.append(Lead(w / left, m, left))

    def start(self, direction: Tensor) -> bool:
        """A lead along another vector; False if the basis holds all of it."""
        for _ in range(3):
            direction = direction - self.combine(self.inner(direction))
            direction, size = unit_vector(direction)
            if self.full or size == 0:
                return False
        self.leads.append(Lead(direction, None, 0.0))
        return True

    def room(self, level: float, first: int = 0) -> float:
        """The most that an eigenvector above a level can hold of a start's square.

        Parameters
        ----------
        level : float
            In units of ``product.unit``; above the largest eigenvalue in the start's space.
        first : int
            The start's place in the basis; all after it grew from it.
        """
        block = self.small[first:, first:]
        return largest_mass(np.diagonal(block), np.diagonal(block, 1), level)

    def inner(self, w: Tensor) -> Tensor:
        """Inner products of the basis with a vector, ``(m,)``."""
        parts = [piece.conj() @ w for piece in self._basis()]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def combine(self, coefficients: Tensor) -> Tensor:
        """Combinations of the basis: ``(m,)`` or ``(n, m)`` to ``(D,)`` or ``(n, D)``."""
        first, *others = self._basis()
        begin = len(first)
        total = coefficients[..., :begin] @ first
        for piece in others:
            end = begin + len(piece)
            total += coefficients[..., begin:end] @ piece
            begin = end
        return total

    def _basis(self) -> list[Tensor]:
        """Its vectors as rows, in pieces."""
        taken, seen = [], 0
        for piece in self._pieces:
            taken.append(piece[: self.m - seen])
            seen += len(taken[-1])
        return taken

    def _room(self) -> Tensor:
        """Where the next vector of the basis goes.

        In pieces, so that nothing is copied and no more is held than is used and three vectors;
        a small basis in one piece, with which products are quicker.
        """
        rows = sum(map(len, self._pieces))
        if self.m == rows:
            small = rows * self.dim <= SMALL
            more = min(rows if small else PIECE, self.dim - rows)
            self._pieces.append(self._pieces[0].new_empty((more, self.dim)))
            if small:
                self._pieces = [torch.cat(self._pieces)]
            rows += more
        last = self._pieces[-1]
        return last[self.m - rows + len(last)]

    def _retract(self, m: int) -> None:
        """Keep the other leads orthogonal to the newest basis vector."""
        newest = self._basis()[-1][-1]
        kept, eps = [], torch.finfo(newest.dtype).eps
        for lead in self.leads:
            part = torch.dot(newest, lead.direction)
            rest = lead.direction - part * newest
            rest = rest - self.combine(self.inner(rest))
            left = float(torch.linalg.vector_norm(rest))
            if lead.origin is not None:
                self._small[m, lead.origin] = float(part) * lead.length
            if left > 100 * eps:
                kept.append(Lead(rest / left, lead.origin, lead.length * left))
        self.leads = kept

    def outside(self, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What products with combinations of the basis have outside the space.

        Parameters
        ----------
        coefficients : ndarray
            As columns, ``(m, n)``.

        Returns
        -------
        ndarray, ndarray
            Its length, shape ``(n,)``, and the shares of the leads in it, ``(leads, n)``.
        """
        shares = np.zeros((len(self.leads), coefficients.shape[1]))
        for share, lead in zip(shares, self.leads, strict=True):
            if lead.origin is not None:
                share[:] = lead.length * coefficients[lead.origin]
        if len(shares) == 1:
            return np.abs(shares[0]), shares
        if not len(shares):
            return np.zeros(coefficients.shape[1]), shares
        directions = torch.stack([lead.direction for lead in self.leads])
        gram = double(directions @ directions.T).numpy()
        return np.sqrt(np.maximum(np.einsum("in,ij,jn->n", shares, gram, shares), 0.0)), shares

    def images(self, coefficients: np.ndarray) -> Tensor:
        """Products with combinations of the basis, as rows, without another product."""
        like = self._pieces[0]
        inside = self.combine(alike(torch.from_numpy(coefficients.T @ self.small), like))
        _, shares = self.outside(coefficients)
        for share, lead in zip(shares, self.leads, strict=True):
            inside += alike(torch.from_numpy(share), like)[:, None] * lead.direction
        return inside


def largest_mass(diagonal: np.ndarray, off: np.ndarray, x: float) -> float:
    r"""The most that a measure of total mass 1 can hold at any one place ≥ x.

    Of a vector's spectral measure its Lanczos coefficients are known. The mass at x is at most
    Christoffel's function :math:`1 / \sum_i p_i(x)^2`, with the measure's orthonormal
    polynomials p; beyond its largest node that falls with x.

    Parameters
    ----------
    diagonal, off : ndarray
        Lanczos coefficients, shapes ``(q,)`` and ``(q - 1,)``.
    x : float
        Where; above the largest eigenvalue of the tridiagonal matrix.

    References
    ----------
    Akhiezer, *The Classical Moment Problem*, section 2.5.
    """
    before, now, total = 0.0, 1.0, 1.0
    for i, beta in enumerate(off):
        last = off[i - 1] if i else 0.0
        before, now = now, ((x - diagonal[i]) * now - last * before) / beta
        total += now**2
        if total > 1e200:
            break
    return 1 / total
