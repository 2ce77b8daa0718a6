"""Noise of labels: against labels that are drawn, and the Hessian where they are fitted."""

import pytest
import torch

import gdflows as gf
from gdflows.errors import ConvergenceError, InputError
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


@pytest.mark.parametrize("classes", [False, True], ids=["targets", "classes"])
def test_points_that_fit_their_labels(classes):
    """From several points at once; the nearest such point, to second order."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(3, 4, generator=g, dtype=f64), torch.randn(3, 2, generator=g, dtype=f64)
    y = torch.tensor([0, 1, 1]) if classes else y
    model = gf.problems.mlp([4, 8, 2], "tanh", seed=0, dtype=f64)
    E = gf.Objective.from_module(model, gf.problems.squared_error, (x, y))
    noise = LabelNoise(E, 1.0)
    start = gf.descend(E, E.theta0, 0.1, 100, every=100).states[-1]
    found = noise.fitted(torch.stack([start, start + 0.01]))
    assert all(float(E.value(t)) < 1e-24 for t in found)
    torch.testing.assert_close(noise.fitted(start), found[0])
    values, vectors = torch.linalg.eigh(E.hessian(found[0]))
    near = found[0] + 1e-4 * vectors[:, 0]  # along the valley: it must not be brought back
    assert values[0].abs() < 1e-9
    assert float((noise.fitted(near) - near).norm()) < 1e-6
    with pytest.raises(ConvergenceError, match="start nearer"):
        noise.fitted(start, steps=1)


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
