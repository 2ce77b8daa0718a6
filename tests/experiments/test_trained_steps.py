"""The study of the step to a trained state: what switches, counted by hand."""

import numpy as np
import pytest
import torch

from gdflows import descend, problems
from gdflows.errors import InputError
from gdflows.experiments import STUDIES
from gdflows.experiments.trained_steps import RATIOS, trained_steps

SMALL = {"data": "digits", "n": 30, "lr": 0.05, "steps": 20, "every": 10}


@pytest.mark.parametrize("network", ["fc-linear", "fc-relu", "conv"])
def test_the_table(network):
    table = trained_steps(network=network, **SMALL)
    assert STUDIES["step-size-trained"] is trained_steps
    assert len(table) == 2 * len(RATIOS) * 3
    for _, run in table.groupby(["seed", "ratio"]):
        assert list(run["step"]) == [0, 10, 20] and run["loss"].is_monotonic_decreasing
        assert run["switched"].iloc[0] == run["apart"].iloc[0] == 0
    base = table[table["ratio"] == 1]
    assert (base["apart"] == 0).all() and (base["gap"] == 0).all()
    if network == "fc-linear":
        assert (table["pairs"] == 0).all() and (table["switched"] == 0).all()
    else:
        assert (table.loc[table["step"] == 20, "switched"] > 0).all()
    assert not np.allclose(*(run["loss"] for _, run in base.groupby("seed")))


def test_what_switched_is_counted_and_the_sharpness_is_a_hessians():
    table = trained_steps(network="fc-relu", **SMALL, seeds=1).set_index(["ratio", "step"])
    data = problems.load("digits", dtype=torch.float64).take(30)
    net = problems.mlp(
        [64, 50, 50, 10], "relu", bias=False, init="xavier", scale=0.5, dtype=torch.float64
    )
    E = problems.classification(data, net)
    ends = [descend(E, E.theta0, 0.05 / r, 20 * r).states[-1] for r in (1, 2)]

    def on(theta):
        w1, w2, _ = E.unflatten(theta).values()
        one = data.x_train.flatten(1) @ w1.T
        two = one.clamp(min=0) @ w2.T
        return torch.cat([one > 0, two > 0], 1)

    assert table.loc[(1, 20), "pairs"] == on(E.theta0).numel() == 3000
    assert table.loc[(1, 20), "switched"] == int((on(ends[0]) != on(E.theta0)).sum())
    assert table.loc[(2, 20), "apart"] == int((on(ends[0]) != on(ends[1])).sum())
    v = torch.randn(len(E.theta0), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for _ in range(200):
        v = E.hvp(ends[0], v)
        v = v / v.norm()
    sharpness = float(v @ E.hvp(ends[0], v))
    assert table.loc[(1, 20), "x"] == pytest.approx(0.05 * sharpness, rel=1e-3)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"network": "fc"}, "network must be"), ({"every": 21}, "every must be"),
     ({"seeds": 0}, "seeds must be")],
)  # fmt: skip
def test_what_cannot_be_used_is_named(wrong, words):
    with pytest.raises(InputError, match=words):
        trained_steps(**SMALL | wrong)
