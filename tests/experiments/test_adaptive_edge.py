"""The study adaptive-edge, on its smallest network."""

import pytest

from gdflows.errors import InputError
from gdflows.experiments.adaptive_edge import run

SMALL = {"widths": "2", "n": 20, "wait": 5, "steps": 4, "every": 2}


@pytest.mark.parametrize("optimizer", ["gd", "rmsprop", "rmsprop-scalar", "adam"])
def test_every_model_has_its_rows(optimizer):
    table = run(**SMALL, optimizer=optimizer, lr=1e-2)
    assert set(table.model) == {"optimizer", "central", "rod", "rod 1", "stable"}
    for name, own in table.groupby("model"):
        assert list(own.step) == [0, 2, 4]
        assert (own.loss > 0).all() and (own.ratio > 0).all()
        if name != "optimizer":
            assert (own.failure == "").all() and (own.gradients > 0).all()
            # started at the same centre, or from the iterate beside it
            assert own.centre_error.iloc[0] < 0.1
    assert table.moved[table.step == 4].min() > 0


def test_the_stable_flow_costs_eight_gradients_a_step():
    table = run(**SMALL, models="stable")
    own = table[table.model == "stable"]
    # 2 substeps of 4 evaluations in each of 4 steps; start and first evaluation
    assert own.gradients.iloc[0] == 2 * 4 * 4 + 2


@pytest.mark.parametrize(
    "change, words",
    [({"models": "rods"}, "Unknown model"), ({"wait": 2}, "wait"), ({"every": 9}, "every must")],
    ids=["model", "wait", "every"],
)
def test_bad_input(change, words):
    with pytest.raises(InputError, match=words):
        run(**SMALL | change)
