"""Noise of labels: against labels that are drawn, and the Hessian where they are fitted."""

import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError
from gdflows.flows import LabelNoise

f64 = torch.float64


def test_covariance_is_that_of_gradients_with_drawn_labels(net):
    net, _ = net
    x, y = net.data
    E = gf.Objective.from_module(net.model, gf.problems.squared_error, (x, y))
    noise, theta = LabelNoise(E, 0.25), E.theta0 + 0.05
    # one label at a time: the gradient is linear in them, so this is the whole factor
    columns = []
    for i in range(12):
        for c in range(2):
            moved = y.clone()
            moved[i, c] += 1
            other = gf.Objective.from_module(E.model, E.loss, (x, moved))
            columns.append(0.5 * (other.grad(theta) - E.grad(theta)))
    F = torch.stack(columns, 1)
    torch.testing.assert_close(noise.matrix(theta), F @ F.T)
    thetas = torch.stack([theta, E.theta0])
    traces = torch.stack([noise.matrix(t).trace() for t in thetas])
    torch.testing.assert_close(noise.trace(thetas), traces)


def test_where_labels_are_fitted_it_is_the_hessian(net):
    net, _ = net
    x, _ = net.data
    labels = net.model(x).detach()
    E = gf.Objective.from_module(net.model, gf.problems.squared_error, (x, labels))
    noise = LabelNoise(E, 0.25)
    torch.testing.assert_close(noise.matrix(E.theta0), 0.25 / 12 * E.hessian(E.theta0))


def test_classes_are_labels_too():
    x, y = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=f64), torch.arange(5)
    model = gf.problems.mlp([3, 4, 5], "tanh", seed=0, dtype=f64)
    noise = LabelNoise(gf.Objective.from_module(model, gf.problems.squared_error, (x, y)), 1.0)
    assert noise.channels == 25
    noise.check(noise.objective.theta0)


def test_what_is_refused(net):
    E, _ = net
    with pytest.raises(InputError, match="negative"):
        LabelNoise(E, -1.0)
    x, y = E.data
    other = gf.Objective.from_module(E.model, lambda out, y: (out - y).square().mean() * 2, (x, y))
    with pytest.raises(InputError, match="squared_error"):
        LabelNoise(other, 1.0).check(other.theta0)
    with pytest.raises(InputError, match="from_module"):
        LabelNoise(gf.problems.banana(), 1.0)
