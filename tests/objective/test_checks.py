"""torch's derivatives are checked, not trusted; and a loss must be a function of θ."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gdflows as gf
from gdflows.errors import InputError

f64 = torch.float64
G = torch.Generator().manual_seed(0)
X = torch.randn(20, 6, generator=G, dtype=f64)
Y = torch.randint(0, 3, (20,), generator=G)


def build(*layers):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Linear(6, 8), nn.Tanh(), *(m() for m in layers), nn.Linear(8, 3)
        ).to(f64)


def objective(model, **settings):
    return gf.Objective.from_module(model, F.cross_entropy, (X, Y), **settings)


def by_differences(E, theta, u, v, eps=1e-5):
    return (E.hvp(theta + eps * u, v) - E.hvp(theta - eps * u, v)) / (2 * eps)


class RMS(nn.Module):
    def forward(self, x):
        return F.rms_norm(x, (8,))


NORMS = {
    "layer": lambda: build(lambda: nn.LayerNorm(8)),
    "layer without affine": lambda: build(lambda: nn.LayerNorm(8, elementwise_affine=False)),
    "batch, training": lambda: build(lambda: nn.BatchNorm1d(8)),
    "batch, evaluation": lambda: build(lambda: nn.BatchNorm1d(8)).eval(),
    "group": lambda: build(lambda: nn.GroupNorm(2, 8)),
    "RMS": lambda: build(RMS),
    "instance": lambda: build(
        lambda: nn.Unflatten(1, (2, 4)), lambda: nn.InstanceNorm1d(2, affine=True), nn.Flatten
    ),
    "instance, tracked, evaluation": lambda: build(
        lambda: nn.Unflatten(1, (2, 4)),
        lambda: nn.InstanceNorm1d(2, track_running_stats=True),
        nn.Flatten,
    ).eval(),
    "weight": lambda: build(
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), nn.Tanh
    ),
    "weight, of all": lambda: build(
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 8), dim=None), nn.Tanh
    ),
    "weight, of columns": lambda: build(
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 8), dim=1), nn.Tanh
    ),
}


@pytest.mark.parametrize("norm", NORMS)
def test_third_derivatives_through_normalisations(norm):
    E = objective(NORMS[norm]())
    theta = E.theta0
    u, v = torch.randn(2, E.dim, generator=torch.Generator().manual_seed(2), dtype=f64)
    expected = by_differences(E, theta, u, v)
    for got in (E.third(theta, u, v), E.at(theta).third(u, v)):
        assert (got - expected).norm() < 1e-6 * expected.norm()
    assert E.checks["third derivative"] < 1e-4


def test_the_plain_normalisations_are_torch_s():
    from gdflows.objective.norms import PlainNorms

    for make in NORMS.values():
        model = make()
        expected = model(X)
        with PlainNorms():
            torch.testing.assert_close(model(X), expected, rtol=1e-12, atol=1e-14)


class Square(torch.autograd.Function):
    """x², whose backward pass cannot be differentiated again rightly."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * 2 * x.detach()


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return -g


class Cube(torch.autograd.Function):
    """x³, right twice and wrong the third time."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return CubeBack.apply(g, x)


class CubeBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, g, x):
        ctx.save_for_backward(g, x)
        return 3 * g * x**2

    @staticmethod
    def backward(ctx, h):
        g, x = ctx.saved_tensors
        return 3 * h * x**2, 6 * h * g * x.detach()


START = torch.linspace(0.5, 1.5, 6, dtype=f64)


@pytest.mark.parametrize("point", [False, True])
def test_a_wrong_second_derivative_is_refused_every_time(point):
    E = gf.Objective(lambda t: Square.apply(t).sum() + (t**4).sum())
    v = torch.ones_like(START)
    for _ in range(2):
        with pytest.raises(InputError, match="Square"):
            (E.at(START).hvp(v) if point else E.hvp(START, v))
    assert E.grad(START).shape == (6,)  # nothing is wrong with the gradient
    trusted = gf.Objective(lambda t: Square.apply(t).sum() + (t**4).sum(), check=False)
    assert torch.equal(trusted.hvp(START, v), 12 * START**2)  # for who knows


def test_a_gradient_that_is_not_the_loss_s_is_refused():
    E = gf.Objective(lambda t: (Reversed.apply(t) ** 2).sum())
    with pytest.raises(InputError, match="Reversed"):
        E.hvp(START, START)


def test_a_stopped_gradient_is_refused():
    E = gf.Objective(lambda t: ((t - 2 * t.detach().flip(0)) ** 2).sum())
    with pytest.raises(InputError, match="detach"):
        E.hvp(START, START)


def test_a_wrong_third_derivative_is_refused():
    E = gf.Objective(lambda t: Cube.apply(t).sum())
    torch.testing.assert_close(E.hvp(START, START), 6 * START**2)
    with pytest.raises(InputError, match="third derivative.*CubeBack|third derivative.*Cube"):
        E.third(START, START, START)


@pytest.mark.parametrize("dtype", [torch.float32, f64])
@pytest.mark.parametrize(
    "layer", [nn.ReLU, nn.GELU, nn.ELU, nn.LeakyReLU, nn.Hardswish, nn.Softplus, nn.SiLU]
)
def test_kinks_are_not_taken_for_faults(layer, dtype):
    """Differences cross kinks, products do not: the right product must not be refused."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(6, 60), layer(), nn.Linear(60, 60), layer(), nn.Linear(60, 3)
        )
    x = torch.randn(2000, 6, generator=torch.Generator().manual_seed(3)).to(dtype)
    y = torch.randint(0, 3, (2000,), generator=torch.Generator().manual_seed(4))
    E = gf.Objective.from_module(model.to(dtype), F.cross_entropy, (x, y))
    v = torch.ones_like(E.theta0)
    assert E.hvp(E.theta0, v).isfinite().all()
    assert E.third(E.theta0, v, v).isfinite().all()


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("power", [2, 3, 4])
def test_scales_are_not_taken_for_faults(scale, power):
    E = gf.Objective(lambda t: ((t / scale) ** power).sum())
    for at in (scale * START, 1e-3 * scale * START, 1e3 * scale * START, 0 * START):
        v = torch.ones_like(at)
        assert E.hvp(at, v).isfinite().all()
        assert E.third(at, v, v).isfinite().all()


def test_checks_are_not_counted_and_say_how_well_they_held():
    E = objective(build())
    assert dict(E.cost) == {"values": 0, "gradients": 0, "hvps": 0, "thirds": 0, "higher": 0}
    v = torch.ones_like(E.theta0)
    E.at(E.theta0).third(v, v)
    assert dict(E.cost) == {"values": 0, "gradients": 1, "hvps": 0, "thirds": 1, "higher": 0}
    assert set(E.checks) == {"symmetry", "gradient", "second derivative", "third derivative"}
    assert E.checks["symmetry"] < 1e-12
    assert all(gap < 1e-6 for gap in E.checks.values())


def test_random_numbers_are_drawn_once_and_are_nobody_s():
    model = nn.Sequential(nn.Linear(6, 30), nn.Dropout(0.5), nn.Linear(30, 3)).to(f64)
    before = torch.get_rng_state()
    E, other = objective(model, seed=0), objective(model, seed=1)
    theta = E.theta0
    assert E.value(theta) == E.value(theta) == E.at(theta).value
    assert E.value(theta) != other.value(theta)
    v, eps = torch.ones_like(theta), 1e-5
    difference = (E.grad(theta + eps * v) - E.grad(theta - eps * v)) / (2 * eps)
    assert (E.hvp(theta, v) - difference).norm() < 1e-7 * difference.norm()
    assert torch.equal(torch.get_rng_state(), before)


DEGENERATE = {  # a minimum, a saddle, a point where all second derivatives vanish
    "a minimum": lambda t: (t.prod() - 2) ** 2,
    "a flat minimum": lambda t: (t.prod() - 2) ** 4,
    "a flat point": lambda t: (t.prod() - 2) ** 3,
    "a saddle": lambda t: (t.prod() - 2) * (t.sum() - 5.5),
    "odd": lambda t: torch.sinh(t - START[:3]).sum(),
}


@pytest.mark.parametrize("dtype", [torch.float32, f64])
@pytest.mark.parametrize("what", DEGENERATE)
def test_vanishing_derivatives_are_not_taken_for_faults(what, dtype):
    for at in (torch.tensor([0.5, 4.0, 1.0]), torch.tensor([0.3, 1 / 0.3, 2.0]), START[:3]):
        at = at.to(dtype)
        E = gf.Objective(lambda t: DEGENERATE[what](t if t.dtype == f64 else t.double()).to(dtype))
        v = torch.ones_like(at)
        assert E.hvp(at, v).isfinite().all()
        assert E.third(at, v, v).isfinite().all()
        plain = gf.Objective(DEGENERATE[what])
        if dtype == f64:
            assert plain.third(at, v, v).isfinite().all()
