"""Residual networks as integrators: states, both gradients, the way back, the modified field."""

import math

import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError
from gdflows.flows import ResidualFlow

f64 = torch.float64


def tanh(z, w):
    return torch.tanh(z @ w[:, :-1].T + w[:, -1])


def problem(layers, n=3, width=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    w = torch.randn(layers, width, width + 1, generator=draw, dtype=f64)
    z, y = torch.randn(2, n, width, generator=draw, dtype=f64)
    return z, w, lambda out: (out - y).pow(2).sum() / 2


def by_autograd(net, z, w, loss):
    z, w = z.clone().requires_grad_(), w.clone().requires_grad_()
    return torch.autograd.grad(loss(net.states(z, w)[-1]), (w, z))


def smooth(layers):
    """Weights that are a smooth function of depth, at the layers' middles."""
    draw = torch.Generator().manual_seed(7)
    A, B = torch.randn(2, 4, 5, generator=draw, dtype=f64)
    t = (torch.arange(layers, dtype=f64)[:, None, None] + 0.5) / layers
    return A * torch.cos(3 * t) + B * t


def test_euler_is_the_residual_network():
    z, w, _ = problem(5)
    states = ResidualFlow(tanh, 5, time=2.0).states(z, w)
    assert states.shape == (6, 3, 4)
    for k in range(5):
        z = z + 0.4 * tanh(z, w[k])
        torch.testing.assert_close(states[k + 1], z, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("method", "order"), [("explicit-euler", 1), ("heun", 2), ("rk4", 4)])
@pytest.mark.parametrize("steps", [1, 2])
def test_weights_that_depend_on_time_keep_the_order(method, order, steps):
    # dz/dt = w(t) z with w = cos t has the solution z0 exp(sin t)
    ends = [
        ResidualFlow(lambda z, w: w * z, layers, time=2.0, method=method, steps=steps)
        .states(torch.ones(1, dtype=f64), lambda t: torch.tensor(math.cos(t), dtype=f64))[-1]
        .item()
        for layers in (16, 32)
    ]
    off = [abs(end - math.exp(math.sin(2.0))) for end in ends]
    assert abs(math.log2(off[0] / off[1]) - order) < 0.25


@pytest.mark.parametrize("method", ["explicit-euler", "heun", "rk4"])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_gradient_is_autograds(method, steps):
    z, w, loss = problem(4)
    net = ResidualFlow(tanh, 4, method=method, steps=steps)
    for mine, theirs in zip(net.gradient(z, w, loss), by_autograd(net, z, w, loss), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)


# What a step fails to keep of a·δz is h² Σ M_ij K_i·l_j with M_ij = b_i a_ij + b_j a_ji − b_i b_j.
# Heun's M is −¼ (1, −1)ᵀ(1, −1), and the two stages differ by h: one order is gained.
@pytest.mark.parametrize(("method", "order"), [("explicit-euler", 1), ("heun", 3), ("rk4", 4)])
@pytest.mark.parametrize("stored", [True, False])
def test_the_adjoint_misses_the_gradient_by_what_the_method_does_not_conserve(
    method, order, stored
):
    off = []
    for layers in (16, 32):
        z, _, loss = problem(1)
        net, w = ResidualFlow(tanh, layers, method=method), smooth(layers)
        g, g0 = net.gradient(z, w, loss)
        a, a0 = net.adjoint(z, w, loss, stored=stored)
        off.append([float((a - g).norm() / g.norm()), float((a0 - g0).norm() / g0.norm())])
    assert min(off[0]) > 1e-11  # it is another quantity, not another computation of the same
    orders = [math.log2(x / y) for x, y in zip(*off, strict=True)]
    assert all(abs(o - order) < 0.35 for o in orders), orders


def test_one_layers_adjoint_by_hand():
    # F = w z²: the network's a0 = a1 (1 + 2 h w z0), the adjoint's a1 (1 + 2 h w z1)
    net = ResidualFlow(lambda z, w: w * z**2, 1, time=0.5)
    z, w = torch.tensor([2.0], dtype=f64), torch.tensor([0.3], dtype=f64)
    z1 = 2 + 0.5 * 0.3 * 4
    loss = lambda out: out.pow(2).sum() / 2  # noqa: E731
    g, a = net.gradient(z, w, loss)
    assert a.item() == pytest.approx(z1 * (1 + 0.3 * 2))
    assert g.item() == pytest.approx(z1 * 0.5 * 4)
    g, a = net.adjoint(z, w, loss)
    assert a.item() == pytest.approx(z1 * (1 + 0.3 * z1))
    assert g.item() == pytest.approx(z1 * 0.5 * z1**2)


def test_the_way_back_of_a_linear_layer():
    # back and forth is (1 − hλ)(1 + hλ) a layer
    lam, layers = 5.0, 20
    net = ResidualFlow(lambda z, w: -w * z, layers, time=1.0)
    w = torch.full((layers,), lam, dtype=f64)
    back = net.reverse(net.states(torch.ones(1, dtype=f64), w)[-1], w)
    assert back.shape == (layers + 1, 1)
    assert back[0].item() == pytest.approx((1 - (lam / layers) ** 2) ** layers)


def test_the_adjoint_without_stored_states_uses_those_recovered():
    z, w, loss = problem(6)
    net = ResidualFlow(tanh, 6)
    end = net.states(z, w)[-1]
    back = net.reverse(end, w)
    a, by_hand = torch.func.grad(loss)(end), []
    for k in reversed(range(6)):
        _, pull = torch.func.vjp(tanh, back[k + 1], w[k])
        dz, dw = pull(a)
        a = a + dz / 6
        by_hand.append(dw / 6)
    found, a0 = net.adjoint(z, w, loss, stored=False)
    torch.testing.assert_close(found, torch.stack(by_hand[::-1]), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(a0, a, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("method", "order", "falls"),
    [("explicit-euler", 0, 1), ("explicit-euler", 1, 2), ("explicit-euler", 2, 3), ("heun", 2, 3)],
)
def test_layers_follow_their_modified_field(method, order, falls):
    # independent weights in every group of layers: nothing here is smooth in depth
    off = []
    z, w, _ = problem(4, n=1)
    for each in (3, 6):
        net = ResidualFlow(tanh, 4 * each, method=method)
        layers = w.repeat_interleave(each, dim=0)
        end = net.states(z, layers)[-1]
        off.append(float((net.modified(order, steps=1).states(z, layers)[-1] - end).norm()))
    assert abs(math.log2(off[0] / off[1]) - falls) < 0.35, off


def test_the_modified_field_of_a_linear_layer():
    # Euler's modified rate is log(1 + hλ)/h = λ − hλ²/2 + h²λ³/3 − …
    net = ResidualFlow(lambda z, w: w * z, 4)
    w = torch.full((4,), -0.4, dtype=f64)
    z = torch.ones(2, dtype=f64)
    for order in range(3):
        rate = sum((-1) ** n * 0.25**n * (-0.4) ** (n + 1) / (n + 1) for n in range(order + 1))
        end = net.modified(order, steps=8).states(z, w)[-1]
        np.testing.assert_allclose(end.numpy(), math.exp(rate), rtol=1e-9)


def test_an_expanded_state_will_do():
    z, w, _ = problem(2, n=1)
    net = ResidualFlow(tanh, 2).modified(1, steps=1)
    ends = net.states(z.expand(3, -1), w)[-1]
    torch.testing.assert_close(ends, net.states(z, w)[-1].expand(3, -1))


def test_dtype_is_the_callers():
    z, w, _ = problem(2)
    net = ResidualFlow(tanh, 2, method="rk4")
    z, w, loss = z.float(), w.float(), lambda out: out.pow(2).sum()
    found = [net.states(z, w), net.reverse(z, w), *net.gradient(z, w, loss)]
    found += [*net.adjoint(z, w, loss), net.modified(4, steps=1).states(z, w)]
    assert {part.dtype for part in found} == {torch.float32}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResidualFlow(3, 4), "function of a state"),
        (lambda: ResidualFlow(tanh, 0), "layers"),
        (lambda: ResidualFlow(tanh, 2.5), "layers"),
        (lambda: ResidualFlow(tanh, 4, time=-1.0), "time"),
        (lambda: ResidualFlow(tanh, 4, steps=0), "steps"),
        (lambda: ResidualFlow(tanh, 4, method="midpoint"), "equation to solve"),
        (lambda: ResidualFlow(tanh, 4, method="nobody"), "Unknown method"),
        (lambda: ResidualFlow(tanh, 4, steps=2).modified(1), "one step a layer"),
        (lambda: ResidualFlow(tanh, 5).states(*problem(4)[:2]), "5 layers"),
        (lambda: ResidualFlow(tanh, 4).states(problem(4)[0], 3.0), "tensor"),
        (lambda: ResidualFlow(tanh, 4).gradient(problem(4)[0], lambda t: t, torch.sum), "tensor"),
        (lambda: ResidualFlow(tanh, 4).reverse(problem(4)[0], lambda t: t), "tensor"),
        (lambda: ResidualFlow(lambda z, w: z[:1], 4).states(*problem(4)[:2]), "shape"),
    ],
    ids=range(13),
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_public_name():
    assert gf.flows.ResidualFlow is ResidualFlow
    assert "4 layers" in repr(ResidualFlow(tanh, 4))
