"""How tuned trials are read, on tables whose answers are known."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gdflows.errors import InputError
from gdflows.experiments.trial import edges, plan, results
from gdflows.experiments.trial.entrants import ENTRANTS, label, settings_of
from gdflows.experiments.trial.rules import RULES
from gdflows.experiments.trial.search import one_sided
from gdflows.experiments.trial.suite import SUITE
from gdflows.runs import available, load

BUDGET = 400


def run(method, part, setting, seed, steps, *, ends=None, final=0.1, hvps=0, sigma=None):
    """A run that takes so many steps to its target, None if it missed it, at 10 ms each."""
    ends = ends or (BUDGET if part in ("tuned", "default") or steps is None else steps)
    marks = sorted({0, ends, *([] if steps is None else [steps])})
    rows = [
        {"method": method, "part": part, "setting": setting, "seed": seed, "step": k,
         "judged": final if k == ends else 1.0, "error": 0.02, "reached": k == steps,
         "gradients": k, "hvps": hvps if k else 0, "microseconds": 10_000 * k,
         "accuracy": 0.9 if k == ends else math.nan, "eta": math.nan, "sigma": math.nan,
         "true_sigma": math.nan, "batch_sigma": math.nan}
        for k in marks
    ]  # fmt: skip
    if sigma is not None:
        seen = {"true_sigma": sigma, "batch_sigma": 2 * sigma, "sigma": 0.8}
        rows.insert(1, rows[0] | seen | {"step": 5, "gradients": 5, "microseconds": 50_000})
    return rows


def sweep(method="adamw", steps=((0.001, None), (0.0032, 120), (0.01, 80), (0.032, 200))):
    rows = [run(method, "sweep", f"lr={lr}", 1000, k) for lr, k in steps]
    rows += [run(method, "search", f"lr={lr}", 1000, None, ends=80) for lr in (0.0057, 0.018)]
    return list(itertools.chain(*rows))


def table(*parts):
    return pd.DataFrame(list(itertools.chain(*parts)))


def test_courses():
    found = results.courses(table(
        run("adamw", "tuned", "lr=0.01", 0, 50, hvps=10),
        run("adamw", "tuned", "lr=0.01", 1, None, hvps=10, final=0.7),
    ))  # fmt: skip
    hit, miss = found.iloc[0], found.iloc[1]
    assert (hit.steps, hit.evaluations, hit.seconds) == (50, 50 + 2 * 10, 0.5)
    assert (hit.final, hit.accuracy, hit.run, hit.error) == (0.1, 0.9, 400, 0.02)
    assert math.isinf(miss.steps) and math.isinf(miss.seconds)
    assert miss.final == 0.7 and miss.spent_evaluations == 420 and miss.spent_seconds == 4
    with pytest.raises(InputError, match="no column part"):
        results.courses(pd.DataFrame({"step": [1]}))


def test_a_winner_inside_its_grid():
    found = table(sweep())
    assert results.winner(found, "adamw") == "lr=0.01"
    assert results.at_end(found, "adamw") == []
    results.require_settled(found)
    with pytest.raises(InputError, match="no search of 'muon'"):
        results.winner(found, "muon")


@pytest.mark.parametrize("off", ["lr=0.0032", "lr=0.032"])
def test_a_winner_at_the_end_is_refused(off):
    steps = {"lr=0.0032": ((0.0032, 60), (0.01, 80)), "lr=0.032": ((0.01, 80), (0.032, 60))}[off]
    rows = list(itertools.chain(*(run("adamw", "sweep", f"lr={a}", 1000, k) for a, k in steps)))
    found = table(rows, run("adamw", "tuned", off, 0, 50))
    assert results.at_end(found, "adamw") == ["lr"]
    readings = [
        lambda: results.require_settled(found),
        lambda: results.finals(found),
        lambda: results.log_ratios({"digits": found}, {"digits": BUDGET}, ("adamw", "tuned"),
                                   ("adamw", "tuned")),
        lambda: results.summary({"digits": found}, {"digits": BUDGET}, ("adamw", "tuned")),
    ]  # fmt: skip
    for read in readings:
        with pytest.raises(InputError, match=f"adamw with {off} \\(lr\\)"):
            read()


def test_all_else_must_be_equal_at_the_sides():
    """Rates tried without the winner's warm-up do not close its grid."""
    found = table(sweep(), run("adamw", "search", "lr=0.01 warmup=0.05", 1000, 40))
    assert results.winner(found, "adamw") == "lr=0.01 warmup=0.05"
    assert results.at_end(found, "adamw") == ["lr"]
    closed = table(
        found.to_dict("records"),
        *(run("adamw", "search", f"lr={lr} warmup=0.05", 1000, None, ends=40)
          for lr in (0.0057, 0.018)),
    )  # fmt: skip
    results.require_settled(closed)
    decayed = table(
        closed.to_dict("records"),
        *(run("adamw", "search", f"lr={lr} warmup=0.05 decay=cosine horizon=0.5", 1000, k)
          for lr, k in ((0.0057, 60), (0.01, 30), (0.018, 60))),
    )  # fmt: skip
    assert results.at_end(decayed, "adamw") == ["horizon"]


def test_a_natural_end_is_none():
    rows = [run("adaeos-free", "sweep", f"rho={r}", 1000, k) for r, k in ((0.8, 50), (1.6, 40))]
    rows += [run("adaeos-free", "search", "rho=1.1", 1000, None, ends=40)]
    assert results.at_end(table(*rows), "adaeos-free") == []


def test_several_seeds_of_a_search():
    rows = [run("adamw", "sweep", "lr=0.01", s, k) for s, k in ((1000, 40), (1001, 90))]
    rows += [run("adamw", "sweep", "lr=0.1", s, k) for s, k in ((1000, 50), (1001, 50))]
    rows += [run("adamw", "search", "lr=0.018", 1000, 10)]
    rows += [run("adamw", "sweep", "lr=1.0", 1000, None)]
    found = table(*rows)
    ranked = results.ranked(found, "adamw").set_index("setting")
    assert ranked.steps["lr=0.01"] == pytest.approx(60)
    assert ranked.steps["lr=0.1"] == pytest.approx(50)
    assert math.isinf(ranked.steps["lr=0.018"])  # given up on a second seed that is not there
    assert results.winner(found, "adamw") == "lr=0.1"


def test_the_price_of_a_sweep_over_all_orders():
    found = results.sweep_price(table(sweep()), "adamw", by="steps")
    costs = [(math.inf, 400), (120, 120), (80, 80), (200, 200)]

    def price(order):
        best, total = math.inf, 0
        for needed, whole in order:
            total += min(whole, best)
            best = min(best, needed)
        return total

    prices = [price(order) for order in itertools.permutations(costs)]
    assert (found.best, found.worst) == (min(prices), max(prices)) == (320, 800)
    # From the middle: 0.01, then 0.032, 0.0032, 0.001.
    assert found.middle == price([costs[2], costs[3], costs[1], costs[0]])
    assert (found.rates, found.alone) == (4, 80)
    seconds = results.sweep_price(table(sweep()), "adamw", by="seconds")
    assert seconds.worst == pytest.approx(8)


def rivals(seeds=5, ours=50, rival=100, missed=()):
    rows = [sweep(), *(run("adaeos-free", "sweep", f"rho={r}", 1000, k)
                       for r, k in ((0.4, 90), (0.8, 50), (1.6, 80)))]  # fmt: skip
    rows += [run("adaeos-free", "search", f"rho={r}", 1000, None, ends=50) for r in (0.57, 1.1)]
    for seed in range(seeds):
        rows += [run("adamw", "tuned", "lr=0.01", seed, None if seed in missed else rival + seed)]
        rows += [run("adaeos-free", "default", "rho=0.8", seed, ours + seed, hvps=5, final=seed)]
    return table(*rows)


OURS, RIVAL = ("adaeos-free", "default"), ("adamw", "tuned")


def test_the_winner_without_a_search_counts_as_both():
    found = results.judged(rivals())
    ours = found[found.method == "adaeos-free"]
    assert set(ours.part) == {"tuned", "default"} and len(ours) == 10
    assert set(found[found.method == "adamw"].part) == {"tuned"}


def test_finals():
    found = results.finals(rivals())
    assert found.final[OURS] == 2
    assert found.final_error[OURS] == pytest.approx(np.std(range(5), ddof=1) / 5**0.5)


def test_ratios_and_missed_targets():
    ratios = results.log_ratios({"digits": rivals(missed=(3,))}, {"digits": BUDGET}, OURS, RIVAL)
    costs = [RULES.missed * BUDGET if s == 3 else 100 + s for s in range(5)]
    expected = [math.log(cost / (50 + s)) for s, cost in enumerate(costs)]
    assert ratios.log.tolist() == pytest.approx(expected)
    assert ratios.missed_rival.tolist() == [False, False, False, True, False]
    evaluations = results.log_ratios(
        {"digits": rivals()}, {"digits": BUDGET}, OURS, RIVAL, "evaluations"
    )
    assert evaluations.log[0] == pytest.approx(math.log(100 / 60))
    best = results.log_ratios({"digits": rivals()}, {"digits": BUDGET}, OURS, ("best", "tuned"))
    assert set(best.rival) == {"adamw"}
    with pytest.raises(InputError, match="No task has both"):
        results.log_ratios({"digits": rivals()}, {"digits": BUDGET}, OURS, ("muon", "tuned"))
    with pytest.raises(InputError, match="by must be"):
        results.costs(rivals(), "hours", BUDGET)


def test_seconds_are_compared_within_a_record_alone():
    """A record of a busy machine has longer seconds, and the same steps."""
    both = rivals()
    apart = both.assign(record=np.where(both.method == "adamw", "busy", "quiet"))
    one = both.assign(record="quiet")
    for by in results.MEASURES:
        found = results.summary({"digits": one}, {"digits": BUDGET}, OURS, by)
        assert RIVAL in found.index and ("best", "tuned") in found.index
    for by in ("steps", "evaluations"):
        assert RIVAL in results.summary({"digits": apart}, {"digits": BUDGET}, OURS, by).index
    known = {"digits": apart, "other": one}
    budgets = dict.fromkeys(known, BUDGET)
    assert results.summary(known, budgets, OURS, "steps").tasks[RIVAL] == 2
    assert results.summary(known, budgets, OURS, "seconds").tasks[RIVAL] == 1
    with pytest.raises(InputError, match="No task has both"):
        results.log_ratios({"digits": apart}, {"digits": BUDGET}, OURS, RIVAL, "seconds")


def test_a_run_that_ended_early_costs_as_much_as_one_that_missed():
    found = table(sweep(), run("adamw", "tuned", "lr=0.01", 0, None, ends=40))
    for by, cost in (("steps", 800), ("evaluations", 800), ("seconds", 8.0)):
        assert results.costs(found, by, BUDGET).cost.item() == pytest.approx(cost)


def test_intervals_over_seeds_cover_as_often_as_they_say():
    rng, hits = np.random.default_rng(3), 0
    for i in range(80):
        low, high = results.over_seeds(rng.normal(1.0, 0.5, 20), seed=i)
        hits += low < 1.0 < high
    assert 0.84 < hits / 80 <= 1
    assert results.over_seeds([2.0, 2.0, 2.0]) == (2.0, 2.0)
    with pytest.raises(InputError, match="two seeds"):
        results.over_seeds([1.0])


def test_intervals_over_tasks():
    rng = np.random.default_rng(0)
    flat = pd.DataFrame({"task": np.repeat(list("abcd"), 5), "log": np.log(2.0)})
    assert results.over_tasks(flat) == pytest.approx((2, 2, 2))
    # Tasks differ, seeds do not: the interval is that of the tasks' mean.
    logs = np.repeat(rng.normal(size=30), 5)
    apart = pd.DataFrame({"task": np.repeat(range(30), 5), "log": logs})
    mean, low, high = np.log(results.over_tasks(apart))
    error = apart.groupby("task").log.first().std() / 30**0.5
    assert mean == pytest.approx(apart.log.mean())
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.12)
    # Seeds differ, tasks do not: that of all runs.
    noisy = pd.DataFrame({"task": np.repeat(range(4), 50), "log": rng.normal(size=200)})
    noisy["log"] -= noisy.groupby("task").log.transform("mean")
    _, low, high = np.log(results.over_tasks(noisy))
    assert (high - low) / (2 * 1.96 / 200**0.5) == pytest.approx(1, abs=0.12)


def test_the_summary_names_every_rival_and_the_best():
    tables = {"digits": rivals(), "vgg": rivals(ours=40)}
    found = results.summary(tables, dict.fromkeys(tables, BUDGET), OURS)
    assert {("adamw", "tuned"), ("best", "tuned"), ("adaeos-free", "tuned")} == set(found.index)
    row = found.loc[("adamw", "tuned")]
    assert row.low < row.ratio < row.high and row.tasks == 2 and row.missed_rival == 0
    assert found.loc[("adaeos-free", "tuned")].ratio == pytest.approx(1)


# -- the edge --------------------------------------------------------------------------------------


def test_how_the_edge_is_held():
    rows = [run("adaeos-free", "default", "rho=0.8", s, 50, sigma=0.4) for s in range(2)]
    rows += [run("adamw", "tuned", "lr=0.01", 0, 50, sigma=0.4)]
    rows += [run("proposal", "tuned", "eta=0.1 gamma=0.1", 0, 50, sigma=2 / 38)]
    found = edges.held(table(*rows), batches=True).set_index("method")
    ours = found.loc["adaeos-free"].iloc[0]
    assert ours.off_true == pytest.approx(math.log(2)) and ours.off_batch == pytest.approx(0)
    assert (ours.share_true, ours.share_batch, ours.share_own, ours.looks) == (0, 1, 1, 1)
    assert found.loc["proposal"].off_true == pytest.approx(0, abs=1e-9)
    assert "adamw" not in found.index  # which aims at none
    with pytest.raises(InputError, match="with edges"):
        edges.held(rivals(), batches=True)


def test_who_holds_the_edge_better_gains_more_or_not():
    def one(task_gain, sigma):
        rows = [r for r in rivals(rival=round(50 * task_gain)).to_dict("records")
                if not (r["method"] == "adaeos-free" and r["part"] == "default")]  # fmt: skip
        ours = [run("adaeos-free", "default", "rho=0.8", s, 50, sigma=sigma) for s in range(5)]
        return table(rows, *ours)

    tables = {f"t{i}": one(1 + 0.2 * i, 0.1 * (i + 1)) for i in range(6)}
    budgets, batches = dict.fromkeys(tables, BUDGET), dict.fromkeys(tables, True)
    found, told = edges.gain_by_edge(tables, budgets, batches)
    assert len(found) == told["n"] == 6
    x, y = -found.off_true, found.log
    assert told["off_true"] == pytest.approx(stats.spearmanr(x, y).statistic)
    assert told["off_true"] == pytest.approx(1) and told["p_off_true"] < 0.01
    few = {name: tables[name] for name in ("t0",)}
    with pytest.raises(InputError, match="too few"):
        edges.gain_by_edge(few, budgets, batches)


# -- records ---------------------------------------------------------------------------------------

TRIALS = [n for n in available() if load(n).config.get("study") == "tuned-trial"]
TUNED = [n for n in TRIALS if load(n).config["tuning"]]


@pytest.mark.parametrize("name", sorted(set(TRIALS) - set(TUNED)))
def test_a_record_without_a_search_has_one_setting_and_the_true_edge_of_all_its_seeds(name):
    recorded = load(name)
    assert name in {p.name for p in (*plan.EDGES, *plan.WARM)}
    mine = recorded.table[~recorded.table.part.isin(("sweep", "search"))]
    assert set(mine.part) == {"default"} and mine.setting.nunique() == 1
    seeds = mine[mine.true_sigma.notna()].seed.nunique()
    assert seeds == recorded.config["edges"] == len(results.courses(mine)) >= 5
    if name in {p.name for p in plan.WARM}:
        return
    task = recorded.config["task"]
    other = plan.joined({p.name: load(p.name).table for p in plan.PLAN if p.task == task})[task]
    other = other[(other.method == mine.method.iloc[0]) & (other.part == "default")]
    steps = results.courses(mine).set_index("seed").steps
    known = results.courses(other).set_index("seed").steps
    assert steps.equals(known[steps.index])  # the same runs once more


@pytest.mark.parametrize("name", TUNED)
def test_no_record_has_a_winner_at_the_end_of_its_grid(name):
    recorded = load(name)
    results.require_settled(recorded.table)
    entry = SUITE[recorded.config["task"]]
    judged = results.judged(recorded.table)  # a winner that is the default counts as both
    assert judged.seed[judged.part == "tuned"].nunique() == RULES.seeds(entry.kind)
    for method in recorded.table.method.unique():
        mine = recorded.table[recorded.table.method == method]
        if mine.part.isin(("sweep", "search")).any():
            spent = results.searched(mine, method).spent_evaluations
            first = spent.iloc[: recorded.config["tuning_seeds"]].sum()
            most = max(recorded.config["tuning"] * entry.steps, first)
            assert only_closes(mine, method, most), method


def only_closes(mine, method, most):
    """Whether all that was tried beyond the budget were missing neighbours of the best."""
    found, runs = results.ranked(mine, method), results.searched(mine, method)
    spent = runs.groupby("setting", sort=False).spent_evaluations.sum().cumsum()
    assert list(spent.index) == list(found.setting)
    for n, total in enumerate(spent):
        if total > most and n:
            best = settings_of(results._best(found.iloc[:n], method))
            tried = [settings_of(s) for s in found.setting[:n]]
            new = settings_of(found.setting[n])
            sides = one_sided(ENTRANTS[method].axes, best, tried)
            if not any(
                label(new | {s.axis.name: 0}) == label(best | {s.axis.name: 0})
                and (new[s.axis.name] > best[s.axis.name]) == (s.value > best[s.axis.name])
                for s in sides
            ):
                return False
    return True
