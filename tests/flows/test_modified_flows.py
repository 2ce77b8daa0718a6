"""Modified flows of heavy ball, Nesterov's method and shuffled minibatches."""

from itertools import permutations

import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows import bseries
from gdflows.errors import InputError
from gdflows.flows import IGR, NGF, EpochFlow, HeavyBall, Nesterov, Truncated

f64 = torch.float64
KINDS = pytest.mark.parametrize("kind", [HeavyBall, Nesterov], ids=["heavy-ball", "Nesterov"])


def series(beta, order, kind):
    if kind is Nesterov:
        return bseries.nesterov(beta, order, lookahead=True)
    return bseries.heavy_ball(beta, order)


def place(dim=2, seed=3):
    return torch.randn(dim, generator=torch.Generator().manual_seed(seed), dtype=f64)


def order_of(sizes, errors):
    return np.polyfit(np.log(sizes), np.log(errors), 1)[0]


@KINDS
@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize(("beta", "exact"), [(0.9, "9/10"), (0.25, "1/4"), (0.0, 0)])
def test_field_and_start_are_those_of_the_series(kind, order, beta, exact):
    """The decimal that a user writes is taken as the exact fraction."""
    E, theta, h = gf.problems.banana(), place(), 0.01
    flow = kind(E, h, beta=beta, order=order)
    equation = series(exact, order, kind)
    expected = Truncated(E, h, order, series=equation).vector_field(theta)
    torch.testing.assert_close(flow.vector_field(theta), expected, rtol=1e-12, atol=1e-12)
    shift = Truncated(E, h, max(order - 1, 0), series=equation.shift).vector_field(theta)
    start, companions = flow.start(theta)
    torch.testing.assert_close(start, theta + h * shift, rtol=1e-13, atol=1e-13)
    assert not companions
    resting = kind(E, h, beta=beta, from_rest=False)
    assert torch.equal(resting.start(theta)[0], theta)


@KINDS
@pytest.mark.parametrize("beta", [0.0, 0.3, 0.9])
def test_order_one_in_closed_form(kind, beta):
    E, theta, h = gf.problems.banana(), place(), 0.01
    p, q = (1 + beta, beta) if kind is HeavyBall else (1 - beta + 2 * beta**2, beta**2)
    g, Hg = E.grad(theta), E.hvp(theta, E.grad(theta))
    first, second = 1 / (1 - beta), h * p / (2 * (1 - beta) ** 3)
    flow = kind(E, h, beta=beta)
    assert flow.coefficients == pytest.approx((first, second), rel=1e-13)
    assert kind(E, h, beta=beta, order=0).coefficients == pytest.approx((first, 0.0))
    torch.testing.assert_close(flow.vector_field(theta), -first * g - second * Hg)
    torch.testing.assert_close(flow.start(theta)[0], theta + h * q / (1 - beta) ** 2 * g)


@KINDS
@pytest.mark.parametrize("order", range(4))
def test_local_order(kind, order):
    """A step of the method from two points of the flow misses the flow by h^(n+2)."""
    E = gf.problems.cosh()
    theta, beta = torch.tensor([0.8], dtype=f64), 0.5
    sizes, errors = np.array([0.01, 0.005]), []
    for h in sizes:
        flow = kind(E, h, beta=beta, order=order, from_rest=False)
        path = gf.integrate(flow, theta, times=[0.0, h, 2 * h], rtol=1e-12, atol=1e-14)
        before, now, after = path.states
        # what torch's method does with θ(0) and θ(h), its velocity eliminated
        new = now + beta * (now - before)
        if kind is HeavyBall:
            new = new - h * E.grad(now)
        else:
            new = new - h * ((1 + beta) * E.grad(now) - beta * E.grad(before))
        errors.append(float((new - after).norm()))
    assert order_of(sizes, errors) == pytest.approx(order + 2, abs=0.1)


@KINDS
def test_torch_follows_it_to_order_two(kind):
    """Against torch: order 2 from the shifted start, 1 without it or the penalty."""
    E, beta = gf.problems.cosh(), 0.5
    sizes = np.array([0.005, 0.0025, 0.00125])
    errors = {"flow": [], "no start": [], "no penalty": []}
    for h in sizes:
        p = torch.nn.Parameter(E.theta0.clone())
        optimizer = torch.optim.SGD([p], lr=h, momentum=beta, nesterov=kind is Nesterov)
        for _ in range(round(0.5 / h)):
            p.grad = E.grad(p.detach())
            optimizer.step()
        for name, given in zip(errors, ({}, {"from_rest": False}, {"order": 0}), strict=True):
            flow = kind(E, h, beta=beta, **given)
            end = gf.integrate(flow, E.theta0, t=0.5, rtol=1e-11).states[-1]
            errors[name].append(float((end - p.detach()).norm()))
    assert order_of(sizes, errors["flow"]) == pytest.approx(2, abs=0.15)
    assert order_of(sizes, errors["no start"]) == pytest.approx(1, abs=0.2)
    assert order_of(sizes, errors["no penalty"]) == pytest.approx(1, abs=0.2)


def test_kinks_are_told():
    net = gf.problems.mlp([4, 3, 3], "relu", seed=0, dtype=f64)
    E = gf.problems.classification("iris", net, n=20)
    with pytest.warns(UserWarning, match="ReLU"):
        HeavyBall(E, 0.01, order=2)


def test_without_momentum_it_is_igr():
    E, theta = gf.problems.banana(), place()
    flow = HeavyBall(E, 0.02, beta=0)
    assert torch.equal(flow.vector_field(theta), IGR(E, 0.02).vector_field(theta))
    assert torch.equal(flow.start(theta)[0], theta)


@pytest.fixture
def batches():
    """Three losses of the same two parameters."""
    return [
        gf.problems.product(2),
        gf.problems.quadratic([3.0, 0.5], b=[1.0, -2.0]),
        gf.problems.product(2, target=-2.0),
    ]


def test_epoch_is_the_mean_over_all_orders(batches):
    theta = place()
    full, sizes = gf.problems.mean(batches), np.array([4e-3, 2e-3, 1e-3])
    errors = {"epoch": [], "full batch": [], "flow": []}
    for h in sizes:
        ends = []
        for order in permutations(batches):
            point = theta
            for batch in order:
                point = gf.descend(batch, point, h, 1).states[-1]
            ends.append(point)
        reached = torch.stack(ends).mean(0)
        flows = EpochFlow(batches, h), IGR(full, h), NGF(full)
        for name, flow in zip(errors, flows, strict=True):
            end = gf.integrate(flow, theta, t=3 * h, rtol=1e-12).states[-1]
            errors[name].append(float((end - reached).norm()))
    assert order_of(sizes, errors["epoch"]) == pytest.approx(3, abs=0.1)
    assert order_of(sizes, errors["full batch"]) == pytest.approx(2, abs=0.1)
    assert order_of(sizes, errors["flow"]) == pytest.approx(2, abs=0.1)


def test_epoch_of_one_batch_is_igr_and_its_field_a_gradient(batches):
    E, theta, h = batches[0], place(), 0.01
    alone = EpochFlow([E], h).vector_field(theta)
    torch.testing.assert_close(alone, IGR(E, h).vector_field(theta), rtol=1e-14, atol=1e-14)
    pair = batches[:2]
    loss = gf.problems.mean([gf.problems.penalised(b, h / 4) for b in pair])
    torch.testing.assert_close(
        EpochFlow(pair, h).vector_field(theta), -loss.grad(theta), rtol=1e-12, atol=1e-12
    )


def test_epoch_counts_what_its_batches_cost(batches):
    flow = EpochFlow(batches[:2], 0.01)
    path = gf.integrate(flow, place(), t=0.1)
    assert path.cost["gradients"] == path.cost["hvps"] == 2 * path.cost["evaluations"]


REFUSED = {
    "momentum of one": (lambda E: HeavyBall(E, 0.1, beta=1), r"beta.*\[0, 1\)"),
    "negative momentum": (lambda E: Nesterov(E, 0.1, beta=-0.1), r"beta.*\[0, 1\)"),
    "momentum in words": (lambda E: Nesterov(E, 0.1, beta="9/10"), "beta must be a finite number"),
    "half an order": (lambda E: HeavyBall(E, 0.1, order=1.5), "order must be a whole number"),
    "negative order": (lambda E: HeavyBall(E, 0.1, order=-1), "order must be a whole number"),
    "no learning rate": (lambda E: HeavyBall(E, 0.0), "lr must be positive"),
    "one objective": (lambda E: EpochFlow(E, 0.1), "IGR"),
    "no batches": (lambda E: EpochFlow([], 0.1), "at least one"),
    "two sizes": (lambda E: EpochFlow([E, gf.problems.product(3)], 0.1), "same parameters"),
    "no objective": (lambda E: EpochFlow([E, 3], 0.1), "Objective"),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(make, words):
    with pytest.raises(InputError, match=words):
        make(gf.problems.banana())
