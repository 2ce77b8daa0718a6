"""Where does SGD hold its sharpness, and which model says so beforehand?"""

from __future__ import annotations

from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from gdflows import flows
from gdflows.arguments import chosen, whole, wholes
from gdflows.curvature import Tracker, batch_sharpness, top_eigenpairs
from gdflows.errors import InputError, IntegrationError, NonFiniteError
from gdflows.experiments.registry import study
from gdflows.experiments.training_loss import training_loss
from gdflows.flows.modified import check_beta
from gdflows.noise import directional_noise
from gdflows.runs import Run
from gdflows.runs.progress import progress
from gdflows.trajectory import Trajectory
from gdflows.walking import descend, integrate
from gdflows.walking.sgd import sgd

TOL = 1e-3  # relative accuracy of the eigenvalues
DRAWN = 4  # points about the centre at which the stochastic rod's iterates are looked at
BATCHES = 4  # for one look at batch sharpness
FINER = 4  # steps of the modified equation in each of SGD's
MODELS = ("SGD", "stochastic rod", "centre", "SDE", "SDE 2", "rod", "gap")


def draw(figure, runs: list[Run]) -> None:
    """Sharpness against time, SGD and the models, a panel for each batch size."""
    from gdflows.plotting import COLOURS

    table = runs[0].table
    panels = figure.subplots(1, table.batch.nunique(), sharey=True, squeeze=False)[0]
    for ax, (batch, own) in zip(panels, table.groupby("batch"), strict=True):
        for name in MODELS:
            rows = own[own.model == name].groupby("step").sharpness.mean()
            colour = COLOURS.get({"SGD": "GD", "SDE": "NGF"}.get(name, name))
            ax.plot(rows.index, rows, label=name, color=colour)
        ax.set(title=f"batches of {batch}", xlabel="step", ylim=(0, 3))
    panels[0].set_ylabel("h · sharpness")
    panels[0].legend(fontsize=7)


@study(
    "stochastic-edge",
    keys=("seed", "batch", "model", "step"),
    check=lambda c: {"steps": 2 * c["every"], "seeds": 1, "batches": c["batches"].split(",")[0]},
    picture=draw,
)
def run(
    *,
    network: Literal["mlp", "conv"] = "mlp",
    widths: str = "6",
    activation: str = "tanh",
    scale: float = 1.0,
    data: str = "gratings",
    loss: Literal["mse", "cross-entropy"] = "mse",
    n: int = 60,
    lr: float = 0.3,
    batches: str = "10",
    wait: int = 50,
    steps: int = 40,
    every: int = 10,
    rank: int = 2,
    paths: int = 2,
    models: str = "SGD,stochastic rod,centre,SDE,SDE 2,rod,gap",
    momentum: float = 0.0,
    seeds: int = 1,
    device: str = "cpu",
) -> pd.DataFrame:
    """The sharpness at which SGD settles, measured and predicted, with nothing fitted.

    Parameters
    ----------
    network : {"mlp", "conv"}
        Fully connected, or 3x3 convolutions with average pooling.
    widths : str
        Hidden widths or channels, as in ``"32-32"``.
    activation : str
        As in :func:`gdflows.problems.mlp`.
    scale : float
        Of the initialisation, times Xavier's.
    data : str
        A data set, by its name in :func:`gdflows.problems.load`.
    loss : {"mse", "cross-entropy"}
        The loss.
    n : int
        Training samples used.
    lr : float
        The learning rate h.
    batches : str
        Batch sizes of SGD, without replacement, joined by commas.
    wait : int
        Steps of gradient descent before SGD and all models start, at one point.
    steps : int
        Steps for which they are followed.
    every : int
        Steps between two rows.
    rank : int
        Directions of the stochastic rod's swing.
    paths : int
        Runs of SGD for each seed; the modified equations are run once.
    models : str
        Which rows, joined by commas; "centre" comes with "stochastic rod", "gap" with "rod".
    momentum : float
        β of heavy ball, in training, SGD and all models. All start at rest.
    seeds : int
        Initialisations 0, 1, ….
    device : str
        Where to compute.

    Returns
    -------
    pandas.DataFrame
        A row for each seed, batch size, model and step. Columns: ``sharpness``, h times the
        largest eigenvalue of the full loss's Hessian; ``batch_sharpness``, h times that of
        :func:`gdflows.curvature.batch_sharpness`, where it is asked for; ``loss``, the full one;
        ``failure``, why a path ended early.

    Notes
    -----
    Models: "SGD" itself, mean over its runs. "stochastic rod", at four points drawn about
    its centre with its covariance, as SGD's iterates lie about theirs; "centre", at its centre.
    "SDE" and "SDE 2", the stochastic modified equations of first and second order with the exact
    noise of the batches, Euler-Maruyama with a quarter of a step. "rod", the principal rod flow
    of order 0, which knows of no batches. "gap", the published closed form 2 − h·ΔS with
    :math:`\\Delta S = h\\beta\\sigma_u^2/(4\\alpha)`, its α, β and σ² taken along the rod's path
    (α ≤ 0: no row).

    With momentum the edge is 2(1 + β) and "rod" :class:`gdflows.flows.MomentumRodFlow` of order 0;
    "gap", which was published without, is 2(1 + β) − h·ΔS/(1 − β), the first order of the balance
    with heavy ball's mean square.
    """
    wanted, sizes = chosen(models, "model", MODELS), wholes(batches, "batches")
    steps, every, beta = (
        whole(steps, "steps"),
        whole(every, "every"),
        check_beta(momentum, "momentum"),
    )
    if every > steps:
        raise InputError(f"every must be at most steps = {steps}, got {every}.")
    rows = []
    for seed in progress(range(whole(seeds, "seeds")), "seed"):
        E = training_loss(network, widths, activation, scale, data, n, seed, device, loss=loss)
        start = descend(E, E.theta0, lr, whole(wait, "wait"), every=wait, momentum=beta)
        theta = start.states[-1]
        looks = list(range(0, steps + 1, every))
        full = _rod(E, theta, lr, beta, looks) if {"rod", "gap"} & set(wanted) else None
        for size in progress(sizes, "batch size"):
            seen = _Seen(E, theta, lr, beta, size, looks, seed, paths)
            found = []
            if "SGD" in wanted:
                found += seen.sgd()
            if {"stochastic rod", "centre"} & set(wanted):
                found += seen.stochastic_rod(rank)
            for order, name in enumerate(("SDE", "SDE 2"), start=1):
                if name in wanted:
                    found += seen.sde(name, order)
            if full is not None:
                found += seen.full_batch(*full)
            for row in found:
                if row["model"] in wanted:
                    rows.append({"seed": seed, "batch": size, **row})
    return pd.DataFrame(rows)


def _rod(E, theta: Tensor, lr: float, beta: float, looks: list[int]) -> tuple[Trajectory, str]:
    if beta:
        return _followed(flows.MomentumRodFlow(E, lr, beta=beta), theta, lr, looks)
    # Noise that no rod comes down to: steps of a fixed length cannot follow it there, and what
    # has shrunk so far pushes nothing.
    return _followed(flows.PrincipalRodFlow(E, lr, order=0, noise=1e-100), theta, lr, looks)


def _followed(
    flow: flows.Flow, theta: Tensor, lr: float, looks, parts: int = 1
) -> tuple[Trajectory, str]:
    try:
        times = [lr * k for k in looks]
        steps = {"method": "rk4", "step": lr / parts, "max_evaluations": 10**7}
        return integrate(flow, theta, times=times, **steps), ""
    except IntegrationError as e:
        return e.partial, e.cause


class _Seen:
    """What SGD and its models show at one batch size from one point."""

    def __init__(self, E, theta: Tensor, lr: float, beta: float, size: int, looks, seed, paths):
        self.E, self.theta, self.lr, self.beta, self.size = E, theta, lr, beta, size
        self.looks, self.seed, self.paths = looks, seed, whole(paths, "paths")
        self.noise = flows.PerSampleNoise(E, size)

    def sharpness(self, points) -> list[float]:
        """h times the largest eigenvalue along a path."""
        tracker = Tracker(self.E, tol=TOL)
        return [self.lr * float(tracker.update(x.contiguous()).values[0]) for x in points]

    def of_batches(self, theta: Tensor, k: int) -> float:
        seen = batch_sharpness(self.E, theta, self.size, batches=BATCHES, seed=1000 * self.seed + k)
        return self.lr * seen.value

    def rows(self, model: str, states: Tensor, batches: bool, failure: str = "") -> list[dict]:
        """Means over the runs ``(T, P, D)`` at each look."""
        runs = [self.sharpness(states[:, p]) for p in range(states.shape[1])]
        rows = []
        for i in range(len(states)):
            row = {
                "model": model, "step": self.looks[i],
                "sharpness": sum(r[i] for r in runs) / len(runs),
                "loss": sum(float(self.E.value(x)) for x in states[i]) / len(runs),
                "failure": failure,
            }  # fmt: skip
            if batches:
                seen = [self.of_batches(x.contiguous(), 97 * p + self.looks[i])
                        for p, x in enumerate(states[i])]  # fmt: skip
                row["batch_sharpness"] = sum(seen) / len(seen)
            rows.append(row)
        return rows

    def sgd(self) -> list[dict]:
        try:
            seen = sgd(
                self.E, self.theta, self.lr, self.looks[-1], covariance=self.noise,
                noise="batches", momentum=self.beta, paths=self.paths, seed=self.seed,
                at=self.looks, keep="paths",
            )  # fmt: skip
        except (IntegrationError, NonFiniteError) as e:
            return [{"model": "SGD", "step": 0, "failure": str(e)}]
        return self.rows("SGD", seen.states[..., : self.E.dim], True)

    def sde(self, name: str, order: int) -> list[dict]:
        flow = flows.StochasticModifiedEquation(
            self.E, self.lr, covariance=self.noise, order=order, beta=self.beta
        )
        try:
            seen = integrate(
                flow, self.theta, times=[self.lr * k for k in self.looks], paths=1, keep="paths",
                seed=self.seed, method="euler-maruyama", step=self.lr / FINER,
            )  # fmt: skip
        except (IntegrationError, NonFiniteError) as e:
            return [{"model": name, "step": 0, "failure": str(e)}]
        return self.rows(name, seen.states, False)

    def stochastic_rod(self, rank: int) -> list[dict]:
        flow = flows.StochasticRodFlow(
            self.E, self.lr, batch_size=self.size, beta=self.beta, rank=rank
        )
        # a swing that turns asks for shorter steps
        parts = 2 if self.beta else 1
        path, failure = _followed(flow, self.theta, self.lr, self.looks, parts)
        about = flow.sample(path, DRAWN, seed=self.seed)
        rows = self.rows("stochastic rod", about, True, failure)
        rows += self.rows("centre", path.states[:, None], False, failure)
        for row, value in zip(rows[len(about) :], flow.mean_loss(path), strict=True):
            row["loss"] = float(value)
        return rows

    def full_batch(self, path: Trajectory, failure: str) -> list[dict]:
        rows = self.rows("rod", path.states[:, None], False, failure)
        for c, k in zip(path.states, self.looks, strict=False):
            c = c.contiguous()
            point = self.E.at(c)
            u = top_eigenpairs(self.E, c, 1, tol=TOL).vectors[0]
            turn = point.third(u, u)
            alpha, beta = -float(torch.dot(turn, point.grad)), float(torch.dot(turn, turn))
            if alpha <= 0:
                continue
            noise = directional_noise(self.E, c, u, batch_size=self.size).slope_variance
            gap = self.lr * beta * float(noise[0]) / (4 * alpha * (1 - self.beta))
            said = 2 * (1 + self.beta) - self.lr * gap
            rows.append({"model": "gap", "step": k, "sharpness": said, "failure": ""})
        return rows
