"""The study of fixed rates and DAL-p, against the formulas."""

import numpy as np
import pytest
import torch

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


def test_a_run_ends_at_its_loss_and_looks_around_there():
    config = SHORT | {"rates": "0.5", "powers": "1", "steps": 40, "rows": 8}
    plain = carry_out("drift-rates", config)
    losses = plain[plain.method == "fixed"].loss.to_numpy()
    until = float(losses[5])
    table = carry_out("drift-rates", config | {"until": until, "slices": 2})
    run = table[table.method == "fixed"]
    first = int(np.argmax(losses <= until))
    assert list(run.step) == [5 * k for k in range(first + 1)]  # and no step more
    np.testing.assert_array_equal(run.loss, losses[: first + 1])
    ends = run.iloc[[0, -1]]
    assert np.isfinite(ends.sharpness).all()
    # The loss around the start by hand: rows of the weights moved by their own length.
    what = task("digits-ce", judged=1000)
    network = what.network(0)
    x, y = what.data.x_train[:1000], what.data.y_train[:1000]
    generator, drawn = torch.Generator().manual_seed(0), []
    for _ in range(2):
        drawn.append([])
        for p in network.parameters():
            d = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)
            d = 0 * p if p.ndim < 2 else d * (p.norm(dim=1) / d.norm(dim=1))[:, None]
            drawn[-1].append(d.detach())
    start = [p.detach().clone() for p in network.parameters()]
    for r in (0.25, 0.5, 1):
        seen = []
        for direction in drawn:
            for sign in (-r, r):
                with torch.no_grad():
                    for p, old, d in zip(network.parameters(), start, direction, strict=True):
                        p.copy_(old + sign * d)
                    seen.append(float(what.loss(network(x), y)))
        assert ends.iloc[0][f"around_{r:g}"] == pytest.approx(sum(seen) / 4, rel=1e-5)
    columns = [f"around_{r:g}" for r in (0.25, 0.5, 1)]
    assert np.isfinite(ends[columns]).all(axis=None)
    assert run[columns].iloc[1:-1].isna().all(axis=None)
    assert not set(columns) & set(plain)


def test_arguments_are_checked():
    with pytest.raises(InputError, match="rates must be numbers"):
        carry_out("drift-rates", SHORT | {"rates": "a"})
    with pytest.raises(InputError, match="at least 1"):
        carry_out("drift-rates", SHORT | {"rows": 0})
    with pytest.raises(InputError, match="not be negative"):
        carry_out("drift-rates", SHORT | {"until": -0.1})
