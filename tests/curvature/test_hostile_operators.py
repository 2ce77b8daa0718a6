"""Repeated eigenvalues, low ranks, half precision, unusual devices; and what it costs."""

import math

import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows.curvature import (
    Tracker,
    apply_function,
    bottom_eigenpairs,
    spectral_density,
    top_eigenpairs,
)
from gdflows.curvature.krylov import largest_mass
from gdflows.errors import ConvergenceError, InputError

f64 = torch.float64


def diagonal(values):
    values = torch.as_tensor(values, dtype=f64)
    return gf.Objective(lambda t: 0.5 * (values.to(t.dtype) * t * t).sum(), dim=len(values))


# -- multiplicities ------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_a_repeated_eigenvalue_is_found_as_often(k):
    E = diagonal([5, 5, 5, 1, *[0] * 496])
    theta = torch.linspace(1, 2, 500, dtype=f64)
    truth = torch.tensor([5, 5, 5, 1, 0], dtype=f64)[:k]
    top, bottom = top_eigenpairs(E, theta, k), bottom_eigenpairs(E, theta, k)
    torch.testing.assert_close(top.values, truth, rtol=0, atol=1e-12)
    torch.testing.assert_close(bottom.values, torch.zeros(k, dtype=f64), rtol=0, atol=1e-12)
    for vectors in (top.vectors, bottom.vectors):
        torch.testing.assert_close(vectors @ vectors.T, torch.eye(k, dtype=f64))


@pytest.mark.parametrize("gap", [0.0, 1e-9, 1e-4, 1e-2])
def test_of_a_linear_model_with_several_outputs(gap):
    """Squared error of c outputs: each eigenvalue of XᵀX occurs c times; here nearly."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 100, generator=g, dtype=f64) * torch.linspace(1, 3, 100, dtype=f64)
    weights = 1 - gap * torch.arange(3, dtype=f64)

    def loss(t):
        return 0.5 * ((x @ t.reshape(100, 3)) ** 2 * weights).sum() / 300

    E = gf.Objective(loss, dim=300)
    theta = torch.randn(300, generator=g, dtype=f64)
    truth = torch.linalg.eigvalsh(E.hessian(theta)).flip(0)
    for k in (2, 4, 7):
        seen = Tracker(E, k, tol=1e-5).update(theta)
        torch.testing.assert_close(seen.values, truth[:k], rtol=1e-5, atol=0)
        torch.testing.assert_close(
            top_eigenpairs(E, theta, k, tol=1e-5).values, truth[:k], rtol=1e-5, atol=0
        )


def test_a_tracker_keeps_copies_along_a_path():
    values = torch.tensor([5, 5, 5, 1, *[0] * 296], dtype=f64)
    E = gf.Objective(lambda t: 0.5 * (values * t * t).sum() * (1 + 0.1 * t[-1]), dim=300)
    tracker = Tracker(E, 3, tol=1e-6, check_every=4)
    theta = torch.full((300,), 1e-6, dtype=f64)
    for i in range(9):
        theta[-1] = i / 10
        seen = tracker.update(theta)
        torch.testing.assert_close(seen.values, 5 * (1 + 0.01 * i) * torch.ones(3, dtype=f64))
        assert seen.following <= 2


def test_a_check_finds_what_rises_beside_the_path():
    """The fourth axis is in no kept vector; its eigenvalue comes up in one step."""
    base = torch.linspace(0, 1, 400, dtype=f64)

    def loss(t):
        curvature = base.clone()
        curvature[1], curvature[2] = 10.0, 9.0
        curvature[7] = 20.0 * (t[0] > 0.5)
        return 0.5 * (curvature * t * t)[1:].sum()

    E, theta = gf.Objective(loss, dim=400, constant=False), torch.zeros(400, dtype=f64)
    tracker = Tracker(E, 2, tol=1e-4, check_every=5)
    for i in range(6):
        theta = theta.clone()
        theta[0] = 0.0 if i < 2 else 1.0
        seen = tracker.update(theta)
    assert seen.since_check == 0
    torch.testing.assert_close(seen.values, torch.tensor([20.0, 10.0], dtype=f64))
    assert math.isclose(seen.following, 9.0, rel_tol=1e-2)


def test_eigenvalues_that_cross_at_the_first_look():
    """Pairs from 1e-5 to 1e-2 apart: the values within the tolerance, and some eigenvalue within
    the residual; with k = 1 that may be the second."""
    rng = np.random.default_rng(0)
    for seed in range(40):
        values = rng.random(230)
        values[:2] = 1.4, 1.4 * (1 - 10 ** rng.uniform(-5, -2))
        E, theta = diagonal(values), torch.from_numpy(rng.standard_normal(230))
        for k, tol in ((1, 1e-3), (2, 1e-4)):
            seen = Tracker(E, k, tol=tol).update(theta)
            off = (seen.values - torch.from_numpy(np.sort(values)[::-1][:k].copy())).abs()
            assert (off <= tol * seen.values).all(), (seed, k)
            if k == 1:
                off = (seen.values - torch.from_numpy(values)).abs().min()
            assert (off <= seen.residuals).all(), (seed, k)


def test_the_most_that_can_be_hidden():
    """Christoffel's function at the nodes of a Gauss quadrature is its weights."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(6), rng.random(5) + 0.5
    nodes, vectors = np.linalg.eigh(np.diag(a) + np.diag(b, 1) + np.diag(b, -1))
    masses = [largest_mass(a, b, x) for x in nodes]
    np.testing.assert_allclose(masses, vectors[0] ** 2, rtol=1e-10)
    beyond = [largest_mass(a, b, nodes[-1] + d) for d in (0.1, 0.5, 2.0)]
    assert vectors[0, -1] ** 2 > beyond[0] > beyond[1] > beyond[2]


# -- operators that are next to nothing ----------------------------------------------------------


def dead_network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 60), torch.nn.ReLU(), torch.nn.Linear(60, 3))
    torch.nn.init.constant_(model[0].bias, -100.0)
    data = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(20)
    return gf.Objective.from_module(model, lambda o, y: o.sum(), data)


NOTHING = {
    "linear": lambda: (gf.Objective(lambda t: t.sum(), dim=500), torch.ones(500)),
    "dead units": lambda: (E := dead_network(), E.theta0),
    "zero curvature": lambda: (diagonal(torch.zeros(300)), torch.ones(300, dtype=f64)),
}


@pytest.mark.parametrize("what", NOTHING)
def test_no_curvature_is_zero(what):
    E, theta = NOTHING[what]()
    assert gf.probes.sharpness(E.at(theta)) == 0 == gf.probes.smallest_eigenvalue(E.at(theta))
    for k in (1, 2):
        tracker = Tracker(E, k, check_every=2)
        for _ in range(4):
            seen = tracker.update(theta)
            assert not seen.values.any() and not seen.residuals.any() and seen.following == 0
    density = spectral_density(E, theta, steps=5, probes=2)
    assert not density.nodes.any() and density.hvps == 2
    v = torch.ones_like(theta)
    torch.testing.assert_close(apply_function(E, theta, np.exp, v), v)


def test_a_learning_rate_that_warms_up_from_zero():
    E = diagonal(torch.linspace(0, 3, 300, dtype=f64))
    tracker, theta = Tracker(E, 2, tol=1e-4), torch.ones(300, dtype=f64)
    for lr in (0.0, 0.0, 1e-3, 0.1):
        seen = tracker.update(theta, scale=torch.full((300,), lr**0.5, dtype=f64))
        truth = lr * torch.tensor([3, 3 * 298 / 299], dtype=f64)
        torch.testing.assert_close(seen.values, truth, rtol=1e-4, atol=0)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_few_samples(rank, dtype):
    """As many eigenvalues as samples, and more asked for; the samples turn with θ."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(rank, 300, generator=g, dtype=dtype) / 300**0.5
    E = gf.Objective(lambda t: torch.tanh(x @ t).square().sum(), dim=300)
    theta = 0.1 * torch.randn(300, generator=g, dtype=dtype)
    tracker = Tracker(E, 2, check_every=3)
    for _ in range(6):
        theta = theta + 0.05 * torch.randn(300, generator=g, dtype=dtype)
        truth = torch.linalg.eigvalsh(E.hessian(theta).double()).flip(0)
        seen = tracker.update(theta).values.double()
        assert ((seen - truth[:2]).abs() <= 1e-3 * truth[:2].abs().clamp_min(1e-3)).all()


@pytest.mark.parametrize("kind", [0.0, 3.0])
def test_a_zero_or_multiple_of_the_identity_in_the_monitor(kind):
    model = torch.nn.Linear(300, 1, bias=False)
    x = math.sqrt(kind * 300 / 2) * torch.eye(300)  # whitened: the Hessian is kind · I
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gf.SharpnessMonitor(model, torch.nn.MSELoss(), (x, torch.ones(300, 1)), optimizer)
    for _ in range(3):
        assert monitor.measure().h_lambda == pytest.approx(0.1 * kind, rel=1e-5)
    optimizer.param_groups[0]["lr"] = 0.0
    assert monitor.measure().h_lambda == 0


# -- what cannot be right is refused -------------------------------------------------------------


CALLS = {
    "top": lambda E, t: top_eigenpairs(E, t),
    "bottom": lambda E, t: bottom_eigenpairs(E, t),
    "tracker": lambda E, t: Tracker(E).update(t),
    "density": lambda E, t: spectral_density(E, t),
    "function": lambda E, t: apply_function(E, t, np.exp, t),
}


@pytest.mark.parametrize("call", CALLS)
def test_half_precision_and_autocast_are_refused(call):
    E = diagonal(torch.linspace(0, 3, 300))
    for dtype in (torch.bfloat16, torch.float16):
        with pytest.raises(InputError, match="half precision.*drowns in rounding"):
            CALLS[call](E, torch.ones(300, dtype=dtype))
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(InputError, match="drowns in rounding.*[Ll]eave the autocast"),
    ):
        CALLS[call](E, torch.ones(300))


def test_a_point_from_outside_is_refused_inside_autocast():
    E = diagonal(torch.linspace(0, 3, 300))
    point = E.at(torch.ones(300))
    with torch.autocast("cpu", torch.bfloat16):
        for call in (gf.probes.sharpness, Tracker(E).update):
            with pytest.raises(InputError, match="[Aa]utocast"):
                call(point)


def test_steep_functions_are_right_or_refused():
    """exp(−800 x) underflows at the first Ritz values; its true value is far from zero."""
    lam = torch.linspace(0.001, 1, 60, dtype=f64)
    E, v = diagonal(lam), torch.ones(60, dtype=f64)
    got = apply_function(E, v, lambda x: np.exp(-800 * x), v, full_output=True)
    truth = torch.exp(-800 * lam)
    off = float((got.value - truth).norm() / truth.norm())
    assert off <= got.error <= 1e-6
    with pytest.raises(ConvergenceError, match="Rounding in torch.float32"):
        apply_function(E, v.float(), lambda x: np.exp(-1e4 * x), v.float())
    with pytest.raises(ConvergenceError, match="is zero, or φ underflows"):
        apply_function(E, v, lambda x: 0 * x, v, max_hvps=20)


# -- devices -------------------------------------------------------------------------------------


def everything(E, theta):
    top = top_eigenpairs(E, theta, 2)
    tracker = Tracker(E, 2, check_every=2)
    for _ in range(4):
        theta = theta + 0.01
        seen = tracker.update(theta, scale=torch.ones_like(theta))
    density = spectral_density(E, theta, steps=4, probes=2)
    density(np.linspace(0, 1, 3), 0.1)
    v = torch.ones_like(theta)
    values = [apply_function(E, theta, np.exp, v, method=m) for m in ("krylov", "dense")]
    path = gf.integrate(gf.flows.PrincipalFlow(E, 0.1), theta, t=0.2, rtol=1e-3, real_every=0.1)
    gf.integrate(gf.flows.CentralFlow(E, 0.1), theta, times=[0.0, 0.1], method="euler", step=0.1)
    gf.descend(E, theta, 0.1, 2)
    small = gf.flows.jacobian(gf.flows.NGF(E), theta) if len(theta) < 50 else None
    return [top.values, seen.values, density.nodes, *values, path.states, small]


@pytest.mark.parametrize("dim", [40, 210])
def test_another_default_device(dim):
    """Whatever is made without a word on where lands on 'meta', which computes nothing."""
    E, theta = diagonal(torch.linspace(0, 3, dim)), torch.ones(dim)
    expected = everything(E, theta)
    try:
        torch.set_default_device("meta")
        found = everything(E, theta)
    finally:
        torch.set_default_device(None)
    for a, b in zip(found, expected, strict=True):
        assert b is None or torch.equal(a, b)


class Elsewhere(torch.Tensor):
    """A tensor on a device without float64, as far as Python can tell."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        out = super().__torch_function__(func, types, args, kwargs or {})
        leaves = func in (torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.__float__)
        if isinstance(out, torch.Tensor) and out.dtype in (f64, torch.complex128):
            raise TypeError(f"This device has no {out.dtype} ({func}).")
        return out.as_subclass(torch.Tensor) if leaves and isinstance(out, torch.Tensor) else out


def test_a_device_without_float64():
    with pytest.raises(TypeError, match="has no torch.float64"):
        torch.ones(3).as_subclass(Elsewhere).double()
    for dim in (40, 210):
        values = torch.linspace(0, 3, dim).as_subclass(Elsewhere)
        E = gf.Objective(lambda t, values=values: 0.5 * (values * t * t).sum(), dim=dim)
        expected = everything(E, torch.ones(dim))
        found = everything(E, torch.ones(dim).as_subclass(Elsewhere))
        for a, b in zip(found, expected, strict=True):
            assert b is None or torch.equal(torch.as_tensor(a), torch.as_tensor(b))


# -- costs ---------------------------------------------------------------------------------------


def test_a_tracked_look_is_not_a_whole_hessian():
    net = gf.problems.mlp([8, 10, 6], "tanh", seed=0, dtype=f64)
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 8, generator=g, dtype=f64), torch.randn(50, 6, generator=g, dtype=f64)
    E = gf.Objective.from_module(net, torch.nn.MSELoss(), (x, y))
    assert 150 <= E.dim <= 200
    path = gf.descend(E, E.theta0, 0.1, 20).states
    tracker = Tracker(E)
    spent = 0
    for theta in path:
        seen = tracker.update(theta)
        spent += seen.hvps
        truth = torch.linalg.eigvalsh(E.hessian(theta))[-1]
        torch.testing.assert_close(seen.values[0], truth, rtol=1e-3, atol=0)
    assert spent <= 5 * len(path)
