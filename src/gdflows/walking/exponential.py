"""Exponential methods, of Runge-Kutta and of Adams: what only decays is integrated exactly."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import scipy.integrate
import torch
from torch import Tensor

from gdflows.errors import InputError
from gdflows.flows.decay import Damped
from gdflows.walking.state import State

SAFETY, LEAST, MOST = 0.9, 0.2, 3.0  # of the change of a step's length


def phi(z: np.ndarray) -> list[np.ndarray]:
    r"""φ₀ … φ₃ at z ≤ 0, with φ₀ = eᶻ and φⱼ₊₁ = (φⱼ − 1/j!)/z."""
    z = np.asarray(z, dtype=float)
    small = np.abs(z) < 0.1
    # Taylor's series where the recursion would cancel
    last = sum(z**k / math.factorial(k + 3) for k in range(10))
    with np.errstate(divide="ignore", invalid="ignore"):
        one = np.expm1(z) / z
        two = (one - 1) / z
        three = np.where(small, last, (two - 0.5) / z)
    two = np.where(small, 0.5 + z * three, two)
    one = np.where(small, 1 + z * two, one)
    return [np.exp(z), one, two, three]


class Linear:
    """−A on packed states, and functions of it."""

    def __init__(self, parts: list[tuple[slice, Damped]]):
        self.parts = [
            (where, _array(d.vectors), _array(d.rates), float(d.rest)) for where, d in parts
        ]

    def of(self, function, w: np.ndarray) -> np.ndarray:
        """function(−A) w, for a function of arrays."""
        out = float(function(np.zeros(()))) * w
        for where, vectors, rates, rest in self.parts:
            here, base = w[where], float(function(np.asarray(-rest)))
            along = vectors @ here
            out[where] = base * here + ((function(-rates) - base) * along) @ vectors
        return out

    def __matmul__(self, w: np.ndarray) -> np.ndarray:
        return self.of(lambda x: x, w)


def _array(t: Tensor) -> np.ndarray:
    return t.detach().cpu().to(torch.float64).numpy()


class Exponential(scipy.integrate.OdeSolver):
    """Krogstad's method of order four with −A from the flow at each step's beginning.

    The error estimate is the distance to a result of order two from the same stages.
    """

    slowest = 0.6  # decay in a step of h, from which on it is asked for
    reach = 1.0  # of the longest step

    def __init__(self, fun: State, t0, y0, t_bound, *, rtol, atol):
        super().__init__(fun, t0, y0, t_bound, vectorized=False, support_complex=False)
        self._state, self.rtol, self.atol = fun, rtol, atol
        self.f = self.fun(t0, y0)
        self._linear, longest = self._split()
        if self._linear is None:
            raise InputError(
                f"{fun.flow.label} has no fast part that it tells (Flow.fast): use another method."
            )
        self.h_abs = longest / 2
        self.local_error = None
        self._before = (t0, y0, self.f)

    def _split(self) -> tuple[Linear | None, float]:
        theta, companions = self._state.unpack(self.y)
        _, rates = self._state.unpack(self.f)
        decay = self._state.flow.fast(theta, companions, rates, slowest=self.slowest)
        if decay is None:
            return None, math.inf
        where = self._state.slices()
        parts = [(where[name], part) for name, part in decay.parts.items()]
        return Linear(parts), self.reach * decay.longest

    def _step_impl(self):
        if self._linear is None:
            self._linear, longest = self._split()
            self.h_abs = min(self.h_abs, longest)
        least = 10 * abs(np.nextafter(self.t, np.inf) - self.t)
        while True:
            left = self.t_bound - self.t
            h = left if left <= self.h_abs * (1 + 1e-9) else self.h_abs
            if h < least:
                return False, self.TOO_SMALL_STEP
            with np.errstate(over="ignore", invalid="ignore"):  # then the step is rejected
                moved, error = self._try(h)
            if not math.isfinite(error):
                self.h_abs = h / 4
            elif error > 1:
                self.h_abs = h * max(LEAST, SAFETY * error ** (-1 / 3))
            else:
                break
        self._before = (self.t, self.y, self.f)
        self.t = self.t_bound if h == left else self.t + h
        self.y = self.y + moved
        self.f = self._slope()
        self.h_abs = max(h, self.h_abs) * min(MOST, SAFETY * max(error, 1e-9) ** (-1 / 3))
        self._linear = None
        return True, None

    def _try(self, h: float) -> tuple[np.ndarray, float]:
        """How far a step of length h goes, and its error in units of the tolerance."""
        L, t, y, n1 = self._linear, self.t, self.y, self.f

        def phis(j: int, part: float, w: np.ndarray) -> np.ndarray:
            return L.of(lambda x: phi(part * h * x)[j], w)

        def slow(at: float, w: np.ndarray) -> np.ndarray:
            return self.fun(t + at * h, y + w) - L @ w

        half1 = phis(1, 0.5, n1)
        n2 = slow(0.5, h / 2 * half1)
        n3 = slow(0.5, h / 2 * half1 + h * phis(2, 0.5, n2 - n1))
        one = phis(1, 1, n1)
        n4 = slow(1.0, h * one + 2 * h * phis(2, 1, n3 - n1))
        two = phis(2, 1, n2 + n3 - 2 * n1)
        moved = h * (
            one + two + phis(2, 1, n2 + n3 - n1 - n4) + phis(3, 1, 4 * (n1 - n2 - n3 + n4))
        )
        gap = moved - h * (one + two)
        return moved, self._error(gap, moved)

    def _slope(self) -> np.ndarray:
        """The field after an accepted step."""
        return self.fun(self.t, self.y)

    def _error(self, gap: np.ndarray, moved: np.ndarray) -> float:
        """A gap between two results in units of the tolerance, that of the worst part."""
        y = self.y
        scale = self.atol + self.rtol * np.maximum(np.abs(y), np.abs(y + moved))
        self.local_error = float(np.linalg.norm(gap))
        errors = [np.sqrt(np.mean((gap[s] / scale[s]) ** 2)) for s in self._state.slices().values()]
        return float(max(errors))

    def _dense_output_impl(self):
        return Hermite(*self._before, self.t, self.y, self.f)


class Adams(Exponential):
    """An exponential Adams method: one evaluation of the field a step.

    The slow part, with −A from the flow at the step's beginning, is a polynomial in time: through
    its last two values to predict, and through the value found there as well to correct, to order
    three. The distance of the two is the error estimate. That a value of the slow part was found
    at a predicted state is no matter, since A is subtracted at that same state; the corrected
    state is not evaluated again.
    """

    # With no stages between, less of what decays may be left to the slow part.
    slowest, reach = 0.3, 0.8

    def __init__(self, fun: State, t0, y0, t_bound, *, rtol, atol):
        super().__init__(fun, t0, y0, t_bound, rtol=rtol, atol=atol)
        self.h_abs /= 4  # the first step is of order one
        self._known = deque([(t0, y0, self.f)], maxlen=2)

    def _try(self, h: float) -> tuple[np.ndarray, float]:
        known = list(self._known)
        predicted = self.y + self._through(known, h)
        self._new = self.t + h, predicted, self.fun(self.t + h, predicted)
        moved = self._through([*known, self._new], h)
        return moved, self._error(self.y + moved - predicted, moved)

    def _slope(self) -> np.ndarray:
        self._known.append(self._new)
        return self._new[2]

    def _through(self, known: list[tuple[float, np.ndarray, np.ndarray]], h: float) -> np.ndarray:
        """How far a step goes with the polynomial through the slow part at times known."""
        L = self._linear
        slow = np.stack([f - L @ (y - self.y) for _, y, f in known])
        at = np.array([t - self.t for t, _, _ in known]) / h
        powers = np.linalg.solve(np.vander(at, increasing=True), slow)
        return h * sum(
            math.factorial(k) * L.of(lambda x, k=k: phi(h * x)[k + 1], power)
            for k, power in enumerate(powers)
        )


class Hermite(scipy.integrate.DenseOutput):
    """The cubic through both ends of a step and its slopes there."""

    def __init__(self, t0, y0, f0, t1, y1, f1):
        super().__init__(t0, t1)
        self.y0, self.f0, self.y1, self.f1 = y0, f0, y1, f1

    def _call_impl(self, t):
        h = self.t - self.t_old
        s = (t - self.t_old) / h
        ends = (1 + 2 * s) * (1 - s) ** 2 * self.y0 + s**2 * (3 - 2 * s) * self.y1
        return ends + h * s * (1 - s) * ((1 - s) * self.f0 - s * self.f1)
