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


@pytest.mark.parametrize("dim", [300, 1345, 20000])
@pytest.mark.parametrize("first", [1.1, 2.0])
@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-4])
def test_a_gradient_along_the_second_eigenvector_does_not_pass_for_the_first(dim, first, tol):
    """The residual of the second is within the tolerance after three products."""
    values = torch.cat([torch.tensor([first, 1.0]), torch.linspace(0.1, 1e-3, dim - 2)]).to(f64)
    theta = torch.zeros(dim, dtype=f64)
    theta[1] = 1.0
    found = top_eigenpairs(gf.problems.quadratic(values), theta, tol=tol)
    assert abs(float(found.values[0]) / first - 1) < tol
    tracked = gf.curvature.Tracker(gf.problems.quadratic(values), guards=1, tol=tol).update(theta)
    assert abs(float(tracked.values[0]) / first - 1) < tol
