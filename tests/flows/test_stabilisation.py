"""Self-stabilisation: on the valley, where all is known, and its field on a network."""

import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError
from gdflows.flows import EdgeFlow, SelfStabilisation

H, f64 = 0.05, torch.float64


def test_the_valley_s_equilibrium_is_the_two_step_cycle_s_mean():
    kappa, y_star = 0.2, 44.0
    E = gf.problems.valley(kappa, y_star)
    centre = torch.tensor([0.0, 2 / H], dtype=f64)
    log_length = torch.tensor([2 * kappa * (y_star - 2 / H)], dtype=f64).log() / 2
    rate, companions = SelfStabilisation(E, H).field(centre, log_length=log_length)
    assert rate.abs().max() < 1e-12
    assert companions["log_length"].abs() < 1e-12


def test_where_the_loss_is_quadratic_along_the_rod_it_is_the_edge_flow():
    E = gf.problems.valley()
    centre, length = torch.tensor([0.0, 38.0], dtype=f64), torch.tensor([-1.0], dtype=f64)
    cubic, edge = SelfStabilisation(E, H), EdgeFlow(E, H)
    cubic.start = lambda theta: (theta, {"log_length": length})
    direction = torch.tensor([1.0, 0.0], dtype=f64)
    edge.start = lambda theta: (theta, {"direction": direction, "log_length": length})
    times = [0.0, 1.0, 2.0, 4.0]
    paths = [gf.integrate(flow, centre, times=times, rtol=1e-9) for flow in (cubic, edge)]
    torch.testing.assert_close(paths[0].states, paths[1].states, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(
        cubic.oscillation(paths[0]), edge.oscillation(paths[1]), rtol=1e-6, atol=0
    )
    assert cubic.rods(paths[0]).shape == (4, 2)
    torch.testing.assert_close(
        cubic.mean_loss(paths[0]), edge.mean_loss(paths[1]), rtol=1e-6, atol=0
    )


def test_it_pushes_the_sharpness_down_by_its_gradient():
    """The oscillation's force is ½ρ²∇λ: against a difference of the largest eigenvalue."""
    network = gf.problems.mlp([64, 5, 10], "tanh", seed=0, dtype=f64)
    E = gf.problems.classification("digits", network, n=50)
    theta, log_length = E.theta0, torch.tensor([-1.0], dtype=f64)
    rate, _ = SelfStabilisation(E, 0.1).field(theta, log_length=log_length)
    force = -(rate + E.grad(theta)) * 2 * torch.exp(-2 * log_length)
    v = torch.randn(E.dim, dtype=f64, generator=torch.Generator().manual_seed(0))
    step = 1e-4
    up, down = (
        float(gf.curvature.top_eigenpairs(E, theta + s * v, tol=1e-10).values[0])
        for s in (step, -step)
    )
    assert float(force @ v) == pytest.approx((up - down) / (2 * step), rel=1e-4)


def test_iterates_alternate_and_meet_the_start():
    network = gf.problems.mlp([64, 5, 10], "tanh", seed=0, dtype=f64)
    E = gf.problems.classification("digits", network, n=50)
    flow = SelfStabilisation(E, 0.1)
    path = gf.integrate(flow, E.theta0, times=[0.0, 0.1, 0.2], rtol=1e-6)
    torch.testing.assert_close(flow.iterates(path)[0], E.theta0, rtol=0, atol=1e-3)
    swing = flow.iterates(path) - path.states
    assert torch.dot(swing[0], swing[1]) < 0 < torch.dot(swing[0], swing[2])


def test_nothing_to_grow():
    E = gf.problems.quadratic(torch.tensor([3.0, 1.0], dtype=f64))
    with pytest.raises(InputError, match="Start beside it"):
        SelfStabilisation(E, 0.1).start(torch.tensor([0.0, 1.0], dtype=f64))
