"""Curvature of any size, rank, dimension and dtype against dense truth: examples by hypothesis."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import gdflows as gf
from gdflows.curvature import (
    Tracker,
    apply_function,
    bottom_eigenpairs,
    spectral_density,
    top_eigenpairs,
)
from gdflows.errors import ConvergenceError, NonFiniteError, SingularityError

f64 = torch.float64
# The same examples on every machine, and no limits on time.
fixed = settings(derandomize=True, deadline=None, database=None, max_examples=60)

DIMS = (1, 2, 31, 32, 33, 199, 200, 201, 260)
KINDS = ("zero", "rank 1", "rank 2", "identity", "copies", "bulk", "signs", "decay")


class Case(NamedTuple):
    """A symmetric matrix of some size, with a spectrum of some kind."""

    dim: int
    kind: str
    dtype: torch.dtype
    power: int
    seed: int = 0

    def make(self):
        """The matrix, and a generator."""
        rng, dim = np.random.default_rng(self.seed), self.dim
        values = {
            "zero": lambda: np.zeros(dim),
            "rank 1": lambda: np.eye(1, dim)[0],
            "rank 2": lambda: 2 * np.eye(1, dim)[0] + (np.arange(dim) == 1),
            "identity": lambda: np.ones(dim),
            "copies": lambda: np.r_[5, 5, 5, 1, np.zeros(dim)][:dim],
            "bulk": lambda: np.r_[5, 4.9, 3, 2, rng.random(dim)][:dim],
            "signs": lambda: np.r_[-5, 3, 2.5, rng.uniform(-1, 1, dim)][:dim],
            "decay": lambda: 1 / (1.0 + np.arange(dim)) ** 2,
        }[self.kind]()
        q = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
        matrix = torch.from_numpy(10.0**self.power * (q * values) @ q.T).to(self.dtype)
        return (matrix + matrix.T) / 2, rng


def cases():
    dtypes = st.sampled_from((torch.float32, f64))
    powers, seeds = st.integers(-30, 30), st.integers(0, 10**6)
    return st.builds(Case, st.sampled_from(DIMS), st.sampled_from(KINDS), dtypes, powers, seeds)


def quadratic(matrix):
    return gf.Objective(lambda t: 0.5 * t @ (matrix.to(t.dtype) @ t), dim=len(matrix))


def somewhere(rng, dim, dtype, size=1.0):
    return torch.from_numpy(size * rng.standard_normal(dim)).to(dtype)


def spectrum(matrix):
    return torch.linalg.eigvalsh(matrix.double()).flip(0)


def bound(values, norm, dtype, tol):
    """What an eigenvalue may be off: the tolerance, and rounding of sums of products."""
    rounding = 30 * torch.finfo(dtype).eps * norm
    return tol * values.abs().clamp_min(1e-4 * norm) + rounding


@fixed
@given(cases(), st.integers(1, 4))
@example(Case(500, "copies", f64, 0, 0), 4)
@example(Case(500, "copies", torch.float32, -30, 0), 2)
def test_ends_of_the_spectrum(case, k):
    (matrix, rng), dtype = case.make(), case.dtype
    E, k = quadratic(matrix), min(k, len(matrix))
    theta, truth = somewhere(rng, len(matrix), dtype), spectrum(matrix)
    norm = float(truth.abs().max())
    for find, expected in ((top_eigenpairs, truth), (bottom_eigenpairs, truth.flip(0))):
        pairs = find(E, theta, k)
        off = (pairs.values.double() - expected[:k]).abs()
        assert (off <= bound(expected[:k], norm, dtype, 1e-4)).all()
        if k > 1:
            assert (off <= pairs.residuals.double() + 30 * torch.finfo(dtype).eps * norm).all()
        assert pairs.values.dtype == pairs.vectors.dtype == dtype
        u = pairs.vectors.double()
        apart = u @ u.T - torch.eye(k, dtype=f64)
        assert float(apart.abs().max()) < 300 * torch.finfo(dtype).eps
        r = (u @ matrix.double() - pairs.values.double()[:, None] * u).norm(dim=1)
        slack = 30 * torch.finfo(dtype).eps * norm
        torch.testing.assert_close(pairs.residuals.double(), r, rtol=1e-3, atol=slack)


@fixed
@given(cases(), st.integers(1, 3))
@example(Case(500, "copies", f64, 0, 0), 3)
@example(Case(201, "rank 1", torch.float32, 0, 0), 2)
@example(Case(201, "zero", torch.float32, 0, 0), 2)
@example(Case(33, "rank 1", f64, 30, 1), 2)
def test_a_path_of_changing_hessians(case, k):
    (matrix, rng), dtype, size = case.make(), case.dtype, 10.0**case.power
    dim, k = len(matrix), min(k, len(matrix))
    swing = 0.0 if not matrix.any() else size * somewhere(rng, dim, f64).to(dtype)

    def loss(t):
        return 0.5 * t @ (matrix @ t) + (swing * t**3).sum() / 6

    E, theta = gf.Objective(loss, dim=dim), somewhere(rng, dim, dtype)
    tracker = Tracker(E, k, tol=1e-3, check_every=3)
    for _ in range(5):
        hessian = matrix.double() + torch.diag(torch.as_tensor(swing * theta).double())
        truth = spectrum(hessian)
        norm = float(truth.abs().max())
        seen = tracker.update(theta)
        off = (seen.values.double() - truth[:k]).abs()
        assert (off <= bound(truth[:k], norm, dtype, 1e-3)).all()
        if k < dim and k > 1:
            assert seen.following <= float(truth[k]) + 0.2 * norm  # may be some steps old
        theta = theta + 0.03 * somewhere(rng, dim, dtype)


def exp(x):
    with np.errstate(over="ignore"):
        return np.exp(x)


FUNCTIONS = {
    "decay": lambda norm: lambda x: np.exp(-x / norm),
    "steep": lambda norm: lambda x: exp(-800 * x / norm),
    "growth": lambda norm: lambda x: np.exp(300 * x / norm),
    "principal, below": lambda norm: lambda x: gf.flows.alpha(0.5 * x / norm),
    "principal, beyond": lambda norm: lambda x: gf.flows.alpha(2.3 * x / norm),
}


@fixed
@given(cases(), st.sampled_from(sorted(FUNCTIONS)), st.integers(-30, 30))
@example(Case(60, "bulk", f64, 0, 0), "steep", 0)
@example(Case(60, "bulk", torch.float32, 0, 0), "decay", -25)
@example(Case(201, "decay", torch.float32, -25, 0), "principal, below", 20)
def test_functions_times_vectors(case, name, power):
    (matrix, rng), dtype = case.make(), case.dtype
    dim = len(matrix)
    values, basis = torch.linalg.eigh(matrix.double())
    norm = float(values.abs().max()) or 1.0
    phi, v = FUNCTIONS[name](norm), somewhere(rng, dim, dtype, 10.0**power)
    images = torch.from_numpy(np.asarray(phi(values.numpy())))
    truth = basis.to(images.dtype) @ (images * (basis.T @ v.double()))
    length = float(truth.norm())
    E, theta = quadratic(matrix), somewhere(rng, dim, dtype)
    if not math.isfinite(length):
        with pytest.raises(SingularityError, match="infinite at its eigenvalue"):
            apply_function(E, theta, phi, v)
        return
    try:
        got = apply_function(E, theta, phi, v, tol=1e-5, full_output=True)
    except ConvergenceError as e:  # named; allowed where the dtype cannot do it
        assert "Rounding" in str(e) and name in ("steep", "growth")
        return
    except NonFiniteError as e:
        limits = torch.finfo(dtype)
        assert "cannot hold" in str(e) and not limits.tiny < length < limits.max
        return
    if length == 0:
        assert not got.value.any()
        return
    off = float((got.value.to(truth.dtype) - truth).norm()) / length
    assert off <= 3 * got.error + 30 * torch.finfo(dtype).eps
    assert got.error <= max(1e-5, torch.finfo(dtype).eps ** 0.5)


@fixed
@given(cases())
def test_densities(case):
    (matrix, rng), dtype = case.make(), case.dtype
    truth = spectrum(matrix)
    norm = float(truth.abs().max())
    seen = spectral_density(
        quadratic(matrix), somewhere(rng, len(matrix), dtype), steps=20, probes=2
    )
    torch.testing.assert_close(seen.weights.sum(1), torch.ones(2, dtype=f64))
    slack = 30 * torch.finfo(dtype).eps * norm
    assert truth[-1] - slack <= seen.nodes[seen.weights > 0].min()
    assert seen.nodes[seen.weights > 0].max() <= truth[0] + slack
    # E of vᵀHv/D over random v is the mean eigenvalue, with this spread
    spread = float(truth.double().square().sum().sqrt()) * 2**0.5 / len(truth)
    mean, _ = seen.mean(lambda x: x)
    assert abs(mean - float(truth.mean())) <= 4 * spread + slack + 0.3 * norm * (len(truth) < 3)


@fixed
@given(cases(), st.sampled_from((0.5, 1.4, 2.3)))
@example(Case(2, "bulk", torch.float32, 0, 0), 1.4)
@example(Case(31, "bulk", torch.float32, 0, 0), 0.5)
def test_the_principal_flow_s_field(case, x):
    (matrix, rng), dtype = case.make(), case.dtype
    values, basis = torch.linalg.eigh(matrix.double())
    top = float(values.max())
    if not top > 0:
        return  # no learning rate reaches x
    theta, lr = somewhere(rng, len(matrix), dtype), x / top
    field = gf.flows.PrincipalFlow(quadratic(matrix), lr).vector_field(theta)
    g = matrix.double() @ theta.double()
    alpha = torch.from_numpy(np.asarray(gf.flows.alpha(lr * values.numpy())))
    truth = basis.to(alpha.dtype) @ (alpha * (basis.T @ g))
    off = float((field.to(truth.dtype) - truth).norm() / truth.norm())
    assert off <= max(1e-7, 300 * torch.finfo(dtype).eps)
    assert field.is_complex() == (x > 1)


@fixed
@given(cases(), st.integers(-30, 30))
def test_walks_of_any_size(case, power):
    case = case._replace(power=0)
    (matrix, rng), dtype, size = case.make(), case.dtype, 10.0**power
    matrix = matrix / (float(spectrum(matrix).abs().max()) or 1.0)
    # in units of size, so that the loss itself stays in float32's range
    E = gf.Objective(lambda t: 0.5 * torch.dot(t / size, matrix @ t), dim=len(matrix))
    theta, rtol = somewhere(rng, len(matrix), dtype, size), 1e-5
    path = gf.integrate(gf.flows.NGF(E), theta, t=size, rtol=rtol)
    truth = torch.linalg.matrix_exp(-matrix.double()) @ theta.double()
    off = float((path.states[-1].double() - truth).norm() / theta.double().norm())
    assert off <= 100 * rtol
    steps = gf.descend(E, theta, 0.25 * size, 4).states[-1].double()
    q = torch.eye(len(matrix), dtype=f64) - 0.25 * matrix.double()
    truth = torch.linalg.matrix_power(q, 4) @ theta.double()
    off = float((steps - truth).norm() / theta.double().norm())
    assert off <= 300 * torch.finfo(dtype).eps


@pytest.mark.parametrize("size", [1e-30, 1e-22, 1.0, 1e19])
def test_rods_of_any_length(size):
    """A start's direction and length in float32, where squares of the parts leave its range."""
    theta = torch.tensor([3.0, -4.0]) * size
    E = gf.Objective(lambda t: torch.dot(t / size, torch.tensor([2.0, 1.0]) * t) / 2, dim=2)
    lr = 0.5 * size  # as the Hessian is diag(2, 1) / size
    for flow in (gf.flows.RodFlow(E, lr), gf.flows.MomentumRodFlow(E, lr)):
        _, companions = flow.start(theta)
        half = 0.25 * torch.tensor([6.0, -4.0], dtype=f64)  # h/2 ∇E, in units of size
        if "velocity" in companions:
            half = torch.cat([half, -half])  # from rest, the velocity gains what θ loses
        log_length = math.log(float(half.norm())) + math.log(size)
        assert float(companions["log_length"]) == pytest.approx(log_length, rel=1e-6, abs=1e-6)
        unit = companions["direction"].double()
        torch.testing.assert_close(unit, half / half.norm(), rtol=1e-5, atol=1e-6)
