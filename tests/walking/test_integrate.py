"""Flows against closed forms; error estimates; every way of failing."""

import math

import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError, IntegrationError, NonFiniteError

f64 = torch.float64
A = torch.diag(torch.tensor([1.0, 3.0], dtype=f64))
THETA = torch.tensor([1.0, 1.0], dtype=f64)


def bowl():
    return gf.Objective(lambda theta: 0.5 * theta @ A @ theta, dim=2)


@pytest.mark.parametrize("method", ["DOP853", "RK45", "Radau", "BDF", "LSODA"])
def test_ngf_on_a_quadratic(method):
    path = gf.integrate(gf.flows.NGF(bowl()), THETA, t=2.0, rtol=1e-8, atol=1e-8, method=method)
    want = torch.exp(-2.0 * torch.diag(A))
    # BDF controls its error most loosely: some hundred local tolerances add up
    torch.testing.assert_close(path.states[-1], want, rtol=0, atol=1e-6)


def test_igr_on_a_quadratic():
    h = 0.1
    path = gf.integrate(gf.flows.IGR(bowl(), lr=h), THETA, t=2.0, rtol=1e-12)
    rate = torch.diag(A) * (1 + h / 2 * torch.diag(A))
    torch.testing.assert_close(path.states[-1], torch.exp(-2 * rate), rtol=0, atol=1e-12)


def test_error_estimate_covers_the_error_and_is_not_idle():
    # A growing mode makes the global error exceed the sum of local ones; a decaying does not.
    for rtol in (1e-4, 1e-6, 1e-8):
        path = gf.integrate(gf.flows.NGF(bowl()), THETA, t=2.0, rtol=rtol)
        true = torch.linalg.vector_norm(
            path.states - torch.exp(-path.times[:, None] * torch.diag(A)), dim=1
        )
        assert (true <= path.error + 1e-15).all()
        assert 0 < path.error[-1] < 100 * rtol
    assert gf.integrate(gf.flows.NGF(bowl()), THETA, t=1.0, method="BDF").error is None


def test_states_at_the_times_asked_for():
    times = torch.linspace(0, 2, 41, dtype=f64)
    path = gf.integrate(gf.flows.NGF(bowl()), THETA, times=times, rtol=1e-9)
    assert torch.equal(path.times, times)
    want = torch.exp(-times[:, None] * torch.diag(A))
    torch.testing.assert_close(path.states, want, rtol=0, atol=1e-8)
    assert path.cost["gradients"] == path.cost["evaluations"] < 41 * 12


def test_complex_states():
    # dz/dt = -z from z = 1 + i
    E = gf.Objective(lambda z: 0.5 * (z * z).sum(), dim=1)
    z0 = torch.tensor([1.0 + 1.0j], dtype=torch.complex128)
    path = gf.integrate(gf.flows.NGF(E), z0, t=1.0, rtol=1e-11)
    torch.testing.assert_close(path.states[-1], z0 * math.exp(-1), rtol=0, atol=1e-10)


class Spring(gf.flows.Flow):
    """θ'' = -∇E as a flow with a velocity: the exact solution of a harmonic oscillator."""

    label = "spring"

    def companions(self, theta):
        return {"velocity": torch.zeros_like(theta)}

    def vector_field(self, theta):
        raise NotImplementedError

    def field(self, theta, velocity):
        return velocity, {"velocity": -self.objective.grad(theta)}


def test_companions_travel_with_theta():
    path = gf.integrate(Spring(bowl()), THETA, t=1.5, rtol=1e-11)
    w = torch.diag(A).sqrt()
    torch.testing.assert_close(path.states[-1], torch.cos(w * 1.5), rtol=0, atol=1e-9)
    torch.testing.assert_close(
        path.companions["velocity"][-1], -w * torch.sin(w * 1.5), rtol=0, atol=1e-9
    )
    assert path.companions["velocity"].shape == path.states.shape


def test_float32_stays_float32():
    path = gf.integrate(gf.flows.NGF(bowl_any()), THETA.float(), t=1.0, rtol=1e-5)
    assert path.states.dtype == torch.float32
    torch.testing.assert_close(
        path.states[-1], torch.exp(-torch.diag(A)).float(), atol=1e-5, rtol=0
    )


def bowl_any():
    return gf.Objective(lambda theta: 0.5 * (theta * A.diagonal().to(theta.dtype)) @ theta, dim=2)


def test_descend_is_gradient_descent():
    E = bowl()
    gd = gf.descend(E, THETA, lr=0.1, steps=20)
    k = torch.arange(21, dtype=f64)[:, None]
    torch.testing.assert_close(gd.states, (1 - 0.1 * torch.diag(A)) ** k, rtol=1e-13, atol=0)
    torch.testing.assert_close(gd.times, 0.1 * torch.arange(21, dtype=f64))
    assert {k: n for k, n in gd.cost.items() if n} == {"steps": 20, "gradients": 20}
    thin = gf.descend(E, THETA, lr=0.1, steps=20, every=7)
    assert thin.times.tolist() == pytest.approx([0, 0.7, 1.4, 2.0])
    torch.testing.assert_close(thin.states[-1], gd.states[-1])


@pytest.mark.parametrize(
    ("flow", "order"),
    [(lambda E, h: gf.flows.NGF(E), 2), (lambda E, h: gf.flows.IGR(E, lr=h), 3)],
)
def test_local_order_against_gradient_descent(net, flow, order):
    E, _ = net
    steps = torch.tensor([0.02, 0.04, 0.08])
    gaps = []
    for h in steps.tolist():
        path = gf.integrate(flow(E, h), E.theta0, t=h, rtol=1e-12)
        gaps.append(
            float(torch.linalg.vector_norm(path.states[-1] - E.theta0 + h * E.grad(E.theta0)))
        )
    slopes = torch.tensor(gaps).log().diff() / steps.log().diff()
    assert (slopes - order).abs().max() < 0.1


def test_trajectory_measures():
    gd = gf.descend(bowl(), THETA, lr=0.1, steps=5)
    flow = gf.integrate(gf.flows.NGF(bowl()), THETA, times=gd.times)
    d = gd.distance(flow)
    assert d.shape == (6,) and d[0] == 0 and (d[1:] > 0).all()
    by_hand = sum(float((a - b).norm()) for a, b in zip(gd.states[1:], gd.states, strict=False))
    assert float(gd.travelled[-1]) == pytest.approx(by_hand)
    with pytest.raises(InputError, match="different times"):
        gd.distance(gf.integrate(gf.flows.NGF(bowl()), THETA, t=0.5))


def test_probes_see_the_points(net):
    E, _ = net
    gd = gf.descend(E, E.theta0, lr=0.05, steps=3)
    E.reset_cost()
    table = gd.observe(
        E,
        gf.probes.loss,
        gf.probes.gradient_norm,
        gf.probes.sharpness,
        gf.probes.smallest_eigenvalue,
        gf.probes.layer_gradient_norms,
    )
    assert E.cost["gradients"] == 4  # shared by all probes
    assert list(table.index) == pytest.approx([0, 0.05, 0.1, 0.15])
    theta = gd.states[2]
    values = torch.linalg.eigvalsh(E.hessian(theta))
    row = table.iloc[2]
    assert row["loss"] == pytest.approx(float(E.value(theta)), rel=1e-14)
    assert row["sharpness"] == pytest.approx(float(values[-1]), rel=1e-12)
    assert row["smallest_eigenvalue"] == pytest.approx(float(values[0]), rel=1e-10)
    g = E.grad(theta)
    assert row["gradient_norm"] == pytest.approx(float(g.norm()), rel=1e-14)
    assert row["0.weight"] == pytest.approx(float(g[:15].norm()), rel=1e-14)
    with pytest.raises(InputError, match="layers"):
        gf.descend(bowl(), THETA, lr=0.1, steps=1).observe(bowl(), gf.probes.layer_gradient_norms)


# -- failures: cause, flow, words ------------------------------------------------------------------


def explode():  # dx/dt = x², to infinity at t = 1
    E = gf.Objective(lambda x: -(x**3).sum() / 3, 1)
    return gf.integrate(gf.flows.NGF(E), torch.ones(1, dtype=f64), t=2.0)


def off_the_domain():  # dx/dt = -1/x reaches 0 at t = ½
    E = gf.Objective(lambda x: torch.log(x).sum(), 1)
    return gf.integrate(gf.flows.NGF(E), torch.ones(1, dtype=f64), t=2.0)


def stiff():
    E = gf.Objective(lambda x: 5e4 * x[0] ** 2 + 0.5 * x[1] ** 2, 2)
    return gf.integrate(gf.flows.NGF(E), THETA, t=10.0, max_evaluations=2_000)


def budget():
    return gf.integrate(gf.flows.NGF(bowl()), THETA, t=100.0, rtol=1e-13, max_evaluations=100)


def runaway():
    E = gf.Objective(lambda x: (x**4).sum(), 2)
    return gf.descend(E, 10 * THETA, lr=0.1, steps=50)


FAILURES = {
    "blow-up": (explode, "blow-up", r"t = 1 \(of 2", 1.0),
    "non-finite loss": (off_the_domain, "non-finite", "loss is not finite", 0.5),
    "stiffness": (stiff, "stiffness", r"fastest rate is about 1e\+05", None),
    "budget": (budget, "budget", "Raise max_evaluations", None),
    "descent runs away": (runaway, "non-finite", r"beyond step \d", None),
}


@pytest.mark.parametrize("what", FAILURES)
def test_failures_name_time_norm_and_cause(what):
    run, cause, words, time = FAILURES[what]
    with pytest.raises(IntegrationError, match=words) as e:
        run()
    error = e.value
    assert error.cause == cause
    if time is not None:
        assert error.time == pytest.approx(time, abs=1e-4)
    # nothing is lost: the part before the failure is there, and finite
    assert len(error.partial) > 1
    assert torch.isfinite(error.partial.states[:-1]).all()


def test_a_stiff_flow_with_an_implicit_method():
    E = gf.Objective(lambda x: 5e4 * x[0] ** 2 + 0.5 * x[1] ** 2, 2)
    path = gf.integrate(gf.flows.NGF(E), THETA, t=10.0, method="Radau")
    assert abs(float(path.states[-1, 1]) - math.exp(-10)) < 1e-5
    assert path.cost["evaluations"] < 2_000


BAD = {
    "negative learning rate": (lambda: gf.flows.IGR(bowl(), lr=-0.1), "lr must be positive"),
    "learning rate nan": (lambda: gf.flows.IGR(bowl(), lr=math.nan), "lr must be positive"),
    "negative rate in descend": (lambda: gf.descend(bowl(), THETA, -1, 3), "lr must be positive"),
    "half a step": (lambda: gf.descend(bowl(), THETA, 0.1, 2.5), "whole number"),
    "every of zero": (lambda: gf.descend(bowl(), THETA, 0.1, 2, every=0), "every"),
    "flow of a function": (lambda: gf.flows.NGF(lambda x: x), "needs an Objective"),
    "neither t nor times": (lambda: gf.integrate(gf.flows.NGF(bowl()), THETA), "either t"),
    "negative time": (lambda: gf.integrate(gf.flows.NGF(bowl()), THETA, t=-1.0), "t must be"),
    "times not from zero": (
        lambda: gf.integrate(gf.flows.NGF(bowl()), THETA, times=[1.0, 2.0]),
        "increase from 0",
    ),
    "unknown method": (
        lambda: gf.integrate(gf.flows.NGF(bowl()), THETA, t=1.0, method="Euler"),
        "'Euler'",
    ),
    "tolerance too fine": (
        lambda: gf.integrate(gf.flows.NGF(bowl_any()), THETA.float(), t=1.0, rtol=1e-9),
        "use float64",
    ),
    "wrong length": (lambda: gf.integrate(gf.flows.NGF(bowl()), THETA[:1], t=1.0), "1 entries"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(what):
    make, words = BAD[what]
    with pytest.raises(InputError) as e:
        make()
    assert words in str(e.value)


def test_a_start_where_the_loss_is_not_finite():
    E = gf.Objective(lambda x: torch.log(x).sum(), 2)
    with pytest.raises(NonFiniteError, match="not finite"):
        gf.integrate(gf.flows.NGF(E), -THETA, t=1.0)


@pytest.mark.parametrize(("progress", "shown"), [(None, False), (False, False), (True, True)])
def test_progress_is_shown_when_asked_for(progress, shown, capsys):
    # tests have no terminal, so unasked there is none
    gf.descend(bowl(), THETA, lr=0.1, steps=5, progress=progress)
    gf.integrate(gf.flows.NGF(bowl()), THETA, t=1.0, progress=progress)
    error = capsys.readouterr().err
    assert ("GD" in error and "NGF" in error) == shown


@pytest.mark.parametrize("method, order", [("euler", 1), ("rk4", 4)])
def test_fixed_steps_have_their_order_and_land_on_times(method, order):
    E = gf.problems.quadratic(torch.tensor([3.0, 1.0], dtype=torch.float64))
    start = torch.ones(2, dtype=torch.float64)
    times, errors = [0.0, 0.35, 1.0], []
    for step in (0.1, 0.05, 0.025):
        path = gf.integrate(gf.flows.NGF(E), start, times=times, method=method, step=step)
        assert path.times.tolist() == times
        assert path.error is None
        exact = torch.exp(-torch.tensor(times)[:, None] * torch.tensor([3.0, 1.0]))
        errors.append(float((path.states - exact.to(path.states)).abs().max()))
    slopes = np.diff(np.log(errors)) / np.log(0.5)
    np.testing.assert_allclose(slopes, order, atol=0.4)


def test_euler_with_step_h_is_gradient_descent():
    E = gf.problems.banana()
    path = gf.integrate(gf.flows.NGF(E), E.theta0, t=0.01, method="euler", step=0.001)
    torch.testing.assert_close(
        path.states, gf.descend(E, E.theta0, 0.001, 10).states, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"method": "euler"}, "which need it"),
        ({"step": 0.1}, "belongs to the methods"),
        ({"method": "rk4", "step": -1.0}, "step must be positive"),
    ],
)
def test_fixed_steps_want_a_step(settings, words):
    E = gf.problems.banana()
    with pytest.raises(InputError, match=words):
        gf.integrate(gf.flows.NGF(E), E.theta0, t=1.0, **settings)


@pytest.mark.parametrize("rtol", [1e-4, 1e-6, 1e-9, 1e-11])
def test_states_at_times_are_within_the_tolerance_where_the_fast_part_rests(rtol):
    """There DOP853's own interpolant is off by up to fifty thousand times the tolerance."""
    E = gf.problems.valley(0.3, 43.0)
    start, times = torch.tensor([1.3, 38.0], dtype=f64), torch.arange(101, dtype=f64) * 0.043
    exact = gf.integrate(gf.flows.NGF(E), start, times=times, method="Radau", rtol=1e-9)
    path = gf.integrate(gf.flows.NGF(E), start, times=times, rtol=rtol)
    late = times > 1
    assert exact.states[late, 0].abs().max() < 1e-11  # at rest, but for the end of the transient
    loose = 5 if rtol > 1e-10 else 50  # the steps themselves are as far off as that
    assert path.states[late, 0].abs().max() < loose * rtol * 9


def test_a_flow_without_a_fast_part_is_interpolated():
    flow = gf.flows.NGF(gf.problems.quadratic([1.0, 3.0]))
    fine = torch.linspace(0, 1, 1001, dtype=f64)
    path = gf.integrate(flow, torch.ones(2, dtype=f64), times=fine, rtol=1e-9)
    exact = torch.exp(-fine[:, None] * torch.tensor([1.0, 3.0], dtype=f64))
    torch.testing.assert_close(path.states, exact, rtol=0, atol=1e-8)
    assert path.cost["evaluations"] < 300


def test_rounding_is_not_taken_for_a_fast_rate():
    """Where two stages agree to the last digits their slopes tell nothing."""
    E = gf.problems.banana(1.0, 100.0)
    start = torch.tensor([0.7, 0.43], dtype=f64)
    h = 0.7 / gf.probes.sharpness(E.at(start))
    times = torch.arange(13, dtype=f64) * h
    path = gf.integrate(gf.flows.IGR(E, h), start, times=times, rtol=1e-8)
    assert path.cost["evaluations"] < 1000
