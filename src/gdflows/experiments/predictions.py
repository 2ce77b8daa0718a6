"""How well does each flow predict gradient descent's next step, on a network?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from gdflows import flows
from gdflows.curvature import Tracker, top_eigenpairs
from gdflows.errors import (
    ConvergenceError,
    InputError,
    IntegrationError,
    NonFiniteError,
    SingularityError,
)
from gdflows.experiments.registry import study
from gdflows.experiments.training_loss import training_loss
from gdflows.objective import Objective
from gdflows.runs.progress import Progress, progress
from gdflows.walking import integrate

FIRST = 3  # gradient descent's own first steps, kept in every table


def models(E: Objective, lr: float, truncation: str, tol: float) -> dict[str, flows.Flow]:
    """The flows that are compared, by name."""
    return {
        "NGF": flows.NGF(E),
        "IGR": flows.IGR(E, lr),
        **{f"order {n}": flows.Truncated(E, lr, n, method=truncation) for n in range(2, 6)},
        "PF": flows.PrincipalFlow(E, lr, tol=tol),
        "PF + term": flows.PrincipalFlow(E, lr, nonprincipal=True, tol=tol),
    }


@study(
    "one-step",
    keys=("step", "model"),
    # a large network's first steps must do
    check=lambda c: {"at": c["at"].split(",")[0].split(":")[0] if c["data"] == "digits" else ""},
)
def one_step(
    *,
    network: Literal["mlp", "conv"] = "mlp",
    widths: str = "6",
    activation: str = "tanh",
    scale: float = 1.0,
    data: str = "gratings",
    n: int = 40,
    lr: float = 0.4,
    at: str = "200",
    truncation: Literal["derivatives", "differences"] = "differences",
    rtol: float = 1e-5,
    seed: int = 0,
    device: str = "cpu",
) -> pd.DataFrame:
    """One gradient descent step as NGF, IGR, orders 2 to 5, PF and PF + term predict it.

    Parameters
    ----------
    network : {"mlp", "conv"}
        Fully connected, or 3x3 convolutions with average pooling.
    widths : str
        Hidden widths or channels, as in ``"20"`` or ``"300-200"``.
    activation : str
        Holomorphic, as tanh is.
    scale : float
        Of the initialisation, times Xavier's.
    data : str
        A data set, by its name in :func:`gdflows.problems.load`; squared error.
    n : int
        Training samples used, all of them in every step.
    lr : float
        The learning rate h.
    at : str
        The steps to look at: ``first:last:every``, joined by commas.
    truncation : {"derivatives", "differences"}
        How the orders 2 to 5 are evaluated: see :class:`gdflows.flows.Truncated`.
    rtol : float
        Of the integrations, relative to θ; a step is far shorter than θ. Also of the principal
        flow's field.
    seed : int
        Of the initialisation.
    device : str
        Where to compute.

    Returns
    -------
    pandas.DataFrame
        For each step looked at and each model: ``step``, ``x`` = hλ₀ and ``loss`` at its start,
        ``change`` of the loss in gradient descent's step, ``model``, ``error`` of θ relative to
        the step's length, ``loss_error`` (predicted minus true loss, at the real part of θ), and
        what the integration cost: ``evaluations``, ``gradients``, ``contractions`` (of the
        Hessian and of higher derivatives). Where a flow cannot be followed the numbers are
        missing and ``failure`` says why. First come the rows of gradient descent itself at its
        first three steps, model "GD".

    Raises
    ------
    InputError
        For arguments that cannot be used.
    """
    E = training_loss(network, widths, activation, scale, data, n, seed, device)
    rows, steps = [], _steps(at)
    count = len(models(E, lr, truncation, rtol))
    with Progress(len(steps) * count, "prediction") as shown:
        for k, theta, after in _walk(E, lr, steps):
            before, reached = float(E.value(theta)), float(E.value(after))
            row = {"step": k, "loss": before, "change": reached - before}
            if k not in steps:
                rows.append({**row, "model": "GD"})
                continue
            row["x"] = lr * float(top_eigenpairs(E, theta).values[0])
            for name, flow in models(E, lr, truncation, rtol).items():
                found = _predict(flow, theta, after, reached, lr, rtol)
                rows.append({**row, "model": name, **found})
                shown.update()
    return pd.DataFrame(rows)


@study("along-u0", keys=("step",), check=lambda c: {"at": c["at"].split(":")[0]})
def along_u0(
    *,
    network: Literal["mlp", "conv"] = "mlp",
    widths: str = "6",
    activation: str = "tanh",
    scale: float = 1.0,
    data: str = "gratings",
    n: int = 200,
    lr: float = 0.4,
    at: str = "0:300:2",
    seed: int = 0,
    device: str = "cpu",
) -> pd.DataFrame:
    """The gradient along the sharpest eigenvector, before and after each step.

    Parameters
    ----------
    network : {"mlp", "conv"}
        Fully connected, or 3x3 convolutions with average pooling.
    widths : str
        Hidden widths or channels, as in ``"20"`` or ``"300-200"``.
    activation : str
        Holomorphic, as tanh is.
    scale : float
        Of the initialisation, times Xavier's.
    data : str
        A data set, by its name in :func:`gdflows.problems.load`; squared error.
    n : int
        Training samples used, all of them in every step.
    lr : float
        The learning rate h.
    at : str
        The steps to look at: ``first:last:every``, joined by commas.
    seed : int
        Of the initialisation.
    device : str
        Where to compute.

    Returns
    -------
    pandas.DataFrame
        For each step looked at: ``step``; ``loss``, ``x`` = hλ₀, ``x1`` = hλ₁ of the second
        eigenvalue, and ``product`` = ∇E·u₀ ≥ 0 at its start; ``after``, the gradient at its end
        along the same u₀.

    References
    ----------
    Rosca et al. (2023), section 4.1 and figures 8 and 15.
    """
    E = training_loss(network, widths, activation, scale, data, n, seed, device)
    rows = []
    steps = _steps(at)
    for k, theta, after in progress(_walk(E, lr, steps), total=len({*range(FIRST), *steps})):
        if k not in steps:
            continue
        # The component is tiny where it does not oscillate: it takes an exact eigenvector.
        seen = flows.stability_coefficients(E, theta, lr, k=2, tol=1e-12)
        rows.append(
            {
                "step": k,
                "loss": float(E.value(theta)),
                "x": lr * float(seen.eigenvalues[0]),
                "x1": lr * float(seen.eigenvalues[1]),
                "product": float(seen.products[0]),
                "after": float(E.grad(after) @ seen.eigenvectors[0]),
            }
        )
    return pd.DataFrame(rows)


@study(
    "each-step",
    keys=("seed", "step"),
    check=lambda c: {"at": c["at"].split(":")[0], "seeds": 1},
)
def each_step(
    *,
    network: Literal["mlp", "conv", "vgg11"] = "mlp",
    widths: str = "6",
    activation: str = "tanh",
    scale: float = 1.0,
    init: Literal["default", "xavier", "he", "orthogonal"] = "xavier",
    data: str = "gratings",
    loss: Literal["mse", "cross-entropy"] = "mse",
    n: int = 100,
    lr: float = 0.4,
    at: str = "5:15",
    seeds: int = 1,
    dtype: Literal["float32", "float64"] = "float64",
    device: str = "cpu",
) -> pd.DataFrame:
    """What each step does to loss and sharpness, and what both gradient flows would do instead.

    Parameters
    ----------
    network : {"mlp", "conv", "vgg11"}
        Fully connected, 3x3 convolutions with average pooling, or VGG-11.
    widths : str
        Hidden widths or channels, as in ``"20"`` or ``"300-200"``; of VGG-11 a factor.
    activation : str
        As in :func:`gdflows.problems.mlp`.
    scale, init
        Of the weights, see :func:`gdflows.problems.mlp`.
    data : str
        A data set, by its name in :func:`gdflows.problems.load`.
    loss : {"mse", "cross-entropy"}
        The loss.
    n : int
        Training samples used, all of them in every step.
    lr : float
        The learning rate h.
    at : str
        The steps to look at: ``first:last:every``, joined by commas.
    seeds : int
        How many initialisations: seeds 0, 1, 2, ….
    dtype : {"float32", "float64"}
        Of the parameters. Eigenvalues are accurate to 1e-6 in double precision, the least change
        that can be told; to 1e-4 in single precision.
    device : str
        Where to compute.

    Returns
    -------
    pandas.DataFrame
        For each ``seed`` and step looked at: ``step``; ``loss``, ``x`` = hλ₀ and
        ``product`` = ∇E·u₀ ≥ 0 at its start; ``after``, the gradient at its end along the same
        u₀; ``cubic``, the next term of its expansion beyond (1 − hλ₀) times the product,
        ½h²∇³E[∇E, ∇E]·u₀; ``change`` and ``x_change``, of the loss and of hλ₀ in the step; and
        ``down``, ``x_down``, ``up``, ``x_up``, the same along the negative and the positive
        gradient flow over the time h. Where the latter leaves the numbers that can be computed
        with its change is missing.

    Raises
    ------
    InputError
        For arguments that cannot be used.

    References
    ----------
    Rosca et al. (2023), sections 4.1 and 5, figures 8, 11, 13, 15, 38 and 39.
    """
    steps, rows = _steps(at), []
    if seeds < 1:
        raise InputError(f"seeds must be at least 1, got {seeds}.")
    with Progress(len(steps) * seeds, "step") as shown:
        for seed in range(seeds):
            E = training_loss(
                network, widths, activation, scale, data, n, seed, device,
                loss=loss, init=init, dtype=dtype,
            )  # fmt: skip
            # Start and the three ends each go on from their own last point.
            tol = 1e-6 if dtype == "float64" else 1e-4
            looks = [Tracker(E, tol=tol) for _ in range(4)]
            for k, theta, after in _walk(E, lr, steps):
                if k in steps:
                    rows.append({"seed": seed, "step": k, **_each(E, lr, theta, after, looks)})
                    shown.update()
    return pd.DataFrame(rows)


# -- inside --------------------------------------------------------------------------------------


def _steps(at: str) -> list[int]:
    """``"250:300:10,400"`` as numbers, increasing."""
    found: set[int] = set()
    try:
        for part in filter(None, at.split(",")):
            first, *rest = (int(number) for number in part.split(":"))
            last, every = {0: (first + 1, 1), 1: (*rest, 1), 2: rest}[len(rest)]
            found.update(range(first, last, every))
    except (ValueError, KeyError) as e:
        raise InputError(f"at must look like '250:300:10,400', got {at!r}.") from e
    if found and min(found) < 0:
        raise InputError(f"at must name steps of at least 0, got {at!r}.")
    return sorted(found)


def _walk(E: Objective, lr: float, steps: list[int]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Gradient descent; yields its first steps and those asked for: number, start, end."""
    theta = E.theta0
    wanted = {*range(FIRST), *steps}
    for k in range(max(wanted) + 1):
        after = theta - lr * E.grad(theta)
        if k in wanted:
            yield k, theta, after
        theta = after


def _each(E: Objective, lr: float, theta: Tensor, after: Tensor, looks: list[Tracker]) -> dict:
    point = E.at(theta)
    top, g, value = looks[0].update(point), point.grad, float(point.value)
    u, x = top.vectors[0], lr * float(top.values[0])
    product = float(u @ g)
    u = -u if product < 0 else u
    row = {
        "loss": value,
        "x": x,
        "product": abs(product),
        "after": float(E.grad(after) @ u),
        "cubic": lr**2 / 2 * float(point.third(g, g) @ u),
    }
    others = {"": None, "down": flows.NGF(E), "up": flows.PositiveGradientFlow(E)}
    for look, (name, flow) in zip(looks[1:], others.items(), strict=True):
        # Along u₀ a step of the method is at hλ₀/3, near 0.7, where it errs by a thousandth.
        try:
            end = after
            if flow is not None:
                end = integrate(flow, theta, t=lr, method="rk4", step=lr / 3).states[-1]
            reached, sharp = float(E.value(end)), lr * float(look.update(end).values[0])
        except (IntegrationError, NonFiniteError):
            if flow is None:
                raise
            continue
        row[name or "change"] = reached - value
        row[f"x_{name or 'change'}"] = sharp - x
    return row


def _predict(flow, theta: Tensor, after: Tensor, reached: float, lr: float, rtol: float) -> dict:
    try:
        path = integrate(flow, theta, t=lr, rtol=rtol, max_evaluations=2000)
    except IntegrationError as e:
        return {"failure": e.cause}
    except (ConvergenceError, SingularityError) as e:
        return {"failure": type(e).__name__}
    end = path.states[-1]
    real = end.real.contiguous() if end.is_complex() else end
    distance = torch.linalg.vector_norm(end - after) / torch.linalg.vector_norm(after - theta)
    return {
        "error": float(distance),
        "loss_error": float(flow.objective.value(real)) - reached,
        "evaluations": path.cost["evaluations"],
        "gradients": path.cost["gradients"],
        "contractions": sum(path.cost[name] for name in ("hvps", "thirds", "higher")),
    }
