"""The study of fixed rates and DAL-p, against the formulas."""

import pytest

import gdflows as gf
from gdflows.errors import InputError
from gdflows.experiments import carry_out
from gdflows.experiments.trial.tasks import task

SHORT = {"name": "digits-ce", "steps": 20, "rows": 2, "seeds": 1}


def test_rates_updates_and_drift_are_what_the_formulas_say():
    table = carry_out("drift-rates", SHORT | {"rates": "0.2", "powers": "0.5,1", "cap": 3.0})
    what = task("digits-ce", judged=1000)
    network = what.network(0)
    E = gf.Objective.from_module(network, what.loss, (what.data.x_train, what.data.y_train))
    point = E.at(E.theta0)
    g = point.grad
    curved = float((point.hvp(g)).norm())
    bend = curved / float(g.norm())
    first = table[table.step == 0].set_index(["method", "value"])
    assert list(first.index) == [("fixed", 0.2), ("dal", 0.5), ("dal", 1.0)]
    for (method, value), row in first.iterrows():
        h = value if method == "fixed" else min(2 / bend**value, 3.0)
        assert row.rate == pytest.approx(h, rel=1e-3)
        assert row["update"] == pytest.approx(h * float(g.norm()), rel=1e-3)
        assert row.drift == pytest.approx(h**2 / 2 * curved, rel=1e-3)
        assert row.sharpness == pytest.approx(
            float(gf.curvature.top_eigenpairs(E, E.theta0, tol=1e-4).values[0]), rel=2e-2
        )
    assert sorted(table.step.unique()) == [0, 10, 20]
    # The fixed rate is gradient descent.
    theta = gf.descend(E, E.theta0, 0.2, 20, every=20).states[-1]
    last = table[(table.method == "fixed") & (table.step == 20)].iloc[0]
    assert last.loss == pytest.approx(float(E.value(theta)), rel=1e-3)
    E.write(theta)
    right = (network(what.data.x_test).argmax(1) == what.data.y_test).double().mean()
    assert last.accuracy == pytest.approx(float(right), abs=1e-2)


def test_minibatches_momentum_and_divergence():
    table = carry_out(
        "drift-rates",
        SHORT | {"name": "digits-mse", "batch": 50, "rates": "0.1,100", "powers": "1",
                 "momentum": 0.9, "scale": 0.5},
    )  # fmt: skip
    assert table[table.step == 0].loss.nunique() == 1
    ends = table.groupby(["method", "value"]).tail(1).set_index(["method", "value"]).loss
    assert ends["fixed", 0.1] < table.loss.iloc[0] and ends["dal", 1.0] < table.loss.iloc[0]
    assert ends["fixed", 100.0] == float("inf")


def test_arguments_are_checked():
    with pytest.raises(InputError, match="rates must be numbers"):
        carry_out("drift-rates", SHORT | {"rates": "a"})
    with pytest.raises(InputError, match="at least 1"):
        carry_out("drift-rates", SHORT | {"rows": 0})
