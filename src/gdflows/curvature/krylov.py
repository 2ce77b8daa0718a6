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
        self.product, self.m = product, 0
        self._basis = start.new_empty((min(16, start.numel()), start.numel()))
        self.leads = [Lead(unit_vector(start)[0], None, 0.0)]
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
    def full(self) -> bool:
        return self.m == self._basis.shape[1]

    @property
    def invariant(self) -> bool:
        """Whether products lead out of the space by no more than rounding."""
        return not self.leads

    def grow(self, which: int = -1) -> None:
        """One more dimension, along one of the leads."""
        m, lead = self.m, self.leads.pop(which)
        if m == len(self._basis):
            room = min(m, self._basis.shape[1] - m)
            self._basis = torch.cat(
                [self._basis, self._basis.new_empty((room, len(self._basis[0])))]
            )
        self._basis[m] = lead.direction
        self._small = np.pad(self._small, ((0, 1), (0, 1)))
        if lead.origin is not None:
            self._small[m, lead.origin] = lead.length
        self.m = m + 1
        self._retract(m)
        w = self.product(lead.direction)
        column = 0
        before = float(torch.linalg.vector_norm(w))
        for _ in range(2):
            part = self.basis.conj() @ w
            w = w - part @ self.basis
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
            direction = direction - (self.basis.conj() @ direction) @ self.basis
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

    def _retract(self, m: int) -> None:
        """Keep the other leads orthogonal to the newest basis vector."""
        kept, eps = [], torch.finfo(self._basis.dtype).eps
        for lead in self.leads:
            part = torch.dot(self._basis[m], lead.direction)
            rest = lead.direction - part * self._basis[m]
            rest = rest - (self.basis @ rest) @ self.basis
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
        inside = alike(torch.from_numpy(coefficients.T @ self.small), self._basis) @ self.basis
        _, shares = self.outside(coefficients)
        for share, lead in zip(shares, self.leads, strict=True):
            inside += alike(torch.from_numpy(share), self._basis)[:, None] * lead.direction
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
