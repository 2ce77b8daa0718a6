"""Optimisers side by side: steps, gradients and seconds to a target, and where they end."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping

import pandas as pd
import torch

from gdflows import curvature
from gdflows.errors import InputError, NonFiniteError
from gdflows.experiments.registry import study
from gdflows.experiments.trial.contestants import CONTESTANTS, entries, show
from gdflows.experiments.trial.reading import reached, standing
from gdflows.experiments.trial.tasks import TASKS, Task, task
from gdflows.objective import Objective
from gdflows.optim import AdaEoS
from gdflows.runs import Log, Run

# Some of each kind, none of which needs another package.
USUAL = "momentum-cosine:lr=0.2,adamw-cosine:lr=0.02,cdat,adaeos"
LOST = 1e3  # a run whose loss is that many times what it began with has diverged


def draw(figure, runs: list[Run]) -> None:
    """Steps to the target, a dot for each seed, of each method at its best rate."""
    axes = figure.subplots(1, len(runs), sharey=False, squeeze=False)[0]
    for ax, run in zip(axes, runs, strict=True):
        best = standing(run.table)
        every = reached(run.table)
        for i, (method, row) in enumerate(best.iterrows()):
            seeds = every[every.method == method]
            seeds = seeds[seeds.lr == row.lr]
            ax.plot(seeds.step, [i] * len(seeds), "o", markersize=3)
        ax.set_yticks(range(len(best)), list(best.index), fontsize=8)
        ax.set(xlabel="steps to the target", xscale="log", title=run.name)


def shorter(config: Mapping) -> dict:
    """What leaves the first rows of the first method, at its smallest rate, on the first seed.

    Of a method that seeks its own rate the row before the first step only: near the edge some tens
    of steps in single precision magnify rounding to anything.
    """
    label, method, settings = entries(config["methods"])[0]
    every = max(1, TASKS[config["name"]][3] // config["rows"])
    if not CONTESTANTS[method].rates:
        return {"seeds": 1, "methods": label, "stop": 1}
    return {"seeds": 1, "methods": f"{label}:lr={settings['lr']}", "stop": 4 * every}


@study(
    "trial",
    keys=("method", "lr", "seed", "step"),
    check=lambda c: shorter(c),
    resumable=True,
    picture=draw,
)
def trial(
    log: Log,
    *,
    name: str = "gratings-ce",
    methods: str = USUAL,
    seeds: int = 5,
    first_seed: int = 0,
    rows: int = 40,
    stop: int = 0,
    device: str = "cpu",
) -> pd.DataFrame:
    """Optimisers on one task, taking turns, each with several seeds and, if swept, several rates.

    Parameters
    ----------
    log : Log
        Where the trial is kept on the way; it goes on with the next run.
    name : str
        The task, see :data:`gdflows.experiments.trial.tasks.TASKS`.
    methods : str
        Which, joined by commas, with settings after colons: ``"adamw,dal:p=0.5:scale=1"``. Those
        with a grid of learning rates are run with each, or with those in ``"adamw:lr=0.01/0.1"``.
    seeds : int
        How many: each is an initialisation and an order of the batches.
    first_seed : int
        The first.
    rows : int
        How often a run is judged, at equal distances. A row is kept of every fourth time (of
        AdaEoS of each), of the target and of the end. In full batch the target is looked for at
        every step.
    stop : int
        Break runs off after so many steps; 0 for the task's budget. Schedules keep the budget.
    device : str
        Where to compute.

    Returns
    -------
    pandas.DataFrame
        Columns: ``method``, ``lr`` (0 where there is no grid), ``seed``, ``step``; ``judged``,
        the loss that the target is for; ``gradients``, ``hvps`` and ``microseconds`` (of the
        process, on all its cores, evaluations apart) spent until there; ``reached``, whether this
        is the first row at or below the target; ``accuracy`` on the test set, at the end of the
        budget; of AdaEoS ``eta``, its own ``sigma`` and, in full batch, the ``true_sigma`` (η
        times the largest eigenvalue of the preconditioned Hessian), both in units of its target.

    Raises
    ------
    InputError
        For unknown tasks, methods and settings.
    DataError
        If data or a peer's package are not at hand.
    """
    if min(seeds, rows) < 1:
        raise InputError("seeds and rows must be at least 1.")
    what = task(name, device)
    planned = [
        (label, method, settings, seed)
        for seed in range(first_seed, first_seed + seeds)
        # Taking turns in another order each time: a slow minute hits everybody.
        for label, method, settings in random.Random(seed).sample(
            entries(methods), len(entries(methods))
        )
    ]
    for entry in log.through(planned):
        log.rows += _run(what, *entry, rows, stop or what.steps)
    return log.table()


def _run(what: Task, label: str, method: str, settings: dict, seed: int, rows: int, stop: int):
    network = what.network(seed)
    contestant = CONTESTANTS[method]
    try:
        optimizer = contestant.make(
            list(network.parameters()), what.steps, bool(what.batch), **settings
        )
    except TypeError as e:
        raise InputError(f"{label}: {e}") from e
    batches = what.batches(seed)
    adaptive = isinstance(optimizer, AdaEoS)
    every = max(1, what.steps // rows)
    swept = float(settings.get("lr", 0.0)) if contestant.rates else 0.0
    found, microseconds, below, first = [], 0, False, None

    def short(x: float) -> float:
        return float(f"{x:.5g}")  # records are kept by the thousand

    def row(step: int, judged: float, reached: bool) -> None:
        found.append(
            {"method": label, "lr": swept, "seed": seed, "step": step, "judged": short(judged),
             "gradients": optimizer.cost["gradients"], "hvps": optimizer.cost["hvps"],
             "microseconds": microseconds, "reached": reached, "accuracy": math.nan,
             "eta": math.nan, "sigma": math.nan, "true_sigma": math.nan}
        )  # fmt: skip
        if adaptive and step:
            target = optimizer.rho * optimizer.edge
            found[-1] |= {"eta": short(optimizer.eta), "sigma": short(optimizer.sigma / target)}
            if not what.batch and not optimizer.averaging:  # whose λ̂ is that of another point
                sharpness = _sharpness(what, network, optimizer)
                found[-1]["true_sigma"] = short(optimizer.eta * sharpness / target)

    for step in range(stop + 1):
        x, y = next(batches)
        # In full batch the loss at this point is the step's own, which costs nothing; and the
        # target must be seen at the very step. With minibatches rows have to do.
        seen = step % every == 0 or step == what.steps
        fine = not what.batch and not below
        if seen or fine:
            show(optimizer, training=False)
            judged = what.judge(network)
            reached = not below and judged <= what.target
            first = judged if first is None else first
            lost = not judged < LOST * first
            kept = seen and (adaptive or step % (4 * every) == 0 or step == what.steps)
            if kept or reached or lost:
                row(step, judged, reached)
            below = below or reached
            if lost:
                break
            show(optimizer, training=True)
        if step == stop:
            if step == what.steps:
                found[-1]["accuracy"] = what.accuracy(network)
            break
        clock = time.process_time_ns()
        try:
            optimizer.step(lambda x=x, y=y: what.loss(network(x), y))
        except NonFiniteError:
            row(step, math.inf, False)
            break
        finally:
            microseconds += (time.process_time_ns() - clock) // 1000
    return found


def _sharpness(what: Task, network, optimizer: AdaEoS) -> float:
    E = Objective.from_module(network, what.loss, (what.data.x_train, what.data.y_train))
    diagonal = optimizer.moments.precondition([optimizer.state[p] for p in network.parameters()])
    scale = None
    if diagonal is not None:
        scale = torch.cat([part.reshape(-1) for part in diagonal]).sqrt()
    return float(curvature.top_eigenpairs(E, E.theta0, 1, tol=1e-2, scale=scale).values[0])
