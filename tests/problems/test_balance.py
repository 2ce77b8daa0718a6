"""Balancedness: zero where it must be, conserved by the flow, and changed as a step says."""

import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError
from gdflows.problems import balancedness, deep_linear, mlp, squared_error

F64 = torch.float64


def objective(net):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 4, dtype=F64, generator=generator)
    y = torch.randn(30, 3, dtype=F64, generator=generator)
    return gf.Objective.from_module(net, squared_error, (x, y))


def relu(bias=True):
    return objective(mlp([4, 6, 5, 3], "relu", init="he", bias=bias, seed=2, dtype=F64))


def flat(parts):
    return torch.cat([q.flatten() for q in parts])


def test_by_hand():
    E = objective(deep_linear([4, 2, 3], init="identity", scale=2.0, dtype=F64))
    theta = E.theta0.clone()
    theta[0] = 5.0  # the first entry of the first layer
    (q,) = balancedness(E, theta)
    assert torch.equal(q, torch.tensor([[4.0 - 25, 0], [0, 0]], dtype=F64))
    assert gf.probes.imbalance(E.at(theta)) == {"linear1, linear2": 21.0}
    E = relu()
    (first, second) = balancedness(E, E.theta0, units=True)
    W = E.unflatten(E.theta0)
    unit = 3
    by_hand = (W["linear2.weight"][:, unit] ** 2).sum() - (W["linear1.weight"][unit] ** 2).sum()
    assert float(first[unit]) == pytest.approx(float(by_hand))
    assert second.shape == (5,)
    norms = gf.probes.imbalance(E.at(E.theta0), units=True)
    assert norms["linear2, linear3"] == pytest.approx(float(second.norm()))


def test_a_symmetry_of_the_loss_is_behind_it():
    # Moving S from one layer to the next, biases included, does not change a linear network.
    generator = torch.Generator().manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 3)).to(F64)
    E = objective(net)
    theta = torch.randn(E.dim, dtype=F64, generator=generator)
    W, G = E.unflatten(theta), E.unflatten(E.grad(theta))
    S = torch.randn(6, 6, dtype=F64, generator=generator)
    along = (
        (W["1.weight"] @ S * G["1.weight"]).sum()
        - (S @ W["0.weight"] * G["0.weight"]).sum()
        - (S @ W["0.bias"] * G["0.bias"]).sum()
    )
    assert abs(float(along)) < 1e-10


@pytest.mark.parametrize(
    ("make", "units"),
    [
        (lambda: objective(deep_linear([4, 6, 5, 3], seed=2, dtype=F64)), False),
        (relu, True),
        (lambda: relu(bias=False), True),
    ],
)
def test_a_step_adds_that_of_the_gradient(make, units):
    E, h = make(), 0.05

    def look(v):
        return flat(balancedness(E, v, units=units))

    theta = E.theta0
    for _ in range(20):
        g = E.grad(theta)
        after = theta - h * g
        change = look(after) - look(theta)
        assert torch.allclose(change, h**2 * look(g), atol=1e-14)
        assert change.abs().max() > 1e-9 or g.norm() < 1e-3
        theta = after


def test_the_flow_conserves_it():
    E = objective(deep_linear([4, 6, 5, 3], seed=2, dtype=F64))
    path = gf.integrate(gf.flows.NGF(E), E.theta0, times=[0, 2.0], rtol=1e-10)
    seen = path.observe(E, gf.probes.imbalance)
    start, end = seen.iloc[0], seen.iloc[-1]
    for column in seen.columns:
        if "linear" in column:
            assert end[column] == pytest.approx(start[column], abs=1e-7)
    before, after = (flat(balancedness(E, p)) for p in (path.states[0], path.states[-1]))
    assert (after - before).norm() < 1e-7


def test_what_is_no_chain_is_named():
    with pytest.raises(InputError, match="from_module"):
        balancedness(gf.problems.banana(), torch.zeros(2))
    alone = objective(torch.nn.Linear(4, 3).to(F64))
    with pytest.raises(InputError, match="needs two"):
        balancedness(alone, alone.theta0)
    norm = torch.nn.Sequential(
        torch.nn.Linear(4, 6), torch.nn.LayerNorm(6), torch.nn.Linear(6, 3)
    ).to(F64)
    E = objective(norm)
    with pytest.raises(InputError, match="1.weight"):
        balancedness(E, E.theta0)

    class Fork(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)

        def forward(self, x):
            return self.left(x) + self.right(x)

    E = objective(Fork().to(F64))
    with pytest.raises(InputError, match="no chain"):
        balancedness(E, E.theta0)
