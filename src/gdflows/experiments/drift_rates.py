"""Fixed learning rates and DAL-p on one task: what each does to loss, drift and sharpness."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gdflows import curvature, landscape
from gdflows.arguments import numbers
from gdflows.errors import InputError, NonFiniteError
from gdflows.experiments.registry import study
from gdflows.experiments.trial.tasks import Task, task
from gdflows.objective import Objective
from gdflows.optim import DAL
from gdflows.runs import Log

FEW = 1000  # training samples whose loss and sharpness are looked at
AROUND = (0.25, 0.5, 1.0)  # how far from a point the loss is looked at, in filter-norms


class _Fixed(DAL):
    """Gradient descent at a fixed rate that measures its drift, as DAL does on its way."""

    def _rate(self, curvature: float) -> float:
        return self.scale


@study(
    "drift-rates",
    keys=("method", "value", "seed", "step"),
    check=lambda c: {"seeds": 1, "stop": 3, "rates": c["rates"].split(",")[0], "powers": "1"},
    resumable=True,
)
def drift_rates(
    log: Log,
    *,
    name: str = "gratings-ce",
    batch: int = -1,
    rates: str = "0.5",
    powers: str = "0.25,0.5,0.75,1",
    momentum: float = 0.0,
    scale: float = 2.0,
    cap: float = 5.0,
    steps: int = 300,
    rows: int = 30,
    seeds: int = 3,
    until: float = 0.0,
    slices: int = 0,
    stop: int = 0,
    device: str = "cpu",
) -> pd.DataFrame:
    r"""Fixed learning rates beside DAL-p: losses, test accuracies, drift, sharpness.

    Parameters
    ----------
    log : Log
        Where the study is kept on the way.
    name : str
        The task, see :data:`gdflows.experiments.trial.tasks.TASKS`; its optimisers, target
        and budget are not used.
    batch : int
        Samples in a step; 0 for all, -1 for the task's own number.
    rates : str
        Fixed learning rates.
    powers : str
        The powers p of DAL-p.
    momentum : float
        Of all.
    scale : float
        The numerator of DAL, 2 in the paper, ½ there with momentum.
    cap : float
        DAL's largest rate.
    steps : int
        Steps of each.
    rows : int
        Rows of each, besides that of step 0.
    seeds : int
        How many, from 0.
    until : float
        A run ends at the first row whose ``loss`` is at most this; 0 for never.
    slices : int
        In how many random filter-normalised directions the loss is looked at, at step 0 and at
        the end of a run; 0 for no such columns.
    stop : int
        Break off after so many steps; 0 for never.
    device : str
        Where to compute.

    Returns
    -------
    pandas.DataFrame
        Columns: ``method`` ("fixed" or "dal"), ``value`` (rate or power), ``seed``, ``step``;
        ``loss`` on at most 1,000 training samples (∞ where the run was lost), ``accuracy`` on at
        most 1,000 test samples,
        ``sharpness`` (largest eigenvalue of that loss's Hessian, at every tenth row and the last);
        with ``slices``, ``around_0.25``, ``around_0.5`` and ``around_1``: that loss at so many
        filter-norms from the point, the mean over the directions and both signs;
        of the step taken there, on its batch: ``rate`` h, ``gradient``
        :math:`\|g\|`, ``update`` :math:`\|\Delta\theta\|`, ``drift``
        :math:`\tfrac{h^2}2\|Hg\|`; ``mean_drift`` over the steps since the row before.

    Raises
    ------
    InputError
        For names and numbers that cannot be used.
    """
    if min(steps, rows, seeds) < 1:
        raise InputError("steps, rows and seeds must be at least 1.")
    if min(until, slices) < 0:
        raise InputError("until and slices must not be negative.")
    what = task(name, device, judged=FEW)
    if batch >= 0:
        what = replace(what, batch=batch)
    planned = [
        (method, value, seed)
        for seed in range(seeds)
        for method, values in (
            ("fixed", numbers(rates, "rates")),
            ("dal", numbers(powers, "powers")),
        )
        for value in values
    ]
    starts: dict[int, dict] = {}  # what all runs of a seed begin with
    for method, value, seed in log.through(planned):
        network = what.network(seed)
        if method == "fixed":
            optimizer = _Fixed(network.parameters(), scale=value, momentum=momentum, cap=math.inf)
        else:
            optimizer = DAL(network.parameters(), value, scale=scale, momentum=momentum, cap=cap)
        every = max(1, steps // rows)
        start = starts.setdefault(seed, {})
        for row in _follow(
            what, network, optimizer, seed, steps, every, until, slices, stop, start
        ):  # fmt: skip
            log.rows.append({"method": method, "value": value, "seed": seed} | row)
    return log.table()


def _follow(
    what: Task, network, optimizer: DAL, seed: int, steps: int, every: int, until: float,
    slices: int, stop: int, start: dict,
):  # fmt: skip
    x, y = what.data.x_train[:FEW], what.data.y_train[:FEW]
    batches, drifts, found = what.batches(seed), [], []
    for step in range((stop or steps) + 1):
        seen = step % every == 0
        if seen:
            with torch.no_grad():
                value = float(what.loss(network(x), y))
            found.append(
                {"step": step, "loss": value, "accuracy": what.accuracy(network),
                 "sharpness": math.nan, "rate": math.nan, "gradient": math.nan,
                 "update": math.nan, "drift": math.nan,
                 "mean_drift": sum(drifts) / len(drifts) if drifts else math.nan}
            )  # fmt: skip
            drifts = []
            if not math.isfinite(value):
                found[-1]["loss"] = math.inf
                break
            ended = step == steps or 0 < until >= value
            if step == 0 and start:
                found[-1] |= start
            elif step % (10 * every) == 0 or ended:
                looked = _look(what, network, x, y, slices if step == 0 or ended else 0)
                found[-1] |= looked
                if step == 0:
                    start.update(looked)
            if ended:
                break
        if step == (stop or steps):
            break
        u, v = next(batches)
        before = _flat(network)
        try:
            optimizer.step(lambda u=u, v=v: what.loss(network(u), v))
        except NonFiniteError:
            found.append({"step": step + 1, "loss": math.inf})
            break
        drifts.append(optimizer.drift)
        if seen:
            gradient = torch.cat([p.grad.flatten() for p in network.parameters()])
            found[-1] |= {
                "rate": optimizer.rate,
                "gradient": float(torch.linalg.vector_norm(gradient)),
                "update": float(torch.linalg.vector_norm(_flat(network) - before)),
                "drift": optimizer.drift,
            }
    return found


def _look(what: Task, network, x: Tensor, y: Tensor, slices: int) -> dict[str, float]:
    """The sharpness where the network is, and the mean loss at some distances from there."""
    E, seen = Objective.from_module(network, what.loss, (x, y)), {"sharpness": math.nan}
    try:
        top = curvature.top_eigenpairs(E, E.theta0, 1, tol=1e-2)
        seen["sharpness"] = float(top.values[0])
    except NonFiniteError:
        pass  # on its way to infinity
    if slices:
        at = [sign * r for r in AROUND for sign in (-1, 1)]
        directions = landscape.filter_normalised(E, E.theta0, seed=0, count=slices)
        losses = [landscape.slice_of(E, E.theta0, [direction], at) for direction in directions]
        means = np.mean(losses, axis=0).reshape(len(AROUND), 2).mean(axis=1)
        seen |= {f"around_{r:g}": float(mean) for r, mean in zip(AROUND, means, strict=True)}
    return seen


def _flat(network) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])
