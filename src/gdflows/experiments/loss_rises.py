"""In which steps does the loss rise, and which quantity tells it beforehand?"""

from __future__ import annotations

import pandas as pd

from gdflows.curvature import Tracker
from gdflows.errors import InputError
from gdflows.experiments.registry import study
from gdflows.experiments.training_loss import training_loss
from gdflows.flows import PrincipalFlow
from gdflows.objective import Objective
from gdflows.runs.progress import Progress

DIGITS = 6  # kept of each number: the table has thousands of rows


@study(
    "loss-rises",
    keys=("task", "seed", "step"),
    check=lambda c: {"tasks": c["tasks"].split(",")[0], "seeds": 1, "steps": 2},
)
def loss_rises(
    *,
    tasks: str = "tanh:mse:0.2",
    widths: str = "32-32",
    data: str = "digits",
    n: int = 300,
    seeds: int = 1,
    first: int = 60,
    steps: int = 40,
    limit: int = 400,
    tol: float = 1e-3,
    device: str = "cpu",
) -> pd.DataFrame:
    """Each step at the edge: the change of the loss, and what coefficients say of it beforehand.

    Parameters
    ----------
    tasks : str
        The networks, losses and learning rates: ``activation:loss:h``, joined by commas.
    widths : str
        Hidden widths of the fully connected networks.
    data : str
        A data set, by its name in :func:`gdflows.problems.load`.
    n : int
        Training samples used, all of them in every step.
    seeds : int
        How many initialisations of each: seeds 0, 1, 2, ….
    first : int
        The first training step that may be looked at; at the start all is in motion.
    steps : int
        How many steps to look at, from the first such one at which hλ₀ > 2.
    limit : int
        Of training steps in which hλ₀ must have reached 2; a run that has not is left out.
    tol : float
        Relative accuracy of the eigenvalue. The principal flow's field has ten times that.
    device : str
        Where to compute, in double precision.

    Returns
    -------
    pandas.DataFrame
        ``task``, ``seed``, ``step``; ``x`` = hλ₀ and ``product`` = abs(∇E·u₀) before the step;
        ``change`` of the loss in the step; what is foreseen of it: ``discrete``, to second order
        −h|∇E|² + ½h²∇E·H∇E, and ``principal``, the time h at the rate at which the loss changes
        along the principal flow, h Re(∇E·φ(hH)∇E). Numbers have six digits.

    Raises
    ------
    InputError
        For a task that cannot be read.

    References
    ----------
    Rosca et al. (2023), section 5.
    """
    rows = []
    wanted = [_read(task) for task in tasks.split(",")]
    with Progress(len(wanted) * seeds, "run") as shown:
        for name, activation, loss, lr in wanted:
            for seed in range(seeds):
                E = training_loss(
                    "mlp", widths, activation, 1.0, data, n, seed, device, loss=loss, init="default"
                )
                found = _walk(E, lr, first, steps, limit, tol)
                rows += [{"task": name, "seed": seed, **row} for row in found]
                shown.update()
    return pd.DataFrame(rows)


def _read(task: str) -> tuple[str, str, str, float]:
    """A task's name and its three parts."""
    try:
        activation, loss, lr = task.strip().split(":")
        return task.strip(), activation, loss, float(lr)
    except ValueError:
        raise InputError(
            f"A task is activation:loss:h, as in 'tanh:mse:0.2'; got {task!r}."
        ) from None


def _walk(E: Objective, lr: float, first: int, steps: int, limit: int, tol: float) -> list[dict]:
    """Gradient descent from θ₀; a row for each of so many steps from the edge on."""
    tracker, flow = Tracker(E, tol=tol), PrincipalFlow(E, lr, tol=10 * tol)
    theta, rows, k = E.theta0, [], 0
    value = float(E.value(theta))
    while len(rows) < steps and (rows or k < limit):
        point = E.at(theta)
        if k < first:
            theta, k = theta - lr * point.grad, k + 1
            value = float(E.value(theta))
            continue
        top, g = tracker.update(point), point.grad
        x, after = lr * float(top.values[0]), theta - lr * g
        reached = float(E.value(after))
        if rows or x > 2:
            row = {
                "x": x,
                "product": abs(float(top.vectors[0] @ g)),
                "change": reached - value,
                "discrete": float(-lr * g @ g + lr**2 / 2 * g @ point.hvp(g)),
                "principal": lr * float(g @ flow.vector_field(theta).real),
            }
            kept = {name: float(f"{number:.{DIGITS}g}") for name, number in row.items()}
            rows.append({"step": k, **kept})
        theta, value, k = after, reached, k + 1
    return rows
