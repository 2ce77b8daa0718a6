"""Weak orders of the schemes, by exact expectations: no random numbers, no error of sampling."""

from itertools import product

import numpy as np
import pytest
import sympy as sp
import torch

import gdflows as gf
from gdflows.flows import StochasticFlow
from gdflows.walking.schemes import additive, general

f64 = torch.float64
X, Y = sp.symbols("x y")

# drift, the columns of σ: two noises that do not commute, and that commute but are no diagonal
NONCOMMUTING = (
    (-X + Y**2 / 2, sp.sin(X) - Y),
    ((1 + Y, X * Y), (X**2 / 2, sp.Rational(1, 2) + X)),
)
COMMUTING = ((-X + Y**2 / 2, sp.sin(X) - Y), ((1 + X**2, 0), (0, sp.cos(Y))))
ADDITIVE = ((-X + Y**2 / 2, sp.sin(X) - Y), ((1, sp.Rational(1, 2)), (0, 2)))
FUNCTIONS = (X, X * Y, X**2 * Y, Y**4)


class Symbolic(StochasticFlow):
    """Two equations by their formulas."""

    channels = 2

    def __init__(self, equation, **kwargs):
        super().__init__(gf.problems.quadratic([1.0, 1.0]), 0.1, **kwargs)
        (b, columns), self.label = equation, "symbolic"
        as_torch = {"sin": torch.sin, "cos": torch.cos}
        self._b = [sp.lambdify((X, Y), e, [as_torch, "math"]) for e in b]
        self._s = [[sp.lambdify((X, Y), e, [as_torch, "math"]) for e in c] for c in columns]
        self.additive = not any(e.free_symbols for c in columns for e in map(sp.sympify, c))

    def drift(self, thetas):
        x, y = thetas.unbind(1)
        return torch.stack([f(x, y) + 0 * x for f in self._b], 1)

    def noise(self, thetas, z):
        x, y = thetas.unbind(1)
        return sum(
            z[:, j, None] * torch.stack([f(x, y) + 0 * x for f in column], 1)
            for j, column in enumerate(self._s)
        )


def generator(equation):
    """f to Lf, from the formulas."""
    b, columns = equation

    def apply(f):
        first = sum(bi * sp.diff(f, v) for bi, v in zip(b, (X, Y), strict=True))
        second = sum(
            c[i] * c[j] * sp.diff(f, u, v)
            for c in columns
            for i, u in enumerate((X, Y))
            for j, v in enumerate((X, Y))
        )
        return first + second / 2

    return apply


def exact_step(flow, at, dt, f, areas=True):
    """The mean of f after a step, over every outcome of three-point increments and signs."""
    points, weights = (-(3**0.5), 0.0, 3**0.5), (1 / 6, 2 / 3, 1 / 6)
    rows, probabilities = [], []
    for i, j in product(range(3), repeat=2):
        for signs in product((-1.0, 1.0), repeat=4):
            rows.append((points[i], points[j], *signs))
            probabilities.append(weights[i] * weights[j] / 16)
    w, z, y = (torch.tensor(rows, dtype=f64)[:, 2 * k : 2 * k + 2] for k in range(3))
    x = torch.tensor(at, dtype=f64).expand(len(rows), 2)
    if flow.additive:
        after = additive(flow, x, dt, dt**0.5 * w)
    else:
        after = general(flow, x, dt, dt**0.5 * w, z if areas else 0 * z, y)
    return float(np.dot(probabilities, f(*after.numpy().T)))


def local_slopes(equation, order, **kwargs):
    """Slopes of the local weak errors of all functions: order + 1 for weak order `order`."""
    flow, L, at = Symbolic(equation), generator(equation), (0.3, -0.4)
    sizes = [0.02, 0.01, 0.005]
    errors = np.zeros((len(FUNCTIONS), len(sizes)))
    for k, f in enumerate(FUNCTIONS):
        powers = [f]
        for _ in range(order):  # Taylor's series of the exact expectation
            powers.append(L(powers[-1]))
        values = [float(p.subs({X: at[0], Y: at[1]})) for p in map(sp.sympify, powers)]
        number = sp.lambdify((X, Y), f, "numpy")
        for i, dt in enumerate(sizes):
            series = sum(v * dt**n / float(sp.factorial(n)) for n, v in enumerate(values))
            errors[k, i] = abs(exact_step(flow, at, dt, number, **kwargs) - series)
    return np.array([np.polyfit(np.log(sizes), np.log(e), 1)[0] for e in errors])


@pytest.mark.parametrize(
    "equation", [NONCOMMUTING, COMMUTING, ADDITIVE], ids=["non-commuting", "commuting", "additive"]
)
def test_weak_order_two(equation):
    slopes = local_slopes(equation, 2)
    assert slopes.min() > 2.85, slopes


def test_without_levys_areas_it_is_of_order_one():
    """Which is what noises that commute do not need."""
    assert local_slopes(NONCOMMUTING, 2, areas=False).min() < 2.2
    assert local_slopes(COMMUTING, 2, areas=False).min() > 2.85
