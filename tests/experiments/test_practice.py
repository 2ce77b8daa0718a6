"""The study of a training run and of what may be asked of it, in small."""

import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError
from gdflows.experiments.practice import Course, practice

SMALL = {"batch": 8, "steps": 20, "every": 10, "measured": 16, "warmup": 4, "lr": 0.01,
         "horizons": "2-5", "stretch": 2, "wrong": "0.5-4"}  # fmt: skip


@pytest.mark.parametrize(("data", "network"), [("numerals-8", "gpt"), ("digits", "conv")])
def test_the_table(data, network):
    table = practice(data=data, network=network, at="20", **SMALL)
    run = table[table.part == "run"]
    assert run.step.tolist() == [10, 20]
    assert np.isfinite(run[["train", "loss", "ratio"]]).all(axis=None)
    rate = table[table.part == "rate"].set_index("what")
    assert len(rate) == 10 and set(rate.index) >= {"2:0.25", "5:4"}
    assert rate.gain["2:1"] == 0 and rate.error["5:1"] == 0
    gain = rate.loss["5:1"] - rate.loss["5:4"]
    assert rate.gain["5:4"] == pytest.approx(gain, rel=1e-6, abs=1e-6)
    spike = table[table.part == "spike"].set_index("what")
    assert list(spike.index) == ["none", "labels", "padding", "rate 0.5", "rate 4"]
    assert spike.before.nunique() == 1  # one state
    assert (spike.least <= spike.most).all() and (spike.plain <= spike.share)[spike.rise > 0].all()
    look = table[table.part == "look"].iloc[0]
    assert look.edge == pytest.approx(38 * (1 - 0.9**20), rel=0.01)
    assert look.noise_scale > 0 and look.suggested > 0


def test_trying_leaves_the_run_alone():
    asked = practice(data="numerals-8", at="10", **SMALL)
    plain = practice(data="numerals-8", at="", **SMALL)
    asked = asked[asked.part == "run"].dropna(axis=1).reset_index(drop=True)
    assert asked.equals(plain.reset_index(drop=True)[asked.columns])


def test_a_step_has_one_batch_and_a_broken_one_is_broken():
    course = Course(gf.problems.load("digits"), 8, seed=3)
    for one, other in zip(course.batch(7), course.batch(7), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(course.batch(7)[0], course.batch(8)[0])
    x, y = course.broken("labels", 7)
    assert torch.equal(x, course.batch(7)[0]) and torch.equal(y, (course.batch(7)[1] + 1) % 10)
    x, y = course.broken("padding", 7)
    assert not x.any() and not y.any()
    assert [len(x) for x, _ in course.held_out()] == [8] * 8


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"optimizer": "lion"}, "optimizer is one of"),
        ({"data": "wine"}, "reads a text in sequences"),
        ({"data": "numerals-8", "network": "conv"}, "sees images"),
        ({"data": "diabetes"}, "no classes"),
        ({"data": "iris", "steps": 5, "at": "6"}, "beyond the run"),
        ({"steps": 0}, "at least 1"),
    ],
    ids=lambda x: "-".join(f"{k}={v}" for k, v in x.items()) if isinstance(x, dict) else "",
)
def test_what_cannot_be_is_refused(changed, words):
    with pytest.raises(InputError, match=words):
        practice(**{"at": ""} | changed)
