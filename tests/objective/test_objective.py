"""Derivatives against closed forms, autograd and differences; chunks; complex points; cost."""

import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError, NonFiniteError

f64 = torch.float64


def quartic(theta):
    return (theta**4).sum() / 4 + theta[0] ** 2 * theta[1]


THETA = torch.tensor([0.7, -1.3, 0.4], dtype=f64)
U = torch.tensor([1.0, 2.0, -0.5], dtype=f64)
V = torch.tensor([-0.3, 0.2, 0.9], dtype=f64)


def analytic(theta, u, v):
    x, y = theta[0], theta[1]
    g = theta**3 + torch.stack([2 * x * y, x**2, 0 * x])
    h = torch.diag(3 * theta**2)
    h[0, 0] += 2 * y
    h[0, 1] += 2 * x
    h[1, 0] += 2 * x
    t = 6 * theta * u * v
    t[0] += 2 * (u[0] * v[1] + u[1] * v[0])
    t[1] += 2 * u[0] * v[0]
    return g, h, t


@pytest.mark.parametrize("shift", [0.0, 0.3j])
def test_derivatives_of_a_polynomial(shift):
    theta, u, v = THETA + shift, U + shift, V + shift
    E = gf.Objective(quartic, dim=3)
    g, h, t = analytic(theta, u, v)
    point = E.at(theta)
    for got, want in [
        (E.value(theta), quartic(theta)),
        (E.grad(theta), g),
        (E.value_and_grad(theta)[1], g),
        (E.hvp(theta, v), h @ v),
        (E.hvp(theta, torch.stack([u, v])), torch.stack([h @ u, h @ v])),
        (E.third(theta, u, v), t),
        (E.hessian(theta), h),
        (E.contract(theta), g),
        (E.contract(theta, u), h @ u),
        (E.contract(theta, u, v, u), 6 * u * v * u),  # the cubic part has no fourth derivative
        (E.contract(theta, u, v, u, v), 0 * u),
        (E.at(theta).contract(u, v, u), 6 * u * v * u),
        (point.value, quartic(theta)),
        (point.grad, g),
        (point.hvp(torch.stack([u, v])), torch.stack([h @ u, h @ v])),
        (point.third(u, v), t),
    ]:
        torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-13)


def test_linear_and_constant_losses_have_zero_higher_derivatives():
    linear = gf.Objective(lambda theta: 2 * theta.sum(), dim=3)
    assert torch.equal(linear.grad(THETA), torch.full((3,), 2.0, dtype=f64))
    assert torch.equal(linear.hessian(THETA), torch.zeros(3, 3, dtype=f64))
    assert torch.equal(linear.third(THETA, U, V), torch.zeros(3, dtype=f64))
    with pytest.raises(InputError, match="constant=True"):
        gf.Objective(lambda theta: torch.tensor(1.0, dtype=f64), dim=3).grad(THETA)
    constant = gf.Objective(lambda theta: torch.tensor(1.0, dtype=f64), dim=3, constant=True)
    assert torch.equal(constant.grad(THETA), torch.zeros(3, dtype=f64))
    quadratic = gf.Objective(lambda theta: theta @ theta, dim=3)
    assert torch.equal(quadratic.third(THETA, U, V), torch.zeros(3, dtype=f64))


def test_module_derivatives_are_those_of_its_parameters(net):
    E, model = net
    E_value = E.value(E.theta0)
    x, y = E.data
    loss = E.loss(model(x), y)
    torch.testing.assert_close(E_value, loss.detach())
    loss.backward()
    own = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    torch.testing.assert_close(E.grad(E.theta0), own)
    full = torch.func.hessian(E.terms[0])(E.theta0)
    torch.testing.assert_close(E.hessian(E.theta0), full, rtol=1e-12, atol=1e-14)


def test_third_derivative_of_a_network_by_differences(net):
    E, _ = net
    g = torch.Generator().manual_seed(3)
    u, v = torch.randn(2, E.dim, generator=g, dtype=f64)
    eps = 1e-4
    ahead, behind = E.hvp(E.theta0 + eps * u, v), E.hvp(E.theta0 - eps * u, v)
    # central differences: error O(eps²) + O(rounding / eps)
    want = (ahead - behind) / (2 * eps)
    torch.testing.assert_close(E.third(E.theta0, u, v), want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_chunks_add_up_to_the_whole(net, reduction):
    E, model = net
    x, y = E.data
    loss = torch.nn.MSELoss(reduction=reduction)
    whole = gf.Objective.from_module(model, loss, (x, y))
    parts = gf.Objective.from_module(model, loss, (x, y), chunk=5)  # 5 + 5 + 2
    assert len(parts.terms) == 3
    v = torch.randn(2, E.dim, generator=torch.Generator().manual_seed(0), dtype=f64)
    theta = E.theta0
    for method in ("value", "grad", "hessian"):
        a, b = getattr(whole, method)(theta), getattr(parts, method)(theta)
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(whole.hvp(theta, v), parts.hvp(theta, v), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(
        whole.third(theta, *v), parts.third(theta, *v), rtol=1e-12, atol=1e-12
    )
    p = parts.at(theta)
    torch.testing.assert_close(p.hvp(v), whole.at(theta).hvp(v), rtol=1e-12, atol=1e-13)


def test_network_at_a_complex_point_agrees_with_its_taylor_series(net):
    E, _ = net
    theta, eps = E.theta0, 1e-3
    v = torch.randn(E.dim, generator=torch.Generator().manual_seed(5), dtype=f64)
    z = torch.complex(theta, eps * v)
    # g(θ + iεv) = g + iε Hv − ε²/2 T[v, v] + O(ε³)
    p = E.at(theta)
    series = torch.complex(p.grad - eps**2 / 2 * p.third(v, v), eps * p.hvp(v))
    gap = (E.grad(z) - series).abs().max()
    assert gap < 30 * eps**3
    assert gap > 1e-3 * eps**3  # the remainder is really there: the point was not made real


def test_buffers_are_used_and_left_alone():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).double()
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=f64)
    before = {n: b.clone() for n, b in model.named_buffers()}
    E = gf.Objective.from_module(model, lambda out, y: (out**4).mean(), (x, x))
    training = E.value(E.theta0)
    E.grad(E.theta0)
    assert all(torch.equal(b, before[n]) for n, b in model.named_buffers())
    model.eval()
    assert not torch.isclose(training, E.value(E.theta0))  # eval mode reads the buffers


@pytest.mark.parametrize("sharing", ["module", "parameter"])
def test_shared_parameters_appear_once(sharing):
    first = torch.nn.Linear(3, 3, bias=False).double()
    second = first
    if sharing == "parameter":
        second = torch.nn.Linear(3, 3, bias=False).double()
        second.weight = first.weight
    model = torch.nn.Sequential(first, torch.nn.Tanh(), second)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=f64)
    E = gf.Objective.from_module(model, lambda out, y: (out**2).sum(), (x, x))
    assert E.dim == 9
    E.value(E.theta0)
    (model(x) ** 2).sum().backward()
    weight = first.weight
    torch.testing.assert_close(E.grad(E.theta0), weight.grad.reshape(-1))
    assert first.weight is weight and second.weight is weight  # evaluating moved nothing


def test_frozen_parameters_stay_out_of_theta(net):
    E, model = net
    model[0].bias.requires_grad_(False)
    smaller = gf.Objective.from_module(model, E.loss, E.data)
    assert smaller.dim == E.dim - 5
    torch.testing.assert_close(smaller.value(smaller.theta0), E.value(E.theta0))


def test_write_puts_theta_into_the_module(net):
    E, model = net
    theta = E.theta0 + 1.0
    E.write(theta)
    own = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    assert torch.equal(own, theta)
    assert not torch.equal(E.theta0, theta)  # the start is a copy


def test_cost_counts_what_was_done():
    E = gf.Objective(quartic, dim=3)
    E.value(THETA)
    E.grad(THETA)
    E.hvp(THETA, torch.stack([U, V]))
    point = E.at(THETA)
    point.hvp(U)
    point.hvp(V)
    point.third(U, V)
    assert dict(E.cost) == {"values": 1, "gradients": 3, "hvps": 4, "thirds": 1, "higher": 0}
    with pytest.raises(TypeError):
        E.cost["values"] = 0  # a view, not a knob
    E.reset_cost()
    assert not any(E.cost.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_dtype_is_the_callers(dtype):
    E = gf.Objective(quartic, dim=3)
    theta = THETA.to(dtype)
    for out in (E.value(theta), E.grad(theta), E.hvp(theta, theta), E.hessian(theta)):
        assert out.dtype == dtype


# -- bad input: (what is wrong, how it is made, the words that name the culprit) -------------------

BAD = {
    "loss returns a vector": (lambda: gf.Objective(lambda t: t**2, 3).value(THETA), "shape (3,)"),
    "loss returns a float": (lambda: gf.Objective(lambda t: 1.0, 3).value(THETA), "float"),
    "loss is not callable": (lambda: gf.Objective(THETA, 3), "needs a function"),
    "dim below one": (lambda: gf.Objective(quartic, 0), "dim must be a whole number"),
    "dim is a tensor": (lambda: gf.Objective(quartic, THETA), "dim must be a whole number"),
    "theta is a list": (lambda: gf.Objective(quartic, 3).grad([1.0, 2.0, 3.0]), "got list"),
    "theta is a matrix": (lambda: gf.Objective(quartic).grad(THETA[None]), "flat vector"),
    "theta is too short": (lambda: gf.Objective(quartic, 3).grad(THETA[:2]), "2 entries"),
    "theta is whole numbers": (
        lambda: gf.Objective(quartic, 3).grad(torch.arange(3)),
        "floating-point",
    ),
    "v is too short": (
        lambda: gf.Objective(quartic, 3).hvp(THETA, V[:2]),
        "v must have shape (3,)",
    ),
    "v has another dtype": (
        lambda: gf.Objective(quartic, 3).hvp(THETA, V.float()),
        "v is torch.float32",
    ),
    "v is on another device": (
        lambda: gf.Objective(quartic, 3).hvp(THETA, V.to("meta")),
        "v is on meta",
    ),
    "not holomorphic: abs": (
        lambda: gf.Objective(lambda t: (t.abs() ** 2 + 0j).sum(), 3).grad(THETA + 1j),
        "not holomorphic",
    ),
    "not holomorphic: conj, at a real point": (
        lambda: gf.Objective(lambda t: (t * t.conj()).sum(), 3).grad(THETA + 0j),
        "not holomorphic",
    ),
    "real loss of complex theta": (
        lambda: gf.Objective(lambda t: t.real.sum(), 3).grad(THETA + 1j),
        "not holomorphic",
    ),
    "dense Hessian too large": (
        lambda: gf.Objective(lambda t: t.sum()).hessian(torch.zeros(30_000)),
        "Hessian-vector products",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(what):
    make, words = BAD[what]
    with pytest.raises(InputError) as e:
        make()
    assert words in str(e.value)


def module(dtype=f64, norm=False):
    return torch.nn.Sequential(
        torch.nn.Linear(3, 2), *([torch.nn.BatchNorm1d(2)] if norm else [])
    ).to(dtype)


X, Y = torch.ones(4, 3, dtype=f64), torch.ones(4, 2, dtype=f64)
MSE = torch.nn.functional.mse_loss


def mixed():
    m = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2).double())
    return gf.Objective.from_module(m, MSE, (X, Y))


BAD_MODULES = {
    "no parameters": (
        lambda: gf.Objective.from_module(torch.nn.Tanh(), MSE, (X, Y)),
        "no trainable parameters",
    ),
    "mixed dtypes": (mixed, "mix dtypes"),
    "data of another dtype": (
        lambda: gf.Objective.from_module(module(torch.float32), MSE, (X, Y)),
        "x is torch.float64",
    ),
    "data on another device": (
        lambda: gf.Objective.from_module(module(), MSE, (X.to("meta"), Y)),
        "x is on meta",
    ),
    "x and y of different lengths": (
        lambda: gf.Objective.from_module(module(), MSE, (X, Y[:3])),
        "4 samples, y 3",
    ),
    "no data": (lambda: gf.Objective.from_module(module(), MSE, (X[:0], Y[:0])), "empty"),
    "theta of another dtype": (
        lambda: gf.Objective.from_module(module(), MSE, (X, Y)).grad(torch.zeros(8)),
        "theta is torch.float32",
    ),
    "chunk of zero": (
        lambda: gf.Objective.from_module(module(), MSE, (X, Y), chunk=0),
        "chunk must be at least 1",
    ),
    "batch norm in chunks": (
        lambda: gf.Objective.from_module(module(norm=True), MSE, (X, Y), chunk=2),
        "Batch normalisation in training mode",
    ),
    "unknown reduction": (
        lambda: gf.Objective.from_module(module(), MSE, (X, Y), chunk=2, reduction="max"),
        "'max'",
    ),
    "a loss without a complex form": (
        lambda: gf.Objective.from_module(module(), MSE, (X, Y)).grad(
            torch.zeros(8, dtype=torch.complex128)
        ),
        "gdflows.problems.squared_error",
    ),
    "writing complex parameters": (
        lambda: gf.Objective.from_module(module(), MSE, (X, Y)).write(torch.zeros(8) + 0j),
        "torch.complex64",
    ),
}


@pytest.mark.parametrize("what", BAD_MODULES)
def test_bad_modules(what):
    make, words = BAD_MODULES[what]
    with pytest.raises(InputError) as e:
        make()
    assert words in str(e.value)


@pytest.mark.parametrize("method", ["value", "grad"])
def test_non_finite_loss_names_the_place(method):
    E = gf.Objective(lambda t: torch.log(t).sum(), 3)
    with pytest.raises(NonFiniteError, match=r"loss is not finite at ‖θ‖ = 1\.53"):
        getattr(E, method)(THETA)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0].cos()


def test_what_torch_would_leave_out_of_second_derivatives_is_refused():
    """torch gives a wrong product here and says nothing."""
    E = gf.Objective(lambda theta: (Once.apply(theta) ** 2).sum(), dim=2)
    theta = torch.ones(2, dtype=torch.float64)
    torch.testing.assert_close(E.grad(theta), torch.sin(2 * theta))
    for call in (lambda: E.hvp(theta, theta), lambda: E.at(theta)):
        with pytest.raises(InputError, match="only once"):
            call()
