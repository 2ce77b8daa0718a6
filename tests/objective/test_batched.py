"""An objective at many points at once, against the objective row by row."""

import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError
from gdflows.objective.batched import Batched

f64 = torch.float64


def rows(E, n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return E.theta0 + 0.3 * torch.randn(n, E.dim, generator=g, dtype=f64)


@pytest.fixture(params=["formula", "module", "chunks"])
def objective(request, net):
    if request.param == "formula":
        return gf.problems.banana()
    E, model = net
    return E if request.param == "module" else gf.Objective.from_module(
        model, E.loss, E.data, chunk=5
    )


def test_rows_are_the_objectives_own(objective):
    E, x, u, v = objective, *(rows(objective, 4, seed) for seed in range(3))
    many = Batched(E)
    E.reset_cost()
    seen = many.value(x), many.grad(x), many.hvp(x, v), many.third(x, u, v)
    assert dict(E.cost) == {"values": 4, "gradients": 12, "hvps": 4, "thirds": 4, "higher": 0}
    for i in range(4):
        expected = E.value(x[i]), E.grad(x[i]), E.hvp(x[i], v[i]), E.third(x[i], u[i], v[i])
        for a, b in zip(seen, expected, strict=True):
            torch.testing.assert_close(a[i], b, rtol=1e-9, atol=1e-9)


def test_losses_that_are_not_fit_for_it_are_refused():
    for function, said in (
        (lambda x: x.sum() * float(x[0]), "many points at once"),
        (lambda x: (x**2).sum() * torch.rand(()), "many points at once"),
        (lambda x: (x**2).sum() if x.sum() > 0 else x.sum(), "many points at once"),
    ):
        E = gf.Objective(function, 2, check=False)
        with pytest.raises(InputError, match=said):
            Batched(E).grad(torch.ones(3, 2, dtype=f64))


class Other(torch.autograd.Function):
    """A square whose derivative under vmap is another."""

    generate_vmap_rule = False

    @staticmethod
    def forward(x):
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, g):
        return 2 * g * ctx.saved_tensors[0]

    @staticmethod
    def vmap(info, in_dims, x):
        return 3 * x * x, in_dims[0]


def test_a_loss_that_is_another_under_vmap_is_refused():
    E = gf.Objective(lambda x: Other.apply(Other.apply(x)).sum(), 2, check=False)
    with pytest.raises(InputError, match="another function"):
        Batched(E).grad(torch.ones(3, 2, dtype=f64))
