"""The study of the step: small instances on the digits, which need no download."""

import numpy as np
import pytest

from gdflows.errors import InputError
from gdflows.experiments import STUDIES
from gdflows.experiments.step_size import RATIOS, step_size

SMALL = {"data": "digits", "n": 50, "lr": 0.01, "steps": 20, "every": 5}


@pytest.mark.parametrize("network", ["fc-linear", "fc-relu", "conv"])
def test_the_same_times_from_the_same_start(network):
    table = step_size(network=network, **SMALL)
    assert STUDIES["step-size"] is step_size
    assert sorted(table["ratio"].unique()) == [1, *RATIOS]
    for _, run in table.groupby("ratio"):
        assert list(run["step"]) == [0, 5, 10, 15, 20]
        np.testing.assert_allclose(run["t"], [0, 0.05, 0.1, 0.15, 0.2], atol=1e-12)
        assert run["distance"].iloc[0] == run["gap"].iloc[0] == 0
        assert run["loss"].is_monotonic_decreasing
        # the straight distance is at most the length of the path
        assert (run["distance"] <= run["travelled"] * (1 + 1e-12)).all()
    assert (table.loc[table["ratio"] == 1, "gap"] == 0).all()


def test_gaps_are_first_order():
    # The run at h is C h from the flow and that at h/r is C h / r: the gap goes as 1 - 1/r.
    table = step_size(network="fc-linear", **SMALL)
    last = table[table["step"] == 20].set_index("ratio")["gap"]
    constants = [last[r] / (1 - 1 / r) for r in RATIOS]
    assert constants[0] > 1e-4
    np.testing.assert_allclose(constants, constants[0], rtol=0.02)


def test_a_seed_fixes_the_table():
    one, same = (step_size(**SMALL) for _ in range(2))
    other = step_size(**SMALL, seed=1)
    assert one.equals(same) and not one.equals(other)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"network": "fc"}, "network must be"),
        ({"every": 21}, "every must be"),
        ({"dtype": "float16"}, "dtype must be"),
    ],
)
def test_what_cannot_be_used_is_named(wrong, words):
    with pytest.raises(InputError, match=words):
        step_size(**SMALL | wrong)
