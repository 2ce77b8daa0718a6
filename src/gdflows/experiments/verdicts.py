"""Does what `validity` foresees of the models of a run come true?"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import pandas as pd
import torch

from gdflows.arguments import whole
from gdflows.curvature import Tracker
from gdflows.errors import InputError
from gdflows.experiments.registry import study
from gdflows.experiments.training_loss import training_loss
from gdflows.flows import NGF
from gdflows.objective import Objective
from gdflows.runs import Run
from gdflows.runs.progress import progress
from gdflows.trajectory import Trajectory
from gdflows.verdict import validity
from gdflows.verdict.models import TWO_POINTS
from gdflows.walking import descend, integrate

GROWTH = 1.5  # from one look to the next
EVERY = 5  # steps between two eigenvalues on the way to the edge
DIGITS = 6  # kept of each number
FEWER = ("NGF", "SDE 1", "SDE 2", "stochastic rod")  # with batches: the others are as the first


class Case(NamedTuple):
    """A situation: a learning rate, steps of descent before, a batch size (0: all), a momentum."""

    name: str
    lr: float
    wait: int
    batch: int | None
    momentum: float


def draw(figure, runs: list[Run]) -> None:
    """Measured against foreseen error, a panel for each situation."""
    table = pd.concat([run.table for run in runs])
    table = table[(table.step <= table.known) & (table.foreseen > 0)]
    kinds = list(table.situation.unique())
    panels = figure.subplots(1, len(kinds), sharex=True, sharey=True, squeeze=False)[0]
    for ax, kind in zip(panels, kinds, strict=True):
        for name, own in table[table.situation == kind].groupby("model", sort=False):
            ax.loglog(own.foreseen, own.error, ".", label=name)
        ax.axline((1e-3, 1e-3), (1, 1), color="#999999", linewidth=0.8)
        ax.set(title=kind, xlabel="error foreseen")
        ax.legend(fontsize=7)
    panels[0].set_ylabel("error measured")


@study(
    "validity",
    keys=("seed", "case", "model", "step"),
    # not a principal flow past hλ = 1, which is lost at another time on another machine
    check=lambda c: {"seeds": 1, "cases": c["cases"].split(",")[-1]},
    picture=draw,
)
def run(
    *,
    network: Literal["mlp", "conv"] = "mlp",
    widths: str = "6",
    activation: str = "tanh",
    data: str = "gratings",
    loss: Literal["mse", "cross-entropy"] = "mse",
    n: int = 40,
    cases: str = "0.05@10,0.05@10/10",
    steps: int = 16,
    long: int = 0,
    paths: int = 16,
    tol: float = 0.05,
    rods: bool = False,
    seeds: int = 1,
    device: str = "cpu",
) -> pd.DataFrame:
    """Errors of the models of a run, foreseen at its start and measured step by step.

    Parameters
    ----------
    network : {"mlp", "conv"}
        Fully connected, or 3x3 convolutions with average pooling.
    widths : str
        Hidden widths or channels, as in ``"12-12"``.
    activation : str
        As in :func:`gdflows.problems.mlp`.
    data : str
        A data set, by its name in :func:`gdflows.problems.load`.
    loss : {"mse", "cross-entropy"}
        The loss.
    n : int
        Training samples used.
    cases : str
        Situations, joined by commas: ``h@w``, learning rate h after w steps of descent with it;
        ``h@w/B`` for batches of B, ``h@w/B/m`` with momentum m as well (B = 0: full batch).
    steps : int
        Steps for which run and models are followed.
    long : int
        Steps for which gradient descent and the gradient flow are followed to see when hλ meets
        the edge and how long the flow lasts, in full batch without momentum; 0 for none.
    paths : int
        Runs of SGD and of each equation.
    tol : float
        The error up to which a model is trusted.
    rods : bool
        Judge models of two points with momentum, too.
    seeds : int
        Initialisations 0, 1, ….
    device : str
        Where to compute.

    Returns
    -------
    pandas.DataFrame
        A row for each seed, case, model and look. Columns: ``situation``; ``foreseen`` and
        ``error``, the error foreseen at the start and the measured one, shares of the distance
        travelled; ``known``, the steps that the estimate reaches; ``begin`` and ``until``, the
        steps between which the model was said to be trusted; ``x``, hλ at the start;
        ``to_edge``, the steps said to be left to the edge, ``crossed``, those that it took;
        ``lasted``, for the gradient flow, the step up to which it was within ``tol`` from
        ``begin`` on (both infinite if not by the end); ``failure``, why a model could not be
        followed.
    """
    wanted = [_read(case) for case in cases.split(",")]
    steps, long = whole(steps, "steps"), whole(long, "long", 0)
    rows = []
    for seed in progress(range(whole(seeds, "seeds")), "seed"):
        E = training_loss(network, widths, activation, 1.0, data, n, seed, device, loss=loss)
        for case in progress(wanted, "case"):
            for row in _case(E, case, steps, long, paths, tol, rods, seed):
                kept = {
                    k: float(f"{v:.{DIGITS}g}") if isinstance(v, float) else v
                    for k, v in row.items()
                }
                rows.append({"seed": seed, "case": case.name, **kept})
    return pd.DataFrame(rows)


def _case(
    E: Objective, case: Case, steps: int, long: int, paths: int, tol: float, rods: bool, seed
):
    theta = E.theta0
    if case.wait:
        theta = descend(E, theta, case.lr, case.wait, every=case.wait).states[-1]
    seen = validity(E, theta, case.lr, case.batch, case.momentum, tol=tol, steps=steps)
    said = seen.rows.set_index("model")
    models = [name for name in said.index if seen.batch_size is None or name in FEWER]
    if case.momentum and not rods:
        models = [name for name in models if name not in TWO_POINTS]
    known = int(said.known.iloc[0])
    found = seen.measured(looks(steps, known), models=models, paths=paths, seed=seed)
    crossed = lasted = math.nan
    if long and seen.batch_size is None and not case.momentum:
        run = descend(E, theta, case.lr, long)
        crossed = _crossing(E, run.states, case.lr, seen.edge)
        if said.loc["NGF", "from"]:
            lasted = _lasted(E, run, int(said.loc["NGF", "from"]), tol)
    for row in found.to_dict("records"):
        own = said.loc[row["model"]]
        yield {
            "model": row["model"], "step": row["step"], "situation": seen.situation,
            "foreseen": row["foreseen"], "error": row["error"], "known": known,
            "begin": int(own["from"]), "until": int(own["until"]),
            "x": float(seen.sharpness[0]), "to_edge": seen.to_edge, "crossed": crossed,
            "lasted": lasted if row["model"] == "NGF" else math.nan,
            "failure": row["failure"],
        }  # fmt: skip


def looks(steps: int, known: int) -> list[int]:
    """Steps to look at, each half as many again as the one before, and the last foreseen."""
    found, at = {known, steps}, 1.0
    while at < steps:
        found.add(round(at))
        at *= GROWTH
    return sorted(found)


def _crossing(E: Objective, states: torch.Tensor, lr: float, edge: float) -> float:
    """After how many steps of gradient descent hλ is first at the edge; infinite if not by then."""
    tracker = Tracker(E, tol=1e-3)
    before = None
    for k in range(0, len(states), EVERY):
        x = lr * float(tracker.update(states[k].contiguous()).values[0])
        if x >= edge:
            return 0.0 if before is None else k - EVERY * (x - edge) / (x - before)
        before = x
    return math.inf


def _lasted(E: Objective, run: Trajectory, begin: int, tol: float) -> float:
    """The last step up to which the gradient flow is within ``tol`` from a step on."""
    flow = integrate(NGF(E), run.states[0], times=run.times, rtol=1e-7, max_evaluations=10**6)
    off = torch.linalg.vector_norm(flow.states - run.states, dim=1)
    travelled = torch.linalg.vector_norm(run.states - run.states[0], dim=1)
    bad = torch.nonzero(off[begin:] > tol * travelled[begin:])
    return float(begin + int(bad[0]) - 1) if len(bad) else math.inf


def _read(text: str) -> Case:
    """A case from ``h@w/B/m``."""
    try:
        lr, _, rest = text.strip().partition("@")
        wait, batch, momentum = (*rest.split("/"), "0", "0")[:3] if rest.count("/") < 3 else ""
        return Case(
            text.strip(), float(lr), whole(int(wait), "wait", 0), int(batch) or None,
            float(momentum),
        )  # fmt: skip
    except ValueError:
        raise InputError(
            f"A case is h@w, h@w/B or h@w/B/m, as in '0.1@50/10/0.9'; got {text!r}."
        ) from None
