"""Runs and study of the tuned trial, against torch's own loops and dense matrices."""

import dataclasses
import inspect
import io
import math
import re

import pandas as pd
import pytest
import torch

import gdflows as gf
from gdflows.errors import DataError, InputError
from gdflows.experiments import repeat
from gdflows.experiments.registry import carry_out
from gdflows.experiments.trial import entrants, plan, results, suite, targets, tuned
from gdflows.experiments.trial.course import Course
from gdflows.problems.data import at_hand
from gdflows.runs import Log

SMALL = {"task": "digits", "methods": "adamw,adaeos-free", "tuning": 1.0, "seeds": 1, "looks": 8}


def course(name="digits-ce", method="adamw", seed=0, stop=60, settings=None, **options):
    what = suite.suite_task(name)
    network = what.network(seed)
    chosen = settings or {"lr": 0.01}
    made = entrants.ENTRANTS[method].make(network, what, **chosen)
    run = Course(what, network, made, seed, stop=stop, **options)
    return what, run, pd.DataFrame(run.carry_out())


def test_the_target_is_found_to_the_step():
    what, run, rows = course(stop=300, looks=6)
    network = what.network(0)
    adam = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=0.0)
    x, y = what.data.x_train, what.data.y_train
    losses = []
    for _ in range(301):
        loss = what.loss(network(x), y)
        losses.append(float(loss.detach()))
        adam.zero_grad()
        loss.backward()
        adam.step()
    first = next(k for k, loss in enumerate(losses) if loss <= what.target)
    hit = rows[rows.reached]
    assert len(hit) == 1 and hit.step.item() == first == run.reached_at
    assert hit.gradients.item() == first and first not in range(0, 301, 50)
    every = rows.set_index("step").judged
    assert every.to_numpy() == pytest.approx([losses[k] for k in every.index], rel=1e-3)
    assert {0, 1, 5, 100, 200, 300, first} == set(every.index)
    assert rows.microseconds.is_monotonic_increasing and rows.step.is_monotonic_increasing


def test_a_search_s_run_ends_at_the_target_and_elsewhere_it_goes_on():
    _, run, rows = course(stop=300, to_target=True)
    assert rows.step.max() == run.reached_at < 300 and rows.accuracy.isna().all()
    _, _, whole = course(stop=300)
    assert whole.step.max() == 300 and 0 < whole.accuracy.iloc[-1] <= 1
    _, _, short = course(stop=300, settings={"lr": 0.01, "decay": "linear", "horizon": 0.1})
    assert short.step.max() == 30  # at rest from there on
    _, _, lost = course("deep-linear", "sgd", stop=200, settings={"lr": 2.0})
    assert lost.step.max() < 200 and not lost.judged.iloc[-1] < 1e3 * lost.judged.iloc[0]


def test_the_error_of_a_judged_loss():
    what = suite.suite_task("digits")
    network = what.network(1)
    mean, error = what.measure(network)
    x, y = what.data.x_test, what.data.y_test
    with torch.no_grad():
        each = torch.nn.functional.cross_entropy(network(x), y, reduction="none").double()
    assert mean == pytest.approx(float(each.mean()), rel=1e-5)
    # From the spread of twenty parts: as exact as a variance of twenty numbers.
    assert 0.5 < error / float(each.std() / len(each) ** 0.5) < 1.6
    full = suite.suite_task("digits-mse")
    assert full.measure(full.network(0))[1] == 0


@pytest.mark.parametrize("method", ["adamw", "adaeos-free"])
def test_the_true_edge_is_that_of_a_dense_matrix(method):
    """On all samples and on the batch, with minibatches, for a network small enough."""
    what = dataclasses.replace(
        suite.suite_task("digits"), network=lambda seed: gf.problems.mlp((64, 3, 10), seed=seed)
    )
    network = what.network(0)
    made = entrants.ENTRANTS[method].make(
        network, what, **({"lr": 0.01} if method == "adamw" else {"rho": 0.8})
    )
    run = Course(what, network, made, 0, stop=12)
    run.carry_out()
    x, y = next(what.batches(3))
    found = run._edge(x, y)
    names = [n for n, _ in network.named_parameters()]
    values = tuple(p.detach() for p in network.parameters())
    edge = gf.optim.stability_edge(made.inner)
    root = gf.optim.preconditioner(made.inner, network.parameters()).sqrt()
    for column, data in (("true_sigma", what.for_edge()), ("batch_sigma", (x, y))):

        def loss(theta, data=data):
            parts = theta.split([v.numel() for v in values])
            shaped = {n: p.view_as(v) for n, p, v in zip(names, parts, values, strict=True)}
            return what.loss(torch.func.functional_call(network, shaped, data[0]), data[1])

        theta = torch.cat([v.reshape(-1) for v in values])
        dense = torch.func.hessian(loss)(theta)
        top = float(torch.linalg.eigvalsh(root[:, None] * dense * root)[-1])
        assert found[column] == pytest.approx(top / edge, rel=1e-3), column
    assert found["true_sigma"] != found["batch_sigma"]


def test_edges_are_looked_at_where_they_are_known():
    _, _, rows = course("digits", stop=50, edges=True)
    seen = rows[rows.true_sigma.notna()]
    assert list(seen.step) == [12, 25, 50] and (seen.true_sigma > 0).all()
    assert rows.groupby("step").size().max() <= 2  # a target may fall on a look
    pytest.importorskip("prodigyopt")
    for method in ("muon", "prodigy"):
        settings = {"lr": 0.01} if method == "muon" else {"d_coef": 1.0}
        _, _, rows = course("digits", method, stop=25, settings=settings, edges=True)
        assert rows.true_sigma.isna().all()


def test_where_a_run_has_gone_off_there_is_no_edge():
    what, run, _ = course("digits-mse", "momentum", stop=1)
    torch.nn.utils.vector_to_parameters(
        torch.full((sum(p.numel() for p in run.network.parameters()),), 1e30),
        run.network.parameters(),
    )
    found = run._edge(*next(what.batches(0)))
    assert set(found) == {"true_sigma", "batch_sigma"}
    assert all(math.isnan(value) for value in found.values())


# -- the study -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    return tuned.tuned_trial(Log(), **SMALL)


def test_a_trial_searches_and_judges(small):
    assert set(small.part) == {"sweep", "search", "tuned", "default"}
    assert set(small.seed[small.part.isin(("sweep", "search"))]) == {1000}
    for method in ("adamw", "adaeos-free"):
        best = results.winner(small, method)
        told = small[(small.method == method) & (small.part == "tuned")]
        usual = entrants.label(entrants.ENTRANTS[method].default(True))
        assert set(told.setting) == ({best} if best != usual else set())
        assert results.at_end(small, method) == []
    keys = ["method", "part", "setting", "seed", "step"]
    assert not small.duplicated([*keys, "reached"]).any()
    assert set(small.seed[small.part == "default"]) == {0}


def test_a_trial_broken_off_goes_on(small, tmp_path):
    class Stop(Exception):
        pass

    class Broken(Log):
        def checkpoint(self, step, state, *, now=False):
            super().checkpoint(step, state, now=True)
            if step == 3:
                raise Stop

    config = {"study": "tuned-trial", **SMALL}
    with pytest.raises(Stop):
        tuned.tuned_trial(Broken(tmp_path, config), **SMALL)
    rest = tuned.tuned_trial(Log(tmp_path, config), **SMALL)
    apart = ["microseconds"]
    pd.testing.assert_frame_equal(small.drop(columns=apart), rest.drop(columns=apart))


def test_a_record_s_first_rows_come_out_again_for_what_tunes_itself_too(small):
    config = {"study": "tuned-trial"} | {
        k: p.default for k, p in inspect.signature(tuned.tuned_trial).parameters.items()
        if k not in ("log", "device")
    } | SMALL  # fmt: skip
    both = repeat(gf.runs.Run("small", config, small, {}))
    assert set(both.index.get_level_values("method")) == {"adamw", "adaeos-free"}
    assert set(both.index.get_level_values("step")) == {0, 1, 5}
    assert both.judged.to_numpy() == pytest.approx(both.judged_recorded.to_numpy(), rel=1e-6)
    assert both.eta.notna().sum() == 2
    again = carry_out("tuned-trial", {k: v for k, v in config.items() if k != "study"}
                      | tuned.shorter(config))  # fmt: skip
    assert len(again) == 6


def test_the_finder_s_cost_counts():
    table = tuned.tuned_trial(Log(), task="digits", methods="adamw-finder", seeds=1, stop=20)
    assert set(table.part) == {"default"} and set(table.setting) == {"lr=finder"}
    assert table.gradients.iloc[0] > 30 and table.gradients.iloc[-1] == table.gradients.iloc[0] + 20
    assert table.microseconds.iloc[0] > 0


def test_threads_are_as_before():
    before = torch.get_num_threads()
    with tuned.one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_what_cannot_be():
    for wrong, words in (
        ({"task": "cifar"}, "no task 'cifar'"), ({"methods": "adam"}, "Unknown method"),
        ({"methods": "adamw, adamw"}, "named twice"), ({"seeds": -1}, "must not be negative"),
        ({"tuning": -1.0}, "must not be negative"), ({"looks": 0}, "at least 1"),
        ({"task": "mnist", "methods": "muon"}, "no hidden matrix"),
    ):  # fmt: skip
        if "mnist" in wrong.values() and not at_hand("mnist-9k"):
            continue
        with pytest.raises(InputError, match=words):
            tuned.tuned_trial(Log(), **wrong)


def test_a_trial_is_drawn(small):
    import matplotlib.pyplot as plt

    figure = plt.figure()
    tuned.draw(figure, [gf.runs.Run("short", {"study": "tuned-trial"}, small, {})])
    names = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert "adamw (tuned)" in names and "adamw (default)" in names
    figure.savefig(io.BytesIO())
    figure.clear()
    none = small.assign(reached=False)  # a trial in which every run missed its target
    tuned.draw(figure, [gf.runs.Run("short", {"study": "tuned-trial"}, none, {})])
    figure.savefig(io.BytesIO())
    assert not any(len(line.get_xdata()) for line in figure.axes[0].lines)
    plt.close(figure)


def test_older_and_newer_records_are_told_apart():
    old = gf.runs.load("trial-digits-batches")
    assert old.config["study"] == "trial" and "part" not in old.table
    with pytest.raises(InputError, match="no table of the study tuned-trial"):
        results.courses(old.table)


# -- tasks, targets, plan --------------------------------------------------------------------------


def test_the_tasks_table_needs_no_data(monkeypatch, tmp_path):
    monkeypatch.setenv("GDFLOWS_DATA", str(tmp_path))
    table = suite.table()
    assert list(table.index) == list(suite.SUITE)
    large = table[table.parameters >= 1_000_000]
    assert {"gpt-million", "resnet-million"} <= set(large.index)
    assert (table.steps >= 2000).any()
    assert (table.kind == "held-out").sum() >= 3
    few = [n for n, e in suite.SUITE.items() if e.judged and e.judged < 2000]
    assert all("no more are held out" in suite.SUITE[name].about for name in few)
    with pytest.raises(DataError):
        suite.suite_task("mnist", "cpu")


@pytest.mark.parametrize("name", suite.SUITE)
def test_a_task_has_the_sizes_that_are_told(name):
    try:
        what = suite.suite_task(name)
    except DataError:
        pytest.skip("its data are not here")
    entry = suite.SUITE[name]
    x, y = next(what.batches(0))
    assert len(x) == (entry.batch or entry.samples)
    assert what.network(0)(x[:2]).shape[0] == 2
    one, two = (torch.nn.utils.parameters_to_vector(what.network(5).parameters()) for _ in "ab")
    other = torch.nn.utils.parameters_to_vector(what.network(6).parameters())
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_a_target_is_set_by_adamw_as_the_rules_say():
    found, ends = targets.target("digits")
    what = suite.suite_task("digits")
    network, batches = what.network(999), what.batches(999)
    adam = torch.optim.AdamW(network.parameters(), weight_decay=0.0)
    for k in range(200):
        part = (k - 20) / 180
        up = (k + 1) / 20 if k < 20 else (1 + math.cos(math.pi * part)) / 2
        adam.param_groups[0]["lr"] = 0.01 * up
        x, y = next(batches)
        adam.zero_grad()
        what.loss(network(x), y).backward()
        adam.step()
    assert ends[2] == pytest.approx(what.measure(network)[0], rel=1e-2)
    assert found == targets.rounded_up(min(ends)) == pytest.approx(what.target, rel=2e-2)


def test_rounding_up():
    pairs = ((2.5243, 2.53), (0.085388, 0.0854), (11.266, 11.3), (0.0854, 0.0854), (9.999, 10))
    for x, up in pairs:
        assert targets.rounded_up(x) == pytest.approx(up)


def test_the_plan():
    names = [p.name for p in (*plan.PLAN, *plan.EDGES, *plan.WARM)]
    assert len(set(names)) == len(names)
    assert {p.task for p in plan.PLAN} == set(suite.SUITE)
    table = plan.plan()
    there = plan.recorded()
    assert len(there) >= 11 and set(there) <= set(names)
    assert all(run.config["task"] in suite.SUITE for run in there.values())
    assert (table.minutes > 0).all() and table.minutes.max() <= 45
    assert table.minutes.sum() <= 7 * 60  # what can be made again in an evening
    looks = plan.recorded(plan.EDGES)
    assert {r.config["edges"] for r in looks.values()} <= {5} and not set(looks) & set(there)
    for p in (*plan.PLAN, *plan.EDGES, *plan.WARM):
        for name in p.methods:
            entrants.entrant(name)
        options = re.findall(r"--([a-z-]+) ", p.command)
        known = set(inspect.signature(tuned.tuned_trial).parameters) | {"out", "title"}
        assert {o.replace("-", "_") for o in options} <= known
    parts = {"tuned-gpt-million-1": pd.DataFrame({"method": ["adamw"]}),
             "tuned-gpt-million-2": pd.DataFrame({"method": ["muon"]})}  # fmt: skip
    assert list(plan.joined(parts)["gpt-million"].method) == ["adamw", "muon"]
    assert list(plan.joined(parts)["gpt-million"].record) == list(parts)
    with pytest.raises(InputError, match="in common"):
        plan.joined({name: parts["tuned-gpt-million-1"] for name in parts})
    with pytest.raises(InputError, match="no record 'other'"):
        plan.joined({"other": parts["tuned-gpt-million-1"]})
