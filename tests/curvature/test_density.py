"""Spectral density and batch sharpness, against dense Hessians."""

import math

import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows.curvature import batch_sharpness, spectral_density
from gdflows.errors import InputError

F64 = torch.float64


@pytest.fixture(scope="module")
def digits():
    network = gf.problems.mlp([64, 4, 10], "tanh", seed=0, dtype=F64)
    E = gf.problems.classification("digits", network, n=50)
    return E, torch.linalg.eigvalsh(E.hessian(E.theta0))


def test_density_of_a_network_within_its_error(digits):
    E, values = digits
    seen = spectral_density(E, E.theta0, steps=30, probes=20)
    assert (seen.hvps, seen.dim) == (600, E.dim)
    torch.testing.assert_close(seen.weights.sum(1), torch.ones(20, dtype=F64))
    for function in (lambda v: v, lambda v: v**2, torch.sigmoid):
        mean, error = seen.mean(function)
        true = float(function(values).mean())
        assert error < 0.3 * abs(true)
        assert abs(mean - true) < 3 * error
    assert float(seen.nodes.max()) == pytest.approx(float(values.max()), rel=1e-10)
    assert float(seen.nodes.min()) == pytest.approx(float(values.min()), rel=1e-3)


def test_smoothed_density_is_near_the_true_one_and_integrates_to_one(digits):
    E, values = digits
    seen = spectral_density(E, E.theta0, steps=60, probes=40)
    width = 0.3
    grid = torch.linspace(float(values[0]) - 2, float(values[-1]) + 2, 400, dtype=F64)
    density = seen(grid, width)
    z = (grid[:, None] - values) / width
    true = (torch.exp(-(z**2) / 2) / (width * math.sqrt(2 * math.pi))).mean(1)
    assert float((density - true).abs().max()) < 0.05 * float(true.max())
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1, abs=1e-3)


def test_a_space_that_ends_early_still_counts_once():
    E = gf.problems.quadratic(torch.tensor([1.0, 1.0, 3.0], dtype=F64))
    seen = spectral_density(E, torch.ones(3, dtype=F64), steps=10, probes=200)
    assert seen.hvps == 400
    torch.testing.assert_close(seen.weights.sum(1), torch.ones(200, dtype=F64))
    mean, error = seen.mean(lambda v: (v > 2).to(F64))
    assert abs(mean - 1 / 3) < 3 * error < 0.1


def test_batch_sharpness_against_dense_hessians(digits):
    E, _ = digits
    seen = batch_sharpness(E, E.theta0, 10, batches=3, seed=5)
    generator, quotients = torch.Generator().manual_seed(5), []
    for _ in range(3):
        rows = torch.randperm(50, generator=generator)[:10]
        x, y = (part[rows] for part in E.data)
        batch = gf.Objective.from_module(E.model, E.loss, (x, y))
        g, h = batch.grad(E.theta0), batch.hessian(E.theta0)
        quotients.append(float(g @ h @ g / (g @ g)))
    assert seen.value == pytest.approx(np.mean(quotients), rel=1e-10)
    assert seen.error == pytest.approx(np.std(quotients, ddof=1) / 3**0.5, rel=1e-8)
    assert seen.hvps == 3


def test_batch_of_all_is_the_full_batch_s_quotient(digits):
    E, _ = digits
    g = E.grad(E.theta0)
    quotient = float(g @ E.hvp(E.theta0, g) / (g @ g))
    seen = batch_sharpness(E, E.theta0, 50, batches=1)
    assert seen.value == pytest.approx(quotient, rel=1e-10)
    assert math.isnan(seen.error)


def test_bad_input(digits):
    E, _ = digits
    with pytest.raises(InputError, match="steps must be a whole number"):
        spectral_density(E, E.theta0, steps=0)
    with pytest.raises(InputError, match="batch of 51 cannot be drawn from 50"):
        batch_sharpness(E, E.theta0, 51)
    with pytest.raises(InputError, match="batches must be"):
        batch_sharpness(E, E.theta0, 5, batches=0)
    with pytest.raises(InputError, match="draws batches from the data"):
        batch_sharpness(gf.problems.banana(), torch.ones(2), 1)
    with pytest.raises(InputError, match="width must be positive"):
        spectral_density(E, E.theta0, steps=2, probes=1)(torch.zeros(1), 0.0)
