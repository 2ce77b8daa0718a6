"""Drift along a valley of minima: against second derivatives of where descent ends, and SGD."""

import math

import pytest
import torch
from torch.func import grad, jacrev

import gdflows as gf
from gdflows.errors import InputError
from gdflows.flows import (
    EpochFlow,
    LabelNoise,
    NoiseFactor,
    PerSampleNoise,
    ShuffledValleyFlow,
    ValleyFlow,
    epoch_share,
)

f64 = torch.float64


def hyperbola():
    """Minima on uv = 1; and noise of the label, which is across the valley at each of them."""
    E = gf.Objective(lambda v: 0.5 * (v[0] * v[1] - 1) ** 2, 2)
    return E, NoiseFactor(lambda v: 0.3 * v.flip(0)[:, None], 1)


def three():
    """Two directions across a straight valley, whose axes turn along it; noise that is askew."""

    def loss(v):
        x, y, z = v
        return 0.5 * ((2 + z) * x * x + (1.5 - z / 2 + z * z) * y * y) + (0.3 + z) * x * y

    return gf.Objective(loss, 3), torch.tensor([[1.0, 0.6, 0], [0.6, 2.0, 0], [0, 0, 0]], dtype=f64)


def curvature_of_ends(end, theta, sigma, step=2e-3):
    """Σ_ij Σ_ij ∂_i∂_j of a function of a point, by central differences."""
    values, columns = torch.linalg.eigh(sigma)
    total = torch.zeros_like(theta)
    for value, v in zip(values, columns.T, strict=True):
        if value > 1e-12:
            total += value * (end(theta + step * v) + end(theta - step * v) - 2 * end(theta))
    return total / step**2


def by_descent(E, h):
    def end(theta):
        return gf.descend(E, theta, h, 400, every=400).states[-1]

    return end


def by_flow(flow):
    def end(theta):
        return gf.integrate(flow, theta, t=40.0, rtol=1e-12, atol=1e-14).states[-1]

    return end


POINTS = [(hyperbola, [math.exp(0.6), math.exp(-0.6)]), (three, [0.0, 0.0, 0.2])]


@pytest.mark.parametrize("of", ["sgd", "order 1", "order 2"])
@pytest.mark.parametrize("made, point", POINTS, ids=["hyperbola", "three"])
def test_it_is_what_noise_does_to_the_end_of_the_way(made, point, of):
    """(h/2) ∇²Φ[Σ] along the valley, Φ the end of descent, of its flow, or of the modified one."""
    E, covariance = made()
    theta, h = torch.tensor(point, dtype=f64), 0.35
    end = {"sgd": by_descent(E, h), "order 1": by_flow(gf.flows.NGF(E)),
           "order 2": by_flow(gf.flows.IGR(E, h))}[of]
    sigma = covariance if isinstance(covariance, torch.Tensor) else covariance.matrix(theta)
    values, vectors = torch.linalg.eigh(E.hessian(theta))
    along = vectors[:, values.abs() < 1e-9]
    expected = h / 2 * along @ (along.T @ curvature_of_ends(end, theta, sigma))
    seen = ValleyFlow(E, h, covariance=covariance, of=of).vector_field(theta)
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-6)


def fitted(n=4):
    """A small network that fits its samples exactly, and its Jacobian."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, 3, generator=g, dtype=f64), torch.randn(n, 1, generator=g, dtype=f64)
    model = gf.problems.mlp([3, 5, 1], "tanh", seed=0, dtype=f64)
    E = gf.Objective.from_module(model, gf.problems.squared_error, (x, y))
    noise = LabelNoise(E, 0.09)
    theta = E.theta0
    for _ in range(60):  # Gauss and Newton, half a step at a time
        J = jacrev(noise.outputs)(theta)[:, 0]
        r = (noise.outputs(theta) - y)[:, 0]
        theta = theta - 0.5 * J.T @ torch.linalg.solve(J @ J.T, r)
    return E, noise, theta


def test_noise_of_labels_descends_a_logarithm():
    E, noise, theta = fitted()

    def kernel(theta):
        J = jacrev(noise.outputs)(theta)[:, 0]
        return J @ J.T / len(J)

    h = 1.6 / float(torch.linalg.eigvalsh(kernel(theta))[-1])
    eye = torch.eye(4, dtype=f64)
    for of, penalty in (
        ("sgd", lambda K: -torch.logdet(eye - h / 2 * K)),
        ("order 1", lambda K: h / 2 * K.trace()),
        ("order 2", lambda K: h * K.trace() - torch.logdet(eye + h / 2 * K)),
    ):
        slope = grad(lambda t, p=penalty: 0.09 / (2 * 4) * p(kernel(t)))(theta)
        J = jacrev(noise.outputs)(theta)[:, 0]
        slope = slope - J.T @ torch.linalg.solve(J @ J.T, J @ slope)
        seen = ValleyFlow(E, h, covariance=noise, of=of).vector_field(theta)
        torch.testing.assert_close(seen, -slope, rtol=1e-6, atol=1e-9)


def batches_of(E):
    x, y = E.data
    return [
        gf.Objective.from_module(E.model, E.loss, (x[i : i + 1], y[i : i + 1]))
        for i in range(len(x))
    ]


def twice(E, b):
    """Each sample twice, with its label moved by ±b: the minima stay, the noise does not."""
    x, y = E.data
    b = torch.as_tensor(b, dtype=f64).expand(len(x))[:, None]
    data = (torch.cat([x, x]), torch.cat([y + b, y - b]))
    return gf.Objective.from_module(E.model, E.loss, data)


def test_shuffled_or_not_is_one_where_labels_are_the_noise():
    """For any length of the epoch: both drifts are −(hs²/4) times the gradient of tr H."""
    E, _, theta = fitted()
    E = twice(E, 0.3)
    batches = batches_of(E)
    for h in (1e-4, 0.05, 0.3):
        drawn = PerSampleNoise(E, 1, replacement=True)
        expected = ValleyFlow(E, h, covariance=drawn, of="order 1").vector_field(theta)
        seen = ShuffledValleyFlow(batches, h).vector_field(theta)
        torch.testing.assert_close(seen, expected, rtol=1e-7, atol=1e-12)


def test_short_epochs_have_the_penalty_of_the_epoch_and_long_ones_that_of_fresh_noise():
    E, _, theta = fitted()
    E = twice(E, [0.5, 0.0, 0.0, 0.1])
    batches = batches_of(E)
    values, vectors = torch.linalg.eigh(E.hessian(theta))
    along = vectors[:, values < 1e-8]
    h = 1e-5
    penalty = along @ (along.T @ EpochFlow(batches, h).vector_field(theta))
    seen = ShuffledValleyFlow(batches, h).vector_field(theta)
    assert float((seen - penalty).norm() / penalty.norm()) < 1e-3
    drawn = PerSampleNoise(E, 1, replacement=True)
    fresh = ValleyFlow(E, h, covariance=drawn, of="order 1").vector_field(theta)
    assert float((seen - fresh).norm() / fresh.norm()) > 0.1
    fresh = ValleyFlow(E, 0.4, covariance=drawn, of="order 1").vector_field(theta)
    gaps = [
        float((ShuffledValleyFlow(batches * k, 0.4).vector_field(theta) - fresh).norm())
        for k in (10, 20)
    ]
    assert gaps[1] < 0.05 * float(fresh.norm())
    # 1 − ρ falls as 2/τ; what stands before it is the slope of tr H⁻¹Σ along the valley, which
    # vanishes where every label can be fitted, and leaves τ⁻².
    assert gaps[1] / gaps[0] == pytest.approx(0.25, abs=0.02)


class Bent(torch.nn.Module):
    """Samples ½λ(y)x² + b x with λ = 1 + y²: a noise that is the same all along the valley."""

    def __init__(self):
        super().__init__()
        self.at = torch.nn.Parameter(torch.tensor([0.0, 1.0], dtype=f64))

    def forward(self, b):
        x, y = self.at
        return (1 + y * y) * x * x / 2 + b * x


def test_shuffled_sgd_drifts_as_it_is_told_to():
    h, m = 0.01, 64
    b = torch.tensor([0.5, -0.5], dtype=f64).repeat(m // 2)
    E = gf.Objective.from_module(Bent(), torch.mean, b)
    batches = [gf.Objective.from_module(Bent(), torch.mean, b[k : k + 1]) for k in range(m)]
    seen = gf.walking.sgd(E, E.theta0, h, 10 * m, covariance=PerSampleNoise(E, 1), noise="epochs",
                          paths=1500, seed=0, at=[0, 5 * m, 10 * m])
    rate = float(seen.mean[2, 1] - seen.mean[1, 1]) / (5 * m * h)
    told = float(ShuffledValleyFlow(batches, h).vector_field(E.theta0)[1])
    fresh = -h / 4 * 0.25  # −(h/4) Σλ'/λ
    # 2 % of chance, 1 % of hλ and 2 % of 1/m
    assert rate == pytest.approx(told, rel=0.06)
    assert abs(rate / fresh) < 0.5


def test_share_of_an_epoch():
    tau = torch.logspace(-9, 4, 200, dtype=f64)
    # (1/τ²) times the integral of the covariance of a bridge, as a double integral by hand
    nodes = (torch.arange(400, dtype=f64) + 0.5) / 400
    for t in (0.05, 0.7, 5.0, 30.0):
        lag = nodes[:, None] - nodes[None, :]
        double = torch.exp(-t * lag.abs()).mean()
        assert float(epoch_share(torch.tensor(t, dtype=f64))) == pytest.approx(
            1 - float(double), abs=2e-4)
    share = epoch_share(tau)
    assert bool((share.diff() > 0).all()) and bool((share > 0).all()) and bool((share < 1).all())
    torch.testing.assert_close(share[:50], tau[:50] / 3, rtol=1e-3, atol=0)
    with pytest.raises(InputError, match="negative"):
        epoch_share(torch.tensor([-1.0]))


def test_what_is_refused():
    E, noise = hyperbola()
    minimum = torch.tensor([2.0, 0.5], dtype=f64)
    with pytest.raises(InputError, match="no minimum"):
        straight = gf.Objective(lambda v: v[0] ** 2 + 0 * v[1], 2)
        noisy = torch.tensor([1.0, 0.0], dtype=f64)
        ValleyFlow(straight, 0.1, covariance=noisy).vector_field(minimum)
    with pytest.raises(InputError, match="no valley"):
        ValleyFlow(E, 0.1, covariance=noise).vector_field(minimum + 0.2)
    with pytest.raises(InputError, match="past the edge"):
        ValleyFlow(E, 0.6, covariance=noise).vector_field(minimum)
    with pytest.raises(InputError, match="along the valley"):
        ValleyFlow(E, 0.1, covariance=1.0).vector_field(minimum)
    with pytest.raises(InputError, match="No direction is flat"):
        bowl = gf.problems.quadratic([1.0, 2.0])
        ValleyFlow(bowl, 0.1, covariance=1.0).vector_field(torch.zeros(2, dtype=f64))
    with pytest.raises(InputError, match="no valley"):
        saddle = gf.Objective(lambda v: v[0] ** 2 - v[1] ** 2 + 0 * v[2], 3)
        ValleyFlow(saddle, 0.1, covariance=1.0).vector_field(torch.zeros(3, dtype=f64))
    with pytest.raises(InputError, match="of must be one of"):
        ValleyFlow(E, 0.1, covariance=noise, of="sde")
    for bad in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError, match="flat"):
            ValleyFlow(E, 0.1, covariance=noise, flat=bad)
    with pytest.raises(InputError, match="two Objectives"):
        ShuffledValleyFlow([E], 0.1)
