"""Is the implicit penalty the reason? A larger step against a small one with the penalty put in."""

from __future__ import annotations

from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from gdflows import probes, problems
from gdflows.arguments import numbers
from gdflows.errors import InputError
from gdflows.experiments.registry import study
from gdflows.experiments.samples import samples
from gdflows.runs.progress import Progress
from gdflows.walking import descend


@study(
    "gradient-penalty",
    keys=("seed", "method", "size", "t"),
    check=lambda c: {"seeds": 1, "time": c["every"]},
)
def gradient_penalty(
    *,
    data: str = "digits",
    n: int = 200,
    hidden: int = 20,
    loss: Literal["mse", "cross-entropy"] = "mse",
    rates: str = "0.04,0.08,0.16",
    penalties: str = "0.04,0.08,0.16,0.8",
    small: float = 0.01,
    time: float = 8.0,
    every: float = 0.8,
    seeds: int = 1,
    device: str = "cpu",
) -> pd.DataFrame:
    """Gradient descent of step h, and of a small step with the gradient's penalty put in by hand.

    Parameters
    ----------
    data : str
        A data set for classification, by its name in :func:`gdflows.problems.load`.
    n : int
        Training samples used, all of them in every step. All others are for the test.
    hidden : int
        Units of the one hidden layer, with tanh.
    loss : {"mse", "cross-entropy"}
        What is trained on, as in :func:`gdflows.problems.classification`.
    rates : str
        Steps h of gradient descent, with commas between them.
    penalties : str
        Total penalties mu: descent of the small step h0 on E + (mu - h0)/4 |grad E|^2.
    small : float
        The small step h0, by itself the reference.
    time : float
        Flow time of all runs.
    every : float
        Flow time between two rows, a multiple of all steps.
    seeds : int
        Initialisations, 0 to seeds - 1.
    device : str
        Where to compute, in double precision.

    Returns
    -------
    pandas.DataFrame
        A row for each initialisation ``seed``, ``method`` (``GD`` or ``penalty``), its ``size``
        (h or mu) and each time ``t``: training ``loss``, ``gradient`` norm, ``sharpness``,
        ``test`` accuracy in per cent, Euclidean distance ``moved`` from gradient descent at the
        small step, and distance ``apart`` of a penalty's run from gradient descent with that
        step, where that was run.

    Raises
    ------
    InputError
        If a list holds something else than numbers, or ``every`` is no multiple of a step.

    References
    ----------
    Barrett and Dherin (2021) and Geiping et al. (2022) train with such penalties.
    """
    steps = {h: _steps(h, time, every) for h in (small, *numbers(rates, "rates"))}
    sizes = numbers(penalties, "penalties")
    dtype = torch.float64
    found = samples(data, dtype)
    x = torch.cat([found.x_train[n:], found.x_test]).to(device)
    y = torch.cat([found.y_train[n:], found.y_test]).to(device)
    widths = [found.x_train[0].numel(), hidden, len(found.classes)]
    total = sum(s for s, _ in steps.values()) + len(sizes) * steps[small][0]
    tables = []
    with Progress(seeds * total) as shown:
        for seed in range(seeds):
            net = problems.mlp(widths, "tanh", seed=seed, dtype=dtype, device=device)
            E = problems.classification(found, net, loss=loss, n=n)
            paths = {}
            for h, (count, kept) in steps.items():
                paths["GD", h] = descend(E, E.theta0, h, count, every=kept)
                shown.update(count)
            for mu in sizes:
                made = problems.penalised(E, (mu - small) / 4)
                count, kept = steps[small]
                paths["penalty", mu] = descend(made, E.theta0, small, count, every=kept)
                shown.update(count)
            for (method, size), path in paths.items():
                twin = paths.get(("GD", size)) if method == "penalty" else None
                rows = [_seen(E, net, theta, x, y) for theta in path.states]
                table = pd.DataFrame(rows)
                # of the times themselves, which differ in their last bit from run to run
                times = [k * every for k in range(len(path))]
                for place, (name, column) in enumerate(
                    {"seed": seed, "method": method, "size": size, "t": times}.items()
                ):
                    table.insert(place, name, column)
                table["moved"] = path.distance(paths["GD", small]).cpu().numpy()
                table["apart"] = float("nan") if twin is None else path.distance(twin).cpu().numpy()
                tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _seen(E, net: torch.nn.Module, theta: Tensor, x: Tensor, y: Tensor) -> dict[str, float]:
    point = E.at(theta)
    named = E.unflatten(theta)
    with torch.no_grad():
        guessed = torch.func.functional_call(net, named, (x,)).argmax(1)
    return {
        "loss": float(point.value),
        "gradient": probes.gradient_norm(point),
        "sharpness": probes.sharpness(point),
        "test": 100 * float((guessed == y).double().mean()),
    }


def _steps(h: float, time: float, every: float) -> tuple[int, int]:
    """Steps in all, and steps between two rows."""
    between, rows = every / h, time / every
    for ratio in (between, rows):
        if round(ratio) < 1 or abs(ratio - round(ratio)) > 1e-9 * ratio:
            raise InputError(
                f"every = {every:g} must be a multiple of each step and divide the time; with the "
                f"step {h:g} and the time {time:g} it does not."
            )
    return round(between) * round(rows), round(between)
