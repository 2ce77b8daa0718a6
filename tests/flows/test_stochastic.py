"""Stochastic modified equations: their weak orders, exactly; their covariances; what is refused."""

from itertools import product
from math import factorial

import numpy as np
import pytest
import torch
from numpy.polynomial import polynomial
from scipy.signal import convolve2d

import gdflows as gf
from gdflows.errors import InputError
from gdflows.flows import (
    HeavyBall,
    Nesterov,
    NoiseFactor,
    PerSampleNoise,
    StochasticModifiedEquation,
)
from gdflows.objective.samples import Samples

f64 = torch.float64
SME = StochasticModifiedEquation
SIZES = np.array([0.02, 0.01, 0.005])
AT = torch.tensor([0.3, -0.4], dtype=f64)
PLACES = 9  # of a grid on which polynomials of degree 8 in each variable are interpolated


def loss(theta):
    x, y = theta[0], theta[1]
    return x**2 + 0.7 * x * y + y**2 + x**3 / 3 - x**2 * y / 2 + y**3 / 6


def factor(theta):
    """Two noises that do not commute."""
    x, y = theta[0], theta[1]
    return torch.stack([torch.stack([1 + y, x / 2]), torch.stack([0.5 * x - 0.2, 0.5 + x])])


def monomial(i, j):
    c = np.zeros((i + 1, j + 1))
    c[i, j] = 1
    return c


FUNCTIONS = [monomial(*powers) for powers in ((1, 0), (0, 1), (2, 0), (1, 1), (2, 1), (0, 4))]


def interpolated(values):
    """Coefficients of the polynomial with these values, (PLACES²,), on the grid."""
    x = grid()
    matrix = polynomial.polyvander2d(x[:, 0], x[:, 1], [PLACES - 1, PLACES - 1])
    c = np.linalg.solve(matrix, np.asarray(values)).reshape(PLACES, PLACES)
    return np.where(abs(c) > 1e-11, c, 0.0)


def grid():
    one = np.cos(np.pi * (np.arange(PLACES) + 0.5) / PLACES)
    return np.array(list(product(one, one)))


def plus(*parts):
    out = np.zeros(np.max([p.shape for p in parts], axis=0))
    for p in parts:
        out[: p.shape[0], : p.shape[1]] += p
    return out


def generator(flow):
    """f → Lf on polynomials, from what the flow's code says of drift and noise on a grid."""
    x = torch.from_numpy(grid())
    flow.check(AT)
    eye = torch.eye(flow.channels, dtype=f64)
    columns = torch.stack([flow.noise(x, e.expand(len(x), -1)) for e in eye])
    matrix = torch.einsum("jpa,jpb->pab", columns, columns)
    drift = [interpolated(b) for b in flow.drift(x).T]
    spread = [[interpolated(matrix[:, a, b]) for b in range(2)] for a in range(2)]

    def apply(f):
        gradient = [polynomial.polyder(f, axis=a) for a in range(2)]
        first = [convolve2d(drift[a], gradient[a]) for a in range(2)]
        second = [
            0.5 * convolve2d(spread[a][b], polynomial.polyder(gradient[a], axis=b))
            for a, b in product(range(2), repeat=2)
        ]
        return plus(*first, *second)

    return apply


def after_the_flow(flow, f, powers):
    """The mean of f after the time h: f + hLf + h²/2 L²f + …"""
    L, total = generator(flow), 0.0
    for n in range(powers + 1):
        total += flow.lr**n / factorial(n) * polynomial.polyval2d(*AT.numpy(), f)
        f = L(f)
    return total


def after_a_step(E, h, f):
    """The same for SGD, over every outcome of a noise of three points in each direction."""
    points, weights, total = (-(3**0.5), 0.0, 3**0.5), (1 / 6, 2 / 3, 1 / 6), 0.0
    g, column = E.grad(AT), factor(AT)
    for i, j in product(range(3), repeat=2):
        xi = column @ torch.tensor([points[i], points[j]], dtype=f64)
        end = (AT - h * g - h * xi).numpy()
        total += weights[i] * weights[j] * polynomial.polyval2d(*end, f)
    return total


def slopes(errors):
    """Of each row of errors at SIZES."""
    return np.array([np.polyfit(np.log(SIZES), np.log(e), 1)[0] for e in errors])


@pytest.mark.parametrize("order", [1, 2, 3])
def test_local_weak_order(order):
    """A step of SGD with a noise that depends on θ and does not commute, against the flow."""
    E, errors = gf.Objective(loss, 2), []
    for f in FUNCTIONS[2:] if order == 1 else FUNCTIONS:  # the means have one order more
        gaps = []
        for h in SIZES:
            flow = SME(E, h, covariance=NoiseFactor(factor, 2), order=order)
            gaps.append(abs(after_a_step(E, h, f) - after_the_flow(flow, f, order)))
        errors.append(gaps)
    found = slopes(errors)
    assert found.min() > order + 0.85, found
    assert np.median(found) < order + 1.3, found  # and no more


def test_mended_diffusion_has_the_steps_covariance_to_the_next_order():
    E = gf.Objective(loss, 2)
    x, y, xx, xy, yy = (monomial(*p) for p in ((1, 0), (0, 1), (2, 0), (1, 1), (0, 2)))
    found = {}
    for mended in (False, True):
        errors = np.zeros((3, len(SIZES)))
        for k, h in enumerate(SIZES):
            flow = SME(E, h, covariance=NoiseFactor(factor, 2), mended=mended)

            def covariances(mean):
                m = [mean(x), mean(y)]
                pairs = ((xx, 0, 0), (xy, 0, 1), (yy, 1, 1))
                return np.array([mean(f) - m[a] * m[b] for f, a, b in pairs])

            step = covariances(lambda f, h=h: after_a_step(E, h, f))
            errors[:, k] = abs(step - covariances(lambda f, w=flow: after_the_flow(w, f, 3)))
        found[mended] = slopes(errors)
    assert abs(found[False] - 3).max() < 0.2, found
    assert abs(found[True] - 4).max() < 0.3, found


# -- over a fixed time ---------------------------------------------------------------------------


class Fixed:
    """Draws that are told: of one path each, or none."""

    def __init__(self, z):
        self.z = z

    def normal(self, parts=1):
        return self.z


def affine(step, dim, channels):
    """Mean and covariance of a linear step x → a x + c + B z, read off the code that makes it."""
    rows = torch.eye(dim, dtype=f64)
    zero = torch.zeros(1, dim, dtype=f64)
    none = torch.zeros(1, channels, dtype=f64)
    c = step(zero, Fixed(none))[0]
    a = (step(rows, Fixed(none.expand(dim, -1))) - c).T
    b = (step(zero.expand(channels, -1), Fixed(torch.eye(channels, dtype=f64))) - c).T
    return a, b, c


def moments(step, start, channels, steps):
    """Mean and covariance after so many linear steps from a point."""
    a, b, c = affine(step, start.numel(), channels)
    mean, cov = start, torch.zeros(start.numel(), start.numel(), dtype=f64)
    for _ in range(steps):
        mean, cov = a @ mean + c, a @ cov @ a.T + b @ b.T
    return mean, cov


A = torch.tensor([[2.0, 0.6], [0.6, 1.0]], dtype=f64)
SIGMA = torch.tensor([[1.0, -0.5], [-0.5, 2.0]], dtype=f64)


def parabola():
    return gf.Objective(lambda theta: 0.5 * theta @ (A.to(theta) @ theta), 2)


def sgd_moments(h, start, steps, beta=0.0, nesterov=False):
    """The same for SGD with momentum, by the recursion of its matrices."""
    eye, zero = torch.eye(2, dtype=f64), torch.zeros(2, 2, dtype=f64)
    push = torch.cat([A, beta * eye], 1)  # v
    k = torch.cat([A, zero], 1) + beta * push if nesterov else push
    m = torch.cat([torch.cat([eye, zero], 1) - h * k, push])
    root = torch.linalg.cholesky(SIGMA)
    noise = torch.cat([-h * (1 + beta if nesterov else 1) * root, root])
    mean = torch.cat([start, torch.zeros(2, dtype=f64)])
    cov = torch.zeros(4, 4, dtype=f64)
    for _ in range(steps):
        mean, cov = m @ mean, m @ cov @ m.T + noise @ noise.T
    return mean[:2], cov[:2, :2]


def flow_moments(flow, start, t):
    """Exact moments at t: the weak scheme on a linear flow, extrapolated in its step."""
    from gdflows.walking.schemes import additive

    def at(n):
        dt = t / n

        def step(x, draws):
            return additive(flow, x, dt, dt**0.5 * draws.normal())

        return moments(step, flow.start(start)[0], flow.channels, n)

    (m1, c1), (m2, c2) = at(1000), at(2000)
    return (4 * m2 - m1) / 3, (4 * c2 - c1) / 3


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    ("beta", "nesterov"),
    [(0.0, False), (0.6, False), (0.6, True)],
    ids=["SGD", "heavy", "Nesterov"],
)
def test_weak_order_on_a_parabola(order, beta, nesterov):
    """Ornstein and Uhlenbeck's process; global, and without any error of sampling."""
    start, t = torch.tensor([1.0, -0.5], dtype=f64), 1.0
    errors = []
    for h in (0.02, 0.01, 0.005):
        flow = SME(
            parabola(), h, covariance=SIGMA, order=order, beta=beta, nesterov=nesterov
        )
        mean, cov = flow_moments(flow, start, t)
        m, c = sgd_moments(h, start, round(t / h), beta, nesterov)
        # of second moments, not of the covariance alone, which is itself of the size of h
        second = cov + torch.outer(mean, mean) - c - torch.outer(m, m)
        errors.append([float((mean - m).norm()), float(second.norm())])
    found = np.array([np.polyfit(np.log([4, 2, 1]), np.log(e), 1)[0] for e in np.array(errors).T])
    assert abs(found - order).max() < 0.2, found


@pytest.mark.parametrize("hl", [0.25, 0.5, 1.0, 1.5])
def test_stationary_variances(hl):
    """hs/(λ(2 − hλ)) for SGD; 2λ, λ(2 + hλ) below it for the flows; mended nearer, orders 2, 3."""
    lam, s = 4.0, 3.0
    h, E = hl / lam, gf.problems.quadratic([lam])
    here = torch.zeros(1, 1, dtype=f64)
    one = torch.ones(1, 1, dtype=f64)

    def stationary(**kwargs):
        flow = SME(E, h, covariance=s, **kwargs)
        flow.check(here[0])
        rate = -float(flow.drift(one))
        return float(flow.noise(here, one)) ** 2 / (2 * rate)

    exact = h * s / (lam * (2 - hl))
    assert stationary(order=1) == pytest.approx(h * s / (2 * lam), rel=1e-12)
    assert stationary(order=2) == pytest.approx(h * s / (lam * (2 + hl)), rel=1e-12)
    mended = h * s * (1 + hl / 2) ** 2 / (lam * (2 + hl))
    assert stationary(order=2, mended=True) == pytest.approx(mended, rel=1e-12)
    gaps = [abs(v - exact) for v in (mended, h * s / (2 * lam), h * s / (lam * (2 + hl)))]
    assert gaps == sorted(gaps)  # the second order is further off than the first


def test_drift_and_start_are_the_methods_own():
    E, theta = gf.problems.banana(), torch.tensor([[0.3, 0.2], [-1.0, 0.5]], dtype=f64)
    for kwargs in ({}, {"beta": 0.9}, {"beta": 0.5, "nesterov": True}):
        own = Nesterov if kwargs.get("nesterov") else HeavyBall
        own = own(E, 0.001, beta=kwargs.get("beta", 0.0))
        flow = SME(E, 0.001, covariance=1.0, **kwargs)
        expected = torch.stack([own.vector_field(row) for row in theta])
        torch.testing.assert_close(flow.drift(theta), expected, rtol=1e-11, atol=1e-11)
        assert torch.equal(flow.start(theta[0])[0], own.start(theta[0])[0])
        assert torch.equal(flow.vector_field(theta[1]), flow.drift(theta)[1])


# -- covariances ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (2.0, 2 * torch.eye(2)),
        ([1.0, 3.0], torch.diag(torch.tensor([1.0, 3.0]))),
        (SIGMA, SIGMA),
        (torch.outer(AT, AT), torch.outer(AT, AT)),
        (NoiseFactor(torch.tensor([[1.0], [2.0]])), torch.tensor([[1.0, 2.0], [2.0, 4.0]])),
        (lambda x: x[0] ** 2, 0.09 * torch.eye(2)),
        (lambda x: x**2, torch.diag(torch.tensor([0.09, 0.16]))),
        (lambda x: SIGMA * (1 + x @ x), SIGMA * 1.25),
        (NoiseFactor(factor, 2), factor(AT) @ factor(AT).T),
    ],
    ids=["number", "variances", "matrix", "rank one", "factor", "number of θ", "variances of θ",
         "matrix of θ", "factor of θ"],
)  # fmt: skip
def test_every_form_of_a_covariance(given, expected):
    flow = SME(gf.Objective(loss, 2), 0.1, covariance=given)
    torch.testing.assert_close(flow.covariance.matrix(AT), expected.double())
    torch.testing.assert_close(flow.covariance.matrix(AT.float()), expected.float())
    x = AT + 0.1 * torch.arange(6, dtype=f64).reshape(3, 2)
    z = torch.randn(3, flow.channels, generator=torch.Generator().manual_seed(0), dtype=f64)
    rows = [flow.noise(a[None], b[None])[0] for a, b in zip(x, z, strict=True)]
    torch.testing.assert_close(flow.noise(x, z), torch.stack(rows))


def test_correction_is_that_of_the_columns():
    flow = SME(gf.Objective(loss, 2), 0.1, covariance=NoiseFactor(factor, 2))
    jac = torch.func.jacrev(factor)(AT)  # (entry, column, by)
    expected = 0.1 * torch.einsum("ajb,bj->a", jac, factor(AT))
    torch.testing.assert_close(flow.correction(AT[None])[0], expected)


@pytest.mark.parametrize("replacement", [False, True])
def test_per_sample_covariance_is_that_of_batches(net, replacement):
    E, _ = net
    noise, theta = PerSampleNoise(E, 3, replacement=replacement), E.theta0
    g = Samples(E).gradients(theta)
    off = g - g.mean(0)
    n, b = len(g), 3
    c = 1 / (b * n) if replacement else (1 - b / n) / b / (n - 1)
    torch.testing.assert_close(noise.matrix(theta), c * off.T @ off)
    flow = SME(E, 0.1, covariance=noise)
    general = super(SME, flow).correction(theta[None])  # a sum over the samples
    torch.testing.assert_close(flow.correction(theta[None]), general)
    # the gradient of a batch, from torch itself
    index = torch.tensor([[0, 4, 7], [1, 2, 11]])
    expected = g[index].mean(1)
    torch.testing.assert_close(noise.of_batches(theta.expand(2, -1), index), expected)


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (-1.0, "negative variance"),
        ([1.0, -1e-3], "negative variance"),
        (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "eigenvalue -1"),
        (torch.tensor([[1.0, 2.0], [0.0, 1.0]]), "not symmetric"),
        (torch.tensor([[1.0, 0.0], [0.0, torch.nan]]), "not finite"),
        (torch.ones(3), "NoiseFactor"),
        ("white", "must be a number"),
    ],
)
def test_what_is_no_covariance_is_refused_at_once(given, said):
    with pytest.raises(InputError, match=said):
        SME(gf.Objective(loss, 2), 0.1, covariance=given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda x: -SIGMA, "eigenvalue"),
        (lambda x: -x[0], "negative variance"),
        (lambda x: torch.ones(2, 3), "shape"),
        (NoiseFactor(lambda x: torch.ones(2, 3), 2), "must have shape"),
        (NoiseFactor(torch.ones(3, 1)), "must have shape"),
        (lambda x: SIGMA if x[0] > 0 else 2 * SIGMA, "vmap"),
    ],
)
def test_what_is_no_covariance_is_refused_where_it_is_used(given, said):
    flow = SME(gf.Objective(loss, 2), 0.1, covariance=given)
    with pytest.raises(InputError, match=said):
        gf.integrate(flow, AT, t=0.1, paths=4)


def test_a_covariance_that_turns_negative_on_the_way_is_refused():
    flow = SME(gf.problems.quadratic([1.0]), 0.1, covariance=lambda x: 0.01 + x)
    with pytest.raises(InputError, match="negative variance at some point of a path"):
        gf.integrate(flow, torch.tensor([0.2], dtype=f64), t=5.0, paths=100)


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"order": 4}, "order"),
        ({"order": 1, "mended": True}, "mended"),
        ({"beta": 0.9, "mended": True}, "momentum"),
        ({"beta": 1.0}, "beta"),
        ({"nesterov": True}, "momentum"),
    ],
)
def test_settings_that_do_not_go_together(kwargs, said):
    with pytest.raises(InputError, match=said):
        SME(gf.Objective(loss, 2), 0.1, covariance=1.0, **kwargs)


def test_a_batch_larger_than_the_data_is_refused(net):
    with pytest.raises(InputError, match="13, but there are only 12"):
        PerSampleNoise(net[0], 13)
    with pytest.raises(InputError, match="no samples"):
        PerSampleNoise(gf.Objective(loss, 2), 1)
