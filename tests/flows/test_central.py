"""The central flow: its complementarity problem, and the valley, where it is known."""

import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows.errors import ConvergenceError, InputError
from gdflows.flows.central import solve_complementarity

H = 0.05


def optimality(alpha, gram, x):
    """Smallest eigenvalues of X and of R = α + β[X], and ⟨X, R⟩, each relative."""
    rows, columns = np.triu_indices(len(alpha))
    r = alpha.copy()
    r[rows, columns] += gram @ (np.where(rows == columns, 1, 2) * x[rows, columns])
    r[columns, rows] = r[rows, columns]
    size = np.linalg.norm(alpha)
    product = abs((x * r).sum()) / (size * max(np.linalg.norm(x), 1e-300))
    return np.linalg.eigvalsh(x)[0], np.linalg.eigvalsh(r)[0] / size, product


@pytest.mark.parametrize("k", range(1, 7))
def test_complementarity_to_1e_10(k):
    rng = np.random.default_rng(k)
    p = k * (k + 1) // 2
    nonzero = 0
    for trial in range(60):
        z = rng.standard_normal((p, 40)) * 10.0 ** rng.uniform(-1, 1, (p, 1))
        if trial % 3 == 0 and p > 2:  # two nearly parallel third derivatives
            z[1] = z[0] + 1e-3 * z[1]
        a = rng.standard_normal((k, k))
        alpha = ((a + a.T) / 2 + rng.standard_normal() * np.eye(k)) * 10 ** rng.uniform(-3, 3)
        x = solve_complementarity(alpha, z @ z.T / 2)
        least, least_r, product = optimality(alpha, z @ z.T / 2, x)
        assert least >= -1e-10 * np.linalg.norm(x)
        assert least_r >= -1e-10
        assert product <= 1e-10
        nonzero += x.any()
    assert nonzero > 20  # the problems were not trivial


def test_one_eigenvalue_is_a_division():
    assert solve_complementarity(np.array([[-3.0]]), np.array([[2.0]])) == pytest.approx(1.5)
    assert solve_complementarity(np.array([[3.0]]), np.array([[2.0]])) == 0


def test_no_solution_is_said():
    with pytest.raises(ConvergenceError, match="cannot hold the 1 critical"):
        solve_complementarity(np.array([[-1.0]]), np.array([[0.0]]))


@pytest.mark.parametrize("kappa, y_star", [(0.05, 46.0), (0.2, 44.0), (1.0, 42.0)])
def test_the_valley_is_held_at_the_edge(kappa, y_star):
    """x = 0, y = 2/h, Σ = 2κ(y* − 2/h): the mean of gradient descent's two-step cycle."""
    E = gf.problems.valley(kappa, y_star)
    flow = gf.flows.CentralFlow(E, H)
    path = gf.integrate(flow, E.theta0, t=5.0, rtol=1e-8)
    np.testing.assert_allclose(path.states[-1], [0, 2 / H], rtol=0, atol=1e-5)
    seen = flow.covariance(path.states[-1])
    variance = 2 * kappa * (y_star - 2 / H)
    assert float(seen.matrix) == pytest.approx(variance, rel=1e-6)
    assert float(flow.oscillation(path)[-1]) == pytest.approx(variance**0.5, rel=1e-6)
    # ½·2/h·Σ + the spring's energy
    energy = variance / H + kappa / 2 * (y_star - 2 / H) ** 2
    assert float(flow.mean_loss(path)[-1]) == pytest.approx(energy, rel=1e-6)


def test_below_the_edge_it_is_the_gradient_flow():
    E = gf.problems.valley()
    theta = torch.tensor([0.3, 30.0], dtype=torch.float64)
    flow = gf.flows.CentralFlow(E, H)
    assert torch.equal(flow.vector_field(theta), -E.grad(theta))
    assert flow.covariance(theta).matrix.shape == (0, 0)


def test_two_critical_directions_share_the_edge():
    """Two valleys with one sharpness y: both oscillate or one, their variances add up."""
    E = gf.Objective(lambda t: t[2] * (t[0] ** 2 + t[1] ** 2) / 2 + 0.1 * (t[2] - 44) ** 2, 3)
    flow = gf.flows.CentralFlow(E, H)
    seen = flow.covariance(torch.tensor([0.0, 0.0, 2 / H], dtype=torch.float64))
    assert seen.matrix.shape == (2, 2)
    # ẏ = −½ (X₀₀ + X₁₁) + 0.2 (44 − y) = 0
    assert float(seen.matrix.trace()) == pytest.approx(0.4 * (44 - 2 / H), rel=1e-9)


def test_bad_horizon():
    with pytest.raises(InputError, match="horizon"):
        gf.flows.CentralFlow(gf.problems.valley(), H, horizon=0)
