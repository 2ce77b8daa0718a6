"""Which continuous-time model predicts gradient descent best, by phase of the training."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from gdflows import flows as models
from gdflows.arguments import number, whole
from gdflows.curvature import Tracker
from gdflows.errors import ConvergenceError, GdflowsError, InputError, IntegrationError
from gdflows.experiments.board import ERRORS, PHASES, SHARE, Leaderboard
from gdflows.experiments.registry import study
from gdflows.experiments.training_loss import training_loss
from gdflows.flows import Flow
from gdflows.flows.rod import Rod
from gdflows.flows.slow import halves
from gdflows.objective import Objective
from gdflows.runs import Run
from gdflows.runs.progress import progress
from gdflows.walking import integrate

SIDE = 3  # iterates on each side that the filter of the centre takes
FINE = 1e-3  # of rods, whose estimate is of a lower order than the method
# Their fields have kinks and jumps, where eigenvalues arrive or cross, which an adaptive solver
# would resolve at great cost.
ROUGH = (models.CentralFlow, models.SelfStabilisation)
SUBSTEPS = 2
DEAREST = 50  # evaluations a step, in the mean; what needs more has lost its way
MODELS: dict[str, Callable[[Objective, float], Flow]] = {
    "NGF": lambda E, lr: models.NGF(E),
    "IGR": models.IGR,
    **{f"order {n}": partial(models.Truncated, order=n) for n in (2, 3, 4)},
    "PF": models.PrincipalFlow,
    "PF + term": partial(models.PrincipalFlow, nonprincipal=True),
    "central": models.CentralFlow,
    "self-stabilisation": models.SelfStabilisation,
    "rod": models.RodFlow,
    "edge": models.EdgeFlow,
    **{f"principal rod {n}": partial(models.PrincipalRodFlow, order=n) for n in range(4)},
    "principal rod": partial(models.PrincipalRodFlow, order="optimal"),
}
OPTIONS = {"noise": {"noise": "measured"}, "float": {"noise": "float"}, "no noise": {"noise": 0.0},
           "slow": {"start": "slow"}, "pair": {"start": "pair"}}  # fmt: skip


def model(name: str, objective: Objective, lr: float) -> Flow:
    """A flow by its name in the leaderboard: ``"rod"``, ``"rod + noise + slow"``, ``"order 2"``.

    Raises
    ------
    InputError
        For a name that is none, or an option that the flow has not.
    """
    name = name.strip()
    kind, *chosen = [name] if name in MODELS else (part.strip() for part in name.split("+"))
    unknown = [option for option in chosen if option not in OPTIONS]
    if kind not in MODELS or unknown:
        raise InputError(
            f"Unknown model {name!r}; choose among {', '.join(MODELS)}, rods and edge with "
            f"+ {' or + '.join(OPTIONS)}, or give a flow of your own."
        )
    options = {key: value for option in chosen for key, value in OPTIONS[option].items()}
    if options and not re.search(r"rod|edge", kind):
        raise InputError(f"{kind!r} has neither noise nor a choice of start, in {name!r}.")
    return MODELS[kind](objective, lr, **options)


def leaderboard(
    objective: Objective,
    theta0: Tensor,
    *,
    lr: float,
    steps: int = 400,
    flows: Sequence[str | Flow] | Mapping[str, Flow] = ("NGF", "IGR", "rod", "edge"),
    every: int = 10,
    rtol: float = 1e-7,
    seed: int = 0,
) -> Leaderboard:
    """Flows started once and never corrected, against gradient descent, by phase.

    Parameters
    ----------
    objective : Objective
        The loss.
    theta0 : Tensor
        Where gradient descent and all flows start, shape ``(D,)``.
    lr : float
        The learning rate h.
    steps : int
        Steps for which they are followed.
    flows : sequence of str or Flow, or dict of name and Flow
        Models by name, or flows of your own. Names: NGF, IGR, order 2 … 4, PF, PF + term,
        central, self-stabilisation, rod, edge, principal rod (to optimal order), principal rod
        0 … 3; rods and edge with ``+ noise`` (measured), ``+ float`` (that of the format),
        ``+ slow`` or, for principal rods, ``+ no noise``, ``+ float``, ``+ pair``.
    every : int
        Steps between two rows.
    rtol : float
        Of the integrations (DOP853; rods by the exponential method, at 1e-3 if that is more,
        which is finer than it says). The central flow and self-stabilisation, whose fields have
        kinks, are followed by two Runge-Kutta steps of order four in each step.
    seed : int
        Written into the rows.

    Returns
    -------
    Leaderboard
        Its ``paths`` have a row for each model and step k. Of gradient descent ("GD"): ``x`` = hλ₀
        at the centre, ``loss`` (mean over the oscillation), ``oscillation`` (‖ε‖), ``push``, the
        share of the centre's velocity that the oscillation makes, and ``phase``. Of the models:
        ``centre_error``, ``iterates_error`` (norms), ``loss_error``, ``sharpness_error`` (of hλ₀;
        predicted minus true), ``oscillation``, the ``gradients``, ``hvps`` and ``thirds`` spent on
        the whole path, and ``failure``, why a path ended early.

    Notes
    -----
    The centre of the iterates is c = θ + δ⁶θ/64, with central differences δ: it leaves out what
    alternates, and of a smooth path only its sixth difference. The half-rod is θ − c. So the
    filter's own bend is far below the errors that it is to measure.

    The phases are gradient descent's: *before* hλ₀ has first been 2; *quiet*, past that, until
    the oscillation breaks out; *after* that. It has broken out as soon as it changes the centre's
    velocity by a tenth, ‖½[g(c+ε) + g(c−ε)] − g(c)‖ ≥ ‖g(c)‖/10.

    Examples
    --------
    >>> import gdflows as gf
    >>> E = gf.problems.valley()
    >>> board = gf.leaderboard(E, E.theta0, lr=0.05, steps=60, every=20, flows=["NGF", "rod"])
    >>> sorted(set(board.table.model))
    ['NGF', 'rod']
    """
    lr, rtol = number(lr, "lr", positive=True), number(rtol, "rtol", positive=True)
    least = 10 * torch.finfo(theta0.dtype).eps
    if rtol < least:  # else the flows that are followed with it would be told to have lost
        raise InputError(f"rtol = {rtol:g} is finer than {theta0.dtype} can hold: {least:.0e}.")
    steps, every = whole(steps, "steps"), whole(every, "every")
    if max(every, SIDE) > steps - steps % every:
        raise InputError(
            f"steps = {steps} at every = {every} leaves no row: the first is at the multiple of "
            f"every from {SIDE} on, since a centre needs {SIDE} iterates on each side."
        )
    if isinstance(flows, Mapping):
        chosen = dict(flows)
    else:
        chosen = {f if isinstance(f, str) else f.label: f for f in flows}
        if len(chosen) < len(flows):
            raise InputError("Two of the flows have the same name: give a dict of names.")
    chosen = {
        name: model(flow, objective, lr) if isinstance(flow, str) else flow
        for name, flow in chosen.items()
    }
    for name, flow in chosen.items():
        if flow.objective is not objective:
            raise InputError(f"The flow {name!r} was made of another objective.")
        if flow.lr is not None and flow.lr != lr:
            raise InputError(
                f"The flow {name!r} models the learning rate {flow.lr:g}, not lr = {lr:g}."
            )
    truth, points = _descent(objective, theta0, lr, steps, every)
    tables = [truth]
    for name in progress(list(chosen), "model"):
        tables.append(_follow(name, chosen[name], lr, theta0, truth, points, rtol))
    return Leaderboard(pd.concat(tables, ignore_index=True).assign(seed=seed))


def _descent(E: Objective, theta: Tensor, lr: float, steps: int, every: int):
    """Gradient descent's rows, and at each its centre and iterate."""
    window: deque[tuple[Tensor, float]] = deque(maxlen=2 * SIDE + 1)
    weights = [math.comb(2 * SIDE, j) * (-1) ** j / 4**SIDE for j in range(2 * SIDE + 1)]
    tracker, rows, points = Tracker(E, tol=1e-6), [], []
    for k in progress(range(steps + SIDE + 1), "step"):
        value, grad = E.value_and_grad(theta)
        window.append((theta, float(value)))
        theta = theta - lr * grad
        at = k - SIDE  # the middle of the window
        if at < SIDE or at % every:
            continue
        here, loss = window[SIDE]
        # (−1)ᵐ δ²ᵐ/4ᵐ keeps what alternates and little of what is smooth
        rod = (-1) ** SIDE * sum(w * state for w, (state, _) in zip(weights, window, strict=True))
        swing = (-1) ** SIDE * sum(w * e for w, (_, e) in zip(weights, window, strict=True))
        centre = E.at(here - rod)
        mean, _ = halves(E, centre.theta, rod)
        rows.append({
            "model": "GD", "step": at, "x": lr * float(tracker.update(centre).values[0]),
            "loss": loss - swing, "oscillation": float(torch.linalg.vector_norm(rod)),
            "push": float(torch.linalg.vector_norm(mean - centre.grad))
            / (float(torch.linalg.vector_norm(centre.grad)) or math.inf),
        })  # fmt: skip
        points.append((centre.theta, here))
    return _phased(pd.DataFrame(rows)), points


def _phased(rows: pd.DataFrame) -> pd.DataFrame:
    """With the phase of each row."""
    beyond = (rows.x >= 2).cummax()
    out = (beyond & (rows.push >= SHARE)).cummax()
    phase = [PHASES[int(b) + int(o)] for b, o in zip(beyond, out, strict=True)]
    return rows.assign(phase=phase)


def _lost(name: str, failure: str) -> pd.DataFrame:
    """The one row of a flow that met none of gradient descent's."""
    nothing = dict.fromkeys(("oscillation", *ERRORS), math.nan)
    return pd.DataFrame([{"model": name, "step": 0, **nothing, "failure": failure}])


def _follow(name, flow, lr, theta0, truth, points, rtol) -> pd.DataFrame:
    times = [0.0, *(lr * k for k in truth.step)]
    if isinstance(flow, ROUGH):
        solver = {"method": "rk4", "step": lr / SUBSTEPS}
    elif isinstance(flow, Rod):
        solver = {"method": "exponential", "rtol": max(rtol, FINE)}
    else:
        solver = {"rtol": rtol}
    failure = ""
    try:
        most = DEAREST * int(truth.step.max())
        path = integrate(flow, theta0, times=times, max_evaluations=most, **solver)
    except IntegrationError as e:
        path, failure = e.partial, e.cause
        if len(path) < 2:  # before the first row: it takes part, and is lost everywhere
            return _lost(name, failure)
    except (ConvergenceError, InputError) as e:  # at a place it does not tell
        return _lost(name, str(e))
    iterates, losses, swings = flow.iterates(path), flow.mean_loss(path), flow.oscillation(path)
    tracker, rows = Tracker(flow.objective, tol=1e-6), []
    for i, (row, (centre, iterate)) in enumerate(
        zip(truth.itertuples(), points, strict=True), start=1
    ):
        if i >= len(path):
            break
        state = path.states[i]
        state = state.real if state.is_complex() else state
        try:
            x = lr * float(tracker.update(state.contiguous()).values[0])
        except GdflowsError:  # where a flow has run off to, nothing need be finite
            x = math.nan
        far = iterates[i].real if iterates[i].is_complex() else iterates[i]
        rows.append({
            "model": name, "step": row.step, "oscillation": float(swings[i]),
            "centre_error": float(torch.linalg.vector_norm(state - centre)),
            "iterates_error": float(torch.linalg.vector_norm(far - iterate)),
            "loss_error": float(losses[i]) - row.loss, "sharpness_error": x - row.x,
        })  # fmt: skip
    table = pd.DataFrame(rows).assign(model=name, failure=failure)
    for kind in ("gradients", "hvps", "thirds"):
        table[kind] = pd.array([path.cost[kind]] * len(table), dtype="Int64")
    return table


def draw(figure, runs: list[Run]) -> None:
    """The first run's first seed."""
    Leaderboard(runs[0].table).plot(figure)


@study(
    "leaderboard",
    keys=("seed", "model", "step"),
    check=lambda c: {"steps": 2 * c["every"], "seeds": 1},
    picture=draw,
)
def run(
    *,
    network: Literal["mlp", "conv", "vit", "gpt"] = "mlp",
    widths: str = "16",
    activation: str = "tanh",
    scale: float = 1.0,
    data: str = "gratings",
    loss: Literal["mse", "cross-entropy"] = "mse",
    n: int = 100,
    lr: float = 0.4,
    wait: int = 100,
    steps: int = 60,
    every: int = 5,
    models: str = "NGF,IGR,rod + noise + slow,edge + noise + slow,principal rod 1",
    rtol: float = 1e-7,
    dtype: Literal["float32", "float64"] = "float64",
    seeds: int = 1,
    device: str = "cpu",
) -> pd.DataFrame:
    """Which continuous-time model predicts gradient descent best, before the edge and past it?

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
    wait : int
        Steps of gradient descent before the flows start.
    steps : int
        Steps for which they are followed.
    every : int
        Steps between two rows.
    models : str
        Which, joined by commas, by their names in :func:`gdflows.leaderboard`.
    rtol : float
        Of the integrations.
    dtype : {"float32", "float64"}
        Of the parameters.
    seeds : int
        Initialisations 0, 1, …, each with a path of its own.
    device : str
        Where to compute.

    Returns
    -------
    pandas.DataFrame
        The ``paths`` of :func:`gdflows.leaderboard`, for all seeds.
    """
    wait, seeds = whole(wait, "wait", 0), whole(seeds, "seeds")
    tables = []
    for seed in progress(range(seeds), "seed"):
        E = training_loss(
            network, widths, activation, scale, data, n, seed, device, loss=loss, dtype=dtype
        )
        theta = E.theta0
        for _ in range(wait):
            theta = theta - lr * E.grad(theta)
        board = leaderboard(
            E, theta, lr=lr, steps=steps, flows=models.split(","), every=every, rtol=rtol, seed=seed
        )
        tables.append(board.paths)
    return pd.concat(tables, ignore_index=True)
