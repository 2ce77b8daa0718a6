"""Partitioned methods: modified Hamiltonians, the other kinds of series, and one-step errors."""

from fractions import Fraction as F

import numpy as np
import pytest
import sympy
import torch
from scipy.integrate import solve_ivp

from gdflows.bseries import (
    PARTITIONED,
    ColouredTree,
    Method,
    PartitionedMethod,
    Tree,
    coloured_trees,
    modified_equation,
    partitioned_equation,
    svg,
    taylor_matching,
)
from gdflows.errors import InputError

q, p, h = sympy.symbols("q p h")


def test_numbers_of_coloured_trees():
    # OEIS A000151, for each colour of the root
    assert [len(coloured_trees(n)) for n in range(1, 7)] == [2, 4, 14, 52, 214, 916]
    fork = ColouredTree("y", [ColouredTree("y"), ColouredTree("z")])
    assert fork.symmetry == 1 and ColouredTree("z", [ColouredTree("z")] * 2).symmetry == 2
    assert all(t.colour == "y" for t in coloured_trees(4)[:26])
    assert sum(n for t in coloured_trees(5) for n in t.cuts.values()) == 4 * 214


def as_sum(fields):
    return sympy.Matrix([e for part in fields for e in part])


@pytest.mark.parametrize(
    ("method", "rows"),
    [
        # field = log(step)/h of the oscillator, θ/sin θ times these, cos θ = 1 − h²/2
        ("symplectic-euler", [[-h / 2, 1], [-1, h / 2]]),
        ("symplectic-euler-adjoint", [[h / 2, 1], [-1, -h / 2]]),
        ("stormer-verlet", [[0, 1], [h**2 / 4 - 1, 0]]),
    ],
)
def test_the_oscillator_is_a_logarithm(method, rows):
    angle = sympy.acos(1 - h**2 / 2)
    ratio = (angle / sympy.sin(angle) / sympy.Integer(1)).series(h, 0, 6).removeO()
    field = as_sum(partitioned_equation(method, 5).for_system(p, -q, q, p))
    want = ratio * sympy.Matrix(rows) * sympy.Matrix([q, p])
    gap = (field - want).applyfunc(lambda e: sympy.series(sympy.expand(e), h, 0, 6).removeO())
    assert gap.applyfunc(sympy.simplify) == sympy.zeros(2, 1)


V = -sympy.cos(q)
dV, d2V = V.diff(q), V.diff(q, 2)
KNOWN = {
    # Yoshida (1993): symplectic Euler; kick, drift, kick
    "symplectic-euler": p**2 / 2 + V - h / 2 * p * dV + h**2 / 12 * (dV**2 + p**2 * d2V),
    "stormer-verlet": p**2 / 2 + V + h**2 * (p**2 * d2V / 12 - dV**2 / 24),
}


@pytest.mark.parametrize("method", KNOWN)
def test_modified_hamiltonians_of_the_pendulum(method):
    field = as_sum(partitioned_equation(method, 2).for_system(p, -dV, q, p))
    hamiltonian = KNOWN[method]
    want = sympy.Matrix([hamiltonian.diff(p), -hamiltonian.diff(q)])
    assert (field - want).applyfunc(sympy.expand) == sympy.zeros(2, 1)


@pytest.mark.parametrize("method", PARTITIONED)
def test_the_field_stays_hamiltonian(method):
    hamiltonian = p**2 / 2 + p * q**2 - sympy.cos(q)  # not separable
    f, g = hamiltonian.diff(p), -hamiltonian.diff(q)
    field = as_sum(partitioned_equation(method, 4).for_system(f, g, q, p))
    assert sympy.expand(field[0].diff(q) + field[1].diff(p)) == 0  # no divergence in the plane


def test_beside_taylor_matching_to_order_4():
    f, g = p + q * p, q**2 - q  # y₁ = q + h f(q, z₁) with z₁ = p + h g(q), explicit
    new = p + h * g
    step = [q + h * f.subs(p, new), new]
    taylor = taylor_matching(None, [q, p], 4, step=step)
    taylor = sum((h**n * u for n, u in enumerate(taylor)), sympy.zeros(2, 1))
    trees = as_sum(partitioned_equation("symplectic-euler", 4).for_system(f, g, q, p))
    assert (trees - taylor).applyfunc(sympy.expand) == sympy.zeros(2, 1)


def shape(tree):
    return Tree([shape(b) for b in tree.branches])


@pytest.mark.parametrize("method", ["explicit-euler", "heun"])
def test_one_tableau_for_both_is_the_method_itself(method):
    from gdflows.bseries import METHODS

    both = partitioned_equation(PartitionedMethod(METHODS[method], METHODS[method]), 4)
    plain = modified_equation(method, 4)
    assert all(both.b[t] == plain.b[shape(t)] for t in both.b)


def test_verlet_is_half_a_step_and_half_of_the_adjoint():
    euler = PARTITIONED["symplectic-euler"]
    verlet = partitioned_equation("stormer-verlet", 4)
    assert verlet.b == partitioned_equation(euler.then(euler.adjoint()), 4).b
    assert euler.adjoint().for_y == Method([[1]], [1], euler.adjoint().for_y.name)
    forth, back = partitioned_equation(euler, 4), partitioned_equation(euler.adjoint(), 4)
    assert all(back.b[t] == forth.b[t] * (-1) ** (t.order - 1) for t in forth.b)
    assert back.b == partitioned_equation("symplectic-euler-adjoint", 4).b
    assert [len(verlet.terms(n)) for n in (1, 3)] == [0, 0]


PULL, PUSH = p + q * p / 3 - q**2 / 10, -q + q**2 / 5 - p / 5 + q * p / 10
f_, g_ = (sympy.lambdify([q, p], e) for e in (PULL, PUSH))


def solved(new, x):
    for _ in range(60):
        x = new(x)
    return x


def step(method, y, z, rate):
    if method == "symplectic-euler":
        z1 = solved(lambda w: z + rate * g_(y, w), z)
        return y + rate * f_(y, z1), z1
    if method == "symplectic-euler-adjoint":
        y1 = solved(lambda w: y + rate * f_(w, z), y)
        return y1, z + rate * g_(y1, z)
    y1, z1 = step("symplectic-euler", y, z, rate / 2)
    return step("symplectic-euler-adjoint", y1, z1, rate / 2)


@pytest.mark.parametrize("method", PARTITIONED)
def test_one_step_errors_have_the_slope_n_plus_2(method):
    symmetric = method == "stormer-verlet"  # then at an even n the next power is missing too
    for n in (0, 2) if symmetric else range(4):
        fields = as_sum(partitioned_equation(method, n).for_system(PULL, PUSH, q, p))
        field = sympy.lambdify([(q, p), h], list(fields))
        errors = []
        for rate in (0.08, 0.04):
            end = solve_ivp(
                lambda t, u, rate=rate, field=field: field(u, rate), (0, rate), [0.7, 0.4],
                method="DOP853", rtol=3e-14, atol=1e-16,
            )  # fmt: skip
            errors.append(np.linalg.norm(end.y[:, -1] - step(method, 0.7, 0.4, rate)))
        slope = np.log2(errors[0] / errors[1])
        assert slope == pytest.approx(n + 2 + symmetric, abs=0.2), n


def test_formulas_and_numbers_agree():
    series = partitioned_equation("symplectic-euler", 3)
    y1, y2 = sympy.symbols("y1 y2")
    parts = series.for_system([p * y2, y1 - p], y1 * y2 - p**2, [y1, y2], p)
    point = {y1: 0.3, y2: -0.8, p: 0.5, h: 0.1}
    want = [float(e.subs(point)) for part in parts for e in part]
    field = series(
        lambda y, z: torch.stack([z[0] * y[1], y[0] - z[0]]),
        lambda y, z: torch.stack([y[0] * y[1] - z[0] ** 2]),
    )
    double = {"dtype": torch.float64}
    got = field(torch.tensor([0.3, -0.8], **double), torch.tensor([0.5], **double), 0.1)
    np.testing.assert_allclose(torch.cat(got).numpy(), want, rtol=1e-12)


def test_printing():
    series = partitioned_equation("symplectic-euler", 2)
    text = series.latex(largest=1)
    assert r"\dot y = f^y + h\Bigl(-\frac{1}{2}\,f^y_{y} f^y + \frac{1}{2}\,f^y_{z} f^z" in text
    assert r"\dot z = f^z" in text and "f^y_{yz}(f^y, f^z)" in series.latex()
    assert repr(series) == "PartitionedEquation(symplectic Euler: 20 terms to h^2)"
    table = series.table()
    assert {"fʸ_yz(fʸ, fᶻ)", "fʸ_z·fᶻ"} <= set(table.term)
    picture = svg(ColouredTree("y", [ColouredTree("z")]))
    assert picture.count("<circle") == 1 and picture.count("<rect") == 1
    assert series.coefficient(ColouredTree("y", [ColouredTree("z")])) == F(1, 2)


BAD = {
    "a third colour": (lambda: ColouredTree("x"), "not 'x'"),
    "no vertex": (lambda: coloured_trees(0), "at least one"),
    "stages that do not fit": (
        lambda: PartitionedMethod(Method([[0]], [1]), Method([[0, 0], [1, 0]], ["1/2", "1/2"])),
        "equally many",
    ),
    "unknown name": (lambda: partitioned_equation("verlet", 2), "stormer-verlet"),
    "no method": (lambda: partitioned_equation(([[0]], [1]), 2), "two tableaux"),
    "negative order": (lambda: partitioned_equation("stormer-verlet", -1), "got -1"),
    "too few right-hand sides": (
        lambda: partitioned_equation("stormer-verlet", 1).for_system([p], [q, q], q, p),
        "g has 2 components, z 1",
    ),
    "a plain tree": (
        lambda: partitioned_equation("stormer-verlet", 1).coefficient(Tree()),
        "no tree of this series",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(what):
    make, words = BAD[what]
    with pytest.raises(InputError) as e:
        make()
    assert words in str(e.value)
