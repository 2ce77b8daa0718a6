"""Which continuous-time model follows gradient descent to the edge of stability and along it?"""

from __future__ import annotations

from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from gdflows import flows
from gdflows.curvature import top_eigenpairs
from gdflows.errors import ConvergenceError, InputError, IntegrationError
from gdflows.experiments.registry import study
from gdflows.experiments.training_loss import training_loss
from gdflows.objective import Objective
from gdflows.runs.progress import progress
from gdflows.walking import integrate

MODELS = {
    "NGF": lambda E, lr: flows.NGF(E),
    "IGR": flows.IGR,
    "central": flows.CentralFlow,
    "rod": flows.RodFlow,
    "edge": flows.EdgeFlow,
    "self-stabilisation": flows.SelfStabilisation,
    **{
        f"principal rod {n}": lambda E, lr, n=n: flows.PrincipalRodFlow(E, lr, order=n)
        for n in range(4)
    },
}
# Their fields have kinks and jumps, where eigenvalues arrive or cross, which an adaptive solver
# would resolve at great cost.
ROUGH = (flows.CentralFlow, flows.SelfStabilisation)
SUBSTEPS = 2


@study("edge-models", keys=("model", "step"), check=lambda c: {"steps": c["every"]})
def edge_models(
    *,
    network: Literal["mlp", "conv", "vit", "gpt"] = "mlp",
    widths: str = "16",
    activation: str = "tanh",
    scale: float = 1.0,
    data: str = "gratings",
    loss: Literal["mse", "cross-entropy"] = "mse",
    n: int = 100,
    lr: float = 0.4,
    start: int = 100,
    steps: int = 100,
    every: int = 5,
    models: str = "NGF,rod,edge,principal rod 1",
    rtol: float = 1e-7,
    dtype: Literal["float32", "float64"] = "float64",
    seed: int = 0,
    device: str = "cpu",
) -> pd.DataFrame:
    """Flows past the edge, started once and never corrected, against gradient descent.

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
    lr : float
        The learning rate h.
    start : int
        Steps of gradient descent before the flows start, at least 1.
    steps : int
        Steps for which they are followed.
    every : int
        Steps between two rows.
    models : str
        Which, joined by commas: NGF, IGR, central, rod, edge, self-stabilisation, principal
        rod 0 … 3.
    rtol : float
        Of the integrations (DOP853). The central flow and self-stabilisation, whose fields have
        kinks, are followed by two Runge-Kutta steps of order four in each step.
    dtype : {"float32", "float64"}
        Of the parameters.
    seed : int
        Of the initialisation.
    device : str
        Where to compute.

    Returns
    -------
    pandas.DataFrame
        A row for each model and each step k looked at, counted from the start of the flows;
        gradient descent itself is model "GD". The centre is (θ(k−1) + 2θ(k) + θ(k+1))/4, the
        oscillation ‖θ(k−1) − 2θ(k) + θ(k+1)‖/4. Columns: ``model``, ``step``; of gradient
        descent ``x`` = hλ₀ at the centre, ``loss`` (averaged in the same way) and ``moved``, the
        centre's distance from the start; of all ``oscillation``; of the models ``centre_error``,
        ``iterate_error`` and ``loss_error`` (predicted minus true); ``gradients``, ``hvps`` and
        ``thirds`` spent on the whole path. Where a flow cannot be followed its
        rows end, and ``failure`` says why.

    Raises
    ------
    InputError
        For arguments that cannot be used.
    """
    wanted = [name.strip() for name in models.split(",")]
    for name in wanted:
        if name not in MODELS:
            raise InputError(f"Unknown model {name!r}; choose among {', '.join(MODELS)}.")
    if start < 1:
        raise InputError(f"start must be at least 1, got {start}: a centre needs a step before it.")
    if not 1 <= every <= steps or steps % every:
        raise InputError(f"every must divide steps = {steps}, got {every}.")
    E = training_loss(
        network, widths, activation, scale, data, n, seed, device, loss=loss, dtype=dtype
    )
    seen = _descent(E, lr, start, steps, every)
    tables = [seen.drop(columns=["centre", "iterate"])]
    origin = seen["iterate"].iloc[0]
    for name in progress(wanted, "model"):
        tables.append(_follow(name, MODELS[name](E, lr), lr, origin, seen, rtol))
    return pd.concat(tables, ignore_index=True)


def _descent(E: Objective, lr: float, start: int, steps: int, every: int) -> pd.DataFrame:
    """Gradient descent's rows; its states too, in the columns ``centre`` and ``iterate``."""
    theta = E.theta0
    value, grad = E.value_and_grad(theta)
    left, value_left, rows = theta, value, []
    for k in progress(range(-start, steps + 1)):
        after = theta - lr * grad
        value_after, grad_after = E.value_and_grad(after)
        if k >= 0 and k % every == 0:
            centre = (left + 2 * theta + after) / 4
            rows.append(
                {
                    "model": "GD",
                    "step": k,
                    "x": lr * float(top_eigenpairs(E, centre).values[0]),
                    "loss": float(value_left + 2 * value + value_after) / 4,
                    "moved": float(torch.linalg.vector_norm(centre - rows[0]["centre"]))
                    if rows
                    else 0.0,
                    "oscillation": float(torch.linalg.vector_norm(left - 2 * theta + after)) / 4,
                    "centre": centre,
                    "iterate": theta,
                }
            )
        left, value_left = theta, value
        theta, value, grad = after, value_after, grad_after
    return pd.DataFrame(rows)


def _follow(
    name: str, flow, lr: float, origin: Tensor, seen: pd.DataFrame, rtol: float
) -> pd.DataFrame:
    times = [lr * k for k in seen["step"]]
    failure = ""
    if isinstance(flow, ROUGH):
        solver = {"method": "rk4", "step": lr / SUBSTEPS}
    else:
        solver = {"rtol": rtol}
    try:
        path = integrate(flow, origin, times=times, max_evaluations=10**7, **solver)
    except IntegrationError as e:
        path, failure = e.partial, e.cause
    except ConvergenceError as e:  # the central flow's, at a place it does not tell
        return pd.DataFrame([{"model": name, "step": 0, "failure": str(e)}])
    iterates, losses = flow.iterates(path), flow.mean_loss(path)
    oscillation = flow.oscillation(path)
    rows = []
    for i, row in enumerate(seen.itertuples()):
        if i == len(path):
            break
        rows.append(
            {
                "model": name,
                "step": row.step,
                "oscillation": float(oscillation[i]),
                "centre_error": float(torch.linalg.vector_norm(path.states[i] - row.centre)),
                "iterate_error": float(torch.linalg.vector_norm(iterates[i] - row.iterate)),
                "loss_error": float(losses[i]) - row.loss,
            }
        )
    table = pd.DataFrame(rows).assign(failure=failure)
    for kind in ("gradients", "hvps", "thirds"):
        table[kind] = pd.array([path.cost[kind]] * len(table), dtype="Int64")
    return table
