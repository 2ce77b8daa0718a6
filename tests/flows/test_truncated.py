"""Truncated modified equations on an objective: the order of accuracy, cost, and warnings."""

import warnings

import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError
from gdflows.flows import IGR, NGF, Truncated, third_order_nonprincipal

f64 = torch.float64


def tanh_network():
    net = gf.problems.mlp([4, 6, 3], "tanh", seed=0, dtype=f64)
    E = gf.problems.classification("iris", net, n=30)
    return E, E.theta0, np.array([0.04, 0.02, 0.01])


def banana():
    E = gf.problems.banana()
    return E, torch.tensor([0.9, 0.75], dtype=f64), np.array([8e-5, 4e-5, 2e-5])


@pytest.mark.parametrize("method", ["derivatives", "differences"])
@pytest.mark.parametrize("order", range(5))
@pytest.mark.parametrize("problem", [banana, tanh_network])
def test_local_error_of_order_n_plus_2(problem, order, method):
    E, theta, steps = problem()
    errors = []
    for lr in steps:
        flow = Truncated(E, lr, order, method=method)
        end = gf.integrate(flow, theta, t=lr, rtol=1e-13, atol=1e-16).states[-1]
        errors.append(float((end - (theta - lr * E.grad(theta))).norm()))
    slopes = np.diff(np.log(errors)) / np.diff(np.log(steps))
    assert abs(slopes[-1] - (order + 2)) < 0.1, (slopes, errors)


def test_named_cases(net):
    E, _ = net
    lr, theta = 0.1, E.theta0
    zero, one, two = (Truncated(E, lr, n).vector_field(theta) for n in range(3))
    torch.testing.assert_close(zero, NGF(E).vector_field(theta), rtol=0, atol=0)
    torch.testing.assert_close(one, IGR(E, lr).vector_field(theta), rtol=1e-14, atol=1e-16)
    p = E.at(theta)
    third = one - lr**2 / 3 * p.hvp(p.hvp(p.grad)) + third_order_nonprincipal(E, theta, lr)
    torch.testing.assert_close(two, third, rtol=1e-13, atol=1e-16)
    assert [Truncated(E, lr, n).label for n in range(4)] == ["NGF", "IGR", "order 2", "order 3"]


@pytest.mark.parametrize("order", [0, 3, 6])
def test_on_a_quadratic_both_methods_are_the_series_of_the_logarithm(order):
    eigenvalues = torch.tensor([-0.5, 0.3, 0.9], dtype=f64)
    E = gf.problems.quadratic(eigenvalues.tolist())
    theta, lr = torch.tensor([1.0, -2.0, 3.0], dtype=f64), 0.7
    x = lr * eigenvalues
    want = -sum(x**p / (p + 1) for p in range(order + 1)) * eigenvalues * theta
    for method in ("derivatives", "differences"):
        got = Truncated(E, lr, order, method=method).vector_field(theta)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)


def test_cost():
    E, theta, _ = tanh_network()
    for order, contractions in enumerate([0, 1, 3, 6, 16]):
        E.reset_cost()
        Truncated(E, 0.1, order).vector_field(theta)
        cost = E.cost
        assert cost["gradients"] == 1
        assert cost["hvps"] + cost["thirds"] + cost["higher"] == contractions
        E.reset_cost()
        Truncated(E, 0.1, order, method="differences").vector_field(theta)
        assert dict(E.cost) == {
            "values": 0, "gradients": order + 1, "hvps": 0, "thirds": 0, "higher": 0,
        }  # fmt: skip


def test_chunks_give_the_same_field(net):
    E, model = net
    mean = torch.nn.MSELoss()
    whole = gf.Objective.from_module(model, mean, E.data)
    parts = gf.Objective.from_module(model, mean, E.data, chunk=5)
    a, b = (Truncated(x, 0.1, 3).vector_field(E.theta0) for x in (whole, parts))
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_a_network_without_the_derivatives_is_warned_of():
    relu = gf.problems.mlp([4, 6, 3], "relu", seed=0, dtype=f64)
    E = gf.problems.classification("iris", relu, n=30)
    with pytest.warns(UserWarning, match="Order 2 needs 3 derivatives, and ReLU has fewer"):
        Truncated(E, 0.1, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Truncated(E, 0.1, 1)
        Truncated(tanh_network()[0], 0.1, 4)


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (torch.nn.functional.relu, "ReLU"),
        (lambda x: x.clamp(min=0), "clamp"),
        (torch.nn.functional.elu, "ELU"),
        (torch.abs, "abs"),
    ],
)
def test_a_function_with_kinks_is_warned_of_at_the_first_evaluation(activation, name):
    E = gf.Objective(lambda theta: activation(theta).square().sum(), dim=3)
    flow = Truncated(E, 0.1, 2)
    with pytest.warns(UserWarning, match=name):
        flow.vector_field(torch.ones(3, dtype=f64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flow.vector_field(torch.ones(3, dtype=f64))  # once


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_flow_of_heavy_ball_on_a_network(order):
    E, theta, _ = tanh_network()
    series = gf.bseries.heavy_ball("1/2", order)
    errors, counts = [], np.array([160, 320])
    for count in counts:
        lr = 0.5 / count
        at, v = theta, torch.zeros_like(theta)
        for _ in range(count):
            v = 0.5 * v + E.grad(at)
            at = at - lr * v
        start = theta + lr * Truncated(E, lr, order, series=series.shift).vector_field(theta)
        flow = Truncated(E, lr, order, series=series)
        errors.append(float((gf.integrate(flow, start, t=0.5, rtol=1e-12).states[-1] - at).norm()))
    slope = -np.diff(np.log(errors))[0] / np.diff(np.log(counts))[0]
    assert slope == pytest.approx(order + 1, abs=0.1), errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"order": -1}, "got -1"),
        ({"order": 2, "method": "magic"}, "'magic'"),
        ({"order": 2, "lr": 0.0}, "lr must be positive"),
        ({"order": 2, "series": gf.bseries.heavy_ball(0, 1)}, "stops at h"),
        (
            {"order": 1, "series": gf.bseries.heavy_ball(0, 1), "method": "differences"},
            "gradient descent alone",
        ),
    ],
)
def test_bad_input(arguments, words):
    with pytest.raises(InputError, match=words):
        Truncated(banana()[0], **({"lr": 0.1} | arguments))
