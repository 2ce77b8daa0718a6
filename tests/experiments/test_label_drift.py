"""The study of drift by noisy labels: a small instance, by hand in parts."""

import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError
from gdflows.experiments import STUDIES
from gdflows.experiments.label_drift import _network, label_drift, trace
from gdflows.flows import LabelNoise

SMALL = {"n": 4, "hidden": 4, "paths": 8, "settle": 16, "steps": 16}


def test_rows_and_what_they_hold():
    table = label_drift(**SMALL, ways="labels,batches,epochs", rates="0.2,0.1", unit="trace",
                        size=0.2, seeds=2)
    assert STUDIES["label-drift"] is label_drift
    assert len(table) == 2 * 3 * 2 and table.notna().all(axis=None)
    assert ((table.lr * table.trace - table.rate).abs() < 1e-12).all()
    assert (table.sharpness < table.trace).all() and (table.error > 0).all()
    told = table[["sgd", "order_1", "order_2"]]
    assert (told < 0).all(axis=None)
    assert (table.sgd < table.order_1).all()  # fresh noise swings wider than the equation's
    swing = table.set_index(["way", "seed", "rate"]).swing
    assert (swing["epochs"] < 0.3 * swing["batches"]).all()


def test_its_start_is_a_minimum_whose_trace_is_the_hessians():
    E, test = _network("wine", 4, 4, 0, "cpu")
    noise = LabelNoise(E, 0.01)
    start = noise.fitted(gf.descend(E, E.theta0, 0.05, 200, every=200).states[-1])
    assert float(E.grad(start).norm()) < 1e-12
    torch.testing.assert_close(trace(noise, start[None])[0], E.hessian(start).trace())
    row = label_drift(**SMALL).iloc[0]
    assert row.trace == pytest.approx(float(E.hessian(start).trace()))
    assert row.lr * row.sharpness == pytest.approx(1.5)
    assert 0.2 * row.test_before < float(test.value(start)) < 5 * row.test_before


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"ways": "labels,both"}, "Unknown way"),
        ({"rates": "fast"}, "rates must be"),
        ({"unit": "norm"}, "unit must be"),
        ({"size": 0.0}, "size"),
        ({"n": 2, "data": "wine", "ways": "epochs", "settle": 3}, "An epoch has 4 steps"),
    ],
)
def test_what_cannot_be_used_is_named(wrong, words):
    with pytest.raises(InputError, match=words):
        label_drift(**SMALL | wrong)
