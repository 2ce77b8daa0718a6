"""Heavy ball and Nesterov's method as mechanics, and their principal flow."""

import math

import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows.curvature.function import RoundingError
from gdflows.errors import InputError, SingularityError
from gdflows.flows import (
    HeavyBall,
    InertialFlow,
    MomentumPrincipalFlow,
    Nesterov,
    VanishingFriction,
    multipliers,
    swinging,
)
from gdflows.optim import thresholds
from gdflows.walking import accelerate

f64 = torch.float64
KINDS = pytest.mark.parametrize("nesterov", [False, True], ids=["heavy-ball", "Nesterov"])
LOSSES = {
    "cosh": (gf.problems.cosh(), torch.tensor([1.5], dtype=f64)),
    "banana": (gf.problems.banana(1.0, 2.0), torch.tensor([-0.5, 0.8], dtype=f64)),
}


def torch_step(E, theta, v, h, beta, nesterov):
    """One step of torch's own optimiser from a place and a buffer."""
    p = torch.nn.Parameter(theta.clone())
    optimizer = torch.optim.SGD([p], lr=h, momentum=beta, nesterov=nesterov)
    optimizer.state[p]["momentum_buffer"] = v.clone()
    p.grad = E.grad(p.detach())
    optimizer.step()
    return p.detach(), optimizer.state[p]["momentum_buffer"]


def slopes(errors):
    return np.diff(np.log(errors)) / np.log(0.5)


@KINDS
@pytest.mark.parametrize(("E", "theta"), LOSSES.values(), ids=LOSSES)
def test_half_a_step_ahead_it_is_of_second_order(E, theta, nesterov):
    """In the limit s → 0 of fixed friction; with the states themselves of first order."""
    gamma, errors = 0.7, {"iterates": [], "states": []}
    for n in (160, 320):
        s = 2.0 / n
        beta = math.exp(-gamma * s)
        h = s**2 * (1 - beta) / (gamma * s)
        flow = InertialFlow(E, h, beta=beta, nesterov=nesterov)
        assert (flow.step, flow.friction) == pytest.approx((s, gamma))
        end = gf.descend(E, theta, h, n, momentum=beta, nesterov=nesterov)
        path = gf.integrate(flow, theta, times=[0.0, n * h], rtol=1e-12)
        errors["iterates"].append(float((flow.iterates(path)[-1] - end.states[-1]).norm()))
        errors["states"].append(float((path.states[-1] - end.states[-1]).norm()))
    assert slopes(errors["iterates"])[0] == pytest.approx(2, abs=0.1)
    assert slopes(errors["states"])[0] == pytest.approx(1, abs=0.1)


def test_energy_falls_by_what_friction_takes():
    E, theta = LOSSES["banana"]
    flow = InertialFlow(E, 0.01, beta=0.9)
    path = gf.integrate(flow, theta, times=np.linspace(0, 0.2, 2001), rtol=1e-10)
    energy, v = flow.energy(path), path.companions["velocity"]
    assert bool((energy.diff() <= 0).all())
    lost = flow.friction * v.pow(2).sum(1) * flow.step / flow.lr
    expected = energy[0] - torch.trapezoid(lost, path.times)
    assert float(energy[-1]) == pytest.approx(float(expected), rel=1e-5)


def test_vanishing_friction_is_the_bessel_function():
    """On ½λθ² the solution is 2 J₁(τ√λ)/(τ√λ), and the method follows it to first order."""
    from scipy.special import j1

    lam, errors = 4.0, []
    E = gf.problems.quadratic([lam])
    for n in (100, 200):
        h = (3.0 / n) ** 2
        path = gf.integrate(VanishingFriction(E, h), E.theta0, times=[0.0, n * h], rtol=1e-11)
        assert float(path.companions["clock"][-1]) == pytest.approx(3.0)
        x = 3.0 * lam**0.5
        assert float(path.states[-1]) == pytest.approx(2 * j1(x) / x, rel=1e-7)
        end = accelerate(E, E.theta0, h, n).states[-1]
        errors.append(float((end - path.states[-1]).norm()))
    assert slopes(errors)[0] == pytest.approx(1, abs=0.1)


@KINDS
@pytest.mark.parametrize("beta", [0.25, 0.9])
def test_multipliers_and_edge_are_those_of_torch(nesterov, beta):
    h, edge = 0.1, (thresholds.nesterov if nesterov else thresholds.heavy_ball)(beta)
    kind, zero, one = {"beta": beta, "nesterov": nesterov}, torch.zeros(1).double(), torch.ones(1)
    one = one.double()
    first = swinging(beta, nesterov=nesterov)
    for x in (-1.0, 0.3 * first, 2 * first, 0.5 * edge, 0.999 * edge, edge, 1.001 * edge):
        E = gf.problems.quadratic([x / h])
        columns = [
            torch.cat(torch_step(E, *start, h, beta, nesterov))
            for start in ((one, zero), (zero, one))
        ]
        exact = np.sort_complex(np.linalg.eigvals(torch.stack(columns, 1).numpy()))
        ours = np.sort_complex(np.array(multipliers(x, **kind)).ravel())
        np.testing.assert_allclose(ours, exact, rtol=1e-11, atol=1e-11)
        radius = max(abs(exact))
        assert radius == pytest.approx(1, abs=1e-12) if x == edge else x < 0 or (
            (radius > 1) == (x > edge)
        )
    assert complex(multipliers(edge, **kind)[0]) == pytest.approx(-1, abs=1e-14)
    assert complex(multipliers(0.0, **kind)[0]) == 1
    assert abs(np.subtract(*multipliers(first, **kind))) < 1e-7  # root of the rounding


@KINDS
def test_principal_flow_passes_through_the_iterates_of_a_quadratic(nesterov):
    beta, h = 0.5, 0.1
    first = swinging(beta, nesterov=nesterov)
    E = gf.problems.quadratic(torch.tensor([-0.3, 1e-9, 0.2, 0.9], dtype=f64) * first / h)
    flow = MomentumPrincipalFlow(E, h, beta=beta, nesterov=nesterov)
    gd = gf.descend(E, E.theta0, h, 100, momentum=beta, nesterov=nesterov)
    path = gf.integrate(flow, E.theta0, times=gd.times, rtol=1e-11)
    assert path.distance(gd)[1] > 1e-3  # not in the transient
    missed = path.distance(gd) / gd.states.norm(dim=1)  # along the negative curvature it grows
    assert float(missed[60:].max()) < 1e-9


@KINDS
def test_where_iterates_swing_they_are_twice_the_real_part(nesterov):
    beta, h = 0.5, 0.1
    E = gf.problems.quadratic([2 * swinging(beta, nesterov=nesterov) / h])
    flow = MomentumPrincipalFlow(E, h, beta=beta, nesterov=nesterov)
    gd = gf.descend(E, E.theta0, h, 20, momentum=beta, nesterov=nesterov)
    start, _ = flow.start(E.theta0)
    assert start.is_complex()
    still = MomentumPrincipalFlow(E, h, beta=beta, nesterov=nesterov, from_rest=False)
    path = gf.integrate(still, start, times=gd.times, rtol=1e-11)
    torch.testing.assert_close(2 * path.states.real, gd.states, rtol=1e-8, atol=1e-9)


@KINDS
def test_where_roots_meet_there_is_no_start(nesterov):
    beta, h = 0.5, 0.1
    meeting = swinging(beta, nesterov=nesterov) / h
    # at the meeting the shift is infinite; a hair beside it rounding would decide
    for part in (1.0, 1 + 1e-14):
        E = gf.problems.quadratic([part * meeting])
        flow = MomentumPrincipalFlow(E, h, beta=beta, nesterov=nesterov)
        with pytest.raises((SingularityError, RoundingError)):
            flow.start(E.theta0)


@KINDS
def test_series_sums_to_the_principal_flow(nesterov):
    kind, h = Nesterov if nesterov else HeavyBall, 0.1
    E = gf.problems.quadratic(torch.tensor([-0.1, 0.1], dtype=f64) * swinging(0.5) / h)
    flow = MomentumPrincipalFlow(E, h, beta=0.5, nesterov=nesterov)
    series = kind(E, h, beta=0.5, order=7)
    torch.testing.assert_close(
        series.vector_field(E.theta0), flow.vector_field(E.theta0), rtol=1e-6, atol=1e-10
    )
    starts = (flow.start(E.theta0)[0] for flow in (series, flow))
    torch.testing.assert_close(*starts, rtol=1e-6, atol=0)


def test_without_momentum_the_principal_flow_is_the_known_one():
    E, theta = LOSSES["banana"]
    expected = gf.flows.PrincipalFlow(E, 0.05).vector_field(theta)
    for nesterov in (False, True):
        flow = MomentumPrincipalFlow(E, 0.05, beta=0.0, nesterov=nesterov)
        torch.testing.assert_close(flow.vector_field(theta), expected, rtol=1e-10, atol=1e-10)
        assert torch.equal(flow.start(theta)[0], theta)


def test_the_double_root_has_no_slow_part():
    E = gf.problems.quadratic([swinging(0.25) / 0.1])  # (1 − ½)² = ¼ exactly
    with pytest.raises(SingularityError):
        MomentumPrincipalFlow(E, 0.1, beta=0.25).start(E.theta0)


REFUSED = {
    "no inertia": (lambda E: InertialFlow(E, 0.1, beta=0.0), "use NGF"),
    "momentum of one": (lambda E: InertialFlow(E, 0.1, beta=1.0), r"beta must be in \[0, 1\)"),
    "not a number": (lambda E: InertialFlow(E, 0.1, beta=math.nan), "beta must be a finite"),
    "friction": (lambda E: VanishingFriction(E, 0.1, friction=0.0), "friction must be positive"),
    "alone": (lambda E: InertialFlow(E, 0.1).vector_field(E.theta0), "use field"),
    "principal": (lambda E: MomentumPrincipalFlow(E, 0.1, beta=-1), r"beta must be in \[0, 1\)"),
    "method": (lambda E: MomentumPrincipalFlow(E, 0.1, method="magic"), "method must be one of"),
    "roots": (lambda E: multipliers(1.0, 1.5), r"beta must be in \[0, 1\)"),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_inertia_refuses(make, words):
    with pytest.raises(InputError, match=words):
        make(LOSSES["banana"][0])
