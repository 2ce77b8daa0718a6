"""The principal flow: exact on quadratics, its order off them, its branch, and its failures."""

import mpmath
import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows.errors import ConvergenceError, InputError, IntegrationError, SingularityError
from gdflows.flows import PrincipalFlow, alpha, log_multiplier

f64 = torch.float64


def quadratic(curvatures, seed=0):
    """½θ·Mθ + b·θ with the given eigenvalues, rotated; also takes complex θ."""
    dim, g = len(curvatures), torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(dim, dim, generator=g, dtype=f64))[0]
    m = (q * torch.tensor(curvatures, dtype=f64)) @ q.T
    m, b = (m + m.T) / 2, torch.randn(dim, generator=g, dtype=f64)
    return gf.Objective(
        lambda x: 0.5 * torch.sum(x * (m.to(x.dtype) @ x)) + torch.sum(b * x), dim=dim
    )


def singular_and_indefinite(x, h=0.1):
    return quadratic([x / h, 0.3 * x / h, 0.0, -2.0, 1.0]), torch.ones(5, dtype=f64), h


def iris_at_the_edge():
    net = gf.problems.mlp([4, 10, 10, 3], "tanh", seed=0, dtype=f64)
    E = gf.problems.classification("iris", net)
    h = 2.3 / gf.probes.sharpness(E.at(E.theta0))
    return E, E.theta0, h


def regression_at_the_edge():
    """A small network of two inputs, as in the paper's figure 7, at hλ = 2.3."""
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(10, 2, generator=g, dtype=f64), torch.randn(10, 1, generator=g, dtype=f64)
    net = gf.problems.mlp([2, 10, 1], "tanh", seed=1, dtype=f64)
    E = gf.Objective.from_module(net, gf.problems.squared_error, (x, y))
    return E, E.theta0, 2.3 / gf.probes.sharpness(E.at(E.theta0))


# -- the coefficient -----------------------------------------------------------------------------


@pytest.mark.parametrize("imaginary", [0.0, 1e-12, -1e-12, 1e-3, -1e-3])
@pytest.mark.parametrize("real", [0.0, 1e-300, 1e-9, -1e-4, 1e-3, 0.3, -0.7, 0.49, 0.51, 0.999, -5])
def test_alpha_to_rounding(real, imaginary):
    z = complex(real, imaginary) if imaginary else real
    with mpmath.workdps(40):
        x = mpmath.mpmathify(z)
        want = complex(mpmath.log1p(-x) / x) if z else -1.0
    got = alpha(np.array([z]))[0]
    assert abs(got - want) <= 4e-16 * abs(want) / min(1, abs(1 - z))  # log is ill-conditioned at 1


def test_the_cut_is_turned_away():
    above, on, below = (log_multiplier(np.array([2.3 + s * 1j]))[0] for s in (1e-9, 0, -1e-9))
    assert on == pytest.approx(np.log(1.3) + 1j * np.pi, rel=1e-15)
    assert abs(above - on) < 1e-8 and abs(below - on) < 1e-8
    principal = np.log(-1.3 + 1e-9j) - np.log(-1.3 - 1e-9j)
    assert abs(principal) > 6  # numpy's own cut lies there: it jumps by 2πi
    jump = np.diff(log_multiplier(np.array([1 - 1e-9 + 0.5j, 1 + 1e-9 + 0.5j])))[0]
    assert abs(abs(jump) - 2 * np.pi) < 1e-8  # and ours lies here


def test_alpha_of_the_other_models():
    x = np.array([-1.0, 0.0, 0.5, 2.2])
    np.testing.assert_array_equal(alpha(x, "NGF"), -np.ones(4))
    np.testing.assert_allclose(alpha(x, "IGR"), -(1 + x / 2), rtol=1e-15)
    np.testing.assert_allclose(alpha(x, 3), -(1 + x / 2 + x**2 / 3 + x**3 / 4), rtol=1e-15)
    assert np.abs(alpha(np.array([0.5]), 60) - alpha(np.array([0.5]))) < 1e-15
    for wrong in ("CF", -1, 1.5):
        with pytest.raises(InputError, match="model"):
            alpha(x, wrong)


# -- quadratics ----------------------------------------------------------------------------------


@pytest.mark.parametrize("x", [0.5, 0.99, 1.5, 2.5])
@pytest.mark.parametrize("real_every", [None, 0.1])
def test_exact_on_quadratics_that_are_singular_and_indefinite(x, real_every):
    E, theta, h = singular_and_indefinite(x)
    gd = gf.descend(E, theta, h, 5)
    size = gd.states.norm(dim=1)
    flow = PrincipalFlow(E, h)
    path = gf.integrate(flow, theta, times=gd.times, rtol=1e-12, real_every=real_every)
    assert (gd.distance(path) <= 2e-12 * size).all()
    assert path.states.is_complex() == (x > 1)
    for k, state in enumerate(gd.states):
        closed = flow.frozen(theta, k * h)
        assert not closed.is_complex()
        assert (closed - state).norm() <= 1e-14 * size[k]
    # and between the iterates the closed form solves the equation
    half = gf.integrate(flow, theta, t=h / 2, rtol=1e-12).states[-1]
    assert (half - flow.frozen(theta, h / 2)).norm() <= 2e-12 * theta.norm()


def test_at_one_the_flow_is_singular_and_the_closed_form_exact():
    E, theta, h = singular_and_indefinite(1.0)
    flow = PrincipalFlow(E, h)
    for action in (flow.vector_field, lambda x: gf.integrate(flow, x, t=h)):
        with pytest.raises(SingularityError, match=r"eigenvalue 10 = 1/lr.*frozen") as e:
            action(theta)
        assert e.value.eigenvalue == pytest.approx(10)
    gd = gf.descend(E, theta, h, 5)
    for k, state in enumerate(gd.states):
        assert (flow.frozen(theta, k * h) - state).norm() <= 1e-14 * state.norm()
    assert torch.isfinite(flow.frozen(theta, 0.5 * h).abs()).all()
    # one step on, the gradient along that eigenvector is gone, and the flow exists again
    assert torch.isfinite(flow.vector_field(gd.states[1]).abs()).all()


def test_a_real_path_that_would_turn_complex_is_followed():
    # E'' = 1 + x²: hλ falls through 1 nowhere, but starts above it at the upper start only
    E = gf.Objective(lambda x: (x**2 / 2 + x**4 / 12).sum(), dim=1)
    for start, wide in ((0.5, False), (2.0, True)):
        path = gf.integrate(PrincipalFlow(E, 0.4), torch.tensor([start], dtype=f64), t=0.1)
        assert path.states.is_complex() == wide


# -- off quadratics ------------------------------------------------------------------------------


def test_local_error_is_h3_over_12_times_the_third_derivative():
    E, _, _ = iris_at_the_edge()
    theta, g = E.theta0, E.grad(E.theta0)
    leading = E.third(theta, g, g) / 12
    for term, order in ((False, 3), (True, 4)):
        steps, errors = (0.02, 0.01, 0.005), []
        for h in steps:
            flow = PrincipalFlow(E, h, nonprincipal=term, tol=1e-13)
            path = gf.integrate(flow, theta, t=h, rtol=1e-13)
            errors.append(path.states[-1] - (theta - h * g))
        norms = [float(e.norm()) for e in errors]
        slopes = np.diff(np.log(norms)) / np.diff(np.log(steps))
        assert abs(slopes[-1] - order) < 0.1, slopes
        if not term:
            h = steps[-1]
            torch.testing.assert_close(
                errors[-1] / h**3, leading, rtol=0.05, atol=2e-2 * float(leading.abs().max())
            )


def test_frozen_is_the_gradient_descent_step_for_any_loss():
    E, theta, h = iris_at_the_edge()
    flow = PrincipalFlow(E, h, tol=1e-12)
    step = -h * E.grad(theta)
    assert (flow.frozen(theta, h) - theta - step).norm() <= 1e-11 * step.norm()


@pytest.mark.parametrize("size", [1e-3, 1e-2])
def test_field_at_complex_theta_against_a_linear_solve(size):
    E, theta, h = iris_at_the_edge()
    g = torch.Generator().manual_seed(1)
    theta = theta + 1j * size * torch.randn(E.dim, generator=g, dtype=f64)
    H, grad = E.hessian(theta).numpy(), E.grad(theta).numpy()
    values, vectors = np.linalg.eig(H)
    want = vectors @ (alpha(h * values) * np.linalg.solve(vectors, grad))
    for method in ("krylov", "dense"):
        got = PrincipalFlow(E, h, method=method, tol=1e-12).vector_field(theta).numpy()
        assert np.linalg.norm(got - want) <= 1e-10 * np.linalg.norm(want)
    # the formula of the paper, with unit eigenvectors and inner products, is not this field
    unit = vectors / np.linalg.norm(vectors, axis=0)
    for product in (unit.T @ grad, unit.conj().T @ grad):
        usual = unit @ (alpha(h * values) * product)
        assert np.linalg.norm(usual - want) > 1e-3 * np.linalg.norm(want)


def test_the_principal_cut_fails_where_ours_holds():
    """With numpy's cut the field jumps as soon as Im λ of a sharp direction changes its sign."""

    class UsualCut(PrincipalFlow):
        def vector_field(self, theta):
            H, grad = self.objective.hessian(theta).numpy(), self.objective.grad(theta).numpy()
            values, vectors = np.linalg.eig(H.astype(complex))
            x = self.lr * values
            field = vectors @ (np.log(1 - x) / x * np.linalg.solve(vectors, grad))
            return torch.from_numpy(field)

    E, theta, h = regression_at_the_edge()
    gd = gf.descend(E, theta, h, 8)
    budget = {"t": 8 * h, "rtol": 1e-6, "max_evaluations": 900}
    ours = gf.integrate(PrincipalFlow(E, h), theta, **budget)
    assert ours.cost["evaluations"] < 500
    error = float((ours.states[-1].real - gd.states[-1]).norm())
    try:
        usual = gf.integrate(UsualCut(E, h), theta, **budget)
    except IntegrationError:
        return
    assert float((usual.states[-1].real - gd.states[-1]).norm()) > 3 * error


def test_restarts_from_the_real_part():
    E, theta, h = regression_at_the_edge()
    gd = gf.descend(E, theta, h, 4)
    flow = PrincipalFlow(E, h)
    path = gf.integrate(flow, theta, times=gd.times, real_every=h)
    assert torch.equal(path.times, gd.times) and path.states.is_complex()
    again = gf.integrate(flow, path.states[1].real.contiguous(), t=h).states[-1]
    torch.testing.assert_close(path.states[2], again, rtol=1e-12, atol=1e-12)
    assert path.error.shape == path.times.shape and (path.error.diff() >= 0).all()
    own = gf.integrate(flow, theta, t=2.5 * h, real_every=h)  # the solver's own times
    assert own.times[-1] == pytest.approx(2.5 * h) and h in own.times.tolist()
    assert own.cost["evaluations"] < path.cost["evaluations"]
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="real_every"):
            gf.integrate(flow, theta, t=h, real_every=wrong)


def test_evaluations_a_step():
    """At 1e-6: at most 30 where the sharp direction is quiet, at most 60 where it oscillates."""
    net = gf.problems.mlp([64, 20, 10], "tanh", init="xavier", scale=0.3, seed=0, dtype=f64)
    E = gf.problems.classification("digits", net, n=200)
    h = 0.2
    gd = gf.descend(E, E.theta0, h, 301)
    for k, most in ((60, 30), (200, 60), (300, 60)):
        path = gf.integrate(PrincipalFlow(E, h), gd.states[k], t=h, rtol=1e-6)
        assert path.states.is_complex() and path.cost["evaluations"] <= most
        assert path.cost["hvps"] <= 30 * path.cost["evaluations"]  # at 1e-8, complex


# -- failures ------------------------------------------------------------------------------------


def test_a_loss_that_is_not_holomorphic():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 3, generator=g, dtype=f64), torch.randn(20, 1, generator=g, dtype=f64)
    net = gf.problems.mlp([3, 8, 1], "tanh", seed=0, dtype=f64)

    def loss(out, y):
        return (out - y).abs().pow(2).mean()

    E = gf.Objective.from_module(net, loss, (x, y))
    h = 2.5 / gf.probes.sharpness(E.at(E.theta0))
    with pytest.raises(InputError, match=r"not holomorphic.*r \* r"):
        gf.integrate(PrincipalFlow(E, h), E.theta0, t=h)


def test_a_krylov_space_or_a_budget_too_small():
    net = gf.problems.mlp([64, 8, 10], "tanh", seed=0, dtype=f64)
    E = gf.problems.classification("digits", net, n=50)
    flow = PrincipalFlow(E, 0.05, max_hvps=3, tol=1e-10)
    with pytest.raises(ConvergenceError, match=r"lr = 0.05.*3 Hessian-vector products"):
        gf.integrate(flow, E.theta0, t=0.05)
    with pytest.raises(IntegrationError, match="evaluations") as e:
        gf.integrate(PrincipalFlow(E, 0.05), E.theta0, t=5.0, real_every=0.05, max_evaluations=90)
    assert e.value.cause == "budget" and 0 < e.value.time < 5
    assert e.value.partial.times[-1] == pytest.approx(e.value.time)


def test_the_branch_cut_is_told_with_its_eigenvalue():
    # E = x⁴/4, h = 1: gradient descent lands on 0 in one step, where hλ = 0. Coming from hλ = 3
    # the logarithm cannot get there without a jump.
    E = gf.Objective(lambda x: (x**4).sum() / 4, dim=1)
    with pytest.raises(IntegrationError, match=r"branch cut.*hλ = .*real_every") as e:
        gf.integrate(PrincipalFlow(E, 1.0), torch.tensor([1.0], dtype=f64), t=1.0)
    assert e.value.cause == "obstacle" and 0.4 < e.value.time < 0.6
    x = e.value.partial.states[-1].item()
    assert abs((3 * x**2).real - 1) < 0.05 and (3 * x**2).imag > 1


def test_blow_up_is_told_with_its_time():
    E = gf.problems.quadratic([30.0, 0.5])
    with pytest.raises(IntegrationError, match="norm has grown") as e:
        gf.integrate(PrincipalFlow(E, 1.0), torch.ones(2, dtype=f64), t=30.0)
    assert e.value.cause == "blow-up"
    assert e.value.time == pytest.approx(np.log(1e12) / np.log(29), rel=0.1)


def test_bad_input():
    E, theta, h = singular_and_indefinite(0.5)
    with pytest.raises(InputError, match="method"):
        PrincipalFlow(E, h, method="magic")
    with pytest.raises(InputError, match="learning rate"):
        PrincipalFlow(E, -h)
    with pytest.raises(InputError, match="at least 0"):
        PrincipalFlow(E, h).frozen(theta, -1.0)
