"""The Hessian as a scipy operator, in scipy's own solvers, against the dense matrix."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, cg, eigsh, gmres, minres

import gdflows as gf

f64 = torch.float64


def network(dtype=f64):
    net = gf.problems.mlp([64, 6, 10], "tanh", seed=0, dtype=dtype)
    E = gf.problems.classification("digits", net, n=60)
    return E, E.at(E.theta0)


def shifted(H, by):
    return LinearOperator(H.shape, lambda v: H @ v + by * v, dtype=H.dtype)


def test_scipy_s_eigenvalues_are_the_dense_ones():
    E, point = network()
    values = torch.linalg.eigvalsh(E.hessian(E.theta0)).numpy()
    H = point.linear_operator()
    assert H.shape == (E.dim, E.dim) and H.dtype == np.float64
    for which, expected in (("LA", values[-3:]), ("SA", values[:3])):
        found = eigsh(H, 3, which=which, return_eigenvectors=False, v0=np.ones(E.dim))
        np.testing.assert_allclose(np.sort(found), expected, rtol=1e-9)


@pytest.mark.parametrize("solve", [cg, minres])
def test_damped_newton_steps(solve):
    E, point = network()
    damped = E.hessian(E.theta0).numpy() + 40 * np.eye(E.dim)  # its lowest eigenvalue is −10
    g = point.grad.numpy()
    step, failed = solve(shifted(point.linear_operator(), 40.0), g, rtol=1e-10)
    assert not failed
    np.testing.assert_allclose(step, np.linalg.solve(damped, g), rtol=1e-7, atol=1e-9)


def test_blocks_share_the_gradient_and_dtypes_are_kept():
    for dtype in (torch.float32, f64):
        E, point = network(dtype)
        H, counts = point.linear_operator(), dict(E.cost)
        X = np.random.default_rng(0).standard_normal((E.dim, 4)).astype(H.dtype)
        product = H @ X
        spent = {n: E.cost[n] - counts[n] for n in ("gradients", "hvps")}
        assert spent == {"gradients": 0, "hvps": 4}
        assert product.dtype == H.dtype == X.dtype
        dense = E.hessian(E.theta0).numpy()
        np.testing.assert_allclose(product, dense @ X, rtol=1e-3, atol=2e-4)
        np.testing.assert_allclose(H.rmatvec(X[:, 0]), product[:, 0], rtol=1e-3, atol=2e-4)
        assert (H @ X[:, :1]).shape == (E.dim, 1) and (H @ X[:, 0]).shape == (E.dim,)
        assert H.T is H and H.H is H
        assert (H @ X.astype(np.float64)).dtype == H.dtype


def test_complex_vectors_and_complex_theta():
    A = np.random.default_rng(0).standard_normal((5, 5))
    A = torch.from_numpy(A + A.T)
    E = gf.Objective(lambda t: (t**4).sum() / 12 + 0.5 * torch.sum(t * (A.to(t.dtype) @ t)), dim=5)
    theta = torch.linspace(0.5, 1, 5, dtype=f64)
    x = np.arange(5) + 1j * np.ones(5)
    for where in (theta, theta + 1j * theta.flip(0)):
        dense, H = E.hessian(where).numpy(), E.at(where).linear_operator()
        np.testing.assert_allclose(H @ x, dense @ x, rtol=1e-13)
        np.testing.assert_allclose(H.H @ x, dense.conj().T @ x, rtol=1e-13)
        np.testing.assert_allclose(H.rmatvec(x), dense.conj().T @ x, rtol=1e-13)
    solution, failed = gmres(H, x, rtol=1e-12)
    assert not failed
    np.testing.assert_allclose(dense @ solution, x, rtol=1e-9)
