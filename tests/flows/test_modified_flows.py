"""Modified flows of heavy ball, Nesterov's method and shuffled minibatches."""

from itertools import permutations

import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows import bseries
from gdflows.errors import InputError
from gdflows.flows import IGR, NGF, EpochFlow, HeavyBall, Truncated

f64 = torch.float64
KINDS = pytest.mark.parametrize("nesterov", [False, True], ids=["heavy-ball", "Nesterov"])


def series(beta, order, nesterov):
    if nesterov:
        return bseries.nesterov(beta, order, lookahead=True)
    return bseries.heavy_ball(beta, order)


def place(dim=2, seed=3):
    return torch.randn(dim, generator=torch.Generator().manual_seed(seed), dtype=f64)


def order_of(sizes, errors):
    return np.polyfit(np.log(sizes), np.log(errors), 1)[0]


@KINDS
@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(("beta", "exact"), [(0.9, "9/10"), (0.25, "1/4"), (0.0, 0)])
def test_field_and_start_are_those_of_the_series(nesterov, order, beta, exact):
    """The series engine, with exact coefficients, knows nothing of the closed form."""
    E, theta, h = gf.problems.banana(), place(), 0.01
    flow = HeavyBall(E, h, momentum=beta, nesterov=nesterov, order=order)
    equation = series(exact, order, nesterov)
    expected = Truncated(E, h, order, series=equation).vector_field(theta)
    torch.testing.assert_close(flow.vector_field(theta), expected, rtol=1e-12, atol=1e-12)
    dot = equation.shift.terms(0)
    q = -float(dot[0].coefficient) if dot else 0.0
    start, companions = flow.start(theta)
    torch.testing.assert_close(start, theta + h * q * E.grad(theta), rtol=1e-13, atol=1e-13)
    assert not companions
    resting = HeavyBall(E, h, momentum=beta, nesterov=nesterov, from_rest=False)
    assert torch.equal(resting.start(theta)[0], theta)


@KINDS
def test_torch_follows_it_to_order_two(nesterov):
    """Against torch: order 2 from the shifted start, 1 without it or the penalty."""
    E, beta = gf.problems.cosh(), 0.5
    sizes = np.array([0.005, 0.0025, 0.00125])
    errors = {"flow": [], "no start": [], "no penalty": []}
    for h in sizes:
        p = torch.nn.Parameter(E.theta0.clone())
        optimizer = torch.optim.SGD([p], lr=h, momentum=beta, nesterov=nesterov)
        for _ in range(round(0.5 / h)):
            p.grad = E.grad(p.detach())
            optimizer.step()
        for name, given in zip(errors, ({}, {"from_rest": False}, {"order": 0}), strict=True):
            flow = HeavyBall(E, h, momentum=beta, nesterov=nesterov, **given)
            end = gf.integrate(flow, E.theta0, t=0.5, rtol=1e-11).states[-1]
            errors[name].append(float((end - p.detach()).norm()))
    assert order_of(sizes, errors["flow"]) == pytest.approx(2, abs=0.15)
    assert order_of(sizes, errors["no start"]) == pytest.approx(1, abs=0.2)
    assert order_of(sizes, errors["no penalty"]) == pytest.approx(1, abs=0.2)


def test_without_momentum_it_is_igr():
    E, theta = gf.problems.banana(), place()
    flow = HeavyBall(E, 0.02, momentum=0)
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
    "momentum of one": (lambda E: HeavyBall(E, 0.1, momentum=1), r"momentum.*\[0, 1\)"),
    "order two": (lambda E: HeavyBall(E, 0.1, order=2), "Truncated"),
    "one objective": (lambda E: EpochFlow(E, 0.1), "IGR"),
    "no batches": (lambda E: EpochFlow([], 0.1), "at least one"),
    "two sizes": (lambda E: EpochFlow([E, gf.problems.product(3)], 0.1), "same parameters"),
    "no objective": (lambda E: EpochFlow([E, 3], 0.1), "Objective"),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(make, words):
    with pytest.raises(InputError, match=words):
        make(gf.problems.banana())
