"""Momentum in two points with noise: against exact moments, the rod of heavy ball, and SGD."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

import gdflows as gf
from gdflows.errors import InputError
from gdflows.flows import MomentumRodFlow, StochasticRodFlow
from gdflows.flows.swing import FASTEST, Relaxation
from gdflows.noise import Quadratic, SampledQuadratics, mean_square_edge, moments
from gdflows.noise.recursions import Method, Recursion

F64 = torch.float64


def tensor(*x):
    return torch.tensor(x, dtype=F64)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_what_is_settled_is_settled_for_heavy_ball(beta):
    """All second moments of positions and velocities, at real, complex and double roots."""
    h, root = 0.5, beta**0.5
    x = tensor(0.01, (1 - root) ** 2, 0.6, 1 + beta, (1 + root) ** 2, 1.995 * (1 + beta))
    noise = torch.cos(torch.arange(36.0, dtype=F64)).reshape(6, 6)
    noise = noise @ noise.T
    problem = Quadratic(torch.diag(x / h), noise)
    recursion = Recursion.of(problem, Method.of(h, beta, False, None, 0.1))
    sizes = tensor(1, h).repeat_interleave(6)  # velocities are h times torch's
    second = sizes[:, None] * recursion.stationary() * sizes
    turned = recursion.basis.T @ noise @ recursion.basis
    rate = Relaxation(h, beta)(problem.values, second, turned)
    assert float(rate.abs().max()) < 1e-8 * float(second.abs().max())


@pytest.mark.parametrize("beta", [0.5, 0.9])
def test_it_is_the_logarithm_of_a_step(beta):
    relax, root = Relaxation(1.0, beta), beta**0.5
    x = tensor(0.1 * (1 - root) ** 2, (1 - root) ** 2, 0.7, (1 + root) ** 2, 2 * (1 + beta))
    for a, m, small in zip(relax.logarithm(x), relax.step(x), x < 1 + beta, strict=True):
        exact = m if small else -m
        assert np.allclose(scipy.linalg.expm(a.numpy()), exact, atol=1e-6)
    # but nothing is faster than Runge and Kutta can follow in steps of h
    beta = 0.01
    found = Relaxation(1.0, beta).logarithm(torch.linspace(0.01, 2.0, 300, dtype=F64))
    assert float(torch.linalg.eigvals(found).abs().max()) < FASTEST / 2 + 1e-6


def test_noise_is_regular_at_the_edge():
    for beta in (0.3, 0.9):
        relax = Relaxation(1.0, beta)
        edge = 2 * (1 + beta)
        beside = [relax._source(tensor(edge + e)) for e in (-1e-4, 0.0, 1e-4)]
        middle = (beside[0] + beside[2]) / 2
        # at the edge itself it is taken at 1 + 1e-5 times hλ
        torch.testing.assert_close(beside[1], middle, rtol=1e-4, atol=1e-6)


def test_it_meets_the_exact_moments_after_each_step():
    E = gf.problems.quadratic(tensor(2.9, 0.4))
    flow = StochasticRodFlow(E, 1.0, covariance=0.1, beta=0.5, rank=2)
    times = torch.arange(4.0, dtype=F64)
    path = gf.integrate(flow, torch.zeros(2, dtype=F64), times=times, rtol=1e-9, atol=1e-12)
    for k in (1, 2, 3):
        _, exact = moments(Quadratic(tensor(2.9, 0.4), 0.1), 1.0, k, momentum=0.5)
        torch.testing.assert_close(flow.covariance_of(path)[k], exact, rtol=1e-6, atol=1e-9)


def test_without_momentum_it_is_the_limit():
    x, noise = tensor(1.7, 0.4), tensor(1.0, 0.3, 0.3, 2.0).reshape(2, 2)
    q = tensor(0.5, 0.1, 0.1, 0.2).reshape(2, 2)
    second = torch.zeros(4, 4, dtype=F64)
    second[:2, :2] = q
    rate = Relaxation(0.1, 1e-7)(x / 0.1, second, noise)[:2, :2]
    torch.testing.assert_close(rate, Relaxation(0.1, 0.0)(x / 0.1, q, noise), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_growth_is_one_at_the_mean_square_edge(beta):
    problem = SampledQuadratics(tensor(1.0, 3.0, 2.5), batch_size=1)
    h = mean_square_edge(problem, momentum=beta)
    gain = (problem.spread() ** 2).sum(0)
    assert Relaxation(h, beta).growth(problem.values, gain) == pytest.approx(1, abs=1e-9)
    assert Relaxation(1.01 * h, beta).growth(problem.values, gain) > 1


def test_without_noise_it_is_the_rod_of_heavy_ball():
    """At two points, of rank one, near the edge: the centre to rounding, log|z| for −z−1."""
    h, beta, q = 0.05, 0.6, 0.09
    E = gf.problems.valley(kappa=0.5, y_star=70.0)
    y = 2 * (1 + beta) / h * 1.0005
    c, velocity, u = tensor(0.0, y), tensor(0.0, 0.02), tensor(1.0, 0.0)
    x = tensor(h * y)
    z, modes = np.linalg.eig(Relaxation(h, beta).step(x)[0].numpy())
    z, mode = min(zip(z, modes.T, strict=True), key=lambda pair: pair[0])
    a, b = (float(v) for v in mode)
    flow = StochasticRodFlow(E, h, covariance=0.0, beta=beta, rank=1, swing="two-point")
    second = q / a**2 * torch.outer(tensor(a, b), tensor(a, b))
    rate, rates = flow.field(c, directions=u[None], covariance=second, velocity=velocity)
    rod = MomentumRodFlow(E, h, beta=beta)
    length = tensor(math.log(q**0.5 / abs(a)))
    said, wanted = rod.field(
        c, velocity=velocity, direction=torch.cat([a * u, b * u]), log_length=length
    )
    torch.testing.assert_close(rate, said, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(rates["velocity"], wanted["velocity"], rtol=1e-10, atol=1e-12)
    growth = float(rates["covariance"][0, 0]) / (2 * q)
    assert growth == pytest.approx(math.log(-z) / h, rel=1e-6)
    assert growth == pytest.approx(float(wanted["log_length"]), rel=2e-3)


def test_valley_of_heavy_ball_itself():
    """Where it rests, 2κ(y* − y) = q with q the stationary one, and what 200 runs do."""
    h, beta, kappa, top, size = 0.05, 0.5, 0.1, 66.0, 8.0
    E = gf.problems.valley(kappa=kappa, y_star=top)
    noise, theta = tensor(size**2, 0.0), tensor(1.3, 57.5)
    flow = StochasticRodFlow(E, h, covariance=noise, beta=beta, rank=1)
    path = gf.integrate(flow, theta, times=[0.0, 200 * h], method="rk4", step=h)
    y, q = float(path.states[-1, 1]), float(flow.covariance_of(path)[-1])
    assert q == pytest.approx(2 * kappa * (top - y), rel=1e-3)
    settled = h * size**2 * (1 + beta) / ((1 - beta) * y * (2 * (1 + beta) - h * y))
    assert q == pytest.approx(settled, rel=1e-3)
    seen = gf.walking.sgd(
        E, theta, h, 900, covariance=noise, momentum=beta, paths=200, seed=0,
        at=[0, *range(300, 901, 50)],
    )  # fmt: skip
    mean = seen.mean[1:]
    assert float(mean[:, 1].mean()) == pytest.approx(y, rel=5e-3)
    square = seen.variance[1:, 0] + mean[:, 0] ** 2
    assert float(square.mean()) == pytest.approx(q, rel=0.05)


def test_a_start_below_and_a_small_network():
    network = gf.problems.mlp([13, 4, 3], "tanh", seed=0, dtype=torch.float32)
    E = gf.problems.classification("wine", network, n=24)
    flow = StochasticRodFlow(E, 0.1, batch_size=6, beta=0.9, rank=2)
    path = gf.integrate(flow, E.theta0, times=[0.0, 1.0], method="rk4", step=0.1)
    assert path.states.dtype == torch.float32 and bool(torch.isfinite(path.states).all())
    assert flow.covariance_of(path).shape == (2, 2, 2)
    assert float(flow.mean_loss(path)[-1]) < float(flow.mean_loss(path)[0])
    drawn = flow.sample(path, 4, seed=0)
    torch.testing.assert_close(drawn.mean(1), path.states)


def test_refusals():
    E = gf.problems.quadratic(tensor(3.1))
    with pytest.raises(InputError, match=r"beta must be in \[0, 1\)"):
        StochasticRodFlow(E, 1.0, covariance=0.1, beta=1.0)
    with pytest.raises(InputError, match="past mean-square stability"):
        StochasticRodFlow(E, 1.0, covariance=0.1, beta=0.5, rank=1).start(tensor(0.0))
    StochasticRodFlow(E, 0.9, covariance=0.1, beta=0.5, rank=1).start(tensor(0.0))
