"""Modified equations of RMSProp and Adam: weak orders, exactly; where they settle; scaling."""

from itertools import product

import numpy as np
import pytest
import torch
from torch.func import jvp

import gdflows as gf
from gdflows.errors import InputError
from gdflows.flows import (
    AdaptiveModifiedEquation,
    Averages,
    NoiseFactor,
    PerSampleNoise,
    settled_averages,
)

f64 = torch.float64
SIZES = np.array([0.02, 0.01, 0.005])
AT = torch.tensor([0.3, -0.4], dtype=f64)
M, NU = torch.tensor([0.5, 0.2], dtype=f64), torch.tensor([0.7, 1.3], dtype=f64)
RHO1, RHO2, TIME = 1.7, 0.8, 1.5
EPS = 0.1


def loss(theta):
    x, y = theta[0], theta[1]
    return x**2 + 0.7 * x * y + y**2 + x**3 / 3 - x**2 * y / 2 + y**3 / 6


def factor(theta):
    """Two noises that do not commute."""
    x, y = theta[0], theta[1]
    return torch.stack([torch.stack([1 + y, x / 2]), torch.stack([0.5 * x - 0.2, 0.5 + x])])


CONSTANT = torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=f64)
NOISES = {
    "crossed": (NoiseFactor(factor, 2), factor),
    "matrix": (CONSTANT, lambda _: torch.linalg.cholesky(CONSTANT)),
    "diagonal": (CONSTANT.diagonal(), lambda _: CONSTANT.diagonal().sqrt().diag()),
}  # fmt: skip


def equation(optimizer, h, noise, order):
    kind = {"beta": 1 - RHO2 * h}
    if optimizer == "adam":
        kind = {"betas": (1 - RHO1 * h, 1 - RHO2 * h)}
    return AdaptiveModifiedEquation(
        gf.Objective(loss, 2), h, covariance=noise, optimizer=optimizer, order=order, eps=EPS,
        averages=Averages(M if optimizer == "adam" else 0 * M, NU, round(TIME / h)), **kind,
    )  # fmt: skip


def after_a_step(optimizer, h, column, f):
    """The mean of f over every outcome of a noise of three points in each direction."""
    points, weights, total = (-(3**0.5), 0.0, 3**0.5), (1 / 6, 2 / 3, 1 / 6), 0.0
    E, k = gf.Objective(loss, 2), round(TIME / h) + 1
    for i, j in product(range(3), repeat=2):
        g = E.grad(AT) + column(AT) @ torch.tensor([points[i], points[j]], dtype=f64)
        nu = NU + RHO2 * h * (g**2 - NU)
        if optimizer == "rmsprop":
            end = torch.cat([AT - h * g / (nu.sqrt() + EPS), nu])
        else:
            m = M + RHO1 * h * (g - M)
            b1, b2 = 1 - (1 - RHO1 * h) ** k, 1 - (1 - RHO2 * h) ** k
            moved = AT - h * m / b1 / ((nu / b2).sqrt() + EPS)
            end = torch.cat([moved, m, nu, torch.tensor([float(k)], dtype=f64)])
        total += weights[i] * weights[j] * f(end[None])
    return float(total)


def after_the_flow(flow, f):
    """f + hLf + h²/2 L²f up to h³, with L from what the flow's code says of drift and noise.

    The noise's part of L is itself of order h, so in L² the drift is enough.
    """
    flow.check(AT)

    def along(f):
        return lambda x: jvp(f, (x,), (flow.drift(x),))[1]

    x, h = flow.rows(AT[None]), flow.lr
    once = along(f)(x)
    for z in torch.eye(flow.channels, dtype=f64):
        v = flow.noise(x, z[None])
        once = once + jvp(lambda y: jvp(f, (y,), (v,))[1], (x,), (v,))[1] / 2  # noqa: B023
    return float(f(x) + h * once + h**2 / 2 * along(along(f))(x))


FUNCTIONS = {
    "rmsprop": {
        "θ": lambda x: x[0, 0], "θθ": lambda x: x[0, 0] * x[0, 1], "ν": lambda x: x[0, 3],
        "νν": lambda x: x[0, 2] * x[0, 3], "θν": lambda x: x[0, 1] * x[0, 2],
        "θ²ν²": lambda x: x[0, 0] ** 2 * x[0, 2] ** 2,
    },
    "adam": {
        "θ": lambda x: x[0, 0], "m": lambda x: x[0, 2], "mm": lambda x: x[0, 2] * x[0, 3],
        "νν": lambda x: x[0, 4] * x[0, 5], "mν": lambda x: x[0, 3] * x[0, 4],
        "θmν": lambda x: x[0, 1] * x[0, 2] * x[0, 5],
    },
}  # fmt: skip


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
def test_local_weak_order(optimizer, order, noise):
    """A step of the optimiser against the flow's generator: off by h² and h³."""
    law, column = NOISES[noise]
    found = {}
    for name, f in FUNCTIONS[optimizer].items():
        errors = [
            abs(after_a_step(optimizer, h, column, f)
                - after_the_flow(equation(optimizer, h, law, order), f)) for h in SIZES
        ]  # fmt: skip
        if max(errors) < 1e-13:
            continue
        found[name] = float(np.polyfit(np.log(SIZES), np.log(errors), 1)[0])
    assert all(p > order + 0.8 for p in found.values()), found
    assert min(found.values()) < order + 1.2, found


@pytest.mark.parametrize("noise", NOISES)
def test_noise_of_the_averages_has_the_covariance_of_a_normal_laws_squares(noise):
    law, column = NOISES[noise]
    h = 0.01
    flow = equation("rmsprop", h, law, 2)
    x, eye = flow.rows(AT[None]), torch.eye(flow.channels, dtype=f64)
    S = sum(torch.outer(v, v) for v in (flow.noise(x, z[None])[0] for z in eye)) / h
    g, sigma = gf.Objective(loss, 2).grad(AT), column(AT) @ column(AT).T
    D = 1 / (NU.sqrt() + EPS)
    torch.testing.assert_close(S[:2, :2], D[:, None] * sigma * D)
    torch.testing.assert_close(S[:2, 2:], -D[:, None] * RHO2 * 2 * sigma * g)
    torch.testing.assert_close(S[2:, 2:], RHO2**2 * (4 * g[:, None] * sigma * g + 2 * sigma**2))


def test_variances_of_every_kind_of_covariance_are_the_diagonal(net):
    E, _ = net
    flat = gf.Objective(loss, 2)
    kinds = [(flat, AT, c) for c in (2.0, CONSTANT, NoiseFactor(factor, 2), NoiseFactor(CONSTANT),
             torch.tensor([1.0, 3.0]).double(), lambda v: 1 + v**2,
             lambda v: factor(v) @ factor(v).T)]  # fmt: skip
    kinds += [(E, E.theta0, PerSampleNoise(E, 3))]
    for objective, theta, given in kinds:
        law = gf.flows.covariance.as_covariance(given, objective.dim)
        both = torch.stack([theta, 1.1 * theta])
        expected = torch.stack([law.matrix(row).diagonal() for row in both])
        torch.testing.assert_close(law.variances(both), expected)


def test_weak_order_in_the_scaling_in_which_the_noise_stays():
    """Σ ∝ h⁻², 1 − β ∝ h², ε ∝ h⁻¹: the error over a fixed kh² is of order h²."""
    E, paths, found = gf.problems.quadratic([1.0]), 40_000, []
    start = torch.tensor([1.5], dtype=f64)
    for k in (8, 32):
        h = k**-0.5
        given = {"covariance": 1 / h**2, "eps": 0.2 / h, "beta": 1 - 0.7 * h**2}
        given["averages"] = Averages(0 * start, (2.5 + 0 * start) / h**2, 0)
        same = {"paths": paths, "seed": 0, "progress": False}
        runs = gf.walking.adaptive_sgd(E, start, h, k, parts=2, **given, **same)
        flow = AdaptiveModifiedEquation(E, h, **given)
        walks = gf.integrate(flow, start, t=k * h, step=h / 2, **same)
        gap = runs.last[:, 0] ** 2 - walks.last[:, 0] ** 2
        found.append((float(gap.mean()), float(gap.std()) / paths**0.5))
    (coarse, _), (fine, error) = found
    assert abs(fine) > 5 * error
    assert np.log(coarse / fine) / np.log(4) == pytest.approx(1, abs=0.25)


def test_where_rmsprop_settles():
    """With ν held at s it is an Ornstein-Uhlenbeck process, of variance h s D/(2λ)."""
    lam, s, h, eps, n = 3.0, 4.0, 0.05, 0.5, 20_000
    E, theta = gf.problems.quadratic([lam]), torch.zeros(1, dtype=f64)
    flow = AdaptiveModifiedEquation(
        E, h, covariance=s, eps=eps, averages=settled_averages(E, theta, s), dominated=True
    )
    seen = gf.integrate(flow, theta, t=10.0, paths=n, seed=0, method="weak2")
    exact = h * s / (s**0.5 + eps) / (2 * lam)
    # weak2 is Heun here, which settles within (hλD)²/4 of it
    assert float(seen.variance[-1, 0]) == pytest.approx(exact, rel=4 * (2 / n) ** 0.5)


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
def test_square_root_scaling_leaves_the_equation_as_it_is(optimizer):
    """Batches κ times as large: h → √κ h, 1 − β → κ(1 − β), ε → ε/√κ; in the time kh²."""
    E, kappa, h, seen = gf.Objective(loss, 2), 4.0, 0.01, []
    for c in (1.0, kappa):
        kind = {"betas": (1 - 0.1 * c, 1 - 0.01 * c)}
        if optimizer == "rmsprop":
            kind = {"beta": 1 - 0.01 * c}
        flow = AdaptiveModifiedEquation(
            E, c**0.5 * h, covariance=NoiseFactor(lambda v, c=c: factor(v) / c**0.5, 2),
            optimizer=optimizer, averages=Averages(M, NU / c, 10**6), eps=0.3 / c**0.5,
            dominated=True, **kind,
        )  # fmt: skip
        x = flow.rows(AT[None])
        per = 1 / flow.lr  # of the time kh², a unit is 1/h of the time kh
        sigma = [flow.noise(x, z[None])[0] * per**0.5 for z in torch.eye(2, dtype=f64)]
        scale = torch.ones_like(x[0])
        scale[2 if optimizer == "rmsprop" else 4 :][:2] = c  # ν
        drift = flow.drift(x)[0] * per * scale
        seen.append((drift[:6], torch.stack(sigma)))
    torch.testing.assert_close(seen[0][0], seen[1][0])
    torch.testing.assert_close(seen[0][1], seen[1][1])


def test_what_is_refused():
    E, one = gf.problems.quadratic([1.0]), torch.ones(1, dtype=f64)
    good = {"covariance": 1.0, "averages": Averages(0 * one, one, 1)}
    for kwargs, said in (
        ({"order": 3}, "order"), ({"order": 2, "dominated": True}, "dominated"),
        ({"optimizer": "rmsprop-scalar"}, "RMSProp and Adam"), ({"averages": None}, "averages"),
        ({"beta": 1.0}, "β₂"), ({"eps": -1.0}, "eps"), ({"betas": (0.9, 0.9)}, "one beta"),
        ({"covariance": -1.0}, "negative variance"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            AdaptiveModifiedEquation(E, 0.1, **{**good, **kwargs})
    for optimizer, averages in (
        ("rmsprop", Averages(0 * one, 0 * one, 0)), ("adam", Averages(0 * one, one, 0)),
    ):  # fmt: skip
        flow = AdaptiveModifiedEquation(
            E, 0.1, covariance=1.0, optimizer=optimizer, averages=averages
        )
        with pytest.raises(InputError, match="on its way"):
            gf.integrate(flow, one, t=1.0, paths=2)
    with pytest.raises(InputError, match="needs its averages"):
        AdaptiveModifiedEquation(E, 0.1, **good).vector_field(one)
    wild = AdaptiveModifiedEquation(E, 0.1, **good, order=2, beta=0.3)
    with pytest.raises(InputError, match="negative"):
        gf.integrate(wild, one, t=2.0, paths=200, seed=0)
