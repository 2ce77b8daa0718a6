"""The mean-field recursion, against quadrature, closed forms and a random network."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm

import gdflows as gf
from gdflows.errors import InputError, NonFiniteError
from gdflows.problems import mean_field, mean_field_limit


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def average(function, kinks=(0.0,)):
    ends = [-12.0, *kinks, 12.0]
    return sum(
        quad(lambda z: function(z) * norm.pdf(z), a, b, epsabs=1e-13, limit=400)[0]
        for a, b in zip(ends, ends[1:], strict=False)
    )


@pytest.mark.parametrize("q", [0.01, 1.0, 40.0])
def test_averages_are_those_of_adaptive_quadrature(q):
    root = q**0.5
    truth = {
        "tanh": (np.tanh, lambda z: 1 / np.cosh(z) ** 2),
        "sigmoid": (sigmoid, lambda z: sigmoid(z) * sigmoid(-z)),
        "elu": (lambda z: z if z > 0 else np.expm1(z), lambda z: 1.0 if z > 0 else np.exp(z)),
    }
    for name, (value, slope) in truth.items():
        field = mean_field(name, 1.0, depth=2, signal=q)
        assert field.q[0] == q
        assert np.isclose(field.r[1], average(lambda z, f=value: f(root * z) ** 2), rtol=1e-9)
        assert np.isclose(field.chi[0], average(lambda z, f=slope: f(root * z) ** 2), rtol=1e-9)


def test_relu_and_linear_in_closed_form():
    sigma = np.array([0.8, 1.0, 1.7])
    for name, factor in (("relu", sigma**2 / 2), ("linear", sigma**2)):
        field = mean_field(name, sigma, depth=6, signal=2.0)
        assert field.gradients.shape == (3, 6)
        assert np.allclose(field.gradients, (2 * factor**5)[:, None], rtol=1e-13)
        assert np.allclose(field.errors, factor[:, None] ** np.arange(5, -1, -1), rtol=1e-13)
        assert np.allclose(field.q[:, 0], 2 * sigma**2, rtol=1e-13)


def test_one_layer_and_a_function_of_ones_own():
    alone = mean_field("tanh", 1.3, 0.5, depth=1)
    assert alone.chi.shape == (0,)
    assert alone.gradients.tolist() == [1.0]
    assert alone.q[0] == pytest.approx(1.3**2 + 0.25)
    own = mean_field(lambda z: torch.tanh(z), 1.3, 0.5, depth=7)
    assert np.array_equal(own.gradients, mean_field("tanh", 1.3, 0.5, depth=7).gradients)


def test_a_wide_network_agrees():
    n, depth = 400, 6
    x = torch.ones(1, n, dtype=torch.float64)
    field = mean_field("tanh", 1.5, depth=depth)
    seen = []
    for seed in range(5):
        net = gf.problems.mlp(
            [n] * depth + [1],
            "tanh",
            init="normal",
            scale=1.5 / n**0.5,
            bias=False,
            seed=seed,
            dtype=torch.float64,
        )
        f = gf.Objective.from_module(net, lambda out, _: out.sum(), (x, x))
        norms = gf.probes.layer_gradient_norms(f.at(f.theta0))
        seen.append([v**2 / n for v in norms.values()])
    assert np.allclose(np.mean(seen, axis=0), field.gradients, rtol=0.15)


def excess(v, sigma_w, sigma_b):
    return sigma_w**2 * average(lambda z: np.tanh(v**0.5 * z) ** 2) + sigma_b**2 - v


def test_limits():
    q, chi = mean_field_limit("tanh", np.array([0.5, 1.0]))
    assert np.allclose(q, 0, atol=1e-6)
    assert np.allclose(chi, [0.25, 1.0], atol=1e-5)
    for sigma_w, sigma_b in ((1.003, 0.0), (1.5, 0.0), (2.5, 1.0), (0.7, 0.3)):
        q, chi = mean_field_limit("tanh", sigma_w, sigma_b)
        root = brentq(excess, 1e-4, 20, args=(sigma_w, sigma_b), xtol=1e-14)
        assert q == pytest.approx(root, rel=1e-7)
        after = mean_field("tanh", sigma_w, sigma_b, depth=2, signal=(q - sigma_b**2) / sigma_w**2)
        assert chi == pytest.approx(after.chi[0])
    q, chi = mean_field_limit("relu", np.array([1.0, 2**0.5, 1.6]), np.array([0.5, 0.0, 0.0]))
    assert q == pytest.approx([0.5, 1.0, np.inf])
    assert chi == pytest.approx([0.5, 1.0, 1.28])


def test_the_sigmoid_has_a_critical_scale():
    # The pre-activations' variance and the slope there, from quadrature alone.
    scale = 10.1493
    q = brentq(lambda v: scale**2 * average(lambda z: sigmoid(v**0.5 * z) ** 2) - v, 40, 60)
    slope = average(lambda z: (sigmoid(v := q**0.5 * z) * sigmoid(-v)) ** 2)
    assert scale**2 * slope == pytest.approx(1, abs=1e-5)
    limit = mean_field_limit("sigmoid", scale)
    assert limit[0] == pytest.approx(q)
    assert limit[1] == pytest.approx(scale**2 * slope)


def test_what_cannot_be_used_is_named():
    for arguments, words in (
        (("tanhh", 1.0), "tanhh"),
        ((3, 1.0), "int"),
        (("tanh", -1.0), "sigma_w"),
        (("tanh", 1.0, np.inf), "sigma_b"),
        (("tanh", [1.0, 2.0], [1.0, 2.0, 3.0]), "broadcast"),
        (("tanh", 1.0, 0.0, 0), "depth"),
    ):
        with pytest.raises(InputError, match=words):
            mean_field(*arguments)
    with pytest.raises(InputError, match="signal"):
        mean_field("tanh", 1.0, signal=-1.0)
    for call in (mean_field, mean_field_limit):
        with pytest.raises(NonFiniteError, match="not finite"):
            call(torch.log, 1.0)
