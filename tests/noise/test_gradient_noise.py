"""Gradients sample by sample and their covariance, against loops over samples and over batches."""

from itertools import combinations, product

import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError
from gdflows.noise import GradientNoise, batch_factor, directional_noise, per_sample_gradients

f64 = torch.float64


def by_hand(E, theta):
    """The gradient of every sample, by an objective of its own; and its Hessian."""
    x, y = E.data
    parts = [
        gf.Objective.from_module(E.model, E.loss, (x[i : i + 1], y[i : i + 1]))
        for i in range(len(x))
    ]
    return (
        torch.stack([p.grad(theta) for p in parts]),
        torch.stack([p.hessian(theta) for p in parts]),
    )


@pytest.mark.parametrize("chunk", [None, 1, 5])
def test_gradients_of_samples(net, chunk):
    E, _ = net
    theta = E.theta0 + 0.1
    expected, _ = by_hand(E, theta)
    seen = per_sample_gradients(E, theta, chunk=chunk)
    torch.testing.assert_close(seen, expected)
    torch.testing.assert_close(seen.mean(0), E.grad(theta))


@pytest.mark.parametrize("loss", [gf.problems.squared_error, gf.problems.cross_entropy,
                                  torch.nn.CrossEntropyLoss()], ids=["squared", "own", "torch"])
def test_losses_of_classes_are_fit_for_it(loss):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(6, 3, generator=g, dtype=f64), torch.tensor([0, 1, 2, 1, 0, 2])
    model = gf.problems.mlp([3, 4, 3], "tanh", seed=0, dtype=f64)
    E = gf.Objective.from_module(model, loss, (x, y))
    expected, _ = by_hand(E, E.theta0)
    torch.testing.assert_close(per_sample_gradients(E, E.theta0), expected)


@pytest.mark.parametrize("keep", [True, False])
def test_covariance_as_an_operator(net, keep):
    E, _ = net
    theta = E.theta0
    g, hessians = by_hand(E, theta)
    off = g - g.mean(0)
    S = off.T @ off / len(g)
    noise = GradientNoise(E, theta, keep=keep, chunk=5)
    v = torch.randn(3, E.dim, generator=torch.Generator().manual_seed(0), dtype=f64)
    torch.testing.assert_close(noise.trace(), S.trace())
    torch.testing.assert_close(noise.product(v), v @ S)
    torch.testing.assert_close(noise.product(v[0]), S @ v[0])
    torch.testing.assert_close(noise.along(v), ((v @ S) * v).sum(1))
    torch.testing.assert_close(noise.trace(4), S.trace() * (12 - 4) / (4 * 11))
    torch.testing.assert_close(noise.trace(4, replacement=True), S.trace() / 4)
    assert noise.scale() == pytest.approx(float(S.trace() / g.mean(0).square().sum()))
    H = hessians.mean(0)
    torch.testing.assert_close(noise.curvature(), (H @ S).trace() / S.trace())
    if keep:
        values, vectors = noise.eigenpairs(4)
        torch.testing.assert_close(values, torch.linalg.eigvalsh(S).flip(0)[:4])
        torch.testing.assert_close(vectors @ S, values[:, None] * vectors)
        with pytest.raises(InputError, match="k must be in"):
            noise.eigenpairs(13)
    else:
        with pytest.raises(InputError, match="keep=True"):
            noise.eigenpairs()


@pytest.mark.parametrize("replacement", [False, True])
def test_factor_is_that_of_all_batches(replacement):
    values = torch.tensor([1.0, 2.0, 5.0, -3.0, 0.5], dtype=f64)
    draw = product(values, repeat=2) if replacement else combinations(values, 2)
    means = torch.tensor([sum(pair) / 2 for pair in draw], dtype=f64)
    ratio = means.var(unbiased=False) / values.var(unbiased=False)
    assert batch_factor(5, 2, replacement=replacement) == pytest.approx(float(ratio))


def test_noise_of_slope_and_curvature_along_directions(net):
    E, _ = net
    g, hessians = by_hand(E, E.theta0)
    v = torch.randn(2, E.dim, generator=torch.Generator().manual_seed(1), dtype=f64)
    seen = directional_noise(E, E.theta0, v, batch_size=2)
    slopes = torch.stack([(g[list(b)].mean(0) @ v.T) for b in combinations(range(12), 2)])
    curvatures = torch.stack(
        [
            torch.einsum("ka,ab,kb->k", v, hessians[list(b)].mean(0), v)
            for b in combinations(range(12), 2)
        ]
    )
    torch.testing.assert_close(seen.slope, slopes.mean(0))
    torch.testing.assert_close(seen.curvature, curvatures.mean(0))
    torch.testing.assert_close(seen.slope_variance, slopes.var(0, unbiased=False))
    torch.testing.assert_close(seen.curvature_variance, curvatures.var(0, unbiased=False))
    both = (slopes * curvatures).mean(0) - slopes.mean(0) * curvatures.mean(0)
    torch.testing.assert_close(seen.covariance, both)


class Normalised(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.norm = torch.nn.Linear(3, 2).double(), torch.nn.BatchNorm1d(2).double()

    def forward(self, x):
        return self.norm(self.inner(x))


def test_losses_that_are_no_mean_over_samples_are_refused():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(6, 3, generator=g, dtype=f64), torch.tensor([0, 1, 1, 1, 0, 0])
    model = torch.nn.Linear(3, 2).double()
    weights = torch.tensor([1.0, 5.0], dtype=f64)
    for loss, said in (
        (torch.nn.CrossEntropyLoss(weight=weights), "mean of its samples"),
        (torch.nn.CrossEntropyLoss(reduction="sum"), "mean of its samples"),
    ):
        E = gf.Objective.from_module(model, loss, (x, y))
        with pytest.raises(InputError, match=said):
            per_sample_gradients(E, E.theta0)
    E = gf.Objective.from_module(Normalised(), torch.nn.CrossEntropyLoss(), (x, y))
    with pytest.raises(InputError, match="[Bb]atch normalisation"):
        GradientNoise(E, E.theta0)
    dropped = torch.nn.Sequential(model, torch.nn.Dropout(0.5))
    E = gf.Objective.from_module(dropped, torch.nn.CrossEntropyLoss(), (x, y))
    with pytest.raises(InputError, match="model.eval"):
        per_sample_gradients(E, E.theta0)


def test_what_else_is_refused(net):
    E, _ = net
    with pytest.raises(InputError, match="only 12 samples"):
        GradientNoise(E, E.theta0).trace(13)
    with pytest.raises(InputError, match="only 12 samples"):
        directional_noise(E, E.theta0, E.theta0, batch_size=13, replacement=True)
    with pytest.raises(InputError, match="no samples"):
        per_sample_gradients(gf.problems.quadratic([1.0]), torch.ones(1, dtype=f64))
    one = gf.Objective.from_module(E.model, E.loss, tuple(t[:1] for t in E.data))
    with pytest.raises(InputError, match="single sample"):
        per_sample_gradients(one, one.theta0)
