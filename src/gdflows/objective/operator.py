"""The Hessian at a point, as scipy's solvers expect a matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator

if TYPE_CHECKING:
    from gdflows.objective.point import Point


class HessianOperator(LinearOperator):
    """∇²E(θ) as a :class:`scipy.sparse.linalg.LinearOperator`, without a matrix.

    Parameters
    ----------
    point : Point
        Where: each product costs one Hessian-vector product there. Several columns at once
        (``matmat``) share the gradient.

    Notes
    -----
    dtype is θ's and products are computed on θ's device; vectors are numpy's, on the CPU. At real
    θ it is symmetric, ``H.H is H``; a complex vector's product is that of its two parts. At
    complex θ it is complex symmetric: its own transpose, and not its adjoint.
    """

    def __init__(self, point: Point):
        dim, theta = point.theta.numel(), point.theta
        super().__init__(torch.empty(0, dtype=theta.dtype, device="cpu").numpy().dtype, (dim, dim))
        self.point = point

    def _matmat(self, columns: np.ndarray) -> np.ndarray:
        if columns.shape[1] == 0:
            return np.zeros_like(columns, self.dtype)
        if np.iscomplexobj(columns) and not np.iscomplexobj(np.empty(0, self.dtype)):
            return self._matmat(columns.real) + 1j * self._matmat(columns.imag)
        rows = torch.from_numpy(np.ascontiguousarray(columns.T, self.dtype))
        return self.point.hvp(rows.to(self.point.theta.device)).cpu().numpy().T

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        return self._matmat(x.reshape(-1, 1)).reshape(x.shape)

    def _adjoint(self) -> LinearOperator:
        return self if not self.point.theta.is_complex() else _Conjugate(self)

    def _transpose(self) -> LinearOperator:
        return self


class _Conjugate(LinearOperator):
    """Of a complex symmetric operator its conjugate, which is its adjoint."""

    def __init__(self, operator: HessianOperator):
        super().__init__(operator.dtype, operator.shape)
        self._operator = operator

    def _matmat(self, columns: np.ndarray) -> np.ndarray:
        return self._operator._matmat(columns.conj()).conj()

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        return self._operator._matvec(x.conj()).conj()

    def _adjoint(self) -> LinearOperator:
        return self._operator
