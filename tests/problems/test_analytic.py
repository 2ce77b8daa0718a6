"""The formulas: values, derivatives and starting points, against hand calculation."""

import math

import pytest
import torch

import gdflows as gf
from gdflows import problems

F64 = torch.float64
C128 = torch.complex128

ALL = {
    "quadratic": lambda **k: problems.quadratic([3.0, 1.0, -0.5], b=[1.0, 0.0, 2.0], **k),
    "rotated": lambda **k: problems.quadratic([3.0, 1.0, -0.5], rotation_seed=4, **k),
    "banana": problems.banana,
    "cosh": problems.cosh,
    "cubic": problems.cubic,
    "product": lambda **k: problems.product(3, target=0.7, **k),
    "valley": problems.valley,
    "concave": lambda **k: problems.concave(2.0, **k),
}


@pytest.fixture(params=ALL)
def make(request):
    return ALL[request.param]


def vec(*numbers):
    return torch.tensor(numbers, dtype=F64)


def test_start_has_the_dimension_and_dtype(make):
    for dtype in (torch.float32, F64):
        objective = make(dtype=dtype)
        assert objective.theta0.shape == (objective.dim,)
        assert objective.theta0.dtype == dtype
        assert objective.grad(objective.theta0).dtype == dtype


def test_gradient_agrees_with_central_differences(make):
    objective = make()
    theta, h = objective.theta0 + 0.01, 1e-5
    steps = h * torch.eye(objective.dim, dtype=F64)
    numerical = [(objective.value(theta + s) - objective.value(theta - s)) / (2 * h) for s in steps]
    scale = objective.hessian(theta).abs().max() + 1
    torch.testing.assert_close(
        objective.grad(theta), torch.stack(numerical), rtol=0, atol=1e-8 * float(scale)
    )


def test_formula_is_holomorphic(make):
    """A complex step gives the directional derivative without cancellation."""
    objective = make()
    theta, v = objective.theta0, torch.linspace(1, 2, objective.dim, dtype=F64)
    step = 1e-20
    derivative = objective.value(theta + 1j * step * v).imag / step
    torch.testing.assert_close(derivative, objective.grad(theta) @ v, rtol=1e-13, atol=1e-13)
    objective.grad(theta.to(C128) + 0.3j)  # raises where Cauchy-Riemann fails


def test_quadratic_is_the_one_asked_for():
    lam = [5.0, 2.0, -1.0]
    objective = problems.quadratic(lam, b=[1.0, -1.0, 0.5])
    theta = vec(0.3, -2.0, 1.5)
    a, b = torch.diag(vec(*lam)), vec(1.0, -1.0, 0.5)
    torch.testing.assert_close(objective.value(theta), 0.5 * theta @ a @ theta + b @ theta)
    torch.testing.assert_close(objective.grad(theta), a @ theta + b)
    torch.testing.assert_close(objective.hessian(theta), a)
    assert torch.equal(objective.theta0, torch.ones(3, dtype=F64))


def test_rotated_quadratic_keeps_its_spectrum_and_starts_with_all_modes_at_one():
    lam = vec(-1.0, 2.0, 5.0, 7.0)
    objective = problems.quadratic(lam, rotation_seed=1)
    hessian = objective.hessian(objective.theta0)
    values, vectors = torch.linalg.eigh(hessian)
    torch.testing.assert_close(values, lam, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close((vectors.T @ objective.theta0).abs(), torch.ones(4, dtype=F64))
    assert hessian.fill_diagonal_(0).abs().max() > 0.1


def test_rotation_is_fixed_by_its_seed_and_leaves_the_global_state_alone():
    state = torch.get_rng_state()
    first, again, other = (problems.quadratic([1, 2, 3], rotation_seed=s).theta0 for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.allclose(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_banana_at_its_minimum_and_start():
    objective = problems.banana()
    assert objective.value(objective.theta0).item() == pytest.approx(24.2, rel=1e-14)
    objective = problems.banana(a=1.5, b=20.0)
    minimum = vec(1.5, 2.25)
    assert objective.value(minimum) == 0
    assert torch.equal(objective.grad(minimum), vec(0.0, 0.0))
    expected = torch.tensor([[2 + 8 * 20 * 2.25, -4 * 20 * 1.5], [-4 * 20 * 1.5, 40.0]], dtype=F64)
    torch.testing.assert_close(objective.hessian(minimum), expected)


def test_one_dimensional_functions():
    x = vec(0.7)
    assert problems.cosh().value(x).item() == pytest.approx(math.cosh(0.7), rel=1e-15)
    assert problems.cosh().grad(x).item() == pytest.approx(math.sinh(0.7), rel=1e-15)
    one = vec(1.0)
    assert problems.cosh().third(x, one, one).item() == pytest.approx(math.sinh(0.7), rel=1e-15)
    assert problems.cubic().grad(x).item() == pytest.approx(-0.49, rel=1e-15)
    assert problems.concave(3.0).hessian(x).item() == -3.0


def test_product_has_the_sharpness_its_documentation_states():
    objective = problems.product(3, target=2.0)
    theta = vec(0.5, 4.0, 1.0)  # a minimum
    assert objective.value(theta) == 0
    sharpness = torch.linalg.eigvalsh(objective.hessian(theta))[-1]
    torch.testing.assert_close(sharpness, 4.0 * (theta**-2).sum())
    # derivatives are right where factors vanish, too
    torch.testing.assert_close(
        problems.product(2).hessian(vec(0.0, 0.0)), torch.tensor([[0.0, -1], [-1, 0]], dtype=F64)
    )


def test_valley_hovers_where_its_documentation_says():
    """Gradient descent ends on the cycle x = ±√(2κ(y* − 2/h)), y = 2/h."""
    objective, h = problems.valley(kappa=1.0, y_star=42.0), 0.05
    theta = objective.theta0
    for _ in range(2000):
        theta = theta - h * objective.grad(theta)
    torch.testing.assert_close(theta.abs(), vec(2.0, 40.0), rtol=1e-10, atol=0)
    after = theta - h * objective.grad(theta)
    torch.testing.assert_close(after, theta * vec(-1.0, 1.0), rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ("call", "culprit"),
    [
        (lambda: problems.quadratic([]), "eigenvalues"),
        (lambda: problems.quadratic([[1.0, 2.0]]), "eigenvalues"),
        (lambda: problems.quadratic([1.0, 2.0], b=[1.0]), "b must have shape"),
        (lambda: problems.product(0), "depth"),
        (lambda: problems.valley(kappa=0.0), "kappa"),
        (lambda: problems.valley(kappa=float("nan")), "kappa"),
        (lambda: problems.concave(-1.0), "m must be positive"),
    ],
)
def test_bad_arguments_are_named(call, culprit):
    with pytest.raises(gf.errors.InputError, match=culprit):
        call()
