"""The search that widens its grid, on runs whose steps are a formula."""

import itertools
import math

import numpy as np
import pytest

from gdflows.experiments.trial import results, rules
from gdflows.experiments.trial.entrants import Axis, Entrant, label
from gdflows.experiments.trial.search import SEARCH, SWEEP, Score, Search, one_sided, rank

RATE = Axis("lr", 10**0.5)
HORIZON = Axis("horizon", 2**0.5, most=2.0, only_with="decay")
WARMUP = Axis("warmup", values=(0, 0.05, 0.1, 0.2))
DECAY = Axis("decay", values=("constant", "cosine", "linear"), ordered=False)
LONGEST = 400


class Bowl:
    """Steps grow with the distance from the best settings, on a logarithmic scale."""

    def __init__(self, lr, warmup=0.0, decay="constant", horizon=None, floor=40.0, each=1.0):
        self.best = {"lr": lr, "warmup": warmup, "decay": decay, "horizon": horizon}
        self.floor, self.each, self.calls = floor, each, []

    def steps(self, settings, seed):
        off = math.log(settings["lr"] / self.best["lr"]) ** 2
        off += 30 * abs(settings.get("warmup", 0) - self.best["warmup"])
        off += settings.get("decay", "constant") != self.best["decay"]
        if self.best["horizon"] and settings.get("decay", "constant") != "constant":
            off += abs(math.log(settings["horizon"] / self.best["horizon"]))
        return round(self.floor * (1 + 0.3 * off) * (1 + 0.1 * seed))

    def run(self, settings, seed, steps, part):
        self.calls.append((label(settings), seed, steps, part))
        needed = self.steps(settings, seed)
        made = min(needed, steps)
        return Score(needed if needed <= steps else math.inf, needed / 1000, self.each * made, made)


def search(bowl, axes=(RATE,), start=None, budget=math.inf, seeds=1):
    start = start or {"lr": 0.1, "warmup": 0, "decay": "constant", "horizon": 0.5}
    return Search(Entrant(None, axes), start, bowl.run, budget, LONGEST, seeds)


@pytest.mark.parametrize("best", [1e-6, 1e-4, 0.05, 10.0])
def test_the_grid_widens_until_the_best_is_inside(best):
    bowl = Bowl(best)
    found = search(bowl)
    chosen = found.all()["lr"]
    assert abs(math.log10(chosen / best)) < 0.15  # half of the fine grid, and two digits
    tried = [float(name.partition("=")[2]) for name in found.tried]
    assert min(tried) < chosen < max(tried)
    assert len(found.tried) == len(bowl.calls)  # nothing twice
    # First the line over the rate, never cut short; and both neighbours at the end.
    parts = [part for *_, part in bowl.calls]
    assert parts == sorted(parts, key=[SWEEP, SEARCH].index)
    assert all(limit == LONGEST for *_, limit, part in bowl.calls if part == SWEEP)
    assert all(
        label(found.best | {"lr": v}) in found.tried
        for v in RATE.neighbours(chosen, 0.1, fine=True)
    )


def test_all_settings_are_searched_and_the_rate_is_closed_again():
    bowl = Bowl(0.004, warmup=0.1, decay="linear", horizon=0.25)
    found = search(bowl, (RATE, HORIZON, WARMUP, DECAY))
    best = found.all()
    assert (best["warmup"], best["decay"], best["horizon"]) == (0.1, "linear", 0.25)
    assert abs(math.log10(best["lr"] / 0.004)) < 0.15
    # A better setting than all its neighbours: nobody else of a full grid beats it.
    grid = itertools.product(
        (0.0018, 0.0032, 0.0057, 0.01), (0, 0.05, 0.1, 0.2), ("constant", "cosine", "linear"),
        (0.18, 0.25, 0.35),
    )  # fmt: skip
    least = min(
        bowl.steps({"lr": a, "warmup": b, "decay": c, "horizon": d}, 0) for a, b, c, d in grid
    )
    assert bowl.steps(best, 0) <= least
    # A constant rate has no horizon to try.
    assert not any("horizon" in name and "decay" not in name for name in found.tried)
    limits = [limit for _, _, limit, part in bowl.calls if part == SEARCH]
    assert max(limits) < LONGEST


@pytest.mark.parametrize("budget", [300, 700, 1500, 4000])
@pytest.mark.parametrize("each", [1.0, 3.0])
def test_a_budget_is_exceeded_only_to_close_the_grid(budget, each):
    bowl = Bowl(0.03, warmup=0.1, decay="cosine", horizon=0.5, each=each)
    axes = (RATE, HORIZON, WARMUP, DECAY)
    found = search(bowl, axes, budget=budget)
    found.all()
    assert one_sided(axes, found.best, found._settings) == []
    assert found.spent == sum(s.spent for scores in found.tried.values() for s in scores)
    spent = np.cumsum([s.spent for scores in found.tried.values() for s in scores])
    within = max(int((spent <= budget).sum()), 1)
    # What came after: a neighbour, on an open axis, of the best at that time.
    for n in range(within, len(spent)):
        before = min(found._settings[:n], key=lambda s: bowl.steps(s, 0))
        new = found._settings[n]
        sides = one_sided(axes, before, found._settings[:n])
        assert any(
            new | {s.axis.name: 0} == before | {s.axis.name: 0}
            and (new[s.axis.name] > before[s.axis.name]) == (s.value > before[s.axis.name])
            for s in sides
        )
    if budget / each >= 4000:
        assert found.spent <= budget


def test_what_a_later_change_opened_is_closed_again():
    """The rate is settled, then moving the other setting leaves it with one neighbour only."""

    def run(settings, seed, steps, part):
        off = abs(math.log10(settings["lr"] / 0.1) + math.log10(settings["eta"] / 0.032))
        needed = round(50 * (1 + off + 0.5 * abs(math.log10(settings["eta"] / 0.0032))))
        return Score(needed, 0.1, min(needed, steps), min(needed, steps))

    axes, start = (RATE, Axis("eta", RATE.factor)), {"lr": 0.1, "eta": 0.1}
    found = Search(Entrant(None, axes), start, run, 600, LONGEST)
    found.all()
    assert one_sided(axes, found.best, found._settings) == []


def test_several_seeds_are_run_where_the_first_came_to_the_target():
    bowl = Bowl(0.1)
    found = search(bowl, seeds=3)
    found.all()
    seen = {}
    for name, seed, limit, part in bowl.calls:
        seen.setdefault(name, []).append((seed, limit, part))
    assert [seed for seed, *_ in seen["lr=0.1"]] == [0, 1, 2]
    best = [bowl.steps({"lr": 0.1}, seed) for seed in range(3)]
    for name, runs in seen.items():
        for seed, limit, part in runs:
            if part == SEARCH:
                assert limit == math.ceil(rules.RULES.patience * best[seed]), name
    # 1 + 0.3 (log √10)² is less than the patience, so that all seeds are run; ten times off is not.
    assert rank([Score(10, 0.1, 10, 10), Score(40, 0.2, 40, 40)], SEARCH, 2)[0] == pytest.approx(20)


def test_ranks():
    missed, hit = Score(math.inf, 0.3, 100, 100), Score(50, 0.1, 50, 50)
    assert rank([missed], SWEEP, 1) == (math.inf, 0.3)
    assert rank([hit], SEARCH, 1) == (pytest.approx(50), 0.1)
    assert rank([hit], SEARCH, 3)[0] == math.inf  # given up before its time
    assert rank([hit, missed], SWEEP, 2)[0] == pytest.approx((50 * 200) ** 0.5)
    assert rank([hit, missed], SEARCH, 2)[0] == math.inf


def test_where_nobody_comes_to_the_target_the_loss_decides():
    bowl = Bowl(1e-3, floor=5000.0)
    found = search(bowl, seeds=3)
    assert abs(math.log10(found.all()["lr"] / 1e-3)) < 0.15
    assert {seed for _, seed, *_ in bowl.calls} == {0}


def test_rules_are_told_with_the_numbers_that_are_obeyed():
    text = rules.text()
    words = " ".join(text.split())
    assert "{" not in text and "10 times the task's budget" in words
    assert f"{rules.RULES.judged} held-out" in words and "3.16" in text and "1.78" in text
    assert [line[:2] for line in text.splitlines() if line[0] != " "] == [
        *(f"{i}." for i in range(1, 10)), "10",
    ]  # fmt: skip
    assert rules.RULES.seeds("held-out") == 10 and rules.RULES.seeds("seen") == 5
    assert max(len(line) for line in text.splitlines()) <= 100
    assert results.RULES is rules.RULES


def test_what_hardly_matters_is_not_followed():
    """Each factor less makes a run better by half a per cent, for ever."""

    def run(settings, seed, steps, part):
        return Score(math.inf, 0.05 * settings["lr"] ** 0.004, steps, steps)

    found = Search(Entrant(None, (RATE,)), {"lr": 0.1}, run, 3 * LONGEST, LONGEST)
    assert found.all() == {"lr": 0.1} and len(found.tried) == 3


def test_where_all_go_off_the_rate_falls():
    def run(settings, seed, steps, part):
        if settings["lr"] > 1e-4:
            return Score(math.inf, math.inf, 1, 1)
        needed = round(20 + 20 * abs(math.log10(settings["lr"] / 1e-5)))
        return Score(needed, 0.1, needed, needed)

    found = Search(Entrant(None, (RATE,)), {"lr": 0.1}, run, 1e4, LONGEST)
    assert 0.5e-5 < found.all()["lr"] < 2e-5


def test_ever_farther_beyond_the_budget():
    """What has no end in sight is closed within a few runs."""

    def run(settings, seed, steps, part):
        needed = round(400 / (1 + math.log(settings["lr"] / 1e-5) ** 2 / 60))
        return Score(needed, 0.1, needed, needed)

    found = Search(Entrant(None, (Axis("lr", RATE.factor, most=1e9),)), {"lr": 0.1}, run, 1, 400)
    found.all()
    assert len(found.tried) <= 10
    assert one_sided(found.entrant.axes, found.best, found._settings) == []
