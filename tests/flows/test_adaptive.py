"""Flows of RMSProp and Adam, against torch's optimisers, closed forms and dense matrices."""

import copy

import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError
from gdflows.flows import (
    AdaptiveCentralFlow,
    AdaptiveRodFlow,
    AdaptiveRule,
    Averages,
    CentralFlow,
    RodFlow,
    StableFlow,
)
from gdflows.flows.central import solve_complementarity

f64 = torch.float64
BETAS = (0.8, 0.95)
TORCH = {
    "rmsprop": lambda p, lr: torch.optim.RMSprop(p, lr=lr, alpha=0.95, eps=1e-3),
    "adam": lambda p, lr: torch.optim.Adam(p, lr=lr, betas=BETAS, eps=1e-3),
}
OPTIONS = {
    "rmsprop": {"beta": 0.95},
    "rmsprop-scalar": {"beta": 0.95},
    "adam": {"betas": BETAS},
}
ALL = pytest.mark.parametrize("name", list(OPTIONS))


def rule_of(name, lr, eps=1e-3):
    return AdaptiveRule(name, lr, eps=eps, **OPTIONS[name])


def torch_iterates(name, E, theta, lr, steps):
    p = torch.nn.Parameter(theta.clone())
    optimizer, states = TORCH[name]([p], lr), [theta]
    for _ in range(steps):
        p.grad = E.grad(p.detach())
        optimizer.step()
        states.append(p.detach().clone())
    return torch.stack(states)


def chebyshev():
    x = torch.linspace(-1, 1, 20, dtype=f64)[:, None]
    net = gf.problems.mlp([1, 8, 1], "tanh", seed=0, dtype=f64)
    data = (x, torch.cos(4 * torch.arccos(x)))
    return gf.Objective.from_module(net, torch.nn.functional.mse_loss, data)


@pytest.mark.parametrize("name", list(TORCH))
def test_the_rule_is_torch_s(name):
    E, theta = gf.problems.banana(), torch.tensor([0.3, 0.4], dtype=f64)
    rule, averages = rule_of(name, 0.02), rule_of(name, 0.02).begin(theta)
    for expected in torch_iterates(name, E, theta, 0.02, 30)[1:]:
        theta, averages = rule.step(E, theta, averages)
        torch.testing.assert_close(theta, expected, rtol=1e-12, atol=1e-13)


def test_one_scalar_average_is_rmsprop_in_one_dimension():
    E, theta = gf.problems.quadratic(torch.tensor([3.0], dtype=f64)), torch.ones(1, dtype=f64)
    rule, averages = rule_of("rmsprop-scalar", 0.1), rule_of("rmsprop-scalar", 0.1).begin(theta)
    for expected in torch_iterates("rmsprop", E, theta, 0.1, 10)[1:]:
        theta, averages = rule.step(E, theta, averages)
        torch.testing.assert_close(theta, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", list(TORCH))
def test_two_points_are_torch_s_iterates(name):
    """From any other end: the map of centre and half-rod is exact, oscillating or not."""
    E, start, lr = gf.problems.banana(), torch.tensor([0.3, 0.4], dtype=f64), 0.05
    rule = rule_of(name, lr)
    here = torch.cat([start, torch.zeros(4, dtype=f64)])
    there = torch.tensor([0.35, 0.38, 0.1, -0.2, 0.3, 0.1], dtype=f64)
    c, rod = (here + there) / 2, (here - there) / 2
    for k, expected in enumerate(torch_iterates(name, E, start, lr, 40)):
        got = (c + (-1) ** k * rod)[:2]
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)  # 40 steps of rounding
        c, rod = rule.two_points(E, c, rod, k)


@ALL
def test_the_rod_s_map_leaves_out_how_the_second_average_swings(name):
    """Of order 1 − β₂; without that swing a step is that of the exact map."""
    E, lr = gf.problems.banana(), 0.02
    rule = rule_of(name, lr)
    flow = RodFlow(E, lr, optimizer=name, eps=1e-3, **OPTIONS[name])
    theta, rod = torch.tensor([0.3, 0.4], dtype=f64), torch.tensor([1e-3, -2e-3], dtype=f64)
    first, second = E.grad(theta), rule.fold(E.grad(theta) ** 2)
    both = [torch.cat([v, torch.zeros(len(first) + len(second), dtype=f64)]) for v in (theta, rod)]
    both[0][2:] = torch.cat([first, second])
    c, e = rule.two_points(E, *both, 7)
    if name == "adam":
        centre, half, after, taken = flow.step(
            torch.cat([theta, first]), torch.cat([rod, 0 * rod]), second, 7
        )
    else:
        centre, half, after, taken = flow.step(theta, rod, second, 7)
    assert taken == 8
    torch.testing.assert_close(after, c[4:], rtol=1e-12, atol=0)
    torch.testing.assert_close(centre[:2], c[:2], rtol=0, atol=1e-5)
    swing = rod.norm() * 0.05
    assert (half[:2] - e[:2]).norm() < swing < half[:2].norm()


@pytest.mark.parametrize("order", [0, 1])
def test_one_step_of_the_rod(order):
    """Where all that moves is of one size, the error of a step has the order n + 2."""
    sizes, errors = np.array([0.01, 0.02, 0.04]), []
    for size in sizes:
        E = gf.problems.valley(kappa=size, y_star=2 + 3 * size)  # D = 1, the edge is at y = 2
        c, rod = torch.tensor([[0.0, 2 + 0.4 * size], [0.8 * size, 0.0]], dtype=f64)
        second = torch.ones(2, dtype=f64)
        flow = RodFlow(
            E, 1.0, optimizer="rmsprop", beta=1 - size, eps=0, order=order, start=rod,
            averages=Averages(torch.zeros(2, dtype=f64), second, 0),
        )  # fmt: skip
        path = gf.integrate(flow, c, times=[0.0, 1.0], rtol=1e-12, atol=1e-15)
        c1, rod1, second1, _ = flow.step(c, rod, second, 0)
        missed = [path.states[-1] - c1, flow.rods(path)[-1] - rod1]
        errors.append(float(torch.cat([*missed, path.companions["second"][-1] - second1]).norm()))
    assert np.polyfit(np.log(sizes), np.log(errors), 1)[0] == pytest.approx(order + 2, abs=0.25)


@ALL
@pytest.mark.parametrize("order", [0, 1])
def test_the_rod_is_marginal_at_the_edge(name, order):
    """Along the oscillating mode: growth log(−z) to the order kept, 0 at the edge."""
    lr, taken = 0.1, 10_000  # Adam's corrections are 1
    beta1 = BETAS[0] if name == "adam" else 0.0
    settings = {"betas": (beta1, 1 - 1e-12)} if name == "adam" else {"beta": 1 - 1e-12}
    edge = AdaptiveRule(name, lr, **settings).edge(taken)
    assert edge == pytest.approx(2 * (1 + beta1) / (1 - beta1))
    zero, one = torch.zeros(1, dtype=f64), torch.ones(1, dtype=f64)
    for x in (0.998 * edge, edge, 1.03 * edge):
        E = gf.problems.quadratic(torch.tensor([x / lr], dtype=f64))
        # ν = 1: with corrections that are 0 for β₂ → 1 the rate would not be h
        second = one * (1 - (1 - 1e-12) ** (taken + 1)) if name == "adam" else one
        flow = RodFlow(E, lr, optimizer=name, eps=0, order=order, **settings)
        a, g = 1 - beta1, x / lr
        matrix = np.array([[1 - lr * a * g, -lr * beta1], [a * g, beta1]])
        values, vectors = np.linalg.eig(matrix)
        z, mode = min(zip(values.real, vectors.real.T, strict=True), key=lambda pair: pair[0])
        if not beta1:
            z, mode = 1 - x, np.ones(1)
        state = {"direction": torch.from_numpy(mode.copy()), "log_length": zero - 6}
        state |= {"second": second, "step": one * taken} | ({"first": zero} if beta1 else {})
        _, rates = flow.field(zero, **state)
        y = -z - 1
        expected = (y if order == 0 else y - y**2 / 2) / lr
        assert float(rates["log_length"]) == pytest.approx(expected, abs=1e-4)


@ALL
def test_the_valley_s_cycle(name):
    """|x| = h/e − ε/y and y = y* − x²/2κ: the central flow's rest, and the optimiser's cycle.

    At rest √ν = y|x| along x, so that the edge hy/(y|x| + ε) = e fixes |x|.
    """
    lr, eps, kappa, y_star = 0.1, 0.05, 0.2, 3.0
    E = gf.problems.valley(kappa, y_star)
    options = {"optimizer": name, "eps": eps, **OPTIONS[name]}
    rule = rule_of(name, lr, eps)
    edge = rule.edge(10**6)
    y = y_star
    for _ in range(50):
        x = lr / edge - eps / y
        y = y_star - x**2 / (2 * kappa)
    if name == "adam":  # here the sharpness never gets to the edge unless the step is larger
        lr = 1.0
        rule = rule_of(name, lr, eps)
        for _ in range(50):
            x = lr / edge - eps / y
            y = y_star - x**2 / (2 * kappa)
    assert x > 0
    theta = torch.tensor([0.9 * x, y], dtype=f64)
    averages = rule.begin(theta)
    averages = averages._replace(second=rule.fold(torch.tensor([(y * x) ** 2, 0.0], dtype=f64)))
    averages = averages._replace(step=200)
    flow = CentralFlow(E, lr, averages=averages, **options)
    start = torch.tensor([0.0, y], dtype=f64)
    path = gf.integrate(flow, start, times=[0.0, 100 * lr], method="rk4", step=lr / 2)
    torch.testing.assert_close(path.states[-1], torch.tensor([0, y], dtype=f64), rtol=0, atol=1e-4)
    assert float(flow.oscillation(path)[-1]) == pytest.approx(x, rel=1e-3)
    energy = y * x**2 / 2 + kappa / 2 * (y - y_star) ** 2
    assert float(flow.mean_loss(path)[-1]) == pytest.approx(energy, rel=2e-3)
    states = []
    for _ in range(1500):
        theta, averages = rule.step(E, theta, averages)
        states.append(theta)
    # Adam's cycle is unstable here: it bursts about it, and only the mean square is near
    accuracy = 0.15 if name == "adam" else 2e-3
    found = torch.stack(states)[500:].square().mean(0).sqrt()
    assert float(found[0]) == pytest.approx(x, rel=accuracy)
    assert float(found[1]) == pytest.approx(y, rel=2e-3)


@ALL
def test_below_the_edge_nothing_oscillates(name):
    E, theta = gf.problems.valley(), torch.tensor([0.3, 0.5], dtype=f64)
    options = {"optimizer": name, "eps": 0.1, **OPTIONS[name]}
    central, stable = CentralFlow(E, 0.01, **options), StableFlow(E, 0.01, **options)
    _, state = central.start(theta)
    (a, rates_a), (b, rates_b) = central.field(theta, **state), stable.field(theta, **state)
    assert torch.equal(a, b) and all(torch.equal(rates_a[k], rates_b[k]) for k in rates_b)
    assert central.covariance(theta, **state).matrix.shape == (0, 0)


def test_a_frozen_preconditioner_is_the_gradient_flow_of_scaled_coordinates():
    """dθ/dt = −DHθ/h with D = h/√ν, which does not move."""
    curvature, second = torch.tensor([[3.0, 0.4], [2.0, 9.0]], dtype=f64)
    E = gf.problems.quadratic(curvature)
    averages = Averages(torch.zeros(2, dtype=f64), second, 5)
    flow = StableFlow(E, 0.1, beta=1 - 1e-13, eps=0, averages=averages)
    path = gf.integrate(flow, torch.ones(2, dtype=f64), t=0.7, rtol=1e-9)
    expected = torch.exp(-0.7 * curvature / second.sqrt())
    torch.testing.assert_close(path.states[-1], expected, rtol=1e-7, atol=0)


def test_a_frozen_scalar_is_gradient_descent_s_central_flow():
    E, lr = gf.problems.valley(0.2, 44.0), 0.05
    theta = torch.tensor([0.01, 2 / lr], dtype=f64)
    averages = Averages(torch.zeros(2, dtype=f64), torch.ones(1, dtype=f64), 5)
    flow = CentralFlow(E, lr, optimizer="rmsprop-scalar", beta=1 - 1e-15, eps=0, averages=averages)
    _, state = flow.start(theta)
    rate, _ = flow.field(theta, **state)
    torch.testing.assert_close(rate, CentralFlow(E, lr).vector_field(theta), rtol=1e-6, atol=1e-9)
    seen, gd = flow.covariance(theta, **state), CentralFlow(E, lr).covariance(theta)
    full = seen.vectors.T @ seen.matrix @ seen.vectors
    torch.testing.assert_close(full, gd.vectors.T @ gd.matrix @ gd.vectors, rtol=1e-6, atol=1e-9)
    assert float(full.trace()) > 0.1


@pytest.mark.parametrize("name", ["rmsprop", "rmsprop-scalar"])
def test_the_published_equations_in_dense_matrices(name):
    """The companion page's ansatz and the condition on Σ, with the whole Hessian, k ≥ 2."""
    E, beta = chebyshev(), 0.99
    theta, probe = E.theta0, AdaptiveRule(name, 1.0, beta=beta, eps=0)
    averages = probe.begin(theta)._replace(second=probe.fold(E.grad(theta) ** 2))
    now = probe.update(averages, E.grad(theta)).second
    hessian, g = E.hessian(theta), E.grad(theta)
    half = now.sqrt().expand_as(theta).sqrt()
    spectrum = torch.linalg.eigvalsh(hessian / half[:, None] / half)
    lr = float(2.02 / spectrum[-3])  # the third is just above the edge
    p = now.sqrt().expand_as(theta) / lr
    x, w = torch.linalg.eigh(hessian / p.sqrt()[:, None] / p.sqrt())
    k = int((x > 1.94).sum())
    assert k >= 2
    u = (w / p.sqrt()[:, None])[:, -k:]
    rows, columns = np.triu_indices(k)
    pairs = list(zip(rows, columns, strict=True))
    thirds = torch.stack([E.third(theta, u[:, i], u[:, j]) for i, j in pairs])
    lag = (1 - beta) / (beta * lr)

    def rates(sigma_upper):
        """dw/dt and dν/dt for Σ = Σ X u uᵀ, by the page's formulas."""
        twice = np.where(rows == columns, 1.0, 2.0)
        weights = torch.from_numpy(twice * sigma_upper)
        diagonal = weights @ torch.stack([u[:, i] * u[:, j] for i, j in pairs])
        w_rate = -(g + weights @ thirds / 2) / p / lr
        oscillating = probe.fold(g**2 + 4 * p**2 * diagonal)
        return w_rate, lag * (oscillating - now)

    def slack(sigma_upper):
        """Uᵀ[(2P − H) + h d/dt(2P − H)]U."""
        w_rate, second_rate = rates(sigma_upper)
        p_rate = (second_rate / (2 * lr * now.sqrt())).expand_as(theta)
        out = torch.diag(2 - x[-k:])
        moved = 2 * torch.stack([u[:, i] * u[:, j] for i, j in pairs]) @ p_rate
        moved = lr * (moved - thirds @ w_rate)
        full = out.numpy().copy()
        full[rows, columns] += moved.numpy()
        full[columns, rows] = full[rows, columns]
        return full

    p2 = len(rows)
    none = slack(np.zeros(p2))
    gram = np.stack([(slack(e) - none)[rows, columns] for e in np.eye(p2)], 1)
    gram = gram / np.where(rows == columns, 1.0, 2.0)
    sigma = solve_complementarity(none / lr, gram / lr)
    expected, second_rate = rates(sigma[rows, columns])
    flow = CentralFlow(E, lr, optimizer=name, beta=beta, eps=0, averages=averages, tol=1e-10)
    _, state = flow.start(theta)
    rate, others = flow.field(theta, **state)
    torch.testing.assert_close(rate, expected, rtol=1e-6, atol=1e-6 * float(expected.norm()))
    size = float(second_rate.norm())
    torch.testing.assert_close(others["second"], second_rate, rtol=1e-6, atol=1e-6 * size)
    found = flow.covariance(theta, **state)
    full = found.vectors.T @ found.matrix @ found.vectors
    wanted = u @ torch.from_numpy(sigma) @ u.T
    torch.testing.assert_close(full, wanted, rtol=1e-5, atol=1e-6 * float(wanted.norm()))
    assert np.linalg.matrix_rank(sigma, tol=1e-9 * np.linalg.norm(sigma)) >= 1


def test_following_torch_s_rmsprop_on_a_network():
    """Past the edge both flows stay with the centre of torch's iterates; the stable flow leaves."""
    E, lr, beta = chebyshev(), 5e-3, 0.99
    p = torch.nn.Parameter(E.theta0.clone())
    optimizer = torch.optim.RMSprop([p], lr=lr, alpha=beta)
    states = []
    for k in range(182):
        if k == 60:
            second = optimizer.state[p]["square_avg"].clone()
        states.append(p.detach().clone())
        p.grad = E.grad(p.detach())
        optimizer.step()
    averages = Averages(torch.zeros_like(E.theta0), second, 60)
    options = {"optimizer": "rmsprop", "beta": beta, "averages": averages}
    centres = torch.stack(states)
    centres = (centres[:-2] + 2 * centres[1:-1] + centres[2:]) / 4  # of steps 1, 2, …
    start = centres[59]
    rod = states[60] - start
    errors = {}
    for label, flow in {
        "central": CentralFlow(E, lr, **options, tol=1e-4),
        "rod": RodFlow(E, lr, **options, start=rod, noise="float"),
        "stable": StableFlow(E, lr, **options),
    }.items():
        path = gf.integrate(flow, start, times=[0.0, 120 * lr], method="rk4", step=lr)
        errors[label] = float((path.states[-1] - centres[179]).norm())
    assert errors["central"] < errors["stable"] / 2
    assert errors["rod"] < errors["stable"] / 2


def test_one_call_for_all_optimisers():
    E = gf.problems.valley()
    assert type(CentralFlow(E, 0.1)) is CentralFlow
    assert type(CentralFlow(E, 0.1, optimizer="gd")) is CentralFlow
    assert type(RodFlow(E, 0.1, optimizer="gd")) is RodFlow
    central = CentralFlow(E, 0.1, optimizer="adam", betas=(0.5, 0.9))
    assert type(central) is AdaptiveCentralFlow and central.rule.beta1 == 0.5
    assert type(copy.copy(central)) is AdaptiveCentralFlow
    assert type(RodFlow(E, 0.1, optimizer="rmsprop-scalar")) is AdaptiveRodFlow
    assert type(AdaptiveRodFlow(E, 0.1, optimizer="adam")) is AdaptiveRodFlow


def test_coordinates_without_gradient_are_at_rest():
    rule = AdaptiveRule("rmsprop", 0.1)
    assert rule.rates(torch.tensor([0.0, 1.0]), 1).tolist() == pytest.approx([0, 0.1])


E1 = gf.problems.valley()
BAD = {
    "optimizer": (lambda: CentralFlow(E1, 0.1, optimizer="adagrad"), "optimizer must be one of"),
    "its betas": (lambda: RodFlow(E1, 0.1, optimizer="rmsprop", betas=(0.9, 0.9)), "one beta"),
    "its beta": (lambda: StableFlow(E1, 0.1, optimizer="adam", beta=0.9), "a pair"),
    "beta 1": (lambda: StableFlow(E1, 0.1, optimizer="adam", betas=(1.0, 0.9)), "must be in"),
    "eps": (lambda: AdaptiveRule("adam", 0.1, eps=-1.0), "eps must be"),
    "order": (lambda: RodFlow(E1, 0.1, optimizer="adam", order=2), "order must be"),
    "start": (lambda: RodFlow(E1, 0.1, optimizer="adam", start="slow"), "start must be"),
    "quiet": (lambda: RodFlow(E1, 0.1, optimizer="adam", start="quiet"), "needs a noise"),
    "shape": (
        lambda: StableFlow(E1, 0.1, averages=Averages(torch.zeros(2), torch.zeros(3), 0)).start(
            E1.theta0
        ),
        "averages.second must",
    ),
    "negative": (
        lambda: StableFlow(E1, 0.1, averages=Averages(torch.zeros(2), -torch.ones(2), 0)).start(
            E1.theta0
        ),
        "negative",
    ),
    "field": (lambda: StableFlow(E1, 0.1).vector_field(E1.theta0), "needs its averages"),
}


@pytest.mark.parametrize("key", list(BAD))
def test_what_cannot_be_is_refused(key):
    make, message = BAD[key]
    with pytest.raises(InputError, match=message):
        make()
