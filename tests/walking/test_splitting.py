"""Splitting methods, conformal symplecticity, and Nesterov's method with restarts."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import gdflows as gf
from gdflows.errors import InputError, IntegrationError
from gdflows.walking import Splitting, accelerate, conformal_factor

f64 = torch.float64
LIE, PULL = ("drag", "kick", "drift"), ("pull", "drift")
SCHEMES = {
    "plain": (LIE, False, 1),
    "another order": (("kick", "drift", "drag"), False, 1),
    "symmetric": (LIE, True, 2),
    "pull": (PULL, False, 1),
    "symmetric pull": (PULL, True, 2),
}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=f64)


@pytest.mark.parametrize(("parts", "symmetric", "order"), SCHEMES.values(), ids=SCHEMES)
def test_order(parts, symmetric, order):
    E, theta, gamma = gf.problems.banana(1.0, 2.0), torch.tensor([-0.5, 0.8], dtype=f64), 0.7

    def rhs(t, z):
        g = E.grad(torch.from_numpy(z[:2].copy())).numpy()
        return np.concatenate([z[2:], -gamma * z[2:] - g])

    z0 = np.concatenate([theta.numpy(), [0.3, -0.2]])
    exact = solve_ivp(rhs, (0, 2), z0, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    errors = []
    for n in (80, 160):
        method = Splitting(E, 2 / n, gamma, parts=parts, symmetric=symmetric)
        path = method.walk(theta, n, torch.from_numpy(z0[2:].copy()))
        end = torch.cat([path.states[-1], path.companions["velocity"][-1]]).numpy()
        errors.append(np.linalg.norm(end - exact))
        assert float(path.times[-1]) == pytest.approx(2)
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(("parts", "symmetric", "order"), SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("gamma", [0.0, 1.3])
def test_every_splitting_is_conformally_symplectic(parts, symmetric, order, gamma):
    E, s = gf.problems.banana(), 0.03
    method = Splitting(E, s, gamma, parts=parts, symmetric=symmetric)
    theta, v = random(2), random(2, seed=1)
    J = method.jacobian(theta, v)
    factor, defect = conformal_factor(J)
    assert factor == pytest.approx(math.exp(-gamma * s), rel=1e-12)
    assert defect < 1e-15
    assert float(torch.linalg.det(J)) == pytest.approx(factor**2, rel=1e-10)
    # the derivative is that of the step
    z, eps = torch.cat([theta, v]), 1e-6
    columns = [
        (torch.cat(method(*(z + eps * e).chunk(2))) - torch.cat(method(*(z - eps * e).chunk(2))))
        / (2 * eps)
        for e in torch.eye(4, dtype=f64)
    ]
    torch.testing.assert_close(J, torch.stack(columns, 1), rtol=1e-6, atol=1e-6)


def test_what_is_not_conformally_symplectic():
    def nesterov(z, h=0.03, beta=0.9):
        theta, v = z.chunk(2)
        g = torch.stack([torch.sinh(theta[0]) + theta[1], theta[0] + 3 * theta[1]])
        v = beta * v + g
        return torch.cat([theta - h * (g + beta * v), v])

    J = torch.func.jacrev(nesterov)(random(4))
    assert conformal_factor(J)[1] > 1e-4
    # in one dimension every map is, at a point: the form has one entry
    assert conformal_factor(random(2, 2))[1] < 1e-15
    assert conformal_factor(torch.eye(6, dtype=f64)) == (1.0, 0.0)
    # it is where the Hessian is a multiple of the identity
    eye = torch.eye(3, dtype=f64)
    h, beta, curvature = 0.1, 0.9, 4.0
    J = torch.cat(
        [
            torch.cat([(1 - h * (1 + beta) * curvature) * eye, -h * beta**2 * eye], 1),
            torch.cat([curvature * eye, beta * eye], 1),
        ]
    )
    factor, defect = conformal_factor(J)
    assert abs(factor - beta * (1 - h * curvature)) < 1e-14 and defect < 1e-16


@pytest.mark.parametrize("size", [1e-100, 1e100])
def test_the_defect_knows_no_unit(size):
    J = random(4, 4)
    factor, defect = conformal_factor(J)
    large = conformal_factor(size * J)
    assert large == pytest.approx((factor * size**2, defect), rel=1e-12)
    assert conformal_factor(0 * J) == (0.0, 0.0)
    # orientation turned around: a factor below 0, which is an answer and no error
    assert conformal_factor(torch.diag(torch.tensor([1.0, -1.0]))) == (-1.0, 0.0)


def test_heavy_ball_is_a_splitting():
    E, theta, h, beta = gf.problems.banana(1.0, 2.0), random(2), 0.01, 0.9
    path = Splitting.heavy_ball(E, h, beta).walk(theta, 40)
    gd = gf.descend(E, theta, h, 40, momentum=beta)
    torch.testing.assert_close(path.states, gd.states, rtol=1e-11, atol=1e-12)
    velocity, buffer = path.companions["velocity"], gd.companions["buffer"]
    torch.testing.assert_close(velocity, -math.sqrt(h) * buffer, rtol=1e-10, atol=1e-11)


def test_constant_momentum_looks_ahead_as_torch_does():
    E, theta, h, beta = gf.problems.banana(1.0, 2.0), random(2), 0.01, 0.9
    path = accelerate(E, theta, h, 30, beta=beta)
    p = torch.nn.Parameter(theta.clone())
    optimizer = torch.optim.SGD([p], lr=h, momentum=beta, nesterov=True)
    for k in range(30):
        ahead = path.states[k] + beta * (path.states[k] - path.states[max(k - 1, 0)])
        torch.testing.assert_close(p.detach(), ahead, rtol=1e-10, atol=1e-11)
        p.grad = E.grad(p.detach())
        optimizer.step()


def test_growing_momentum_keeps_its_promise():
    """On a convex quadratic E ≤ 2‖θ₀ − θ*‖²/(h(k + 1)²) for h = 1/L."""
    E = gf.problems.quadratic(torch.logspace(-2, 0, 20, dtype=f64))
    path = accelerate(E, E.theta0, 1.0, 300)
    k = torch.arange(1, 301)
    loss = torch.stack([E.value(theta) for theta in path.states[1:]])
    assert bool((loss <= 2 * E.theta0.pow(2).sum() / (k + 1) ** 2).all())
    assert bool((loss.diff() > 0).any())  # and it is not monotone


@pytest.mark.parametrize("restart", ["function", "gradient"])
def test_restarts(restart):
    E = gf.problems.quadratic(torch.logspace(-2, 0, 20, dtype=f64))
    plain, again = (accelerate(E, E.theta0, 1.0, 400, restart=r) for r in (None, restart))
    assert float(E.value(again.states[-1])) < 1e-3 * float(E.value(plain.states[-1]))
    when = again.companions["restarted"].flatten().nonzero().flatten()
    assert len(when) > 2 and not plain.companions["restarted"].any()
    loss = torch.stack([E.value(theta) for theta in again.states])
    for k in when.tolist():
        # the step after a restart is one of plain gradient descent
        if k + 1 < len(again):
            gd = again.states[k] - E.grad(again.states[k])
            torch.testing.assert_close(again.states[k + 1], gd)
        if restart == "function":
            assert loss[k] > loss[k - 1]
    # and what follows is the method begun there
    for options in ({}, {"friction": 1.0}, {"beta": 0.9}):
        again = accelerate(E, E.theta0, 1.0, 400, restart=restart, **options)
        first = int(again.companions["restarted"].flatten().nonzero()[0])
        anew = accelerate(E, again.states[first], 1.0, 20, restart=restart, **options)
        assert torch.equal(anew.states, again.states[first : first + 21])
    if restart == "function":
        rises = (loss.diff() > 0).nonzero().flatten() + 1
        assert rises.tolist() == when.tolist()


def test_it_says_where_it_ran_away():
    E = gf.problems.cosh()
    with pytest.raises(IntegrationError, match="Nesterov's method at lr = 50") as caught:
        accelerate(E, torch.tensor([2.0], dtype=f64), 50.0, 50)
    assert len(caught.value.partial) >= 1


REFUSED = {
    "no objective": (lambda E: Splitting(abs, 0.1, 1.0), "needs an Objective"),
    "step": (lambda E: Splitting(E, 0.0, 1.0), "step must be positive"),
    "negative friction": (lambda E: Splitting(E, 0.1, -1.0), "friction must be at least 0"),
    "a part lacks": (lambda E: Splitting(E, 0.1, 1.0, parts=("kick", "drift")), "parts must be"),
    "twice": (lambda E: Splitting(E, 0.1, 1.0, parts=("pull", "pull", "drift")), "parts must be"),
    "one word": (lambda E: Splitting(E, 0.1, 1.0, parts="drift"), "parts must be"),
    "no momentum": (lambda E: Splitting.heavy_ball(E, 0.1, 0.0), "beta must be above 0"),
    "odd": (lambda E: conformal_factor(torch.eye(3)), r"shape \(2D, 2D\)"),
    "infinite": (lambda E: conformal_factor(torch.eye(2) / 0), "finite"),
    "overflow": (lambda E: conformal_factor(1e200 * torch.eye(2, dtype=f64)), "overflows"),
    "whole numbers": (lambda E: conformal_factor(torch.eye(2, dtype=torch.int64)), "real floats"),
    "complex restart": (
        lambda E: accelerate(E, E.theta0 + 0j, 0.1, 1, restart="gradient"),
        "real parameters",
    ),
    "v0": (lambda E: Splitting(E, 0.1, 1.0).walk(E.theta0, 1, torch.zeros(3)), "v0 must be like"),
    "restart": (lambda E: accelerate(E, E.theta0, 0.1, 1, restart="loss"), "restart must be"),
    "beta": (lambda E: accelerate(E, E.theta0, 0.1, 1, beta=1.0), r"beta must be in \[0, 1\)"),
    "r": (lambda E: accelerate(E, E.theta0, 0.1, 1, friction=-3), "friction must be positive"),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_splitting_refuses(make, words):
    with pytest.raises(InputError, match=words):
        make(gf.problems.banana())
