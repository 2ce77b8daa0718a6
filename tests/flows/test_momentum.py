"""Rod flows of heavy ball and of Nesterov's method."""

import math

import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError
from gdflows.flows import MomentumRodFlow, RodFlow
from gdflows.optim import thresholds

f64 = torch.float64
BETA = 0.8
KINDS = pytest.mark.parametrize("nesterov", [False, True], ids=["heavy-ball", "nesterov"])


def torch_iterates(E, theta, lr, steps, nesterov):
    p = torch.nn.Parameter(theta.clone())
    optimizer = torch.optim.SGD([p], lr=lr, momentum=BETA, nesterov=nesterov)
    states = [theta]
    for _ in range(steps):
        p.grad = E.grad(p.detach())
        optimizer.step()
        states.append(p.detach().clone())
    return torch.stack(states)


@KINDS
def test_the_map_is_torch_s(nesterov):
    E = gf.problems.banana()
    theta = torch.tensor([0.3, 0.4], dtype=f64)
    flow = MomentumRodFlow(E, 0.01, beta=BETA, nesterov=nesterov)
    z = torch.cat([theta, torch.zeros(2, dtype=f64)])
    for expected in torch_iterates(E, theta, 0.01, 5, nesterov)[1:]:
        z = flow.step(z)
        torch.testing.assert_close(z[:2], expected, rtol=1e-13, atol=1e-14)


@KINDS
@pytest.mark.parametrize("order", [0, 1])
def test_the_rod_is_marginal_at_torch_s_edge(nesterov, order):
    """Along the oscillating mode: growth log(−z) to the order kept, 0 at the edge."""
    h, edge = 0.1, (thresholds.nesterov if nesterov else thresholds.heavy_ball)(BETA)
    # (Further below, the oscillating modes of heavy ball spiral: z is complex there.)
    for x in (0.998 * edge, edge, 1.03 * edge):
        E = gf.problems.quadratic(torch.tensor([x / h], dtype=f64))
        flow = MomentumRodFlow(E, h, beta=BETA, nesterov=nesterov, order=order)
        columns = [flow.step(e) for e in torch.eye(2, dtype=f64)]
        values, vectors = np.linalg.eig(torch.stack(columns, 1).numpy())
        z, mode = min(zip(values.real, vectors.real.T, strict=True), key=lambda pair: pair[0])
        zero = torch.zeros(1, dtype=f64)
        _, rates = flow.field(
            zero, velocity=zero, direction=torch.from_numpy(mode.copy()), log_length=zero
        )
        y = -z - 1
        expected = (y if order == 0 else y - y**2 / 2) / h
        assert float(rates["log_length"]) == pytest.approx(expected, abs=1e-10)
        assert rates["direction"].abs().max() < 1e-9
        if order == 1:
            assert float(rates["log_length"]) == pytest.approx(
                math.log(-z) / h, abs=abs(y) ** 3 / 2 / h + 1e-9
            )


@KINDS
def test_the_second_term_brings_it_closer_in_the_valley(nesterov):
    """A valley whose floor rises over the optimiser's edge; largest distance over 300 steps."""
    h = 0.05
    edge = (thresholds.nesterov if nesterov else thresholds.heavy_ball)(BETA) / h
    E = gf.problems.valley(kappa=0.02, y_star=1.03 * edge)
    theta = torch.tensor([0.05, 0.995 * edge], dtype=f64)
    gd = torch_iterates(E, theta, h, 300, nesterov)
    gaps = []
    for order in (0, 1):
        flow = MomentumRodFlow(E, h, beta=BETA, nesterov=nesterov, order=order)
        times = [h * k for k in range(301)]
        path = gf.integrate(flow, theta, times=times, rtol=1e-8, max_evaluations=10**5)
        gaps.append(float((flow.iterates(path) - gd).norm(dim=1)[100:].max()))
        assert float(flow.oscillation(path)[100:].max()) > 0.05  # it did cross the edge
    assert gaps[1] < gaps[0] / 3


def test_without_momentum_it_is_the_rod_flow():
    E = gf.problems.valley()
    path, rod = (
        gf.integrate(flow, E.theta0, t=1.0, rtol=1e-10)
        for flow in (MomentumRodFlow(E, 0.05, beta=0.0), RodFlow(E, 0.05))
    )
    torch.testing.assert_close(path.states[-1], rod.states[-1], rtol=1e-6, atol=1e-7)


def test_bad_input():
    E = gf.problems.valley()
    with pytest.raises(InputError, match="beta must be"):
        MomentumRodFlow(E, 0.1, beta=1.0)
    with pytest.raises(InputError, match="order must be 0 or 1"):
        MomentumRodFlow(E, 0.1, order=2)
    with pytest.raises(InputError, match="use field"):
        MomentumRodFlow(E, 0.1).vector_field(E.theta0)
    with pytest.raises(InputError, match="critical point"):
        MomentumRodFlow(gf.problems.valley(0.2, 44.0), 0.1).start(torch.tensor([0.0, 44.0]))
