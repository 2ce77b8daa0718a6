"""Hebb, Oja, BCM and feedback weights, against closed forms, autograd and Euler's own steps."""

import math

import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError
from gdflows.flows import jacobian
from gdflows.flows.learning import (
    BCM,
    FeedbackAlignment,
    Hebb,
    KolenPollack,
    ModifiedRule,
    Oja,
    WeightMirror,
    asymmetry,
    euler_edge,
    rate_matrix,
    turning_bias,
)

f64 = torch.float64
LAM = torch.tensor([3.0, 1.2, 0.5], dtype=f64)
Q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=f64))[0]
C = Q @ torch.diag(LAM) @ Q.T
W0 = torch.tensor([0.3, -0.8, 0.4], dtype=f64)
UNIT = torch.eye(2, dtype=f64)


def problem(widths=(4, 5, 3), activation="tanh", loss="mse", seed=0, n=20, data="iris"):
    net = gf.problems.mlp(widths, activation, seed=seed, dtype=f64)
    return gf.problems.classification(data, net, n=n, loss=loss)


def linear_problem(seed=0):
    """A linear network of one hidden layer whose targets it can meet: a minimum with no error."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(12, 3, generator=g, dtype=f64)
    y = x @ torch.randn(3, 2, generator=g, dtype=f64)
    net = gf.problems.deep_linear([3, 4, 2], seed=seed, dtype=f64)
    return gf.Objective.from_module(net, gf.problems.squared_error, (x, y))


# -- the linear tools ---------------------------------------------------------------------------


def test_rate_matrix_is_that_of_differences():
    flow = Oja(C)
    assert torch.allclose(rate_matrix(flow, W0), jacobian(flow, W0), atol=1e-8)
    slow = BCM(torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=f64),
               threshold_time=0.5)
    J = rate_matrix(slow, W0, threshold=torch.tensor([0.7], dtype=f64))
    assert J.shape == (4, 4) and float(J[3, 3]) == pytest.approx(-2)


def test_rate_matrix_refuses_what_it_cannot():
    with pytest.raises(InputError, match="no companions"):
        rate_matrix(Oja(C), W0, threshold=torch.ones(1))
    slow = BCM(UNIT, threshold_time=0.5)
    for bad in (torch.ones(2, dtype=f64), torch.ones(1)):
        with pytest.raises(InputError, match="companion threshold"):
            rate_matrix(slow, UNIT[0], threshold=bad)
    with pytest.raises(InputError, match="not differentiable"):
        rate_matrix(gf.flows.NGF(gf.problems.cosh()), torch.ones(1, dtype=f64))


def test_asymmetry_and_edge_of_known_matrices():
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=f64)
    assert asymmetry(turn) == pytest.approx(1) and asymmetry(UNIT) == 0
    assert asymmetry(UNIT + turn) == pytest.approx(math.sqrt(0.5))
    assert euler_edge(-UNIT * 4) == pytest.approx(0.5)
    assert euler_edge(-UNIT + turn) == pytest.approx(1)  # |1 − h + ih|² = 1 − 2h + 2h²
    assert euler_edge(turn - 0.1 * UNIT) == pytest.approx(0.2 / 1.01)
    assert euler_edge(UNIT) == 0
    assert euler_edge(torch.diag(torch.tensor([-4.0, 0.0]))) == pytest.approx(0.5)
    nan = torch.full((2, 2), math.nan)
    for bad in (torch.zeros(2, 2), torch.zeros(2, 2, 2), nan, torch.eye(2, dtype=torch.int64)):
        with pytest.raises(InputError):
            asymmetry(bad)
    with pytest.raises(InputError, match="zero"):
        euler_edge(torch.zeros(2, 2))
    with pytest.raises(InputError, match="real"):
        euler_edge(UNIT.to(torch.complex128))
    with pytest.raises(InputError, match="finite"):
        euler_edge(nan)
    with pytest.raises(InputError, match="neutral"):
        euler_edge(UNIT, neutral=1)


def test_the_edge_in_single_precision_knows_its_neutral_modes():
    g = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=g, dtype=f64))[0]
    J = turn @ torch.diag(torch.tensor([-3.0, -1.0, 0, 0, 0], dtype=f64)) @ turn.T
    assert euler_edge(J) == pytest.approx(2 / 3, rel=1e-12)
    assert euler_edge(J.float()) == pytest.approx(2 / 3, rel=1e-5)


def test_turning_bias_is_the_series_engines_second_term():
    flow = Oja(C)
    f = flow.vector_field(W0)
    speed, turn = turning_bias(rate_matrix(flow, W0), f)
    series = gf.bseries.modified_equation("explicit-euler", 1)(flow.vector_field)
    assert torch.allclose(speed + turn, series.coefficients(W0)[1], atol=1e-13)
    assert abs(float(turn @ f)) < 1e-14 and float(turn.norm()) > 0.1
    step = 1e-6
    e = torch.eye(3, dtype=f64)
    quarter = [
        (flow.vector_field(W0 + step * d).pow(2).sum()
         - flow.vector_field(W0 - step * d).pow(2).sum()) / (8 * step)
        for d in e
    ]
    assert torch.allclose(speed, -torch.stack(quarter), atol=1e-8)
    with pytest.raises(InputError, match="shape"):
        turning_bias(torch.eye(3), torch.ones(2))


@pytest.mark.parametrize("order", [0, 1, 2])
def test_eulers_steps_follow_the_modified_rule(order):
    flow, errors = Oja(C), []
    for h in (0.02, 0.01):
        euler = gf.integrate(flow, W0, t=0.6, method="euler", step=h).states[-1]
        model = gf.integrate(ModifiedRule(flow, h, order=order), W0, times=[0, 0.6], rtol=1e-9)
        errors.append(float((model.states[-1] - euler).norm()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order + 1, abs=0.1)
    with pytest.raises(InputError, match="takes none"):
        gf.integrate(ModifiedRule(BCM(UNIT, threshold_time=1), 0.1), UNIT[0], t=1.0)


# -- Hebb and Oja -------------------------------------------------------------------------------


def test_hebb_is_the_gradient_flow_of_its_objective():
    flow = Hebb(C)
    assert torch.allclose(flow.vector_field(W0), -flow.objective.grad(W0))
    end = gf.integrate(flow, W0, t=0.7, rtol=1e-11).states[-1]
    assert torch.allclose(end, torch.linalg.matrix_exp(0.7 * C) @ W0, rtol=1e-8)


@pytest.mark.parametrize("t", [0.1, 1.0, 30.0])
def test_oja_follows_its_closed_form(t):
    flow = Oja(C)
    end = gf.integrate(flow, W0, t=t, rtol=1e-11, max_evaluations=50_000).states[-1]
    assert torch.allclose(end, flow.solution(W0, t), atol=1e-8)


@pytest.mark.parametrize(
    ("start", "t", "wanted"),
    [
        ([0.0, 0.0, 2.0], 2e3, [0, 0, 1]),  # no share in the first
        ([0.0, 1.0, 1.0], 1e3, [0, 0.5**0.5, 0.5**0.5]),  # a double eigenvalue: the share stays
        ([1e9, 0.0, 0.0], 0.5, [1 / math.sqrt(-math.expm1(-3.0)), 0, 0]),  # nothing cancels
        ([0.0, 0.0, 0.0], 1.0, [0, 0, 0]),
        ([0.3, -0.8, 0.4], 0.0, [0.3, -0.8, 0.4]),
    ],
    ids=["orthogonal", "double", "long", "zero", "now"],
)
def test_ojas_closed_form_at_its_limits(start, t, wanted):
    flow = Oja(torch.diag(torch.tensor([3.0, 1.0, 1.0], dtype=f64)))
    end = flow.solution(torch.tensor(start, dtype=f64), t)
    assert end.tolist() == pytest.approx(wanted, rel=1e-12, abs=1e-15)
    with pytest.raises(InputError, match="negative"):
        flow.solution(end, -1.0)


def test_oja_is_a_gradient_flow_in_a_metric_and_not_without():
    flow = Oja(C)
    power = W0 @ C @ W0
    assert torch.allclose(flow.vector_field(W0), -power * flow.objective.grad(W0))
    J = rate_matrix(flow, W0)
    assert asymmetry(J) > 0.1
    top = Q[:, 0]
    assert asymmetry(rate_matrix(flow, top)) < 1e-15
    rates = torch.linalg.eigvalsh(rate_matrix(flow, top))
    assert torch.allclose(rates, torch.tensor([-6.0, -2.5, -1.8], dtype=f64))


def test_ojas_rates_of_approach():
    """Of the direction the gap, of the length twice the largest eigenvalue."""
    flow, top = Oja(C), Q[:, 0]
    w = torch.stack([flow.solution(W0, t) for t in (6.0, 7.0)])
    side = (w - (w @ top)[:, None] * top).norm(dim=1)
    assert math.log(side[0] / side[1]) == pytest.approx(3 - 1.2, rel=1e-3)
    along = [flow.solution(0.5 * top, t) @ top for t in (2.0, 3.0)]
    assert math.log((1 - along[0]) / (1 - along[1])) == pytest.approx(6, rel=1e-3)


def test_ojas_edge_is_one_over_the_largest_eigenvalue():
    flow, top = Oja(C), Q[:, 0]
    assert euler_edge(rate_matrix(flow, top)) == pytest.approx(1 / 3, rel=1e-14)
    assert flow.edge == pytest.approx(1 / 3, rel=1e-14)
    gap = {}
    for h in (0.99 / 3, 1.01 / 3):
        path = gf.integrate(flow, 1.001 * top, t=600 * h, method="euler", step=h)
        gap[h] = float((path.states[-1] - top).norm())
    assert gap[0.99 / 3] < 1e-7 < 1e-2 < gap[1.01 / 3]


def test_beyond_twice_the_edge_oja_runs_away():
    """On the eigenvector the step is r(1 + x − xr²), x = hλ: at x = 2 Chebyshev's cubic."""
    flow = Oja(torch.eye(1, dtype=f64))
    angle = 0.3
    path = gf.integrate(flow, torch.tensor([2**0.5 * math.cos(angle)], dtype=f64),
                        t=10.0, method="euler", step=2.0)
    chebyshev = [2**0.5 * math.cos(3**k * angle + math.pi * k) for k in range(6)]
    assert path.states[:, 0].tolist() == pytest.approx(chebyshev, abs=1e-10)
    with pytest.raises(gf.errors.IntegrationError):
        gf.integrate(flow, torch.tensor([0.9], dtype=f64), t=400.0, method="euler", step=2.1)


@pytest.mark.parametrize("rule", [Hebb, Oja, BCM])
def test_only_a_vector_of_weights_has_a_rate(rule):
    with pytest.raises(InputError, match="flat vector"):
        rule(UNIT).vector_field(UNIT)


@pytest.mark.parametrize("rule", [Hebb, Oja])
@pytest.mark.parametrize(
    ("matrix", "word"),
    [
        (torch.ones(3), "square"),
        (torch.tensor([[1.0, 1.0], [0.0, 1.0]]), "symmetric"),
        (torch.diag(torch.tensor([1.0, -1.0])), "negative"),
        (torch.zeros(2, 2), "zero"),
        (torch.full((2, 2), math.nan), "finite"),
        (torch.eye(2, dtype=torch.int64), "floating"),
    ],
    ids=["vector", "asymmetric", "indefinite", "zero", "nan", "integers"],
)
def test_what_is_no_correlation_is_refused(rule, matrix, word):
    with pytest.raises(InputError, match=word):
        rule(matrix)


# -- BCM ----------------------------------------------------------------------------------------


def test_bcm_with_a_fast_threshold_is_a_gradient_flow():
    g = torch.Generator().manual_seed(3)
    often = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=f64)
    flow = BCM(torch.randn(4, 3, generator=g, dtype=f64), often)
    w = torch.randn(3, generator=g, dtype=f64)
    assert torch.allclose(flow.vector_field(w), -flow.objective.grad(w))
    assert asymmetry(rate_matrix(flow, w)) < 1e-14


@pytest.mark.parametrize("tau", [0.05, 0.5, 0.9, 1.5])
def test_bcms_selective_point_and_its_edges(tau):
    """J = [[1, −1], [2/τ, −1/τ]] in the plane of the selected weight and the threshold."""
    p = torch.tensor([0.25, 0.75], dtype=f64)
    flow = BCM(UNIT, p, threshold_time=tau)
    w, threshold = torch.tensor([4.0, 0.0], dtype=f64), torch.tensor([4.0], dtype=f64)
    rate, others = flow.field(w, threshold=threshold)
    assert float(rate.abs().max()) == 0 and float(others["threshold"]) == 0
    J = rate_matrix(flow, w, threshold=threshold)
    plane = J[[0, 2]][:, [0, 2]]
    assert torch.allclose(plane, torch.tensor([[1, -1], [2 / tau, -1 / tau]], dtype=f64))
    edge = euler_edge(J)
    if tau >= 1:
        assert edge == 0
    elif tau > 3 - 2 * 2**0.5:  # a complex pair
        # the other weight's mode, of rate −pϑ = −3, is lost at 2/3 if not before
        assert edge == pytest.approx(min(1 - tau, 2 / 3), rel=1e-12)
        assert torch.linalg.eigvals(plane).imag.abs().max() > 0
    else:
        assert torch.linalg.eigvals(plane).imag.abs().max() == 0


@pytest.mark.parametrize("overlap", [-0.5, 0.3, 0.8])
def test_overlapping_patterns_bear_a_slower_threshold(overlap):
    """Of two unit patterns, equally often, the bound is τ < 1/(1 − c²)."""
    patterns = torch.linalg.cholesky(torch.tensor([[1.0, overlap], [overlap, 1.0]], dtype=f64))
    w = torch.linalg.solve(patterns, torch.tensor([2.0, 0.0], dtype=f64))
    level, bound = torch.tensor([2.0], dtype=f64), 1 / (1 - overlap**2)
    for tau, stays in ((0.99 * bound, True), (1.01 * bound, False)):
        J = rate_matrix(BCM(patterns, threshold_time=tau), w, threshold=level)
        assert (float(torch.linalg.eigvals(J).real.max()) < 0) is stays


def test_bcm_is_lost_where_its_edge_says():
    flow = BCM(UNIT, threshold_time=0.8)
    start = torch.tensor([2.001, 0.0], dtype=f64)
    for h, stays in ((0.19, True), (0.21, False)):
        path = gf.integrate(flow, start, t=400 * h, method="euler", step=h)
        assert (float((path.states[-1, 0] - 2).abs()) < 1e-3) is stays


def test_bcm_refuses():
    with pytest.raises(InputError, match="one pattern a row"):
        BCM(torch.ones(3))
    with pytest.raises(InputError, match="add up"):
        BCM(UNIT, torch.tensor([0.5, 0.6], dtype=f64))
    for bad in (torch.tensor([0.5, 0.6, -0.1], dtype=f64), [0.5, 0.5],
                torch.tensor([1.5, -0.5], dtype=f64)):
        with pytest.raises(InputError, match="one number"):
            BCM(UNIT, bad)
    with pytest.raises(InputError, match="convert"):
        BCM(UNIT, torch.tensor([0.5, 0.5]))
    with pytest.raises(InputError, match="finite"):
        BCM(torch.full((2, 2), math.nan))
    with pytest.raises(InputError, match="floating"):
        BCM(torch.eye(2, dtype=torch.int64))
    with pytest.raises(InputError, match="negative"):
        BCM(UNIT, threshold_time=-1)
    with pytest.raises(InputError, match="threshold too"):
        BCM(UNIT, threshold_time=1).vector_field(torch.ones(2, dtype=f64))


# -- feedback weights ---------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["tanh", "relu", "softplus"])
@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_with_the_weights_transposed_it_is_backpropagation(activation, loss):
    E = problem((4, 6, 5, 3), activation, loss)
    flow = FeedbackAlignment(E)
    exact = FeedbackAlignment(E, flow.transposed(E.theta0))
    assert torch.allclose(exact.vector_field(E.theta0), -E.grad(E.theta0), atol=1e-15)
    assert not torch.allclose(flow.vector_field(E.theta0), -E.grad(E.theta0), atol=1e-3)
    assert asymmetry(rate_matrix(flow, E.theta0)) > 0.1


def balance(flow, theta, B):
    (w1, _), (w2, _) = flow.layers.split(theta)
    return w1 @ w1.T - B @ w2 - (B @ w2).T


def test_linear_feedback_alignment_conserves_a_matrix():
    """The flow W₁W₁ᵀ − BW₂ − W₂ᵀBᵀ; a step of Euler adds h²(ΔW₁)(ΔW₁)ᵀ."""
    E = linear_problem()
    flow = FeedbackAlignment(E, seed=3)
    B = flow.feedback[0]
    path = gf.integrate(flow, E.theta0, t=2.0, rtol=1e-10)
    first, last = (balance(flow, path.states[i], B) for i in (0, -1))
    assert torch.allclose(first, last, atol=1e-7)
    assert float((path.states[-1] - path.states[0]).norm()) > 0.3
    h = 0.05
    (rate, _), _ = flow.layers.split(flow.vector_field(E.theta0))
    after = balance(flow, E.theta0 + h * flow.vector_field(E.theta0), B)
    assert torch.allclose(after - first, h**2 * rate @ rate.T, atol=1e-15)


def test_feedback_alignments_edge_at_a_minimum():
    """Without errors the rates are those of the product's error, a Kronecker sum."""
    E = linear_problem()
    flow = FeedbackAlignment(E, seed=3)
    end = gf.integrate(flow, E.theta0, t=100.0, rtol=1e-8).states[-1]
    assert float(E.value(end)) < 1e-12
    (w1, _), (w2, _) = flow.layers.split(end)
    x = flow.layers.x
    S = x.T @ x / len(x)
    # a small error e of the product moves by −e A − W₂B e S, A = S W₁ᵀW₁
    A = (S @ w1.T @ w1).contiguous()
    eye = torch.eye(2, dtype=f64)
    rates = -torch.kron(eye, A.T.contiguous()) - torch.kron(w2 @ flow.feedback[0], S)
    assert euler_edge(rate_matrix(flow, end), neutral=1e-7) == pytest.approx(
        euler_edge(rates), rel=1e-5
    )


def test_kolen_and_pollack_come_together_at_their_decay():
    E = problem()
    flow = KolenPollack(E, decay=0.7, seed=5)
    path = gf.integrate(flow, E.theta0, times=[0.0, 1.0, 2.0], rtol=1e-10)
    gaps = []
    for theta, b in zip(path.states, path.companions["feedback"], strict=True):
        gaps.append((flow.matrices(b)[0] - flow.transposed(theta)[0]).norm())
    for before, after in zip(gaps, gaps[1:], strict=False):
        assert math.log(before / after) == pytest.approx(0.7, rel=1e-6)
    euler = gf.integrate(flow, E.theta0, t=1.0, method="euler", step=0.5)
    gap = flow.matrices(euler.companions["feedback"][-1])[0] - flow.transposed(euler.states[-1])[0]
    assert float(gap.norm() / gaps[0]) == pytest.approx((1 - 0.35) ** 2, rel=1e-12)


def test_the_mirror_follows_the_weights():
    E = problem()
    lags = []
    for decay in (20.0, 40.0):
        flow = WeightMirror(E, decay=decay)
        path = gf.integrate(flow, E.theta0, t=2.0, rtol=1e-8, max_evaluations=100_000)
        b, theta = path.companions["feedback"][-1], path.states[-1]
        lags.append(float((flow.matrices(b)[0] - flow.transposed(theta)[0]).norm()))
    assert lags[0] / lags[1] == pytest.approx(2, rel=0.1) and lags[0] < 0.05
    with pytest.raises(InputError, match="feedback weights too"):
        flow.vector_field(E.theta0)


def test_feedback_refuses():
    E = problem()
    with pytest.raises(InputError, match="shapes"):
        FeedbackAlignment(E, [torch.ones(3, 5, dtype=f64)])
    for bad in ([torch.ones(5, 3)], [torch.full((5, 3), math.nan, dtype=f64)]):
        with pytest.raises(InputError, match="finite, and torch.float64"):
            FeedbackAlignment(E, bad)
    for bad in ([[1.0]], 3):
        with pytest.raises(InputError, match="list of tensors"):
            FeedbackAlignment(E, bad)
    with pytest.raises(InputError, match="mlp"):
        FeedbackAlignment(gf.problems.cosh())
    net = gf.problems.conv([2], in_channels=1, image_size=8, classes=10, dtype=f64)
    with pytest.raises(InputError, match="fully connected"):
        FeedbackAlignment(gf.problems.classification("digits", net, n=10))
    net = gf.problems.mlp([4, 5, 3], dtype=f64)
    with pytest.raises(InputError, match="one batch"):
        FeedbackAlignment(gf.problems.classification("iris", net, n=20, chunk=7))
    with pytest.raises(InputError, match="decay"):
        KolenPollack(E, decay=0)


def tied():
    layer = torch.nn.Linear(4, 4)
    return [layer, torch.nn.Tanh(), layer]


def frozen():
    layers = [torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 4)]
    layers[0].requires_grad_(False)
    return layers


@pytest.mark.parametrize(
    ("layers", "word"),
    [
        (lambda: [torch.nn.Linear(4, 4), torch.nn.Linear(4, 4), torch.nn.Tanh()], "after every"),
        (lambda: [torch.nn.Linear(4, 4), torch.nn.Softplus(1), torch.nn.Linear(4, 4),
                  torch.nn.Softplus(5), torch.nn.Linear(4, 4)], "something else"),
        (lambda: [torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 4, bias=False)],
         "all layers have biases"),
        (tied, "twice"),
        (frozen, "something else"),
    ],
    ids=["order", "two softplus", "one bias", "tied", "frozen"],
)
def test_networks_that_cannot_be_read_are_refused(layers, word):
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=f64)
    net = torch.nn.Sequential(*layers()).double()
    E = gf.Objective.from_module(net, gf.problems.squared_error, (x, x))
    with pytest.raises(InputError, match=word):
        FeedbackAlignment(E)
