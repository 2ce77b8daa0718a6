"""Losses made of others, against formulas and differences."""

import pytest
import torch
from torch import nn

import gdflows as gf
from gdflows.errors import InputError
from gdflows.problems import mean, penalised

f64 = torch.float64


def place(dim, seed=3):
    return torch.randn(dim, generator=torch.Generator().manual_seed(seed), dtype=f64)


def tanh_net(**given):
    net = gf.problems.mlp([4, 5, 3], "tanh", seed=0, dtype=f64)
    x, y = place(40).reshape(10, 4), place(30).reshape(10, 3)
    return gf.Objective.from_module(net, nn.MSELoss(), (x, y), **given)


@pytest.mark.parametrize("c", [0.3, -0.05])
def test_penalised_value_and_derivatives(c):
    """E + c|g|², g + 2c Hg, and H + 2c (H² + T[g]) from E's own derivatives."""
    E = gf.problems.banana()
    P, theta, v = penalised(E, c), place(2), place(2, 4)
    point, made = E.at(theta), P.at(theta)
    g = point.grad
    torch.testing.assert_close(P.value(theta), E.value(theta) + c * g @ g)
    torch.testing.assert_close(made.value, P.value(theta))
    torch.testing.assert_close(made.grad, g + 2 * c * point.hvp(g))
    expected = point.hvp(v) + 2 * c * (point.hvp(point.hvp(v)) + point.third(g, v))
    torch.testing.assert_close(made.hvp(v), expected)


def test_penalised_descent_is_euler_on_the_igr_field():
    E, h0, mu = tanh_net(), 0.05, 0.4
    run = gf.descend(penalised(E, (mu - h0) / 4), E.theta0, h0, 10)
    flow, theta = gf.flows.IGR(E, mu - h0), E.theta0
    for _ in range(10):
        theta = theta + h0 * flow.vector_field(theta)
    torch.testing.assert_close(run.states[-1], theta, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("given", [{}, {"chunk": 3}], ids=["whole", "chunks"])
def test_penalised_on_a_network_is_the_same_in_chunks(given):
    E = tanh_net(**given)
    P, plain = penalised(E, 0.2), tanh_net()
    assert P.dim == E.dim and torch.equal(P.theta0, E.theta0)
    g = plain.grad(plain.theta0)
    torch.testing.assert_close(P.grad(P.theta0), g + 0.4 * plain.hvp(plain.theta0, g))
    torch.testing.assert_close(P.value(P.theta0), plain.value(plain.theta0) + 0.2 * g @ g)


def test_penalised_is_holomorphic_where_the_loss_is():
    E, theta = gf.problems.banana(), place(2) + 0.1j * place(2, 5)
    g = E.grad(theta)
    torch.testing.assert_close(penalised(E, 0.2).grad(theta), g + 0.4 * E.hvp(theta, g))


def test_mean_of_batches_is_the_loss_on_all():
    net = gf.problems.mlp([4, 5, 3], "tanh", seed=0, dtype=f64)
    x, y = place(48).reshape(12, 4), place(36).reshape(12, 3)
    make = lambda rows: gf.Objective.from_module(net, nn.MSELoss(), (x[rows], y[rows]))  # noqa: E731
    whole = make(slice(None))
    C = mean([make(slice(i, i + 4)) for i in (0, 4, 8)])
    theta = whole.theta0
    torch.testing.assert_close(C.value(theta), whole.value(theta))
    torch.testing.assert_close(C.grad(theta), whole.grad(theta))
    v = place(C.dim, 7)
    torch.testing.assert_close(C.hvp(theta, v), whole.hvp(theta, v))


def masked():
    net = nn.Linear(2, 1).double()
    net.weight.register_hook(lambda g: g * torch.tensor([[1.0, 0.0]], dtype=f64))
    return gf.Objective.from_module(net, nn.MSELoss(), (place(6).reshape(3, 2), place(3)[:, None]))


class Recomputing(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 1).double()

    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(
            lambda x: self.inner(x).tanh(), x, use_reentrant=False
        )


def recomputing():
    data = place(6).reshape(3, 2), place(3)[:, None]
    return gf.Objective.from_module(Recomputing(), nn.MSELoss(), data)


def test_penalised_where_activations_are_recomputed():
    E = recomputing()
    for theta in (E.theta0, E.theta0 + 1):  # the module itself holds the first
        g = E.grad(theta)
        torch.testing.assert_close(penalised(E, 0.1).grad(theta), g + 0.2 * E.hvp(theta, g))


REFUSED = {
    "no objective": (lambda: penalised(3, 0.1), "needs an Objective"),
    "no number": (lambda: penalised(gf.problems.banana(), "x"), "weight c"),
    "masked": (lambda: penalised(masked(), 0.1), "mask"),
    "none": (lambda: mean([]), "at least one"),
    "sizes": (lambda: mean([gf.problems.banana(), gf.problems.product(3)]), "same parameters"),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()
