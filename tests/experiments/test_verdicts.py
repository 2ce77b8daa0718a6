"""The study of whether what is foreseen of a run's models comes true, in small."""

import math

import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError
from gdflows.experiments.training_loss import training_loss
from gdflows.experiments.verdicts import _crossing, _lasted, looks, run

SMALL = {"n": 20, "steps": 4, "paths": 4}


def test_the_table():
    table = run(**SMALL, cases="0.01@5,0.01@5/5/0.5")
    assert list(table.case.unique()) == ["0.01@5", "0.01@5/5/0.5"]
    assert set(table.situation) == {"full batch", "batches, momentum"}
    full = table[table.case == "0.01@5"].set_index(["model", "step"])
    E = training_loss("mlp", "6", "tanh", 1.0, "gratings", 20, 0, "cpu")
    theta = gf.descend(E, E.theta0, 0.01, 5).states[-1]
    gd = gf.descend(E, theta, 0.01, 4).states
    flow = gf.integrate(gf.flows.NGF(E), theta, times=[0, 0.04], rtol=1e-9).states[-1]
    wanted = float((flow - gd[-1]).norm() / (gd[-1] - theta).norm())
    assert full.error["NGF", 4] == pytest.approx(wanted, rel=1e-4)
    seen = gf.validity(E, theta, 0.01, steps=4)
    said = seen.curves.set_index(["model", "step"]).error
    for model, step in full.index:
        assert full.foreseen[model, step] == pytest.approx(said[model, step], rel=1e-5)
    assert (full.until <= full.known).all()
    noisy = table[table.case != "0.01@5"]
    assert set(noisy.model) == {"NGF", "SDE 1", "SDE 2"}  # rods with momentum are asked for
    assert np.isfinite(noisy.error).all()


def test_looks():
    assert looks(10, 4) == [1, 2, 3, 4, 5, 8, 10]
    assert looks(1, 1) == [1]


def test_when_the_edge_is_met_and_how_long_the_flow_lasts():
    # The valley ½yx² + ½κ(y − y*)²: without a swing y goes to y* as gradient descent's factor says
    kappa, h, y = 0.2, 0.05, 30.0
    E = gf.problems.valley(kappa=kappa, y_star=44.0)
    path = gf.descend(E, torch.tensor([1e-3, y], dtype=torch.float64), h, 600)
    exact = math.log((44 - 40) / (44 - y)) / math.log(1 - h * kappa)
    assert _crossing(E, path.states, h, 2.0) == pytest.approx(exact, abs=0.5)
    assert _crossing(E, path.states[:50], h, 2.0) == math.inf
    lasted = _lasted(E, path, 1, 0.05)
    # until the swing has grown to a twentieth of what is travelled: well after the edge
    away = (path.states[:, 0].abs() / (path.states - path.states[0]).norm(dim=1))[1:]
    grown = 1 + int(torch.nonzero((away > 0.05) & (path.times[1:] > h * exact))[0])
    assert exact < lasted == pytest.approx(grown, abs=3)
    assert _lasted(E, gf.descend(E, path.states[0], h, 20), 1, 0.05) == math.inf


def test_bad_input():
    for case in ("0.1", "x@3", "0.1@3/a", "0.1@3/4/0.5/6"):
        with pytest.raises(InputError, match="A case is"):
            run(cases=case)
    with pytest.raises(InputError, match="only 20 samples"):
        run(**SMALL, cases="0.05@2/21")
