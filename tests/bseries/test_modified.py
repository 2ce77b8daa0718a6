"""Modified equations: the literature's tables, two derivations, and the defining property."""

from fractions import Fraction as F
from math import comb

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

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
