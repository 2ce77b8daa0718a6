"""Predictive coding and equilibrium propagation, against backpropagation and closed forms."""

import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows.errors import ConvergenceError, InputError
from gdflows.flows import jacobian
from gdflows.flows.learning import (
    HopfieldEnergy,
    ModifiedRule,
    NudgedLearning,
    PredictiveCoding,
    TwoTimes,
    asymmetry,
    rate_matrix,
)

f64 = torch.float64
KINDS = pytest.mark.parametrize("kind", [PredictiveCoding, HopfieldEnergy])
PROBLEMS = {"iris": ([4, 5, 4, 3], "mse"), "wine": ([13, 6, 3], "cross-entropy")}


def problem(name="iris", seed=0, n=12):
    widths, loss = PROBLEMS[name]
    net = gf.problems.mlp(widths, "tanh", seed=seed, dtype=f64)
    return gf.problems.classification(name, net, n=n, loss=loss)


def linear(widths=(3, 4, 2), n=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(n, widths[i], generator=g, dtype=f64) for i in (0, -1))
    net = gf.problems.deep_linear(list(widths), seed=seed, dtype=f64)
    return gf.Objective.from_module(net, gf.problems.squared_error, (x, y))


@pytest.mark.parametrize("name", PROBLEMS)
def test_predictive_coding_is_backpropagation_in_the_limit(name):
    E = problem(name)
    energy = PredictiveCoding(E)
    assert torch.allclose(energy.gradient(E.theta0), E.grad(E.theta0), atol=1e-14)
    assert float(energy.loss(E.theta0) - E.value(E.theta0)) == 0
    assert float(energy.value(E.theta0, energy.rest(E.theta0))) == 0


def test_hopfields_gradient_is_that_of_differences_and_of_unrolling():
    E = problem("wine")
    energy, step = HopfieldEnergy(E), 1e-5
    g = energy.gradient(E.theta0)
    for i in (0, 40, 90):
        d = torch.zeros_like(E.theta0)
        d[i] = step
        slope = (energy.loss(E.theta0 + d) - energy.loss(E.theta0 - d)) / (2 * step)
        assert float(slope) == pytest.approx(float(g[i]), abs=1e-9)
    # backpropagation through 200 steps of the relaxation
    theta = E.theta0.clone().requires_grad_()
    s = energy.start(E.theta0)
    for _ in range(200):
        s = s + 0.5 * energy.force(theta, s)
    output = s.split(energy.layers.widths, dim=1)[-1]
    (through,) = torch.autograd.grad(energy.layers.loss(output, energy.layers.y), theta)
    assert torch.allclose(through, g, atol=1e-12)


@KINDS
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_orders_in_the_nudge(kind, name):
    E = problem(name)
    energy = kind(E)
    g = energy.gradient(E.theta0)
    for symmetric, order in ((False, 1), (True, 2)):
        rules = [NudgedLearning(energy, b, symmetric=symmetric) for b in (0.02, 0.01)]
        errors = [float((rule.vector_field(E.theta0) + g).norm()) for rule in rules]
        assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.05)


@KINDS
@pytest.mark.parametrize("symmetric", [False, True])
def test_at_a_finite_nudge_it_is_the_gradient_of_its_surrogate(kind, symmetric):
    E = problem("wine")
    energy = kind(E)
    flow = NudgedLearning(energy, 0.4, symmetric=symmetric)
    d = torch.randn(E.dim, generator=torch.Generator().manual_seed(0), dtype=f64)
    step = 1e-4
    ends = [energy.surrogate(E.theta0 + s * d, 0.4, symmetric=symmetric) for s in (step, -step)]
    slope = float(ends[0] - ends[1]) / (2 * step)
    assert slope == pytest.approx(float(-flow.vector_field(E.theta0) @ d), rel=1e-6)


@KINDS
def test_the_loss_lies_between_the_surrogates(kind):
    E = problem()
    energy = kind(E)
    below, above = (float(energy.surrogate(E.theta0, b)) for b in (0.1, -0.1))
    assert below < float(energy.loss(E.theta0)) < above


def test_a_nudge_rewards_large_errors():
    """L_β = L − (β/2)⟨Σ‖δ‖²⟩ + O(β²), δ the errors that backpropagation sends."""
    E = problem()
    energy = PredictiveCoding(E)
    net = energy.layers
    u = net.forward(E.theta0)
    shifts = [torch.zeros_like(v).requires_grad_() for v in u]
    below = net.x
    for i, layer in enumerate(net.split(E.theta0)):
        out = net.ahead(layer, below) + shifts[i]
        below = net.activation(out)
    deltas = torch.autograd.grad(len(net.x) * net.loss(out, net.y), shifts)
    penalty = sum(float(d.pow(2).sum()) for d in deltas) / len(net.x)
    rest = [
        float(energy.surrogate(E.theta0, b) - energy.loss(E.theta0)) + b / 2 * penalty
        for b in (0.02, 0.01)
    ]
    assert abs(rest[1]) < 0.01 * penalty * 0.01
    assert np.log2(rest[0] / rest[1]) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("beta", [0.3, 5.0, 1e6])
def test_linear_predictive_coding_in_closed_form(beta):
    """F*(β)/β = ½⟨eᵀ(1 + βS)⁻¹e⟩ with S = 1 + W₂W₂ᵀ."""
    E = linear()
    energy = PredictiveCoding(E)
    (w1, _), (w2, _) = energy.layers.split(E.theta0)
    e = energy.layers.x @ (w2 @ w1).T - energy.layers.y
    S = torch.eye(2, dtype=f64) + w2 @ w2.T
    inside = torch.eye(2, dtype=f64) + beta * S
    wanted = float((e * torch.linalg.solve(inside, e.T).T).sum() / (2 * len(e)))
    rest = energy.rest(E.theta0, beta, tol=1e-8)
    assert float(energy.value(E.theta0, rest, beta)) / beta == pytest.approx(wanted, rel=1e-8)


@KINDS
def test_a_short_phase_cuts_the_series_off(kind):
    E = problem("wine")
    energy = kind(E)
    cut = energy.gradient(E.theta0, steps=6, step=0.4)
    flow = NudgedLearning(energy, 1e-4, symmetric=True, steps=6, step=0.4)
    assert torch.allclose(flow.vector_field(E.theta0), -cut, atol=1e-7)
    whole = energy.gradient(E.theta0)
    assert float((cut - whole).norm() / whole.norm()) > 0.01
    long = energy.gradient(E.theta0, steps=200, step=0.4)
    assert torch.allclose(long, whole, atol=1e-12)


@KINDS
def test_the_rule_is_a_gradient_at_rest_and_not_before(kind):
    net = gf.problems.mlp([4, 2, 3], "tanh", seed=0, dtype=f64)
    E = gf.problems.classification("iris", net, n=5)
    energy = kind(E)
    at_rest = asymmetry(jacobian(NudgedLearning(energy, 0.5), E.theta0))
    before = asymmetry(jacobian(NudgedLearning(energy, 0.5, steps=2, step=0.4), E.theta0))
    assert at_rest < 1e-7 < 1e-3 < before


@KINDS
def test_how_the_rest_moves_with_the_parameters(kind):
    E = problem("wine", n=3)
    energy, d, step = kind(E), torch.zeros_like(problem("wine", n=3).theta0), 1e-5
    d[20], d[-1] = 1, -2
    s = energy.rest(E.theta0, 0.5)
    ends = [energy.rest(E.theta0 + sign * step * d, 0.5) for sign in (1, -1)]
    moved = energy.sensitivity(E.theta0, s, 0.5) @ d
    assert moved.shape == s.shape
    assert torch.allclose(moved, (ends[0] - ends[1]) / (2 * step), atol=1e-8)


@KINDS
def test_the_relaxations_edge(kind):
    E = problem("wine")
    energy = kind(E)
    rest = energy.rest(E.theta0, 0.5)
    H = energy.stiffness(E.theta0, rest, 0.5)
    assert torch.allclose(H, H.transpose(1, 2), atol=1e-13)
    edge = energy.edge(E.theta0, rest, 0.5)
    g = torch.Generator().manual_seed(0)
    start = rest + 1e-6 * torch.randn(rest.shape, generator=g, dtype=f64)
    for share, stays in ((0.99, True), (1.01, False)):
        end = energy.relax(E.theta0, start, 0.5, steps=2000, step=share * edge)
        assert (float((end - rest).norm()) < 1e-7) is stays


def test_two_times_go_down_one_energy_and_meet_the_slow_flow():
    E = problem("wine", n=6)
    energy = PredictiveCoding(E)
    slow = gf.integrate(NudgedLearning(energy, 0.5), E.theta0, times=[0.0, 0.3], rtol=1e-9)
    errors = []
    for ratio in (0.004, 0.002):
        flow = TwoTimes(energy, 0.5, ratio=ratio)
        path = gf.integrate(flow, E.theta0, times=[0.0, 0.1, 0.3], rtol=1e-8)
        errors.append(float((path.states[-1] - slow.states[-1]).norm()))
        values = [
            float(energy.value(v, s, 0.5))
            for v, s in zip(path.states, path.companions["activity"], strict=True)
        ]
        assert values[0] > values[1] > values[2]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.1)


def test_the_edge_of_two_times_is_that_of_the_joint_hessian():
    E = linear(n=2)
    energy, beta, ratio = PredictiveCoding(E), 0.7, 0.2
    flow = TwoTimes(energy, beta, ratio=ratio)
    s = energy.rest(E.theta0, beta)
    size = E.dim

    def joint(z):
        return energy._total(z[:size], z[size:].view_as(s), beta) / len(s) / beta

    H = torch.autograd.functional.hessian(joint, torch.cat([E.theta0, s.reshape(-1)]))
    # the activities' rates are of each sample's own energy: n times the mean's, over ε
    metric = torch.cat([torch.ones(size), torch.full((s.numel(),), len(s) * beta / ratio)]).double()
    J = rate_matrix(flow, E.theta0, activity=s)
    assert torch.allclose(J, -metric[:, None] * H, atol=1e-11)
    largest = torch.linalg.eigvalsh(metric.sqrt()[:, None] * H * metric.sqrt())[-1]
    mu = torch.linalg.eigvals(J)
    assert float(mu.imag.abs().max()) < 1e-7
    assert -2 / float(mu.real.min()) == pytest.approx(2 / float(largest), rel=1e-10)


def test_energies_refuse():
    E = problem()
    energy = PredictiveCoding(E)
    with pytest.raises(ConvergenceError, match="smaller nudge"):
        energy.rest(E.theta0, -50.0)
    with pytest.raises(InputError, match="must not be 0"):
        NudgedLearning(energy, 0.0)
    with pytest.raises(InputError, match="together"):
        NudgedLearning(energy, 0.1, steps=3)
    with pytest.raises(InputError, match="together"):
        energy.gradient(E.theta0, step=0.1)
    with pytest.raises(InputError, match="energy"):
        NudgedLearning(E, 0.1)
    with pytest.raises(InputError, match="free rest"):
        TwoTimes(HopfieldEnergy(E), 0.1, ratio=0.1)
    with pytest.raises(InputError, match="activities too"):
        TwoTimes(energy, 0.1, ratio=0.1).vector_field(E.theta0)
    with pytest.raises(InputError, match="nudge"):
        TwoTimes(energy, -0.1, ratio=0.1)
    with pytest.raises(InputError, match="must not be 0"):
        energy.surrogate(E.theta0, 0.0)
    with pytest.raises(InputError, match="edge"):
        energy.gradient(E.theta0, steps=3, step=5.0)
    with pytest.raises(ConvergenceError, match="ran away"):
        energy.relax(E.theta0, energy.rest(E.theta0), 0.1, steps=3000, step=5.0)
    with pytest.raises(InputError, match="no minimum"):
        energy.edge(E.theta0, energy.rest(E.theta0), -500.0)
    with pytest.raises(InputError, match="shape"):
        energy.force(E.theta0, energy.rest(E.theta0)[:1])


def test_torch_may_not_differentiate_through_a_search():
    E = problem("iris", n=4)
    flow = NudgedLearning(PredictiveCoding(E), 0.5)
    with pytest.raises(InputError, match="differentiate through"):
        rate_matrix(flow, E.theta0)
    with pytest.raises(InputError, match="differentiate through"):
        ModifiedRule(flow, 0.1).vector_field(E.theta0)


def test_in_single_precision_small_nudges_are_refused():
    net = gf.problems.mlp([4, 5, 3], "tanh", seed=0)
    E = gf.problems.classification("iris", net, n=6)
    energy = PredictiveCoding(E)
    with pytest.raises(InputError, match="drowns"):
        NudgedLearning(energy, 1e-3)
    g = energy.gradient(E.theta0)
    off = NudgedLearning(energy, 0.02, symmetric=True).vector_field(E.theta0) + g
    assert float(off.norm() / g.norm()) < 2e-3


def test_a_loss_that_ties_samples_is_refused():
    E = linear()

    def tied(output, y):
        return (output - y).mean().pow(2)

    net = gf.problems.deep_linear([3, 4, 2], seed=0, dtype=f64)
    with pytest.raises(InputError, match="own losses"):
        PredictiveCoding(gf.Objective.from_module(net, tied, E.data))


def test_the_loss_along_a_path_is_the_free_networks():
    E = problem("wine", n=6)
    flow = NudgedLearning(PredictiveCoding(E), 0.2, symmetric=True)
    path = gf.integrate(flow, E.theta0, t=1.0, method="euler", step=0.5)
    wanted = [float(E.value(theta)) for theta in path.states]
    assert flow.mean_loss(path).tolist() == pytest.approx(wanted, rel=1e-12)
    assert wanted[-1] < wanted[0]
