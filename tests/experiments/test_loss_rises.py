"""The study of the steps in which the loss rises, in small."""

import numpy as np
import pytest

import gdflows as gf
from gdflows.errors import InputError
from gdflows.experiments.loss_rises import _walk, loss_rises


def test_on_a_parabola_all_is_exact():
    h, curvatures = 0.1, [21.0, 4.0]
    E = gf.problems.quadratic(curvatures)
    rows = _walk(E, h, 0, 3, 5, 1e-6)
    theta = E.theta0.numpy()
    for row in rows:
        g = np.array(curvatures) * theta
        x = h * np.array(curvatures)
        energies = np.array(curvatures) * theta**2 / 2
        assert row["x"] == pytest.approx(2.1, rel=1e-5)
        assert row["product"] == pytest.approx(abs(g[0]), rel=1e-4)
        assert row["change"] == pytest.approx(energies @ ((1 - x) ** 2 - 1), rel=1e-4)
        assert row["discrete"] == pytest.approx(row["change"], rel=1e-4)
        assert row["principal"] == pytest.approx(
            h * np.sum(np.log(abs(1 - x)) / x * g**2), rel=1e-4
        )
        theta = theta - h * g


def test_the_table():
    table = loss_rises(
        tasks="tanh:mse:0.2,elu:mse:0.3", widths="8", n=60, seeds=2, first=1, steps=3
    )
    assert set(table.task) == {"tanh:mse:0.2", "elu:mse:0.3"} and set(table.seed) == {0, 1}
    first = table.groupby(["task", "seed"]).head(1)
    assert (first.x > 2).all() and (table.groupby(["task", "seed"]).size() == 3).all()
    assert loss_rises(tasks="tanh:mse:0.001", n=20, first=0, limit=1).empty
    with pytest.raises(InputError, match="activation:loss:h"):
        loss_rises(tasks="tanh")
