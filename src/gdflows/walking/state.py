"""What a solver walks: θ and its companions as one numpy vector."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gdflows.curvature.function import RoundingError
from gdflows.errors import NonFiniteError
from gdflows.flows.base import Flow


class LeavesTheReals(Exception):
    """The vector field is complex at a real state."""


class State:
    """θ and its companions as one numpy vector, and the vector field on it."""

    def __init__(self, flow: Flow, theta0: Tensor, companions0: dict[str, Tensor]):
        self.flow, self.theta0 = flow, theta0
        self.evaluations = 0
        self.non_finite: str | None = None
        self.strict = False
        self.shapes = {n: (c.shape, c.dtype) for n, c in companions0.items()}

    def pack(self, theta: Tensor, companions: dict[str, Tensor]) -> np.ndarray:
        parts = [theta, *(companions[n] for n in self.shapes)]
        wide = torch.complex128 if any(p.is_complex() for p in parts) else torch.float64
        return torch.cat([p.detach().reshape(-1).cpu().to(wide) for p in parts]).numpy()

    def slices(self) -> dict[str, slice]:
        """Where in the vector θ and each companion lie, by name."""
        found, at = {"theta": slice(0, self.theta0.numel())}, self.theta0.numel()
        for name, (shape, _) in self.shapes.items():
            n = int(np.prod(shape))
            found[name] = slice(at, at + n)
            at += n
        return found

    def unpack(self, y: np.ndarray) -> tuple[Tensor, dict[str, Tensor]]:
        """Of ``(S,)`` or ``(T, S)``: tensors with the same leading axis."""
        whole = torch.from_numpy(np.ascontiguousarray(y))
        lead, at = whole.shape[:-1], self.theta0.numel()

        def part(piece: Tensor, shape, dtype) -> Tensor:
            if piece.is_complex() and not dtype.is_complex:
                piece = piece.real
            # the dtype first: there are devices that have no float64
            return piece.reshape(*lead, *shape).to(dtype).to(self.theta0.device)

        theta = part(whole[..., :at], self.theta0.shape, self.theta0.dtype)
        companions = {}
        for name, (shape, dtype) in self.shapes.items():
            n = int(np.prod(shape))
            companions[name] = part(whole[..., at : at + n], shape, dtype)
            at += n
        return theta, companions

    def __call__(self, t: float, y: np.ndarray) -> np.ndarray:
        self.evaluations += 1
        theta, companions = self.unpack(y)
        try:
            rate = self.pack(*self.flow.field(theta, **companions))
        except (NonFiniteError, RoundingError) as e:
            if self.strict:
                raise
            # A trial step may leave the loss's domain; a NaN makes the solver try a shorter one.
            self.non_finite = str(e)
            return np.full_like(y, np.nan)
        self.non_finite = None
        if np.iscomplexobj(rate) and not np.iscomplexobj(y):
            raise LeavesTheReals
        return rate

    def widen(self, y: np.ndarray) -> np.ndarray:
        """Let θ be complex from here on."""
        self.theta0 = self.theta0.to(self.theta0.dtype.to_complex())
        return y.astype(np.complex128)
