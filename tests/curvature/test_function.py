"""φ(H)v: Krylov against dense, real and complex, and every way of failing."""

import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows.curvature import apply_function
from gdflows.errors import ConvergenceError, InputError, SingularityError

f64 = torch.float64


def digits(width=12, dtype=f64):
    net = gf.problems.mlp([64, width, 10], "tanh", seed=0, dtype=dtype)
    return gf.problems.classification("digits", net, n=100)


def off_the_axis(E, size):
    g = torch.Generator().manual_seed(3)
    return E.theta0 + 1j * size * torch.randn(E.dim, generator=g, dtype=f64)


FUNCTIONS = {
    "exp": lambda x: np.exp(-x / 10),
    "principal": lambda x: gf.flows.alpha(0.05 * x),
    "resolvent": lambda x: 1 / (x + 20),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("imaginary", [0.0, 1e-3, 1e-2])
def test_krylov_within_its_tolerance_of_dense(name, tol, imaginary):
    E = digits()
    theta = off_the_axis(E, imaginary) if imaginary else E.theta0
    g, phi = E.grad(theta), FUNCTIONS[name]
    want = apply_function(E, theta, phi, g, method="dense")
    got = apply_function(E, theta, phi, g, tol=tol, method="krylov", full_output=True)
    error = float((got.value - want).norm() / want.norm())
    assert error <= tol
    assert error <= got.error <= tol and 0 < got.hvps <= 40
    assert got.value.dtype == want.dtype


def test_function_of_a_known_matrix():
    A = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=f64)
    E = gf.Objective(lambda x: 0.5 * torch.sum(x * (A.to(x.dtype) @ x)), dim=2)
    v, theta = torch.tensor([1.0, -2.0], dtype=f64), torch.zeros(2, dtype=f64)
    want = torch.linalg.matrix_exp(A) @ v
    for method in ("dense", "krylov"):
        got = apply_function(E, theta, np.exp, v, method=method)
        torch.testing.assert_close(got, want, rtol=1e-14, atol=0)
        got = apply_function(E, theta.to(torch.complex128), np.exp, v + 0j, method=method)
        torch.testing.assert_close(got, want + 0j, rtol=1e-14, atol=0)
    zero = apply_function(E, theta, np.exp, 0 * v, full_output=True)
    assert not zero.value.any() and zero.hvps == 0


def test_an_invariant_space_ends_the_iteration():
    lam = torch.arange(1, 101, dtype=f64)
    E = gf.Objective(lambda x: 0.5 * torch.sum(lam * x * x), dim=100)
    v = torch.zeros(100, dtype=f64)
    v[[3, 50]] = 1.0
    got = apply_function(E, 0 * v, np.sqrt, v, tol=1e-14, full_output=True)
    assert got.hvps == 2
    torch.testing.assert_close(got.value, lam.sqrt() * v, rtol=1e-13, atol=1e-13)


def test_single_precision_products():
    E, F = digits(), digits(dtype=torch.float32)
    theta = E.theta0
    want = apply_function(E, theta, FUNCTIONS["principal"], E.grad(theta), tol=1e-10)
    single = theta.float()
    got = apply_function(F, single, FUNCTIONS["principal"], F.grad(single), tol=1e-4)
    assert got.dtype == torch.complex64  # hλ > 1
    assert float((got - want).norm() / want.norm()) < 1e-4


def test_a_singularity_is_named_by_its_eigenvalue():
    lam = torch.linspace(1, 10, 60, dtype=f64)
    E = gf.Objective(lambda x: 0.5 * torch.sum(lam * x * x), dim=60)
    v = torch.ones(60, dtype=f64)

    def pole(x):
        return np.where(np.abs(x - 10) < 1e-9, np.inf, 1 / (10 - x + 1e-300))

    for method in ("dense", "krylov"):
        with pytest.raises(SingularityError, match="eigenvalue 10") as e:
            apply_function(E, v, pole, v, method=method)
        assert e.value.eigenvalue == pytest.approx(10)
        quiet = v.clone()
        quiet[-1] = 0  # nothing along the eigenvector
        got = apply_function(E, v, pole, quiet, method=method)
        torch.testing.assert_close(got[:-1], 1 / (10 - lam[:-1]), rtol=1e-5, atol=0)


def test_a_space_too_small_says_so():
    E = digits()
    with pytest.raises(ConvergenceError, match="5 Hessian-vector products.*max_hvps"):
        apply_function(E, E.theta0, np.exp, E.grad(E.theta0), max_hvps=5, tol=1e-12)


def test_a_defective_hessian_says_so():
    # [[1, i], [i, −1]] is complex symmetric and nilpotent: it has one eigenvector
    E = gf.Objective(
        lambda z: 0.5 * (z[0] * z[0] - z[1] * z[1]) + 1j * z[0] * z[1] + 0 * z.sum(), dim=2
    )
    theta = torch.tensor([1.0, 0.5], dtype=torch.complex128)
    with pytest.raises(ConvergenceError, match="basis of eigenvectors"):
        apply_function(E, theta, np.exp, theta, method="dense")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "magic"}, "method"),
        ({"tol": 0.0}, "tol"),
        ({"max_hvps": 0}, "max_hvps"),
        ({"phi": lambda x: x.sum()}, "same shape"),
        ({"v": torch.ones(3, dtype=f64)}, "shape"),
    ],
)
def test_bad_input(change, message):
    E = digits()
    given = {"phi": np.exp, "v": E.theta0} | change
    with pytest.raises(InputError, match=message):
        apply_function(E, E.theta0, **given)
