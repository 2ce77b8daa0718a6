"""B-series in numbers, beside formulas and beside torch's own derivatives."""

import numpy as np
import pytest
import sympy
import torch

import gdflows as gf
from gdflows.bseries import Tree, elementary_differentials, modified_equation
from gdflows.errors import InputError

DOT = Tree()
WANT = [1, -1, 3 / 2, -8 / 3, 31 / 6, -157 / 15, 649 / 30]


def test_the_banana_as_objective_as_function_and_as_formula():
    x, y, h = sympy.symbols("x y h")
    loss = (1 - x) ** 2 + 10 * (y - x**2) ** 2
    series = modified_equation("explicit-euler", 4)
    at = torch.tensor([0.4, -0.3], dtype=torch.float64)
    want = series.for_system([-loss.diff(x), -loss.diff(y)], [x, y])
    want = [[float(e.coeff(h, n).subs({x: 0.4, y: -0.3})) for e in want] for n in range(5)]
    E = gf.problems.banana(b=10.0)

    def field(u):
        a, b = u
        return torch.stack([2 * (1 - a) + 40 * a * (b - a**2), -20 * (b - a**2)])

    for made in (series(E), series(field)):
        np.testing.assert_allclose(made.coefficients(at).numpy(), want, rtol=1e-11)
        sums = sum(0.01**n * np.array(row) for n, row in enumerate(want))
        np.testing.assert_allclose(made(at, 0.01).numpy(), sums, rtol=1e-11)


def test_one_dimension_takes_each_derivative_once_and_a_high_order():
    series = modified_equation("explicit-euler", 9)
    at = torch.tensor([0.8], dtype=torch.float64)
    found = series(gf.problems.cosh()).coefficients(at)
    y, h = sympy.symbols("y h")
    low = modified_equation("explicit-euler", 5).for_scalar(-sympy.sinh(y), y)
    want = [float(low.coeff(h, n).subs(y, 0.8)) for n in range(6)]
    np.testing.assert_allclose(found[:6, 0].numpy(), want, rtol=1e-12)
    # dy/dt = y²: 1, −1, 3/2, −8/3, 31/6, … known to any order
    powers = series(lambda u: u**2).coefficients(torch.ones(1, dtype=torch.float64))
    assert powers[:, 0].tolist()[:7] == pytest.approx(WANT)


def test_truncated_flows_take_their_numbers_from_here():
    E = gf.problems.banana()
    at = torch.tensor([0.9, 0.75], dtype=torch.float64)
    series = gf.bseries.heavy_ball("1/2", 3)
    flow = gf.flows.Truncated(E, 1e-4, 2, series=series)
    assert torch.equal(flow.vector_field(at), series(E, 2)(at, 1e-4))


def test_an_elementary_differential():
    def field(u):
        return torch.stack([torch.sin(u[0]) * u[1], u[0] ** 2 + u[1]])

    at = torch.tensor([0.3, 0.7], dtype=torch.float64)
    F = elementary_differentials(field, at)
    jacobian = torch.autograd.functional.jacobian(field, at)
    assert torch.allclose(F(Tree([DOT])), jacobian @ field(at))
    second = torch.stack(
        [torch.autograd.functional.hessian(lambda u, i=i: field(u)[i], at) for i in range(2)]
    )
    u, v = F(DOT), F(Tree([DOT]))
    assert torch.allclose(F(Tree([DOT, Tree([DOT])])), torch.einsum("ijk,j,k->i", second, u, v))


def test_bad_input():
    with pytest.raises(InputError, match="of y's shape"):
        elementary_differentials(lambda u: u.sum(), torch.ones(2))
    with pytest.raises(InputError, match="0 … 2"):
        modified_equation("rk4", 2)(torch.sin, 3)
