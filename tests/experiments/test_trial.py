"""Tasks, contestants, the trial, and how it is read."""

import itertools
import math

import pandas as pd
import pytest
import torch

import gdflows as gf
from gdflows.errors import DataError, InputError
from gdflows.experiments import trial
from gdflows.experiments.trial import contestants
from gdflows.experiments.trial.study import draw
from gdflows.experiments.trial.tasks import TASKS, task
from gdflows.runs import Log

OFFLINE = [name for name in TASKS if name.startswith(("deep", "mlp-r", "digits", "conv"))]


@pytest.mark.parametrize("name", OFFLINE)
def test_a_task_is_the_same_for_a_seed(name):
    what = task(name)
    pairs = [list(itertools.islice(what.batches(seed), 40)) for seed in (3, 3, 4)]
    for (x, y), (u, v) in zip(*pairs[:2], strict=True):
        assert torch.equal(x, u) and torch.equal(y, v)
        assert len(x) == (what.batch or len(what.data.x_train))
    if what.batch:
        assert not torch.equal(pairs[0][0][0], pairs[2][0][0])
    one, two, other = (what.judge(what.network(seed)) for seed in (3, 3, 4))
    assert one == two != other
    assert one > what.target
    right = what.accuracy(what.network(0))
    assert math.isnan(right) if what.data.y_test.is_floating_point() else 0 <= right <= 1


def test_an_epoch_sees_every_sample_once():
    what = task("digits-batches")
    n = len(what.data.x_train) // what.batch
    seen = torch.cat([x for x, _ in itertools.islice(what.batches(0), n)]).flatten(1)
    assert len(seen) == n * what.batch
    assert len(torch.unique(seen, dim=0)) >= len(seen) - 2  # the digits have hardly any doubles


def test_unknown_names():
    with pytest.raises(InputError, match="no task 'mnist'"):
        task("mnist")
    with pytest.raises(InputError, match="Unknown method 'adam'"):
        contestants.entries("adamw,adam")
    with pytest.raises(InputError, match="write name=value"):
        contestants.entries("dal:0.5")
    with pytest.raises(InputError, match="dal:q=1"):
        trial.trial(Log(), name="deep-linear", methods="dal:q=1", seeds=1, stop=1)
    with pytest.raises(InputError, match="at least 1"):
        trial.trial(Log(), seeds=0)


def test_entries():
    assert contestants.entries("dal:p=0.5:hvp=difference") == [
        ("dal:p=0.5:hvp=difference", "dal", {"p": 0.5, "hvp": "difference"})
    ]
    assert contestants.entries("adamw:lr=0.01/0.1:eps=1e-6") == [
        ("adamw:eps=1e-6", "adamw", {"eps": 1e-6, "lr": rate}) for rate in (0.01, 0.1)
    ]
    swept = contestants.entries("sgd, cdat")
    assert [s["lr"] for _, _, s in swept[:-1]] == list(contestants.SGD_RATES)
    assert swept[-1] == ("cdat", "cdat", {})


def test_a_plain_contestant_is_torch_s_own_loop():
    what = task("digits-ce")
    table = trial.trial(
        Log(), name="digits-ce", methods="adamw-cosine:lr=0.01", seeds=1, rows=100, stop=12
    )
    network = what.network(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, what.steps)
    x, y = what.data.x_train, what.data.y_train
    losses = []
    for _ in range(13):
        loss = what.loss(network(x), y)
        losses.append(float(loss))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    assert list(table.judged) == pytest.approx([losses[k] for k in table.step], rel=1e-4)
    assert table.gradients.iloc[-1] == 12 and table.hvps.iloc[-1] == 0


def test_each_contestant_makes_steps():
    pytest.importorskip("schedulefree")
    pytest.importorskip("prodigyopt")
    methods = ",".join(
        f"{name}:lr={c.rates[2]}" if c.rates else name
        for name, c in contestants.CONTESTANTS.items()
    )
    table = trial.trial(Log(), name="digits-batches", methods=methods, seeds=1, stop=40)
    last = table.groupby("method").judged.last()
    assert len(last) == len(contestants.CONTESTANTS)
    # Prodigy begins with a learning rate of 1e-6.
    assert (last.drop("prodigy") < 2.2).all(), last
    assert last["prodigy"] < 2.31


def test_a_missing_peer_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "prodigyopt", None)
    with pytest.raises(DataError, match=r"gdflows\[trial\]"):
        trial.trial(Log(), name="deep-linear", methods="prodigy", seeds=1, stop=1)


def test_full_batch_reports_the_step_of_the_target_and_the_true_sharpness():
    table = trial.trial(Log(), name="digits-ce", methods="adaeos", seeds=1, rows=10, stop=60)
    what = task("digits-ce")
    hit = table[table.reached]
    assert len(hit) == 1 and hit.judged.item() <= what.target
    assert (table[table.step < hit.step.item()].judged > what.target).all()
    # Its own estimate, one product old at least, against an exact eigenvalue.
    early = table[(table.step > 0) & (table.step <= hit.step.item())]
    assert (early.true_sigma / early.sigma).between(0.5, 2).mean() > 0.6
    assert (table.microseconds.diff().dropna() > 0).all()


def test_divergence_ends_a_run():
    table = trial.trial(
        Log(), name="deep-linear", methods="sgd:lr=2.0,adamw:lr=0.01", seeds=1, rows=20, stop=120
    )
    ends = table.groupby("method").step.max()
    assert ends["adamw"] == 120 > ends["sgd"]
    final = trial.reached(table).set_index("method").final
    assert not final["sgd"] < 1e3 * table.judged.iloc[0] and final["adamw"] < 20


def test_a_trial_broken_off_goes_on(tmp_path):
    config = {"study": "trial", "name": "deep-linear", "methods": "adamw:lr=0.01,adaeos,cdat",
              "seeds": 2, "stop": 60}  # fmt: skip
    arguments = {k: v for k, v in config.items() if k != "study"}
    whole = trial.trial(Log(), **arguments)

    class Stop(Exception):
        pass

    class Broken(Log):
        def checkpoint(self, step, state, *, now=False):
            super().checkpoint(step, state, now=True)
            if step == 3:
                raise Stop

    with pytest.raises(Stop):
        trial.trial(Broken(tmp_path, config), **arguments)
    rest = trial.trial(Log(tmp_path, config), **arguments)
    apart = ["microseconds"]
    pd.testing.assert_frame_equal(whole.drop(columns=apart), rest.drop(columns=apart))


def rows(method, lr, seed, steps, target, each=10):
    """A run that reaches its target at a step, at 0.01 s a step."""
    return [
        {"method": method, "lr": lr, "seed": seed, "step": k, "judged": 1 / (k + 1),
         "gradients": k, "hvps": 2 * k, "microseconds": 10_000 * k, "reached": k == target,
         "accuracy": 0.9 if k == steps else math.nan}
        for k in sorted({*range(0, steps + 1, each), *([target] if target else [])})
    ]  # fmt: skip


def test_how_a_trial_is_read():
    table = pd.DataFrame(
        rows("a", 0.1, 0, 100, 80) + rows("a", 0.2, 0, 100, 30) + rows("a", 0.5, 0, 100, None)
        + rows("a", 0.1, 1, 100, 90) + rows("a", 0.2, 1, 100, 50) + rows("a", 0.5, 1, 100, 7)
        + rows("a", 0.1, 2, 100, 85) + rows("a", 0.2, 2, 100, 40) + rows("a", 0.5, 2, 100, None)
        + rows("b", 0.0, 0, 100, 25) + rows("b", 0.0, 1, 100, None) + rows("b", 0.0, 2, 100, 20)
    )  # fmt: skip
    best = trial.standing(table)
    assert list(best.index) == ["b", "a"]
    assert (best.lr["a"], best.step["a"], best.hvps["a"], best.failed["a"]) == (0.2, 40, 80, 0)
    assert (best.least["a"], best.most["a"]) == (30, 50)
    assert (best.step["b"], best.failed["b"], best.most["b"]) == (25, 1, math.inf)
    assert best.accuracy["a"] == 0.9
    sweep = trial.sweep_seconds(table, "a")
    # seed 0: 0.8, then 0.3, then given up after 0.3; seed 1: 0.9 + 0.5 + 0.07
    assert sweep[0] == pytest.approx(1.4) and sweep[1] == pytest.approx(1.47)
    with pytest.raises(InputError, match="no method 'c'"):
        trial.sweep_seconds(table, "c")


def test_a_trial_is_drawn(tmp_path):
    import matplotlib.pyplot as plt

    table = pd.DataFrame(rows("a", 0.1, 0, 100, 80) + rows("b", 0.0, 0, 100, 20))
    figure = plt.figure()
    draw(figure, [gf.runs.Run("short", {"study": "trial"}, table, {})])
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["b", "a"]
    assert sorted(float(line.get_xdata()[0]) for line in ax.lines) == [20, 80]
    plt.close(figure)
