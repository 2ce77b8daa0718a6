"""The path that gradient descent swings about, and how it swings: predicted, and measured."""

from __future__ import annotations

from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from gdflows import flows
from gdflows.arguments import chosen
from gdflows.curvature import Tracker
from gdflows.errors import ConvergenceError, InputError, IntegrationError
from gdflows.experiments.registry import study
from gdflows.experiments.training_loss import training_loss
from gdflows.objective import Objective
from gdflows.runs.progress import Progress
from gdflows.walking import integrate

# Both fields have kinks or jumps, which an adaptive solver would resolve at great cost.
FLOWS = {
    "self-stabilisation": (
        lambda E, lr: flows.SelfStabilisation(E, lr, tol=1e-4), {"method": "rk4"}, 2,
    ),
    "central": (lambda E, lr: flows.CentralFlow(E, lr, tol=1e-3), {"method": "euler"}, 2),
    "NGF": (lambda E, lr: flows.NGF(E), {"rtol": 1e-5}, None),
}  # fmt: skip


@study(
    "constrained",
    keys=("seed", "model", "step"),
    check=lambda c: {"steps": 2, "seeds": 1},
)
def constrained(
    *,
    network: Literal["mlp", "conv"] = "mlp",
    widths: str = "16",
    activation: str = "tanh",
    scale: float = 0.5,
    data: str = "gratings",
    loss: Literal["mse", "cross-entropy"] = "mse",
    n: int = 60,
    lr: float = 0.2,
    seeds: int = 1,
    onset: float = 1e-3,
    limit: int = 1000,
    steps: int = 40,
    models: str = "self-stabilisation,central,NGF",
    device: str = "cpu",
) -> pd.DataFrame:
    """Gradient descent beside its constrained trajectory, with the swing that is predicted.

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
        Training samples used, all of them in every step.
    lr : float
        The learning rate h.
    seeds : int
        How many initialisations: seeds 0, 1, 2, ….
    onset : float
        All start at the first step at which hλ₀ > 2 and the swing ‖θ(k−1) − 2θ(k) + θ(k+1)‖/4
        exceeds this.
    limit : int
        Of the steps before that; a run that has not come there is left out.
    steps : int
        For which all are followed.
    models : str
        Which flows beside them, joined by commas: self-stabilisation, central, NGF. "" for none.
    device : str
        Where to compute, in double precision.

    Returns
    -------
    pandas.DataFrame
        A row for each ``seed``, ``model`` and ``step`` from the start on. ``model`` is GD; the
        constrained trajectory θ† ("constrained"); the displacement from it as predicted, by the
        recursion in θ ("predicted") or by that of x and y alone with α and β along θ†
        ("two numbers"); or a flow. Columns: ``loss``, averaged over the swing, of which
        gradient descent's is a mean of three steps, 1 : 2 : 1; ``x`` = hλ₀ at the centre of the
        swing; ``second`` = hλ₁, at θ†; ``oscillation``, the size of the swing: of gradient
        descent ‖θ(k−1) − 2θ(k) + θ(k+1)‖/4, of the constrained trajectory the δ at which the
        swing would rest; ``swing`` = u·v and ``height`` = h∇λ⊥·v, of the displacement v from θ†;
        ``distance`` = ‖v‖, of the prediction from gradient descent's own; the step ``began`` at
        which all start. A model that cannot be followed ends, and ``failure`` says why.

    Raises
    ------
    InputError
        For arguments that cannot be used, or if no seed comes to the edge.

    References
    ----------
    Damian, Nichani and Lee (2023), sections 4 and 5; Cohen et al. (2025).
    """
    wanted = chosen(models, "model", FLOWS)
    if steps < 1 or seeds < 1:
        raise InputError(f"steps and seeds must be at least 1, got {steps} and {seeds}.")
    tables = []
    with Progress(seeds * (2 + len(wanted)), "model") as shown:
        for seed in range(seeds):
            E = training_loss(network, widths, activation, scale, data, n, seed, device, loss=loss)
            began, path = _to_the_edge(E, lr, onset, limit)
            if path is None:
                continue
            tables.append(_one(E, lr, path, steps, wanted, shown).assign(seed=seed, began=began))
    if not tables:
        raise InputError(
            f"In {limit} steps no seed came to hλ > 2 with a swing of {onset:g}: raise limit or lr."
        )
    return pd.concat(tables, ignore_index=True)


def _to_the_edge(E: Objective, lr: float, onset: float, limit: int):
    """The step at which gradient descent swings above its edge, and the one before it."""
    before, here, tracker = None, E.theta0, Tracker(E, tol=1e-3)
    for k in range(limit):
        after = here - lr * E.grad(here)
        if before is not None and _swing(before, here, after) > onset:
            if lr * float(tracker.update(here).values[0]) > 2:
                return k, (before, here)
        before, here = here, after
    return limit, None


def _swing(left: Tensor, here: Tensor, right: Tensor) -> float:
    return float(torch.linalg.vector_norm(left - 2 * here + right)) / 4


def _one(E: Objective, lr: float, pair, steps: int, wanted: list[str], shown) -> pd.DataFrame:
    """The table of one run from its start on."""
    gd = _descent(E, lr, pair, steps)
    start = pair[1]
    shown.update()
    try:
        path = flows.StableSet(E, lr).descend(start, steps)
    except ConvergenceError as e:
        return pd.DataFrame([{"model": "constrained", "step": 0, "failure": str(e)}])
    shown.update()
    swing = flows.predicted_swing(path, start - path[0].theta, lr)
    rows = []
    x, y = float(path[0].vector @ swing[0]), float(path[0].slope @ swing[0])
    for k, (here, (theta, centre, mean, sharp, size), v) in enumerate(
        zip(path, gd, swing, strict=True)
    ):
        true = theta - here.theta
        value, second = float(here.point.value), lr * here.second
        rows += [
            _row("GD", k, loss=mean, x=sharp, oscillation=size, **_parts(here, true, lr)),
            _row(
                "constrained", k, loss=value, x=lr * here.sharpness, second=second,
                oscillation=here.rest**0.5,
                distance=float(torch.linalg.vector_norm(centre - here.theta)),
            ),
            _row(
                "predicted", k, loss=value + float(here.vector @ v) ** 2 / lr,
                x=lr * (here.sharpness + float(here.slope @ v)),
                oscillation=abs(float(here.vector @ v)),
                **_parts(here, v, lr) | {"distance": float(torch.linalg.vector_norm(true - v))},
            ),
            _row("two numbers", k, swing=x, height=lr * y, oscillation=abs(x)),
        ]  # fmt: skip
        x, y = (
            -(1 + lr * y) * x,
            y + lr * (here.sharpening - here.stabilisation * x**2 / 2),
        )
    for name in wanted:
        rows += _follow(E, lr, name, start, path, gd)
        shown.update()
    return pd.DataFrame(rows)


def _row(model: str, step: int, **numbers: float) -> dict:
    return {"model": model, "step": step, **numbers}


def _parts(here: flows.StablePoint, v: Tensor, lr: float) -> dict:
    return {
        "swing": float(here.vector @ v),
        "height": lr * float(here.slope @ v),
        "distance": float(torch.linalg.vector_norm(v)),
    }


def _descent(E: Objective, lr: float, pair, steps: int) -> list[tuple]:
    """θ, the centre of the swing, the mean loss, hλ₀ at the centre, and the swing; each step."""
    (left, here), tracker, rows = pair, Tracker(E, tol=1e-3), []
    losses = [float(E.value(left)), float(E.value(here))]
    for _ in range(steps + 1):
        right = here - lr * E.grad(here)
        losses.append(float(E.value(right)))
        centre = (left + 2 * here + right) / 4
        mean = (losses[-3] + 2 * losses[-2] + losses[-1]) / 4
        sharp = lr * float(tracker.update(centre).values[0])
        rows.append((here, centre, mean, sharp, _swing(left, here, right)))
        left, here = here, right
    return rows


def _follow(E: Objective, lr: float, name: str, start: Tensor, path, gd) -> list[dict]:
    """A flow's rows, along gradient descent's and the constrained trajectory's."""
    make, solver, parts = FLOWS[name]
    flow, failure = make(E, lr), ""
    if parts:
        solver = solver | {"step": lr / parts}
    times = [lr * k for k in range(len(path))]
    try:
        walked = integrate(flow, start, times=times, max_evaluations=10**7, **solver)
    except IntegrationError as e:
        walked, failure = e.partial, e.cause
    except ConvergenceError as e:  # the central flow's, at a place it does not tell
        return [_row(name, 0, failure=str(e))]
    losses, sizes, tracker = flow.mean_loss(walked), flow.oscillation(walked), Tracker(E, tol=1e-3)
    return [
        _row(
            name, k, loss=float(losses[k]), oscillation=float(sizes[k]), failure=failure,
            x=lr * float(tracker.update(c).values[0]),
            height=_parts(path[k], c - path[k].theta, lr)["height"],
            distance=float(torch.linalg.vector_norm(c - gd[k][1])),
        )
        for k, c in enumerate(walked.states)
    ]  # fmt: skip
