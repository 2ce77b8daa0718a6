"""The study of the constrained trajectory, in small."""

import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError
from gdflows.experiments.constrained import constrained

SMALL = {"lr": 0.22, "steps": 3}


def test_the_table():
    table = constrained(**SMALL)
    parts = {name: rows.set_index("step") for name, rows in table.groupby("model")}
    assert set(parts) == {
        "GD", "constrained", "predicted", "two numbers", "self-stabilisation", "central", "NGF",
    }  # fmt: skip
    assert all(list(rows.index) == [0, 1, 2, 3] for rows in parts.values())
    gd, said, held = parts["GD"], parts["predicted"], parts["constrained"]
    assert (gd.x > 2).all() and (held.x - 2).abs().max() < 1e-5
    assert said.distance[0] == 0 and said.swing[0] == gd.swing[0] and said.height[0] == gd.height[0]
    assert (said.swing * said.swing.shift(1)).dropna().max() < 0  # from wall to wall
    assert parts["two numbers"].swing[1] == pytest.approx(said.swing[1], rel=1e-4)
    # what the table calls gradient descent
    settings = {"init": "xavier", "scale": 0.5, "seed": 0, "dtype": torch.float64}
    net = gf.problems.mlp([64, 16, 10], "tanh", **settings)
    E = gf.problems.classification("gratings", net, n=60)
    k = int(gd.began.iloc[0]) + 2
    states = gf.descend(E, E.theta0, 0.22, k + 1).states[k - 1 :]
    left, here, right = (float(E.value(theta)) for theta in states)
    assert gd.loss[2] == pytest.approx((left + 2 * here + right) / 4, rel=1e-6)
    swing = (states[0] - 2 * states[1] + states[2]).norm() / 4
    assert gd.oscillation[2] == pytest.approx(float(swing), rel=1e-4)


def test_bad_input():
    with pytest.raises(InputError, match="Unknown model 'rod'"):
        constrained(models="rod")
    with pytest.raises(InputError, match="at least 1"):
        constrained(steps=0)
    with pytest.raises(InputError, match="raise limit or lr"):
        constrained(limit=3)
