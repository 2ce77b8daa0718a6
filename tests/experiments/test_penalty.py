"""The study of the explicit penalty: small instances on the digits."""

import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError
from gdflows.experiments import STUDIES
from gdflows.experiments.penalty import gradient_penalty

SMALL = {"n": 40, "hidden": 5, "time": 0.8, "every": 0.4, "rates": "0.04,0.08", "seeds": 2,
         "penalties": "0.08,0.4"}  # fmt: skip


def test_its_rows_and_distances():
    table = gradient_penalty(**SMALL)
    assert STUDIES["gradient-penalty"] is gradient_penalty
    assert len(table) == 2 * 5 * 3 and set(table["t"]) == {0.0, 0.4, 0.8}
    assert (table.query("t == 0")["moved"] == 0).all()
    assert (table.query("method == 'GD' and size == 0.01")["moved"] == 0).all()
    assert table.query("size == 0.08 and method == 'penalty'")["apart"].notna().all()
    assert table.query("size == 0.4")["apart"].isna().all()
    last = table.query("t == 0.8").set_index(["seed", "method", "size"])
    for seed in (0, 1):  # the explicit penalty is nearer to the larger step than the small one is
        assert last.loc[(seed, "penalty", 0.08), "apart"] < last.loc[(seed, "GD", 0.08), "moved"]


def test_a_run_is_euler_on_the_igr_field():
    table = gradient_penalty(**SMALL | {"seeds": 1})
    net = gf.problems.mlp([64, 5, 10], "tanh", seed=0, dtype=torch.float64)
    E = gf.problems.classification("digits", net, n=40)
    flow, theta = gf.flows.IGR(E, lr=0.4 - 0.01), E.theta0
    for _ in range(80):
        theta = theta + 0.01 * flow.vector_field(theta)
    row = table.query("method == 'penalty' and size == 0.4").iloc[-1]
    assert row["loss"] == pytest.approx(float(E.value(theta)), rel=1e-10)
    assert row["sharpness"] == pytest.approx(gf.probes.sharpness(E.at(theta)), rel=1e-5)
    E.write(theta)
    data = gf.problems.load("digits", dtype=torch.float64)
    x = torch.cat([data.x_train[40:], data.x_test])
    right = net(x).argmax(1) == torch.cat([data.y_train[40:], data.y_test])
    np.testing.assert_allclose(row["test"], 100 * float(right.double().mean()), rtol=1e-12)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"rates": "0.03"}, "multiple of each step"),
        ({"time": 1.0}, "divide the time"),
        ({"penalties": "strong"}, "penalties must be numbers"),
    ],
)
def test_what_cannot_be_used_is_named(wrong, words):
    with pytest.raises(InputError, match=words):
        gradient_penalty(**SMALL | wrong)
