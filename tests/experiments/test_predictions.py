"""The studies of prediction, in small."""

import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError
from gdflows.experiments.predictions import (
    _each,
    _predict,
    _steps,
    along_u0,
    each_step,
    one_step,
)

SMALL = {"data": "digits", "scale": 0.3, "widths": "6", "n": 60, "lr": 0.15}


def test_one_step_table():
    table = one_step(**SMALL, at="5,40", truncation="derivatives", rtol=1e-6)
    gd = table[table["model"] == "GD"]
    assert list(gd["step"]) == [0, 1, 2] and gd["error"].isna().all()
    assert (gd["change"].to_numpy()[:-1] == np.diff(gd["loss"])).all()
    for _, group in table[table["model"] != "GD"].groupby("step"):
        error = group.set_index("model")["error"]
        assert len(error) == 8 and (error > 0).all()
        assert error["NGF"] > error["order 5"] > 0 and error["NGF"] > error["PF"]
        cost = group.set_index("model")["contractions"]
        assert cost["NGF"] == 0 < cost["IGR"] < cost["order 5"]


def test_a_flow_that_cannot_be_followed_is_told():
    E = gf.Objective(lambda x: (x**4).sum() / 4, dim=1)  # hλ falls from 3 to 0 in one step
    start, end = torch.ones(1).double(), torch.zeros(1).double()
    failed = _predict(gf.flows.PrincipalFlow(E, 1.0), start, end, 0.0, 1.0, 1e-6)
    assert failed == {"failure": "obstacle"}
    E = gf.problems.quadratic([1.0, 2.0])
    start, end = torch.ones(2).double(), -torch.ones(2).double()
    failed = _predict(gf.flows.PrincipalFlow(E, 1.0), start, end, 0.0, 1.0, 1e-6)
    assert failed == {"failure": "SingularityError"}
    followed = _predict(
        gf.flows.NGF(E), torch.ones(2).double(), -torch.ones(2).double(), 0, 1, 1e-6
    )
    assert set(followed) >= {"error", "loss_error", "evaluations"}


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_along_u0(network):
    table = along_u0(**SMALL | {"network": network, "widths": "6"}, at="3:9:2")
    assert list(table["step"]) == [3, 5, 7]
    assert (table["product"] >= 0).all() and (table["x"] >= table["x1"]).all()
    # with a short step the gradient along u₀ shrinks as 1 - hλ₀ says
    short = along_u0(**SMALL | {"network": network, "widths": "6", "lr": 1e-3}, at="0:5:2")
    np.testing.assert_allclose(short["after"] / short["product"], 1 - short["x"], atol=2e-4)


def test_steps():
    assert _steps("3,1:7:2,10:12") == [1, 3, 5, 10, 11]
    assert _steps("") == []
    for wrong in ("a", "1:2:3:4", "-1", "1:5:0"):
        with pytest.raises(InputError, match="at must"):
            _steps(wrong)
    with pytest.raises(InputError, match="network must be"):
        one_step(network="rnn")


def test_each_step_on_a_parabola():
    """Both flows are exponentials there, the sharpness stands still, and no cubic term is left."""
    h, curvatures = 0.1, np.array([21.0, 4.0])
    E = gf.problems.quadratic(torch.tensor(curvatures))
    theta = torch.tensor([-0.3, 1.0], dtype=torch.float64)
    after, x = theta - h * E.grad(theta), h * curvatures
    row = _each(E, h, theta, after, [gf.curvature.Tracker(E, tol=1e-8) for _ in range(4)])
    energies = curvatures * theta.numpy() ** 2 / 2
    assert row["product"] == pytest.approx(6.3) and row["x"] == pytest.approx(2.1)
    assert row["after"] == pytest.approx(-1.1 * 6.3) and row["cubic"] == 0
    assert row["change"] == pytest.approx(energies @ ((1 - x) ** 2 - 1))
    assert row["down"] == pytest.approx(energies @ (np.exp(-2 * x) - 1), rel=2e-3)
    assert row["up"] == pytest.approx(energies @ (np.exp(2 * x) - 1), rel=1e-2)
    for name in ("x_change", "x_down", "x_up"):
        assert row[name] == pytest.approx(0, abs=1e-6)


def test_each_step_s_table():
    table = each_step(n=40, at="3:6", seeds=2)
    assert list(table["step"]) == [3, 4, 5] * 2 and list(table["seed"]) == [0] * 3 + [1] * 3
    one = table[table["seed"] == 0]
    np.testing.assert_allclose(one["change"][:-1], np.diff(one["loss"]), rtol=1e-9)
    np.testing.assert_allclose(one["x_change"][:-1], np.diff(one["x"]), atol=1e-5)
    # with a short step the cubic term is the error of 1 − hλ₀
    short = each_step(n=40, at="3:6", lr=0.002)
    error = short["after"] - (1 - short["x"]) * short["product"]
    np.testing.assert_allclose(error, short["cubic"], rtol=0.1)
    with pytest.raises(InputError, match="seeds"):
        each_step(seeds=0)
