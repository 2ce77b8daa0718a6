"""The study of flows past the edge, in small."""

import pytest

from gdflows.errors import InputError
from gdflows.experiments.edge_models import edge_models

SMALL = {"data": "digits", "widths": "6", "n": 60, "scale": 0.4, "lr": 0.1, "start": 60, "every": 5}


def test_table():
    table = edge_models(**SMALL, steps=15, models="NGF, central,rod,principal rod 1", rtol=1e-6)
    gd = table[table.model == "GD"]
    assert list(gd.step) == [0, 5, 10, 15]
    assert (gd.x > 0).all() and gd.moved.iloc[0] == 0 and gd.moved.is_monotonic_increasing
    for name, seen in table[table.model != "GD"].groupby("model"):
        assert list(seen.step) == [0, 5, 10, 15], name
        assert (seen.failure == "").all() and (seen.gradients > 0).all()
    end = table[table.step == 15].set_index("model")
    # started on the slow manifold and one order better
    assert end.centre_error["principal rod 1"] < end.centre_error["rod"] / 20
    assert end.centre_error["principal rod 1"] < end.centre_error["NGF"] / 20
    assert abs(end.loss_error["principal rod 1"]) < abs(end.loss_error["NGF"]) / 5


BAD = {
    "models": ({"models": "rod,tod"}, "Unknown model 'tod'"),
    "every": ({"steps": 7}, "every must divide"),
    "start": ({"start": 0}, "start must be"),
    "network": ({"network": "rnn", "steps": 5}, "network must be"),
    "dtype": ({"dtype": "float16", "steps": 5}, "dtype must be"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(what):
    change, words = BAD[what]
    with pytest.raises(InputError, match=words):
        edge_models(**SMALL | change)
