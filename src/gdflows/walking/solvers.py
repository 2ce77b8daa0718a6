"""Solvers behind scipy's interface, and the estimate that tells stiffness."""

from __future__ import annotations

import numpy as np
import scipy.integrate

from gdflows.walking.state import LeavesTheReals, State


def with_error(base: type) -> type:
    """A scipy solver that remembers the local error estimate of its last accepted step."""

    class Solver(base):
        _norm = None
        rate = 0.0  # the flow's fastest, estimated as far as it was seen of late

        def _estimate_error_norm(self, K, h, scale):
            with np.errstate(all="ignore"):  # not a number, or past all: the step is rejected
                self._norm = super()._estimate_error_norm(K, h, scale)
                if base is scipy.integrate.DOP853:
                    # Two stages at the step's end: how do their slopes differ? (Hairer and
                    # Wanner, section IV.2, eq. 2.22.) Where the fast part rests, it is not seen.
                    apart = h * np.linalg.norm((self.B - self.A[-1]) @ K[:-1])
                    seen = np.linalg.norm(K[-1] - K[-2]) / apart
                    told = np.isfinite(seen) and apart > 1e-14 * np.linalg.norm(self.y)
                    self.rate = max(0.95 * self.rate, seen if told else 0.0)  # else it is rounding
            self._scale = scale
            return self._norm

        @property
        def local_error(self) -> float | None:
            # scipy's norm is the root mean square of error / scale; undo it.
            return None if self._norm is None else float(self._norm * np.linalg.norm(self._scale))

    return Solver


class FixedStep(scipy.integrate.OdeSolver):
    """Euler's method and the classical Runge-Kutta method, behind scipy's interface."""

    def __init__(self, fun, t0, y0, t_bound, *, method, step):
        super().__init__(fun, t0, y0, t_bound, vectorized=False, support_complex=True)
        self._method, self._length = method, step
        self.local_error = None

    def _step_impl(self):
        left = self.t_bound - self.t
        # Steps that would leave next to nothing of the way take it along.
        whole = left <= self._length * (1 + 1e-9)
        h, t, y = (left if whole else self._length), self.t, self.y
        k1 = self.fun(t, y)
        if self._method == "euler":
            self.y = y + h * k1
        else:
            k2 = self.fun(t + h / 2, y + h / 2 * k1)
            k3 = self.fun(t + h / 2, y + h / 2 * k2)
            k4 = self.fun(t + h, y + h * k3)
            self.y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        self.t = self.t_bound if whole else t + h
        if not np.isfinite(self.y).all():
            return False, "a value is not finite"
        return True, None


def fastest_rate(state: State, t: float, y: np.ndarray, iterations: int = 12) -> float:
    """Spectral radius of the vector field's Jacobian, by power iteration on differences."""
    try:
        return _power_iteration(state, t, y, iterations)
    except LeavesTheReals:  # beside the state the field is complex: nothing is known
        return 0.0


def _power_iteration(state: State, t: float, y: np.ndarray, iterations: int) -> float:
    f = state(t, y)
    v = np.random.default_rng(0).standard_normal(len(y))
    eps = 1e-6 * (1.0 + np.linalg.norm(y))
    rate = 0.0
    for _ in range(iterations):
        norm = np.linalg.norm(v)
        if not (np.isfinite(norm) and norm > 0):
            break
        v = (state(t, y + eps * v / norm) - f) / eps
        rate = float(np.linalg.norm(v))
    return rate if np.isfinite(rate) else 0.0
