"""The Fundamental Theorem's bound along a path, against closed forms and a path in the open."""

import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError

f64 = torch.float64


def pair(E, start, h, steps):
    gd = gf.descend(E, start, lr=h, steps=steps)
    return gd, gf.integrate(gf.flows.NGF(E), start, times=gd.times, rtol=1e-11, atol=1e-13)


def test_on_a_concave_parabola_the_bound_is_sharp():
    m, h, steps = 1.0, 0.01, 200
    E = gf.problems.concave(m)
    seen = gf.drift_bound(E, *pair(E, E.theta0, h, steps))
    t = h * np.arange(steps + 1)
    y0 = float(E.theta0)
    gap = y0 * (np.exp(m * t) - (1 + h * m) ** np.arange(steps + 1))
    np.testing.assert_allclose(seen["gap"], np.abs(gap), atol=1e-9)
    np.testing.assert_allclose(seen["concavity"], m, rtol=1e-9)
    np.testing.assert_allclose(seen["rate"][1:], m, rtol=1e-6)
    # L = m, γ = m θ_k: the theorem's integral is h m² t y0 e^{mt} / 2 to leading order
    assert 1 < seen["bound"].iloc[-1] / gap[-1] < 1.03
    np.testing.assert_allclose(seen["bound"], seen["posterior"], rtol=1e-9)
    assert (seen["crude"] * (1 + 1e-12) >= seen["bound"]).all()


def test_on_a_bowl_errors_shrink_at_the_least_curvature_at_least():
    E = gf.problems.quadratic([1.0, 3.0])
    seen = gf.drift_bound(E, *pair(E, E.theta0, 0.1, 30))
    np.testing.assert_allclose(seen["concavity"], -1.0, rtol=1e-9)
    np.testing.assert_allclose(seen["smoothness"], 3.0, rtol=1e-9)
    assert seen["rate"][1:].between(-3, -1).all() and np.isnan(seen["rate"].iloc[0])
    assert (seen["gap"] <= seen["posterior"]).all()
    room = 1 + 1e-12
    assert (seen["posterior"] <= room * seen["bound"]).all()
    assert (seen["bound"] <= room * seen["crude"]).all()


@pytest.mark.parametrize("every", [1, 7])
def test_it_holds_on_a_network_and_the_rate_met_is_close(every):
    net = gf.problems.mlp([4, 4, 3], "tanh", init="xavier", scale=0.3, seed=1, dtype=f64)
    E = gf.problems.classification("iris", net)
    gd, flow = pair(E, E.theta0, 0.1, 60)
    seen = gf.drift_bound(E, gd, flow, every=every)
    for bound in ("posterior", "bound", "crude"):
        assert (seen["gap"] <= seen[bound]).all(), bound
    assert (seen["rate"][1:] <= seen["concavity"][1:] + 1e-3).all()
    assert (seen["defect"] <= seen["smoothness"] * seen["gradient"] * 1.001).all()
    assert 1 <= seen["met"].iloc[-1] / seen["gap"].iloc[-1] < 5
    low = torch.linalg.eigvalsh(E.hessian(flow.states[-1]))[0]
    assert seen["concavity"].iloc[-1] >= -float(low) - 1e-6


def test_what_does_not_belong_together_is_refused():
    E = gf.problems.quadratic([1.0, 3.0])
    gd, flow = pair(E, E.theta0, 0.1, 20)
    rare = gf.descend(E, E.theta0, lr=0.1, steps=20, every=3)
    with pytest.raises(InputError, match="different times"):
        gf.drift_bound(E, rare, flow)
    same = gf.integrate(gf.flows.NGF(E), E.theta0, times=rare.times)
    with pytest.raises(InputError, match="every=1"):
        gf.drift_bound(E, rare, same)
    elsewhere = gf.integrate(gf.flows.NGF(E), E.theta0 + 1, times=gd.times)
    with pytest.raises(InputError, match="apart"):
        gf.drift_bound(E, gd, elsewhere)
    with pytest.raises(InputError, match="points"):
        gf.drift_bound(E, gd, flow, points=1)


def test_another_method_or_flow_is_refused():
    """The theorem is about gradient descent and the gradient flow; of others it would lie."""
    E = gf.problems.quadratic([1.0, 3.0])
    gd, flow = pair(E, E.theta0, 0.1, 10)
    heavy = gf.descend(E, E.theta0, lr=0.1, steps=10, momentum=0.5)
    with pytest.raises(InputError, match="not plain gradient descent"):
        gf.drift_bound(E, heavy, flow)
    with pytest.raises(InputError, match="not plain gradient descent"):
        gf.drift_bound(gf.problems.quadratic([1.0, 2.0]), gd, flow)
    igr = gf.integrate(gf.flows.IGR(E, 0.1), E.theta0, times=gd.times)
    with pytest.raises(InputError, match="path of 'IGR'"):
        gf.drift_bound(E, gd, igr)
