"""Stability coefficients, cases, and Jacobians at critical points."""

import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError
from gdflows.flows import IGR, NGF, PrincipalFlow, Truncated, classify, jacobian
from gdflows.flows import jacobian_eigenvalue as rate

f64 = torch.float64
H = 0.1


def double_well():
    """Minima at (±1, 0), a saddle at 0; not quadratic, so that third derivatives do not vanish."""
    return gf.Objective(lambda z: (z[0] * z[0] - 1) ** 2 * 3 + (1 + z[0]) * z[1] * z[1] * 4, dim=2)


@pytest.mark.parametrize("point", [(1.0, 0.0), (-1.0, 0.0), (0.0, 0.0)])
@pytest.mark.parametrize("model", ["NGF", "IGR", 2, 3, "PF", "PF + term"])
def test_jacobians_at_critical_points(point, model):
    E, theta = double_well(), torch.tensor(point, dtype=f64)
    assert E.grad(theta).norm() < 1e-14
    flow = {
        "NGF": NGF(E), "IGR": IGR(E, H), 2: Truncated(E, H, 2), 3: Truncated(E, H, 3),
        "PF": PrincipalFlow(E, H), "PF + term": PrincipalFlow(E, H, nonprincipal=True),
    }[model]  # fmt: skip
    x = H * torch.linalg.eigvalsh(E.hessian(theta)).numpy()  # −1.2, 0, 0.8, 1.6 and 2.4
    want = np.sort_complex(rate(x, H, "PF" if model == "PF + term" else model).astype(complex))
    got = np.sort_complex(torch.linalg.eigvals(jacobian(flow, theta)).numpy())
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_igr_is_attracted_where_gradient_descent_is_not():
    x = np.array([2.5, -2.5])  # a sharp minimum, a strict saddle
    assert (np.abs(1 - x) > 1).all()
    assert (rate(x, H, "IGR") < 0).all()
    assert (rate(x, H, "PF").real > 0).all()
    assert (rate(x, H, "NGF") < 0).tolist() == [True, False]


@pytest.mark.parametrize("x", [-3.0, -1e-9, 0.0, 0.5, 0.999, 1.0, 1.9, 2.0, 3.7])
def test_cases_by_the_multiplier(x):
    case, multiplier = classify(x), 1 - x
    assert case.startswith("real") == (multiplier > 0)
    # at x = 0 nothing moves; at x = 2 gradient descent oscillates without end
    assert case.endswith(" stable") == (x == 0 or abs(multiplier) < 1)


def test_stability_coefficients():
    lam = torch.linspace(-3, 26, 400, dtype=f64)  # hλ = 2.6 at the top
    E = gf.Objective(lambda z: 0.5 * torch.sum(lam * z * z), dim=400)
    theta = torch.where(torch.arange(400) % 2 == 0, 1.0, -1.0).to(f64)
    got = gf.stability_coefficients(E, theta, lr=H, k=3, tol=1e-12)
    top = lam.flip(0)[:3]
    torch.testing.assert_close(got.eigenvalues, top, rtol=1e-9, atol=0)
    assert (got.products > 0).all()
    torch.testing.assert_close(got.products, top, rtol=1e-6, atol=0)
    torch.testing.assert_close(got.eigenvectors @ E.grad(theta), got.products)
    x = H * top.numpy()
    want = (np.log(x - 1) + 1j * np.pi) / x * got.products.numpy()
    np.testing.assert_allclose(got.coefficients.numpy(), want, rtol=1e-9)
    assert got.cases == ["complex unstable"] * 3
    field = PrincipalFlow(E, H, method="dense").vector_field(theta)
    along = got.eigenvectors.to(field.dtype) @ field
    torch.testing.assert_close(along, got.coefficients, rtol=1e-4, atol=1e-4)


def test_bad_input():
    E, theta = double_well(), torch.zeros(2, dtype=f64)
    with pytest.raises(InputError, match="learning rate"):
        gf.stability_coefficients(E, theta, lr=-1.0)
    with pytest.raises(InputError, match="k must be in"):
        gf.stability_coefficients(E, theta, lr=0.1, k=3)
    with pytest.raises(InputError, match=r"theta\.real"):
        gf.stability_coefficients(E, theta + 0j, lr=0.1)
