"""Do the flows of RMSProp and Adam follow training to the edge of stability and along it?"""

from __future__ import annotations

import math
from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from gdflows import flows
from gdflows.arguments import chosen, whole
from gdflows.curvature import Tracker
from gdflows.errors import ConvergenceError, InputError, IntegrationError
from gdflows.experiments.registry import study
from gdflows.experiments.training_loss import training_loss
from gdflows.flows import AdaptiveRule, Averages, Flow
from gdflows.runs import Run
from gdflows.runs.progress import progress
from gdflows.walking import integrate

SIDE = 3  # iterates on each side that the filter of the centre takes
AVERAGED = 10  # steps on each side over which the oscillation's variances are averaged
RANKS = 3  # eigenvalues of Σ that are kept
TOL = 1e-3  # relative accuracy of the eigenvalues
MODELS = ("central", "rod", "rod 1", "stable")


def draw(figure, runs: list[Run]) -> None:
    """Loss, preconditioned sharpness and oscillation of the first seed, all models."""
    from gdflows.plotting import COLOURS

    table = runs[0].table
    table = table[table.seed == table.seed.iloc[0]]
    top, middle, below = figure.subplots(3, 1, sharex=True)
    for name, own in table.groupby("model", sort=False):
        colour = COLOURS.get({"optimizer": "GD", "stable": "NGF"}.get(name, name))
        top.semilogy(own.step, own.loss, color=colour, label=name)
        middle.plot(own.step, own.ratio, color=colour)
        below.semilogy(own.step, own.oscillation.where(own.oscillation > 0), color=colour)
    top.set_ylabel("mean loss")
    top.legend(fontsize=7, ncols=2)
    middle.set_ylabel("sharpness / edge")
    below.set(ylabel="oscillation", xlabel="step", ylim=(1e-8, None))


@study(
    "adaptive-edge",
    keys=("seed", "model", "step"),
    check=lambda c: {"steps": 2 * c["every"], "seeds": 1},
    picture=draw,
)
def run(
    *,
    network: Literal["mlp", "conv", "vit", "gpt"] = "mlp",
    widths: str = "8",
    activation: str = "tanh",
    scale: float = 1.0,
    data: str = "gratings",
    loss: Literal["mse", "cross-entropy"] = "mse",
    n: int = 50,
    optimizer: Literal["gd", "rmsprop", "rmsprop-scalar", "adam"] = "rmsprop",
    lr: float = 2e-3,
    beta1: float = 0.9,
    beta2: float = 0.99,
    eps: float = 1e-8,
    wait: int = 50,
    steps: int = 60,
    every: int = 5,
    models: str = "central,rod,rod 1,stable",
    substeps: int = 1,
    dtype: Literal["float32", "float64"] = "float64",
    seeds: int = 1,
    device: str = "cpu",
) -> pd.DataFrame:
    """Flows of an optimiser in use, started once and never corrected, against its training.

    Parameters
    ----------
    network : {"mlp", "conv", "vit", "gpt"}
        Fully connected, 3x3 convolutions with average pooling, or a transformer for images or
        text.
    widths : str
        Hidden widths or channels, as in ``"32-32"``; of a transformer a factor, as in ``"0.5"``.
    activation : str
        As in :func:`gdflows.problems.mlp`.
    scale : float
        Of the initialisation, times Xavier's.
    data : str
        A data set, by its name in :func:`gdflows.problems.load`.
    loss : {"mse", "cross-entropy"}
        The loss.
    n : int
        Training samples used, all of them in every step.
    optimizer : {"gd", "rmsprop", "rmsprop-scalar", "adam"}
        Whose flows.
    lr : float
        The learning rate h.
    beta1 : float
        Adam's momentum; the others have none.
    beta2 : float
        Of the average of squared gradients.
    eps : float
        Added to its root.
    wait : int
        Steps of the optimiser before the flows start, at least 3.
    steps : int
        Steps for which they are followed.
    every : int
        Steps between two rows.
    models : str
        Which, joined by commas: central, rod (of order 0, as published), rod 1 (of order 1; of
        gradient descent the principal rod), stable (without oscillation).
    substeps : int
        Runge-Kutta steps of order four in each step; stable and rod 1 take twice as many, for
        stability.
    dtype : {"float32", "float64"}
        Of the parameters.
    seeds : int
        Initialisations 0, 1, …, each with a path of its own.
    device : str
        Where to compute.

    Returns
    -------
    pandas.DataFrame
        A row for each seed, model and step; the optimiser itself is model "optimizer". Columns:
        ``loss``, the mean over the oscillation; ``ratio``, the preconditioned sharpness at the
        centre, divided by the edge; ``oscillation``, its root mean square; ``moved``, the
        centre's distance from the start; of the models ``centre_error``, the distance of the
        centres; ``gradients``, ``hvps`` and ``thirds`` spent on the whole path; ``failure``, why a
        path ended early. Of the central flow also ``rank`` of Σ, ``sigma1`` … ``sigma3``, its
        largest eigenvalues in the metric of the preconditioner, and ``swing1`` … ``swing3``, the
        optimiser's mean squares along the same directions, over ten steps on either side.

    Notes
    -----
    The centre of the iterates is θ + δ⁶θ/64 with central differences δ, as in
    :func:`gdflows.leaderboard`, and the half-rod θ minus the centre. All flows start at the
    centre, the rod with the half-rod that is there (of gradient descent at the iterate, which it
    splits by itself).
    """
    wanted = chosen(models, "model", MODELS)
    wait, steps, every = whole(wait, "wait", SIDE), whole(steps, "steps"), whole(every, "every")
    if every > steps:
        raise InputError(f"every must be at most steps = {steps}, got {every}.")
    substeps, tables = whole(substeps, "substeps"), []
    for seed in progress(range(whole(seeds, "seeds")), "seed"):
        E = training_loss(
            network, widths, activation, scale, data, n, seed, device, loss=loss, dtype=dtype
        )
        rule = None
        if optimizer != "gd":
            betas = {"betas": (beta1, beta2)} if optimizer == "adam" else {"beta": beta2}
            rule = AdaptiveRule(optimizer, lr, eps=eps, **betas)
        seen = _Training(E, rule, lr, wait, steps, every)
        found = [seen.rows]
        for name in progress(wanted, "model"):
            found.append(_follow(name, _flow(name, seen), seen, substeps))
        tables.append(pd.concat(found, ignore_index=True).assign(seed=seed))
    return pd.concat(tables, ignore_index=True)


def _flow(name: str, seen: _Training) -> Flow:
    E, lr, rule, rod = seen.objective, seen.lr, seen.rule, seen.rods[0]
    if rule is None:
        return {
            "central": lambda: flows.CentralFlow(E, lr, tol=TOL),
            "rod": lambda: flows.RodFlow(E, lr, noise="float", start="slow"),
            "rod 1": lambda: flows.PrincipalRodFlow(E, lr, order=1),
            "stable": lambda: flows.NGF(E, lr),
        }[name]()
    betas = {"betas": (rule.beta1, rule.beta2)} if rule.corrected else {"beta": rule.beta2}
    options = {"optimizer": rule.name, "eps": rule.eps, "averages": seen.averages, **betas}
    if name == "central":
        return flows.CentralFlow(E, lr, tol=TOL, **options)
    if name.startswith("rod"):
        order = int(name == "rod 1")
        return flows.RodFlow(E, lr, noise="float", start=rod, order=order, **options)
    return flows.StableFlow(E, lr, **options)


class _Training:
    """The optimiser's iterates, their centres and half-rods, and a row at each time looked at."""

    def __init__(self, E, rule: AdaptiveRule | None, lr: float, wait: int, steps: int, every: int):
        self.objective, self.rule, self.lr = E, rule, lr
        self.times = range(0, steps + 1, every)
        theta, averages = E.theta0, None if rule is None else rule.begin(E.theta0)
        states, known, losses = [], [], []
        last = steps + AVERAGED
        for k in progress(range(-wait, last + SIDE + 1), "step"):
            if k == 0:
                before = averages
            if k >= -SIDE:
                states.append(theta)
                losses.append(float(E.value(theta)))
            if rule is None:
                theta = theta - lr * E.grad(theta)
            else:
                theta, averages = rule.step(E, theta, averages)
            if k >= 0:
                known.append(averages)
        weights = [math.comb(2 * SIDE, j) * (-1) ** (j + SIDE) / 4**SIDE for j in range(7)]
        windows = range(last + 1)
        self.rods = [sum(w * states[k + j] for j, w in enumerate(weights)) for k in windows]
        swings = [sum(w * losses[k + j] for j, w in enumerate(weights)) for k in windows]
        self.centres = [states[k + SIDE] - self.rods[k] for k in windows]
        self.start, self.averages = self.centres[0], before
        if rule is not None and rule.beta1:
            # A θ that turns round at each step has m opposite before it
            rates, b1 = self.rates(known[0]), rule.corrections(known[0].step)[0]
            swing = torch.where(rates > 0, -2 * b1 * self.rods[0] / rates, 0.0)
            self.averages = before._replace(first=before.first - swing)
        tracker, rows = Tracker(E, tol=TOL), []
        for k in self.times:
            rows.append({
                "model": "optimizer", "step": k, "loss": losses[k + SIDE] - swings[k],
                "ratio": self.ratio(tracker, self.centres[k], known[k]),
                "oscillation": float(torch.linalg.vector_norm(self.rods[k])),
                "moved": float(torch.linalg.vector_norm(self.centres[k] - self.centres[0])),
            })  # fmt: skip
        self.rows = pd.DataFrame(rows)

    def rates(self, averages: Averages | None) -> Tensor:
        """D, with the averages of a step."""
        if self.rule is None:
            return torch.full_like(self.rods[0], self.lr)
        return self.rule.rates(averages.second, averages.step).expand_as(self.rods[0])

    def ratio(self, tracker: Tracker, theta: Tensor, averages: Averages | None) -> float:
        """The preconditioned sharpness over the edge."""
        edge = 2.0 if self.rule is None else self.rule.edge(averages.step)
        root = self.rates(averages).sqrt()
        return float(tracker.update(theta.contiguous(), scale=root).values[0]) / edge

    def swing(self, k: int, vector: Tensor) -> float:
        """Mean square of the oscillation's component, Σ(vector · rod)², about step k."""
        near = self.rods[max(k - AVERAGED, 0) : k + AVERAGED + 1]
        return sum(float(vector @ rod) ** 2 for rod in near) / len(near)


def _follow(name: str, flow: Flow, seen: _Training, substeps: int) -> pd.DataFrame:
    lr, failure = seen.lr, ""
    # Sharpness that goes on rising, and fast modes to second order, need shorter steps
    length = lr / substeps / (2 if name in ("stable", "rod 1") else 1)
    split = name.startswith("rod") and seen.rule is None  # splits the iterate by itself
    begin = seen.start + seen.rods[0] if split else seen.start
    try:
        path = integrate(
            flow, begin, times=[lr * k for k in seen.times], method="rk4", step=length,
            max_evaluations=10**7,
        )  # fmt: skip
    except IntegrationError as e:
        path, failure = e.partial, e.cause
    except ConvergenceError as e:  # the central flow's, at a place it does not tell
        return pd.DataFrame([{"model": name, "step": 0, "failure": str(e)}])
    tracker, rows = Tracker(seen.objective, tol=TOL), []
    if name != "central":
        losses, swings = flow.mean_loss(path), flow.oscillation(path)
    for i, k in enumerate(seen.times):
        if i == len(path):
            break
        theta = path.states[i].contiguous()
        companions = {key: values[i] for key, values in path.companions.items()}
        averages = None
        if seen.rule is not None:
            # A rod's average is that before the step
            step = max(float(companions["step"]), 1.0)
            averages = Averages(theta, companions["second"].clamp(min=0), step)
        row = {"model": name, "step": k}
        if name == "central":
            row |= _covariance(flow, seen, k, theta, companions, averages)
        else:
            row |= {"loss": float(losses[i]), "oscillation": float(swings[i])}
        row |= {
            "ratio": seen.ratio(tracker, theta, averages),
            "moved": float(torch.linalg.vector_norm(theta - path.states[0])),
            "centre_error": float(torch.linalg.vector_norm(theta - seen.centres[k])),
        }
        rows.append(row)
    table = pd.DataFrame(rows).assign(failure=failure)
    for kind in ("gradients", "hvps", "thirds"):
        table[kind] = pd.array([path.cost[kind]] * len(table), dtype="Int64")
    return table


def _covariance(flow, seen: _Training, k: int, theta, companions, averages) -> dict:
    """Mean loss, size and eigenvalues of Σ, and the optimiser's mean squares beside these."""
    if seen.rule is None:  # its field has no companions
        companions = {}
    found = flow.covariance(theta, **companions)
    x, vectors = found.matrix, found.vectors
    row = {
        "loss": float(seen.objective.value(theta) + (x.diagonal() * found.values).sum() / 2),
        "oscillation": float((x * (vectors @ vectors.T)).sum().clamp(min=0).sqrt()),
        "rank": 0,
    }
    if not x.numel():
        return row
    rates = seen.rates(averages)
    left = torch.where(rates > 0, vectors / rates, torch.zeros_like(rates))  # PU
    unit = float((left[0] * vectors[0]).sum())  # UᵀPU: 1, of gradient descent 1/h
    values, turns = torch.linalg.eigh(x * unit)
    row["rank"] = int((values > 1e-6 * values[-1]).sum()) if float(values[-1]) > 0 else 0
    for j in range(min(RANKS, len(values))):
        along = turns[:, -1 - j] @ left / unit**0.5
        row[f"sigma{j + 1}"] = float(values[-1 - j])
        row[f"swing{j + 1}"] = seen.swing(k, along)
    return row
