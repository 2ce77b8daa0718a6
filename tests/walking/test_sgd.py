"""SGD on many paths: against descend, exact covariances, batches; SVAG."""

from itertools import permutations

import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError, IntegrationError
from gdflows.flows import PerSampleNoise
from gdflows.objective.samples import Samples
from gdflows.walking import sgd

f64 = torch.float64
ONE = torch.ones(1, dtype=f64)


@pytest.mark.parametrize(
    "kwargs", [{}, {"momentum": 0.7}, {"momentum": 0.7, "nesterov": True}], ids=str
)
def test_without_noise_it_is_descend(kwargs):
    E = gf.problems.banana()
    start = torch.tensor([0.3, 0.2], dtype=f64)
    seen = sgd(E, start, 1e-3, 20, covariance=0.0, paths=2, at=[0, 7, 20], keep="paths", **kwargs)
    path = gf.descend(E, start, 1e-3, 20, **kwargs)
    expected = path.states[[0, 7, 20]]
    torch.testing.assert_close(seen.states, expected[:, None].expand(-1, 2, -1))
    torch.testing.assert_close(seen.times, path.times[[0, 7, 20]])
    assert seen.cost["gradients"] == 2 * 20


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_stationary_variance_on_a_parabola(beta):
    """hs/(λ(2 − hλ)); with momentum hs(1 + β)/(λ(1 − β)(2(1 + β) − hλ))."""
    lam, s, h, n = 4.0, 3.0, 0.25, 20_000
    E = gf.problems.quadratic([lam])
    seen = sgd(E, 0 * ONE, h, 60, covariance=s, momentum=beta, paths=n, seed=0, keep="moments")
    exact = h * s * (1 + beta) / (lam * (1 - beta) * (2 * (1 + beta) - h * lam))
    assert float(seen.variance[-1, 0]) == pytest.approx(exact, rel=4 * (2 / n) ** 0.5)


def test_svag_has_l_times_the_noise_and_tends_to_the_equation():
    """On a parabola its variance is exactly that of SGD with rate h/l and noise ls."""
    lam, s, h, n = 4.0, 3.0, 0.3, 20_000
    E = gf.problems.quadratic([lam])
    for m in (1, 2, 8):
        seen = sgd(E, 0 * ONE, h, 12, covariance=s, svag=m, paths=n, seed=0, keep="moments")
        a = 1 - h * lam / m
        exact = (h / m) ** 2 * m * s * (1 - a ** (24 * m)) / (1 - a**2)
        assert float(seen.variance[-1, 0]) == pytest.approx(exact, rel=4 * (2 / n) ** 0.5)
        assert float(seen.times[-1]) == pytest.approx(12 * h)


@pytest.mark.parametrize("replacement", [False, True])
def test_batches_have_the_covariance_that_is_said(net, replacement):
    """After one step; and each path's gradient is that of a batch of the data."""
    E, _ = net
    noise, n, h = PerSampleNoise(E, 3, replacement=replacement), 20_000, 0.5
    settings = {"covariance": noise, "noise": "batches", "paths": n, "seed": 0}
    seen = sgd(E, E.theta0, h, 1, **settings)
    torch.testing.assert_close(seen.mean[0], E.theta0)
    exact = noise.matrix(E.theta0)
    size = exact.diagonal().max()
    assert (seen.covariance[-1] / h**2 - exact).abs().max() < 5 * size * (2 / n) ** 0.5
    g = Samples(E).gradients(E.theta0)
    pushed = (E.theta0 - seen.last[0]) / h
    triples = torch.cartesian_prod(*[torch.arange(12)] * 3)
    means = g[triples].mean(1)
    found = (means - pushed).abs().amax(1)
    assert found.min() < 1e-12
    best = triples[found.argmin()]
    assert replacement or len(best.unique()) == 3
    gauss = sgd(E, E.theta0, h, 1, covariance=noise, paths=n, seed=0)
    assert (gauss.covariance[-1] / h**2 - exact).abs().max() < 5 * size * (2 / n) ** 0.5


def test_past_its_edge_sgd_runs_away_and_says_so():
    E = gf.problems.quadratic([4.0])
    with pytest.raises(IntegrationError, match="paths of SGD"):
        sgd(E, ONE, 5.0, 2000, covariance=1.0, paths=4)


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"noise": "heavy"}, "noise must be one of"),
        ({"noise": "batches"}, "PerSampleNoise"),
        ({"momentum": 1.0}, "momentum"),
        ({"nesterov": True}, "momentum"),
        ({"svag": 0}, "svag"),
        ({"at": [1, 2]}, "at must increase"),
        ({"at": [0, 99]}, "at must increase"),
        ({"steps": 0}, "steps"),
        ({"covariance": -1.0}, "negative variance"),
    ],
)
def test_bad_arguments(kwargs, said):
    settings = {"lr": 0.1, "steps": 3, "covariance": 1.0, "paths": 2, **kwargs}
    with pytest.raises(InputError, match=said):
        sgd(gf.problems.quadratic([1.0]), ONE, **settings)


def test_an_epoch_takes_each_sample_once(net):
    """The ends of an epoch are those of the orders, and each order comes; the next draws anew."""
    E, _ = net
    x, y = E.data
    few = gf.Objective.from_module(E.model, E.loss, (x[:3], y[:3]))
    parts = [
        gf.Objective.from_module(E.model, E.loss, (x[i : i + 1], y[i : i + 1])) for i in range(3)
    ]
    h, noise = 0.3, PerSampleNoise(few, 1)

    def after(theta, order):
        for i in order:
            theta = theta - h * parts[i].grad(theta)
        return theta

    orders = list(permutations(range(3)))
    ends = torch.stack([after(E.theta0, order) for order in orders])
    settings = {"covariance": noise, "noise": "epochs", "paths": 200, "seed": 0, "keep": "paths"}
    seen = sgd(few, E.theta0, h, 6, at=[0, 3, 6], **settings)
    gaps = (seen.states[1][:, None] - ends).abs().amax(2)
    assert gaps.amin(1).max() < 1e-12
    first = gaps.argmin(1)
    assert len(first.unique()) == 6
    second = torch.stack([
        torch.stack([(after(begin, order) - end).abs().max() for order in orders]).argmin()
        for begin, end in zip(seen.states[1][:30], seen.states[2][:30], strict=True)
    ])
    assert 0 < int((second == first[:30]).sum()) < 20  # a sixth of 30, were it by chance


def test_batches_of_an_epoch(net):
    """With a loss that is linear every epoch ends at the same point, in batches too."""
    E, _ = net
    a = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=f64)
    line = gf.Objective.from_module(
        torch.nn.Linear(3, 1, bias=False).double(), lambda out, _: out.mean(), (a, a)
    )
    noise = PerSampleNoise(line, 4)
    seen = sgd(line, line.theta0, 0.1, 4, covariance=noise, noise="epochs", paths=20, seed=0,
               at=[0, 1, 3, 4], keep="paths")
    torch.testing.assert_close(
        seen.states[2], (line.theta0 - 0.3 * a.mean(0)).expand(20, -1), rtol=1e-12, atol=1e-12
    )
    assert seen.states[1].std() > 0.01
    for bad, said in (
        ({"covariance": PerSampleNoise(line, 5)}, "whole batches"),
        ({"covariance": PerSampleNoise(line, 4, replacement=True)}, "no sample comes twice"),
        ({"covariance": 1.0}, "PerSampleNoise"),
        ({"covariance": noise, "svag": 2}, "SVAG"),
        ({"covariance": noise, "antithetic": True, "paths": 2}, "antithetic"),
    ):
        with pytest.raises(InputError, match=said):
            sgd(line, line.theta0, 0.1, 2, noise="epochs", **bad)
