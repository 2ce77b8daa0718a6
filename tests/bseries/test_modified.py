"""Modified equations: the literature's tables, two derivations, and the defining property."""

from fractions import Fraction as F
from functools import partial
from math import comb

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from gdflows import bseries
from gdflows.bseries import Tree, modified_equation, rooted_trees, taylor_matching
from gdflows.errors import InputError

y, h = sympy.symbols("y h")
DOT = Tree()


def tall(n):
    return DOT if n == 1 else Tree([tall(n - 1)])


def bushy(m):
    return Tree([DOT] * m)


def bernoulli(m):
    b = [F(1)]
    for n in range(1, m + 1):
        b.append(-sum(comb(n + 1, k) * b[k] for k in range(n)) / (n + 1))
    return b[m]


# Coefficients b(τ)/σ(τ) with which f is differentiated, trees in brackets. Explicit Euler: Hairer,
# Lubich and Wanner, IX.1; implicit Euler is its adjoint, so h changes sign; midpoint: ibid.,
# IX.1.3 (1/12 and −1/24); RK4: the order conditions that it fails at order 5, from its tableau.
TABLE = {
    "explicit-euler": {
        "[•]": "-1/2", "[[•]]": "1/3", "[••]": "1/12",
        "[[[•]]]": "-1/4", "[[••]]": "-1/12", "[[•]•]": "-1/12", "[•••]": "0",
        "[[[[•]]]]": "1/5", "[[[••]]]": "3/40", "[[[•]•]]": "1/10", "[[•••]]": "1/180",
        "[[•][•]]": "1/60", "[[[•]]•]": "1/20", "[[••]•]": "1/120", "[[•]••]": "-1/120",
        "[••••]": "-1/720",
    },
    "implicit-euler": {
        "[•]": "1/2", "[[•]]": "1/3", "[••]": "1/12",
        "[[[•]]]": "1/4", "[[••]]": "1/12", "[[•]•]": "1/12", "[•••]": "0",
    },
    "midpoint": {
        "[•]": "0", "[[•]]": "1/12", "[••]": "-1/24",
        "[[[•]]]": "0", "[[••]]": "0", "[[•]•]": "0", "[•••]": "0", "[[[[•]]]]": "1/80",
    },
    "rk4": {
        "[•]": "0", "[[•]]": "0", "[••]": "0",
        "[[[•]]]": "0", "[[••]]": "0", "[[•]•]": "0", "[•••]": "0",
        "[[[[•]]]]": "-1/120", "[••••]": "1/2880",
    },
}  # fmt: skip


@pytest.mark.parametrize("method", TABLE)
def test_tables_of_the_literature(method):
    series = modified_equation(method, order=4)
    found = {str(t.tree): t.coefficient for n in range(5) for t in series.terms(n, zeros=True)}
    for tree, value in TABLE[method].items():
        assert found[tree] == F(value), tree
    assert found["•"] == 1


@pytest.mark.parametrize(
    ("method", "peer"),
    [
        ("explicit-euler", "euler"), ("implicit-euler", "backward_euler"),
        ("midpoint", "implicit_midpoint"), ("explicit-midpoint", "midpoint"),
        ("trapezoid", "crank_nicolson"), ("heun", "heun_rk2"), ("rk4", "rk4"),
    ],
)  # fmt: skip
def test_tree_by_tree_beside_another_library_to_order_6(method, peer):
    kauri = pytest.importorskip("kauri")

    def ours(nested):  # their trees: nested tuples of the branches, each with a colour at its end
        return Tree([ours(branch) for branch in nested[:-1]])

    series = modified_equation(method, order=6)
    field = getattr(kauri, peer).modified_equation_map()
    trees = [t for t in kauri.trees_up_to_order(7) if t.nodes() > 0]
    assert {ours(t.list_repr) for t in trees} == set(series.b)
    for tree in trees:
        assert float(series.b[ours(tree.list_repr)]) == pytest.approx(float(field(tree)), abs=1e-13)


def test_reversed_and_symmetric_methods_to_order_6():
    euler, back = (modified_equation(m, 6) for m in ("explicit-euler", "implicit-euler"))
    assert all(back.b[t] == euler.b[t] * (-1) ** (t.order - 1) for t in euler.b)
    for method in ("midpoint", "trapezoid"):
        series = modified_equation(method, 6)
        assert [bool(series.terms(n)) for n in range(7)] == [1, 0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("method", bseries.METHODS)
def test_the_modified_flow_is_the_method(method):
    # The defining property, through the substitution law, to order 6: an algorithm of its own.
    series = modified_equation(method, order=6)
    weights = bseries.METHODS[method].weights()
    flow = bseries.substitute(series.b.__getitem__, bseries.exact_flow)
    for n in range(1, 8):
        for tree in rooted_trees(n):
            assert flow(tree) == weights(tree), tree


def test_numbers_of_terms():
    series = modified_equation("explicit-euler", order=8)
    assert [len(series.terms(n)) for n in range(9)] == [1, 1, 2, 3, 9, 16, 48, 103, 262]
    # RK4 has order 4: nothing at h, h², h³, and nine terms at h⁴
    assert [len(modified_equation("rk4", 4).terms(n)) for n in range(5)] == [1, 0, 0, 0, 9]


def test_tall_trees_are_the_logarithm():
    # Theorem 3.1 of Rosca et al.: (−1)^p/(p+1) for f, so −1/(p+1) in derivatives of E
    series = modified_equation("explicit-euler", order=10)
    for p in range(11):
        assert series.coefficient(tall(p + 1)) == F((-1) ** p, p + 1)
        term = next(t for t in series.terms(p) if t.tree == tall(p + 1))
        assert term.loss_coefficient == F(-1, p + 1)


def test_bushy_trees_carry_bernoulli_numbers():
    series = modified_equation("explicit-euler", order=10)
    for m in range(1, 11):
        factor = F(1)
        for k in range(1, m + 1):
            factor *= k
        assert series.coefficient(bushy(m)) * (-1) ** (m + 1) == (
            F((-1) ** (m + 1)) * bernoulli(m) / factor
        )


def test_the_square():
    want = (
        y**2 - h * y**3 + sympy.Rational(3, 2) * h**2 * y**4 - sympy.Rational(8, 3) * h**3 * y**5
        + sympy.Rational(31, 6) * h**4 * y**6 - sympy.Rational(157, 15) * h**5 * y**7
        + sympy.Rational(649, 30) * h**6 * y**8
    )  # fmt: skip
    series = modified_equation("explicit-euler", order=6)
    assert sympy.expand(series.for_scalar(y**2, y) - want) == 0
    matched = sum(h**n * f for n, f in enumerate(taylor_matching(y**2, y, 6)))
    assert sympy.expand(matched - want) == 0


def test_two_derivations_agree_for_any_scalar_f_to_order_6():
    f = sympy.Function("f")(y)
    trees = modified_equation("explicit-euler", order=6).for_scalar(f, y)
    taylor = sum(h**n * u for n, u in enumerate(taylor_matching(f, y, 6)))
    assert sympy.expand(trees - taylor) == 0


numbers = st.integers(-3, 3)


@settings(max_examples=8, deadline=None)
@given(st.lists(numbers, min_size=6, max_size=6), st.lists(numbers, min_size=6, max_size=6))
def test_two_derivations_agree_in_the_plane_to_order_4(p, q):
    x = sympy.Symbol("x")
    monomials = [1, x, y, x * y, x**2, y**3]
    f = [sum(c * m for c, m in zip(cs, monomials, strict=True)) for cs in (p, q)]
    taylor = taylor_matching(f, [x, y], 4)
    trees = modified_equation("explicit-euler", order=4).for_system(f, [x, y])
    total = sum((h**n * u for n, u in enumerate(taylor)), sympy.zeros(2, 1))
    assert (total - trees).applyfunc(sympy.expand) == sympy.zeros(2, 1)


# One step for dy/dt = y², solved by hand: z stands for the midpoint or the new value.
STEPS = {
    "implicit-euler": (1 - sympy.sqrt(1 - 4 * h * y)) / (2 * h),
    "midpoint": 2 * (1 - sympy.sqrt(1 - 2 * h * y)) / h - y,
}


@pytest.mark.parametrize("method", ["implicit-euler", "midpoint", "rk4"])
def test_two_derivations_agree_for_other_methods_to_order_6(method):
    if method == "rk4":
        k1 = y**2
        k2 = (y + h / 2 * k1) ** 2
        k3 = (y + h / 2 * k2) ** 2
        step = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + (y + h * k3) ** 2)
    else:
        step = STEPS[method].series(h, 0, 9).removeO()
    taylor = sum(h**n * u for n, u in enumerate(taylor_matching(None, y, 6, step=step)))
    trees = modified_equation(method, order=6).for_scalar(y**2, y)
    assert sympy.expand(taylor - trees) == 0


def test_taylor_matching_of_another_method():
    step = y + h * (y + h * y**2 / 2) ** 2  # explicit midpoint for dy/dt = y²
    taylor = sum(h**n * u for n, u in enumerate(taylor_matching(None, y, 4, step=step)))
    trees = modified_equation("explicit-midpoint", order=4).for_scalar(y**2, y)
    assert sympy.expand(taylor - trees) == 0


def test_two_players():
    # Simultaneous: −(h/2)(f_x f + f_y q); alternating, y second: −(h/2)(q_y q − q_x f) for y.
    x = sympy.Symbol("x")
    f, q = x**2 * y, x - y**2
    simultaneous = taylor_matching([f, q], [x, y], 1)[1]
    want = -sympy.Rational(1, 2) * sympy.Matrix(
        [f.diff(x) * f + f.diff(y) * q, q.diff(x) * f + q.diff(y) * q]
    )
    assert (simultaneous - want).applyfunc(sympy.expand) == sympy.zeros(2, 1)
    new = x + h * f
    alternating = taylor_matching(None, [x, y], 1, step=[new, y + h * q.subs(x, new)])[1]
    second = -sympy.Rational(1, 2) * (q.diff(y) * q - q.diff(x) * f)
    assert sympy.expand(alternating[0] - want[0]) == 0
    assert sympy.expand(alternating[1] - second) == 0


def test_mirror_and_preconditioned_descent():
    # Mirror descent in u = log y: u ← u − h E'(y). Its field in y is −M(g + (h/2) H M g), M = y.
    E = y**3
    g, H = E.diff(y), E.diff(y, 2)
    field = taylor_matching(
        None,
        sympy.Symbol("u"),
        1,
        step=sympy.Symbol("u") - h * g.subs(y, sympy.exp(sympy.Symbol("u"))),
    )
    in_y = [sympy.expand((y * v).subs(sympy.Symbol("u"), sympy.log(y))) for v in field]
    assert sympy.simplify(in_y[0] + y * g) == 0
    assert sympy.simplify(in_y[1] + y * H * y * g / 2) == 0
    # Preconditioned by P: −P∇(E + (h/4) g·Pg)
    x, p1, p2 = sympy.symbols("x p1 p2")
    E2 = x**2 * y + y**3
    P = sympy.diag(p1, p2)
    grad = sympy.Matrix([E2.diff(x), E2.diff(y)])
    first = taylor_matching(list(-P * grad), [x, y], 1)[1]
    penalty = (grad.T * P * grad)[0] / 4
    want = -P * sympy.Matrix([penalty.diff(x), penalty.diff(y)])
    assert (first - want).applyfunc(sympy.expand) == sympy.zeros(2, 1)


def test_an_epoch_of_shuffled_minibatches():
    # m batches, flow time mh an epoch; through h² the mean over all shufflings follows
    # E + (h/4m) Σ‖g_i‖², E the mean loss: in units of the epoch H = mh, f₁ = −Σ g_i' g_i / (2m²)…
    from itertools import permutations

    losses = [y**2, y**3, 2 * y**4 + y]
    m = len(losses)
    ends = []
    for order in permutations(losses):
        at = y
        for loss in order:
            at = at - h / m * loss.diff(y).subs(y, at)
        ends.append(at)
    mean = sympy.expand(sum(ends) / len(ends))  # one epoch is a step of h = m · rate
    f0, f1 = taylor_matching(None, y, 1, step=mean)
    total = sum(losses) / m
    penalty = sum(loss.diff(y) ** 2 for loss in losses) / m / (4 * m)
    assert sympy.expand(f0 + total.diff(y)) == 0
    assert sympy.expand(f1 + penalty.diff(y)) == 0


def test_adjoint_and_composition():
    euler = bseries.METHODS["explicit-euler"]
    assert euler.adjoint() == bseries.Method([[1]], [1], "adjoint of explicit Euler")
    # half a step of each is the trapezoidal rule's or the midpoint rule's conjugate
    both = modified_equation(euler.adjoint().then(euler), 4)
    midpoint = modified_equation("midpoint", 4)
    assert both.b == midpoint.b
    # two half steps of one method have its modified equation with h/2
    twice, once = modified_equation(euler.then(euler), 4), modified_equation(euler, 4)
    assert all(twice.b[t] == once.b[t] / 2 ** (t.order - 1) for t in twice.b)


def test_composition_of_series_is_that_of_tableaux():
    euler, rk = bseries.METHODS["explicit-euler"], bseries.METHODS["heun"]
    product = bseries.compose(euler.weights(), rk.weights())
    tableau = euler.then(rk).weights()  # two half steps: powers of ½
    for n in range(1, 7):
        for tree in rooted_trees(n):
            assert product(tree) == tableau(tree) * 2**n


@pytest.mark.parametrize("beta", ["0", "1/2", "9/10"])
def test_momentum(beta):
    B = F(beta)
    g, Hg, Tgg, HHg = (t.loss_coefficient for t in bseries.heavy_ball(beta, 2))
    assert g == -1 / (1 - B)
    assert Hg == -(1 + B) / (2 * (1 - B) ** 3)
    assert HHg == -(1 + 4 * B + B * B) / (3 * (1 - B) ** 5)
    assert Tgg == -(1 + 10 * B + B * B) / (12 * (1 - B) ** 5)
    nesterov = [t.loss_coefficient for t in bseries.nesterov(beta, 1)]
    assert nesterov == [-1 / (1 - B), -(1 - B + 2 * B * B) / (2 * (1 - B) ** 3)]


def test_momentum_on_a_line_is_the_slow_root():
    # f = −y: heavy ball's slow root z of z² − (1+β−h)z + β, and log(z)/h the field
    series = bseries.heavy_ball("1/2", 8)
    value = series.for_scalar(-y, y).subs({y: 1, h: sympy.Rational(1, 1000)})
    x, beta = 0.001, 0.5
    s = 1 + beta - x
    root = (s + (s * s - 4 * beta) ** 0.5) / 2
    import math

    assert float(value) == pytest.approx(math.log(root) / x, rel=1e-12)


def scalar_heavy_ball(f, at, rate, beta, steps):
    before = at
    for _ in range(steps):
        before, at = at, at + beta * (at - before) + rate * f(at)
    return at


def scalar_nesterov(f, at, rate, beta, steps):
    before = at
    for _ in range(steps):
        ahead = at + beta * (at - before)
        before, at = at, ahead + rate * f(ahead)
    return at


def torch_nesterov(f, at, rate, beta, steps):
    theta = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.SGD([theta], lr=rate, momentum=beta, nesterov=True)
    for _ in range(steps):
        theta.grad = torch.tensor(-f(theta.item()), dtype=torch.float64)
        optimiser.step()
    return theta.item()


MOMENTUM = {
    "heavy ball": (bseries.heavy_ball, scalar_heavy_ball),
    "Nesterov": (bseries.nesterov, scalar_nesterov),
    "torch's Nesterov": (partial(bseries.nesterov, lookahead=True), torch_nesterov),
}


@pytest.mark.parametrize("order", range(5))
@pytest.mark.parametrize("which", MOMENTUM)
def test_momentum_from_rest_has_global_order_n_plus_1(which, order):
    make, descend = MOMENTUM[which]
    f = sympy.sin(y) - y / 3 + sympy.Rational(1, 5)
    series, force = make("1/2", order), sympy.lambdify(y, f)
    field, shift = series.lambdify(f, y), series.shift.lambdify(f, y)
    errors, counts = {True: [], False: []}, np.array([480, 640] if order < 4 else [240, 320])
    for count in counts:
        rate = 2 / count
        end = descend(force, 0.3, rate, 0.5, count)
        for shifted, found in errors.items():
            start = 0.3 + shifted * rate * shift(np.array([0.3]), rate)
            path = solve_ivp(
                lambda t, u, rate=rate: field(u, rate), (0, 2), np.atleast_1d(start),
                method="DOP853", rtol=3e-14, atol=1e-16,
            )  # fmt: skip
            found.append(abs(path.y[0, -1] - end))
    slopes = {k: -np.diff(np.log(e))[0] / np.diff(np.log(counts))[0] for k, e in errors.items()}
    assert slopes[True] == pytest.approx(order + 1, abs=0.2), (slopes, errors)
    if order > 0:  # unshifted: order 1 whatever n
        assert slopes[False] == pytest.approx(1, abs=0.1)


def test_the_two_forms_of_nesterov_part_at_h_squared():
    points, ahead = bseries.nesterov("1/2", 2), bseries.nesterov("1/2", 2, lookahead=True)
    assert all(points.terms(n) == ahead.terms(n) for n in (0, 1))
    assert points.terms(2) != ahead.terms(2)
    none = [bseries.nesterov(0, 4, lookahead=x) for x in (False, True)]
    euler = modified_equation("explicit-euler", 4)
    assert all(s.b == euler.b and len(s.shift) == 0 for s in none)


def test_the_shift_of_heavy_ball():
    B = F(1, 3)
    shift = bseries.heavy_ball(B, 3).shift
    assert shift.coefficient(DOT) == -B / (1 - B) ** 2
    assert shift.latex(largest=0) == r"\Delta\theta_0 / h = -\frac{3}{4}\,f"


def test_plain_functions_of_numpy_and_torch():
    x = sympy.Symbol("x")
    series = modified_equation("explicit-euler", 2)
    f = [sympy.sqrt(2) * sympy.sin(x) * y, 3]
    exact = series.for_system(f, [x, y])
    points = np.linspace(0.1, 0.9, 6).reshape(2, 3)
    want = np.array([[float(e.subs({x: a, y: b, h: 0.25})) for a, b in points.T] for e in exact])
    numpy, torch_ = (series.lambdify(f, [x, y], modules=m) for m in ("numpy", "torch"))
    np.testing.assert_allclose(numpy(points, 0.25), want, rtol=1e-14)
    got = torch_(torch.from_numpy(points).requires_grad_(), 0.25)
    assert got.requires_grad and got.dtype == torch.float64
    np.testing.assert_allclose(got.detach().numpy(), want, rtol=1e-14)
    constant = series.lambdify(2, y)
    assert constant(points, 0.25).tolist() == np.full((2, 3), 2.0).tolist()


def test_printing_as_text_and_as_a_table():
    series = modified_equation("explicit-euler", order=4)
    text = series.unicode()
    assert text.startswith("ẏ = f − h 1/2 f′f + h²(1/12 f″(f, f) + 1/3 f′f′f)")
    assert "1/180 f′f‴(f, f, f)" in text and "h⁴(−1/720 f⁽⁴⁾(f, f, f, f)" in text
    assert "1/720 ∇⁵E[g, g, g, g]" in series.unicode(loss=True)
    assert "H^{10}g" in modified_equation("explicit-euler", 10).latex(loss=True)
    table = series.table(loss=True)
    assert table.groupby("order").size().tolist() == [1, 1, 2, 4, 9]
    cherry = table[table.tree == bushy(2)].iloc[0]
    assert (cherry.term, cherry.coefficient) == ("T[g, g]", F(-1, 12))
    assert (cherry.symmetry, cherry.density) == (2, 3)
    assert len(series.table(zeros=False)) == len(series)


def test_printing():
    series = modified_equation("explicit-euler", order=3)
    text = series.latex(loss=True)
    for part in (r"-g", r"h\,\frac{1}{2}\,Hg", r"\frac{1}{12}\,T[g, g]", r"\frac{1}{3}\,H^2g"):
        assert part in text
    assert "f''(f'f, f)" in series.latex()
    picture = bseries.svg(Tree([DOT, Tree([DOT])]))
    assert picture.count("<circle") == 4 and picture.count("<line") == 3
    assert 'aria-label="rooted tree [[•]•]"' in picture


BAD = {
    "inconsistent tableau": (lambda: modified_equation(([[0]], ["1/2"]), 2), "add up to 1/2"),
    "ragged tableau": (lambda: modified_equation(([[0], [1, 0]], ["1/2", "1/2"]), 2), "square"),
    "rounded weight": (lambda: modified_equation(([[0]], [1 / 3]), 2), "rounded float"),
    "no number": (lambda: modified_equation(([[0]], ["a"]), 2), "not a rational"),
    "unknown name": (lambda: modified_equation("euler", 2), "explicit-euler"),
    "no method": (lambda: modified_equation(3, 2), "tableau (A, b)"),
    "negative order": (lambda: modified_equation("rk4", -1), "got -1"),
    "order that is no whole number": (lambda: modified_equation("rk4", 2.5), "got 2.5"),
    "order that is no number": (lambda: modified_equation("rk4", "2"), "got '2'"),
    "another library": (lambda: modified_equation("rk4", 1).lambdify(y, y, "jax"), "got 'jax'"),
    "too few components": (
        lambda: modified_equation("rk4", 1).lambdify([y, y], [y, h])(np.ones(3), 0.1),
        "2 components, y has 3",
    ),
    "order of another series": (lambda: modified_equation("rk4", 2).terms(3), "0 … 2"),
    "tree beyond the series": (
        lambda: modified_equation("rk4", 2).coefficient(bushy(5)),
        "stops at h^2",
    ),
    "negative order of matching": (lambda: taylor_matching(y, y, -1), "got -1"),
    "components that do not fit": (lambda: taylor_matching([y, y], [y], 1), "2 components"),
    "a step that jumps": (lambda: taylor_matching(None, y, 1, step=y + 1 + h), "at h = 0"),
    "momentum of one": (lambda: bseries.heavy_ball(1, 2), "[0, 1)"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(what):
    make, words = BAD[what]
    with pytest.raises(InputError) as e:
        make()
    assert words in str(e.value)
