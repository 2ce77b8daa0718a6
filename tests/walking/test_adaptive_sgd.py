"""RMSProp and Adam on many paths: against torch's own, batches included; SVAG."""

import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError
from gdflows.flows import AdaptiveModifiedEquation, Averages, PerSampleNoise, settled_averages
from gdflows.walking import adaptive_sgd
from gdflows.walking.draws import Draws

f64 = torch.float64
ONE = torch.ones(1, dtype=f64)


def torchs_own(optimizer, E, lr, gradients, **kwargs):
    """The iterates of torch's optimiser on gradients that a function of (k, θ) gives."""
    theta = E.theta0.clone().requires_grad_()
    kind = {"rmsprop": torch.optim.RMSprop, "adam": torch.optim.Adam}[optimizer]
    opt = kind([theta], lr, **kwargs)
    seen = [E.theta0.clone()]
    for k in range(8):
        theta.grad = gradients(k, theta.detach())
        opt.step()
        seen.append(theta.detach().clone())
    return torch.stack(seen)


KINDS = {
    "rmsprop": ({"beta": 0.8, "eps": 1e-3}, {"alpha": 0.8, "eps": 1e-3}),
    "adam": ({"betas": (0.7, 0.9), "eps": 1e-3}, {"betas": (0.7, 0.9), "eps": 1e-3}),
}


@pytest.mark.parametrize("optimizer", KINDS)
@pytest.mark.parametrize("noise", ["gaussian", "batches", "epochs"])
def test_a_path_is_that_of_torchs_optimiser(net, optimizer, noise):
    E, model = net
    ours, theirs = KINDS[optimizer]
    law, h = PerSampleNoise(E, 3), 0.01
    draws = Draws(5, 0, E.theta0, 1, 12)

    def gradients(k, theta):
        if noise == "batches":
            return law.of_batches(theta[None], draws.batches(12, 3, False))[0]
        if noise == "epochs":
            return law.of_batches(theta[None], draws.next_batches(12, 3))[0]
        return E.grad(theta) - law.apply(theta[None], draws.normal())[0]

    expected = torchs_own(optimizer, E, h, gradients, **theirs)
    seen = adaptive_sgd(
        E, E.theta0, h, 8, covariance=law, noise=noise, optimizer=optimizer, paths=1, seed=5,
        at=list(range(9)), keep="paths", **ours,
    )  # fmt: skip
    torch.testing.assert_close(seen.states[:, 0], expected)
    torch.testing.assert_close(seen.times, h * torch.arange(9, dtype=f64))


def test_it_goes_on_from_averages(net):
    E, _ = net
    known = adaptive_sgd(E, E.theta0, 0.01, 6, covariance=0.0, optimizer="adam", paths=1)
    rule = gf.flows.AdaptiveRule("adam", 0.01)
    theta, averages = E.theta0, rule.begin(E.theta0)
    for _ in range(4):
        theta, averages = rule.step(E, theta, averages)
    rest = adaptive_sgd(
        E, theta, 0.01, 2, covariance=0.0, optimizer="adam", averages=averages, paths=1
    )
    torch.testing.assert_close(rest.last, known.last)


def test_scalar_rmsprop_has_one_rate(net):
    E, _ = net
    kind = {"optimizer": "rmsprop-scalar", "beta": 0.9, "eps": 0.0}
    seen = adaptive_sgd(E, E.theta0, 0.01, 1, covariance=0.0, paths=1, **kind)
    g = E.grad(E.theta0)
    torch.testing.assert_close(E.theta0 - seen.last[0], 0.01 * g / (0.1**0.5 * g.norm()))


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
def test_svag_tends_to_the_equation(optimizer):
    """RMSProp with few averages is far from its equation; SVAG comes closer, as 1/l²."""
    E, h, s, n, lam = gf.problems.quadratic([3.0]), 1.0, 4.0, 20_000, 3.0
    kind = {"beta": 0.8} if optimizer == "rmsprop" else {"betas": (0.3, 0.8)}
    given = {"covariance": s, "optimizer": optimizer, "eps": 0.1, **kind}
    given["averages"] = settled_averages(E, 0 * ONE, s)
    flow = AdaptiveModifiedEquation(E, h, dominated=True, **given)
    limit = gf.integrate(flow, 0 * ONE, t=12 * h, paths=n, seed=1, step=h / 12, keep="moments")
    limit = float(limit.variance[-1, 0])
    if optimizer == "rmsprop":  # ν stays at s
        D = 1 / (s**0.5 + 0.1)
        exact = h * s * D / (2 * lam) * (1 - torch.tensor(-2 * lam * D * 12 * h).exp())
        assert limit == pytest.approx(float(exact), rel=4 * (2 / n) ** 0.5)
    gaps = []
    for m in (1, 4):
        seen = adaptive_sgd(E, 0 * ONE, h, 12, svag=m, paths=n, seed=0, keep="moments", **given)
        gaps.append(abs(float(seen.variance[-1, 0]) / limit - 1))
    assert gaps[0] > (0.3 if optimizer == "rmsprop" else 0.07)
    assert gaps[1] < gaps[0] / 16 + 3 * 2**0.5 * (2 / n) ** 0.5  # three errors of a ratio


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"noise": "heavy"}, "noise must be one of"),
        ({"noise": "batches"}, "PerSampleNoise"),
        ({"beta": 1.0}, "β₂"),
        ({"eps": -1e-8}, "eps"),
        ({"optimizer": "lion"}, "optimizer must be one of"),
        ({"svag": 2}, "needs averages"),
        ({"svag": 0}, "svag"),
        ({"at": [1, 2]}, "at must increase"),
        ({"averages": Averages(ONE, -ONE, 1)}, "negative"),
        ({"lr": -0.1}, "learning rate"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_bad_arguments(kwargs, said):
    settings = {"lr": 0.1, "steps": 3, "covariance": 1.0, "paths": 2, **kwargs}
    with pytest.raises(InputError, match=said):
        adaptive_sgd(gf.problems.quadratic([1.0]), ONE, **settings)
