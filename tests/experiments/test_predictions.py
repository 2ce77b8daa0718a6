"""The studies of prediction, in small; and every recorded run, once more from its beginning."""

import os

import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows import runs
from gdflows.errors import DataError, InputError
from gdflows.experiments import STUDIES, repeat
from gdflows.experiments.predictions import _predict, _steps, along_u0, one_step

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


STUDIED = [name for name in runs.available() if "study" in runs.load(name).config]


@pytest.mark.parametrize("name", STUDIED)
def test_recorded_run_begins_as_it_did(name):
    run = runs.load(name)
    data = run.config.get("data") or run.config["name"]
    at_hand = data.startswith(("digits", "deep-linear", "mlp-regression", "conv-batches"))
    if not at_hand and "GDFLOWS_DATA" not in os.environ:
        pytest.skip("set GDFLOWS_DATA to a folder that holds the data; a test downloads nothing")
    try:
        both = repeat(run)
    except DataError as e:
        pytest.skip(f"the run's data are not here: {e}")
    assert len(both) > 0
    columns = [c for c in both.columns if not c.endswith("_recorded")]
    for column in columns:
        now, then = both[column].to_numpy(), both[f"{column}_recorded"].to_numpy()
        # Errors of a prediction are differences of close numbers, at the solver's tolerance.
        loose = "error" in column or column in ("gap", "oscillation")
        rtol = 1e-2 if loose else 1e-6
        if run.config.get("dtype") == "float32" and run.config["study"] == "eos":
            rtol = 1e-4  # single precision, summed in another order
        if run.config["study"] == "trial":
            rtol = 1e-2  # single precision too, over some tens of steps
        if column in ("x", "x0", "x1"):
            rtol = 1e-4  # eigenvalues, asked for to that accuracy
        if column == "ratio" or column.startswith("eigenvalue"):
            rtol = 2 * run.config["tol"]  # both are within that of the truth
        if column in ("residual", "hvps"):
            continue  # they tell how the solver got there
        # A solver's tolerance is relative to θ, whose norm is some tens.
        atol = max(1e-9, 100 * run.config.get("rtol", 0.0)) if loose else 1e-9
        np.testing.assert_allclose(now, then, rtol=rtol, atol=atol, err_msg=f"{name}: {column}")


def test_a_run_of_an_unknown_study_or_of_other_rows_is_refused():
    run = runs.load(STUDIED[0])
    with pytest.raises(InputError, match="no study of this version"):
        repeat(runs.Run(run.name, run.config | {"study": "gone"}, run.table, run.environment))
    short = {"study": "along-u0", **SMALL, "at": "2:4"}
    table = along_u0(**SMALL, at="5")
    with pytest.raises(InputError, match="holds no row"):
        repeat(runs.Run("short", short, table, run.environment))
    assert set(STUDIES) >= {"one-step", "along-u0", "step-size", "edge-models"}
