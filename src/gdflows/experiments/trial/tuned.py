"""The tuned trial: every method searched within the same budget, then judged on other seeds."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pandas as pd
import torch

from gdflows.errors import InputError
from gdflows.experiments.registry import study
from gdflows.experiments.trial.course import Course, range_test
from gdflows.experiments.trial.entrants import ENTRANTS, FINDER, entrant, label, settings_of
from gdflows.experiments.trial.results import judged, winner
from gdflows.experiments.trial.rules import RULES
from gdflows.experiments.trial.search import SEARCH, Score, Search
from gdflows.experiments.trial.suite import Judged, suite_task
from gdflows.runs import Log, Run

TUNED, DEFAULT = "tuned", "default"  # parts of a record: at the winner, and without a search


def draw(figure, runs: list[Run]) -> None:
    """Steps to the target, a dot for each seed; hollow where nothing was searched."""
    axes = figure.subplots(1, len(runs), squeeze=False)[0]
    for ax, run in zip(axes, runs, strict=True):
        found = judged(run.table)
        order = found.groupby(["method", "part"]).steps.median().sort_values().index
        found = found[found.steps < math.inf]
        for i, (method, part) in enumerate(order):
            seeds = found[(found.method == method) & (found.part == part)]
            ax.plot(seeds.steps, [i] * len(seeds), "o", markersize=3,
                    fillstyle="full" if part == TUNED else "none")  # fmt: skip
        ax.set_yticks(range(len(order)), [f"{m} ({p})" for m, p in order], fontsize=7)
        ax.set(xlabel="steps to the target (none: missed)", title=run.name)
        if len(found):
            ax.set_xscale("log")


def shorter(config: Mapping) -> dict:
    """What leaves the first five steps of the first method, and of the first of its own rate.

    Of each where its search starts; where there is no search, of a judged run. Five steps are few
    enough for the rounding of single precision, near the edge too.
    """
    names = [name.strip() for name in config["methods"].split(",")]
    searched = [name for name in names if entrant(name).axes]
    own = [name for name in searched if entrant(name).own_rate]
    chosen = dict.fromkeys(searched[:1] + own[:1] or names[:1])
    return {
        "methods": ",".join(chosen),
        "tuning": 0.0,
        "tuning_seeds": 1,
        "seeds": 0 if searched else 1,
        "edges": 0,
        "stop": 5,
    }


@study(
    "tuned-trial",
    keys=("method", "part", "setting", "seed", "step"),
    check=lambda c: shorter(c),
    resumable=True,
    picture=draw,
)
def tuned_trial(
    log: Log,
    *,
    task: str = "digits",
    methods: str = "adamw,adaeos-free",
    tuning: float = 3.0,
    tuning_seeds: int = 1,
    seeds: int = 1,
    looks: int = 16,
    edges: int = 0,
    stop: int = 0,
    device: str = "cpu",
) -> pd.DataFrame:
    """Optimisers on one task, each searched within the same budget, then judged on other seeds.

    The rules are in ``gdflows.experiments.trial.rules``, the commands of the records in
    ``gdflows.experiments.trial.plan``.

    Parameters
    ----------
    log : Log
        Where the trial is kept on the way; it goes on with the next search or run.
    task : str
        The task, see :data:`gdflows.experiments.trial.suite.SUITE`.
    methods : str
        Which, joined by commas, see :data:`gdflows.experiments.trial.entrants.ENTRANTS`.
    tuning : float
        Each method's budget for its search, in runs of the task's budget, counted in gradients. At
        0 a method is tried where its search starts, and no more.
    tuning_seeds : int
        Seeds of a search.
    seeds : int
        How many are judged, from 0 on; 0 for the search alone.
    looks : int
        How often a run is judged on its way.
    edges : int
        On how many of the judged seeds the true edge is looked at, at fixed steps.
    stop : int
        Break runs off after so many steps; 0 for the task's budget. Schedules keep the budget.
    device : str
        Where to compute.

    Returns
    -------
    pandas.DataFrame
        Columns: ``method``; ``part``, sweep (the first line of the search, over the rate), search,
        tuned or default (judged at the winner of the search, or without one); ``setting``;
        ``seed``, ``step``; ``judged``, the loss that the target is for, and the standard ``error``
        of its sample; ``reached``, whether this is the step of the target; ``gradients``, ``hvps``
        and ``microseconds`` (of the process, in the steps) spent until there, a finder's included;
        ``accuracy`` on the held-out samples at the end; of what adapts its rate ``eta`` and its
        own ``sigma``, and for all whose edge is known, at fixed steps, ``true_sigma`` and
        ``batch_sigma`` of the training loss and of the batch, all in units of the edge.

    Raises
    ------
    InputError
        For unknown tasks and methods.
    DataError
        If data or a peer's package are not at hand.
    """
    if min(seeds, edges) < 0 or min(looks, tuning_seeds) < 1 or not tuning >= 0:
        raise InputError(
            "seeds, edges and tuning must not be negative, looks and tuning_seeds at least 1."
        )
    names = [name.strip() for name in methods.split(",")]
    if len(set(names)) < len(names):
        raise InputError(f"A method is named twice in {methods!r}.")
    for name in names:
        entrant(name)
    what = suite_task(task, device)
    planned = [(name, SEARCH, RULES.tuning_seed) for name in names if ENTRANTS[name].axes]
    for seed in range(seeds):
        parts = [(name, TUNED, seed) for name in names if ENTRANTS[name].axes]
        parts += [(name, DEFAULT, seed) for name in names if ENTRANTS[name].default]
        # Taking turns in another order each time: a slow minute hits everybody.
        planned += random.Random(seed).sample(parts, len(parts))
    with one_thread():
        for name, part, seed in log.through(planned):
            if part == SEARCH:
                log.rows += _search(what, name, tuning, tuning_seeds, looks, stop)
            else:
                log.rows += _judge(what, name, part, seed, log, looks, stop, seed < edges)
    return log.table()


@contextmanager
def one_thread() -> Iterator[None]:
    """Seconds of the process are those of one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _search(
    what: Judged, name: str, tuning: float, seeds: int, looks: int, stop: int
) -> list[dict]:
    method, rows = ENTRANTS[name], []

    def run(settings: dict, seed: int, steps: int, part: str) -> Score:
        found = _run(
            what, name, part, settings, RULES.tuning_seed + seed, looks=looks, to_target=True,
            stop=min(steps, stop or what.steps),
        )  # fmt: skip
        rows.extend(found)
        last, hits = found[-1], [row["step"] for row in found if row["reached"]]
        spent = last["gradients"] + RULES.hvp * last["hvps"]
        final = last["judged"] if math.isfinite(last["judged"]) else math.inf
        return Score(hits[0] if hits else math.inf, final, spent, last["step"])

    start = method.start(bool(what.batch))
    search = Search(method, start, run, tuning * what.steps, what.steps, seeds)
    if tuning:
        search.all()
    return rows


def _judge(what, name, part, seed, log: Log, looks, stop, edges) -> list[dict]:
    usual = ENTRANTS[name].default
    usual = usual(bool(what.batch)) if usual else None
    if part == DEFAULT:
        settings = usual
    else:
        settings = settings_of(winner(pd.DataFrame(log.rows), name))
        if usual is not None and label(settings) == label(usual):
            return []  # its default is judged
    return _run(what, name, part, settings, seed, looks=looks, stop=stop or what.steps, edges=edges)


def _run(what: Judged, name: str, part: str, settings: dict, seed: int, **options) -> list[dict]:
    make, before, told = ENTRANTS[name].make, None, label(settings)
    if settings.get("lr") == FINDER:
        lr, before = range_test(what, lambda net, lr: make(net, what, lr=lr), seed)
        settings = settings | {"lr": lr}
    network = what.network(seed)
    rows = Course(
        what, network, make(network, what, **settings), seed, before=before, **options
    ).carry_out()
    return [{"method": name, "part": part, "setting": told, "seed": seed} | row for row in rows]
