"""Extreme eigenpairs: dense and matrix-free, against full eigendecompositions."""

import pytest
import torch

import gdflows as gf
from gdflows.curvature import bottom_eigenpairs, top_eigenpairs
from gdflows.errors import InputError

f64 = torch.float64


def spectrum(values):
    """A quadratic with these curvatures, rotated."""
    values = torch.as_tensor(values, dtype=f64)
    g = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(len(values), len(values), generator=g, dtype=f64)).Q
    H = q @ torch.diag(values) @ q.T
    return gf.Objective(lambda t: 0.5 * t @ H @ t, dim=len(values))


@pytest.mark.parametrize("dim", [30, 400])  # dense; Lanczos
def test_ends_of_a_known_spectrum(dim):
    values = torch.linspace(-5, 3, dim, dtype=f64)  # the largest in magnitude is negative
    E, theta = spectrum(values), torch.ones(dim, dtype=f64)
    top, bottom = top_eigenpairs(E, theta, 3), bottom_eigenpairs(E, theta, 2)
    torch.testing.assert_close(top.values, values.flip(0)[:3], rtol=1e-4, atol=0)
    torch.testing.assert_close(bottom.values, values[:2], rtol=1e-4, atol=0)
    for pairs in (top, bottom):
        H = E.hessian(theta)
        residuals = (pairs.vectors @ H - pairs.values[:, None] * pairs.vectors).norm(dim=1)
        torch.testing.assert_close(pairs.residuals, residuals, rtol=1e-6, atol=1e-12)
        assert (pairs.residuals < 1e-2).all()
        torch.testing.assert_close(pairs.vectors.norm(dim=1), torch.ones(len(residuals), dtype=f64))


def test_cost_is_counted():
    E = spectrum(torch.linspace(-1, 5, 400, dtype=f64))
    pairs = top_eigenpairs(E, torch.ones(400, dtype=f64))
    assert pairs.hvps == E.cost["hvps"] < 400


@pytest.mark.parametrize(("k", "shift"), [(0, 0), (31, 0), (1, 1j)])
def test_bad_input(k, shift):
    with pytest.raises(InputError, match=r"k must be in|real θ only"):
        top_eigenpairs(spectrum(torch.arange(30)), torch.ones(30, dtype=f64) + shift, k)
