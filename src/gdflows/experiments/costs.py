"""What a flow, a probe and a step of an optimiser cost, as the number of parameters grows."""

from __future__ import annotations

import copy
import gc
import math
import time
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile

from gdflows import curvature, flows, noise, optim, problems
from gdflows.arguments import whole, wholes
from gdflows.errors import InputError
from gdflows.experiments.registry import study
from gdflows.experiments.samples import samples
from gdflows.objective import FlatModule
from gdflows.runs.progress import progress
from gdflows.walking import integrate

LONG = 0.2  # seconds: what takes longer is timed once
SHORT = 0.02  # seconds: what takes less is repeated for so long
TOL = 1e-3  # of eigenvalues and of the principal flow's field
MOST = 1e9  # bytes: per-sample gradients are left out beyond
LARGE = 10**6  # parameters: of more, a repetition measures the gradient only


class Setting(NamedTuple):
    """A network at its initialisation, its loss, and half the largest stable learning rate."""

    E: FlatModule
    lr: float


class Task(NamedTuple):
    """Something that costs: ``prepare`` gives what is to be repeated, and a count of its work."""

    kind: str
    what: str
    prepare: Callable[[Setting], tuple[Callable[[], object], Callable[[], dict]]]
    long: bool = False


def width_of(size: int, hidden: int, inputs: int, outputs: int) -> int:
    """The width at which a network of so many hidden layers has nearest to ``size`` parameters."""
    roots = np.roots([hidden - 1, inputs + hidden + outputs, outputs - size])
    best = float(max(roots.real))
    return max(1, round(best))


def peak(action: Callable[[], object]) -> tuple[int, int]:
    """Bytes that torch holds at most during an action, and after it, beyond those before.

    Every allocation and release of torch's CPU allocator is recorded by its profiler. What the
    action returns counts as held. What numpy and the libraries of linear algebra take for
    themselves is not seen.
    """
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        held = action()
        gc.collect()  # what only lives in a cycle is not held
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda e: e.start_ns())
    level = np.cumsum([0, *(e.nbytes() for e in events)])
    del held
    return int(level.max()), int(level[-1])


def _shorter(config: dict) -> dict:
    """The first size; a large one without the search that all but the gradient begin with."""
    first = config["sizes"].split(",")[0]
    short = {"sizes": first, "rounds": 1}
    return short | {"only": "gradient"} if int(first) > LARGE else short


@study("costs", keys=("parameters", "what"), check=_shorter)
def costs(
    *,
    data: str = "digits",
    hidden: int = 2,
    activation: str = "tanh",
    loss: Literal["mse", "cross-entropy"] = "mse",
    n: int = 64,
    sizes: str = "1000,10000",
    rounds: int = 1,
    long: bool = True,
    only: str = "",
    seed: int = 0,
) -> pd.DataFrame:
    """Work, time and memory of flows, probes and optimisers on networks of growing width.

    Parameters
    ----------
    data : str
        A data set for classification, by its name in :func:`gdflows.problems.load`.
    hidden : int
        Hidden layers of the fully connected network, at least two, all of one width.
    activation : str
        As in :func:`gdflows.problems.mlp`; smooth.
    loss : {"mse", "cross-entropy"}
        The loss.
    n : int
        Training samples used, in every gradient.
    sizes : str
        Numbers of parameters, joined by commas; the nearest width is taken for each.
    rounds : int
        Times that everything is timed, in turn; what takes longer than a fifth of a second is
        timed once.
    long : bool
        Also what keeps twenty vectors or more: searches for several eigenpairs, trackers.
    only : str
        Only the thing of this name; by default all.
    seed : int
        Of the initialisation.

    Returns
    -------
    pandas.DataFrame
        A row for each size and thing: ``parameters``, ``width``; ``kind`` (flow, probe,
        optimiser) and ``what``; ``gradients``, ``hvps``, ``thirds`` and ``values``, counted;
        ``microseconds`` of the process on one thread, and ``gradient_microseconds``, those of one
        gradient measured just before, medians over rounds; ``vectors``, the bytes that torch
        holds at most, preparation included, beyond model, data and θ (for
        optimisers beyond a copy of the model), in vectors of θ's size;
        ``kept``, those still held afterwards. In single precision, at the initialisation, with
        half the learning rate at which gradient descent is no longer stable.

    Raises
    ------
    InputError
        If there are fewer than two hidden layers, a size is too small for them, or nothing has
        the name in ``only``.
    """
    if whole(hidden, "hidden") < 2:
        raise InputError(f"hidden must be at least 2 for the width to decide, got {hidden}.")
    wanted = wholes(sizes, "sizes", separator=",")
    tasks = [t for t in TASKS if (long or not t.long) and only in ("", t.what)]
    if not tasks:
        raise InputError(f"only: nothing that is measured is called {only!r}.")
    rounds, threads = whole(rounds, "rounds"), torch.get_num_threads()
    torch.set_num_threads(1)
    rows = []
    try:
        for size in progress(wanted, "size"):
            rates = any(t.long or t.kind != "probe" for t in tasks)
            setting, width = _setting(size, data, hidden, activation, loss, n, seed, rates)
            named = {"parameters": setting.E.dim, "width": width}
            rows += [named | row for row in _measure(setting, n, rounds, tasks)]
    finally:
        torch.set_num_threads(threads)
    return pd.DataFrame(rows)


def _setting(size, data, hidden, activation, loss, n, seed, rates) -> tuple[Setting, int]:
    """A network of that size, and its width; without a learning rate where nothing needs one."""
    found = samples(data, torch.float32)
    inputs, outputs = found.x_train.shape[1:].numel(), len(found.classes)
    width = width_of(size, hidden, inputs, outputs)
    widths = [inputs, *[width] * hidden, outputs]
    net = problems.mlp(widths, activation, seed=seed, dtype=torch.float32)
    E = problems.classification(found, net, n=n, loss=loss)
    if abs(E.dim - size) > size / 4:
        raise InputError(f"sizes: no width has about {size} parameters, the nearest {E.dim}.")
    E.third(E.theta0, *torch.ones(2, E.dim))  # every check has been made now
    if not rates:
        return Setting(E, math.nan), width
    top = curvature.top_eigenpairs(E, E.theta0, tol=TOL)
    return Setting(E, 1 / float(top.values[0])), width


def _measure(setting: Setting, n: int, rounds: int, tasks: list[Task]) -> list[dict]:
    E = setting.E
    tasks = [t for t in tasks if "sample" not in t.what or 4 * n * E.dim <= MOST]
    unit, rows, times = 4 * E.dim, [], []
    for task in tasks:
        found: list = []
        most, after = peak(lambda task=task, found=found: _twice(task, setting, found))
        action, work = found
        rows.append(
            {"kind": task.kind, "what": task.what} | work
            | {"vectors": most / unit, "kept": after / unit}
        )  # fmt: skip
        gradient = _seconds(lambda: E.grad(E.theta0))
        times.append([(_seconds(action), gradient)])
        del action, found
    for _ in range(rounds - 1):
        for task, seen in zip(tasks, times, strict=True):
            if seen[0][0] < LONG:
                action, _ = task.prepare(setting)
                action()
                gradient = _seconds(lambda: E.grad(E.theta0))
                seen.append((_seconds(action), gradient))
    for row, seen in zip(rows, times, strict=True):
        median = np.median(seen, axis=0) * 1e6
        row["microseconds"], row["gradient_microseconds"] = (max(1, round(t)) for t in median)
    return rows


def _twice(task: Task, setting: Setting, found: list) -> object:
    """Preparation, the first time and the next; what lives on is kept, and the work of the next."""
    action, count = task.prepare(setting)
    action()
    before = count()
    result = action()
    work = {k: count()[k] - before[k] for k in ("gradients", "hvps", "thirds", "values")}
    found += [action, work]
    return result


def _seconds(action: Callable[[], object]) -> float:
    """Of the process, for one time."""
    begin, times = time.process_time(), 0
    while True:
        action()
        times += 1
        spent = time.process_time() - begin
        if spent > SHORT:
            return spent / times


# -- what is measured ------------------------------------------------------------------------------


def _of_loss(act: Callable[[Setting], Callable[[], object]]):
    """What counts its work on the objective."""

    def prepare(s: Setting):
        return act(s), lambda: dict(s.E.cost)

    return prepare


def _at_point(s: Setting):
    point, v = s.E.at(s.E.theta0), torch.ones(s.E.dim)
    return lambda: point.hvp(v)


def _tracked(s: Setting):
    """Looks at two points in turn that are a small step apart, as along a path."""
    tracker = curvature.Tracker(s.E, tol=TOL, check_every=10**6)
    step = 0.01 * s.lr * s.E.grad(s.E.theta0)
    state = {"t": 0}

    def look():
        state["t"] = 1 - state["t"]
        return tracker.update(s.E.theta0 - state["t"] * step)

    return look


def _central(s: Setting):
    """Beyond the edge in one direction, where the flow has something to hold down."""
    flow = flows.CentralFlow(s.E, 2.02 * s.lr, tol=TOL)
    return lambda: flow.vector_field(s.E.theta0)


def _rod(s: Setting):
    flow = flows.RodFlow(s.E, s.lr)
    theta, companions = flow.start(s.E.theta0)
    return lambda: flow.field(theta, **companions)


def _field(make: Callable[[Setting], flows.Flow]):
    def act(s: Setting):
        flow = make(s)
        return lambda: flow.vector_field(s.E.theta0)

    return _of_loss(act)


def _optimiser(make: Callable):
    """A step on a copy of the module (a vector more), too small to move it elsewhere.

    Torch's own optimisers take one gradient.
    """

    def prepare(s: Setting):
        model, (x, y) = copy.deepcopy(s.E.model), s.E.data
        optimizer = make(model.parameters(), s.lr)
        done = {"gradients": 0, "hvps": 0, "thirds": 0, "values": 0}

        if hasattr(optimizer, "cost"):
            return lambda: optimizer.step(lambda: s.E.loss(model(x), y)), (
                lambda: done | dict(optimizer.cost)
            )

        def step():
            optimizer.zero_grad(set_to_none=False)
            s.E.loss(model(x), y).backward()
            optimizer.step()
            done["gradients"] += 1

        return step, lambda: dict(done)

    return prepare


TASKS = (
    Task("probe", "loss", _of_loss(lambda s: lambda: s.E.value(s.E.theta0))),
    Task("probe", "gradient", _of_loss(lambda s: lambda: s.E.grad(s.E.theta0))),
    Task("probe", "product, graph kept", _of_loss(_at_point)),
    Task(
        "probe", "product, from nothing",
        _of_loss(lambda s: lambda: s.E.hvp(s.E.theta0, s.E.theta0)),
    ),
    Task(
        "probe", "third derivative",
        _of_loss(lambda s: lambda: s.E.third(s.E.theta0, s.E.theta0, s.E.theta0)),
    ),
    Task(
        "probe", "sharpness, from nothing",
        _of_loss(lambda s: lambda: curvature.top_eigenpairs(s.E, s.E.theta0, tol=TOL)),
    ),
    Task(
        "probe", "five eigenpairs",
        _of_loss(lambda s: lambda: curvature.top_eigenpairs(s.E, s.E.theta0, 5, tol=TOL)),
        long=True,
    ),
    Task("probe", "sharpness, tracked", _of_loss(_tracked), long=True),
    Task(
        "probe", "density, 20 products",
        _of_loss(
            lambda s: lambda: curvature.spectral_density(s.E, s.E.theta0, steps=20, probes=1)
        ),
        long=True,
    ),
    Task(
        "probe", "gradients sample by sample",
        _of_loss(lambda s: lambda: noise.per_sample_gradients(s.E, s.E.theta0)),
    ),
    Task("flow", "NGF", _field(lambda s: flows.NGF(s.E))),
    Task("flow", "IGR", _field(lambda s: flows.IGR(s.E, s.lr))),
    Task("flow", "order 2", _field(lambda s: flows.Truncated(s.E, s.lr, 2))),
    Task("flow", "order 2, differences",
         _field(lambda s: flows.Truncated(s.E, s.lr, 2, method="differences"))),
    Task("flow", "principal", _field(lambda s: flows.PrincipalFlow(s.E, s.lr / 2, tol=TOL))),
    Task("flow", "rod", _of_loss(_rod)),
    Task("flow", "central, tracked", _of_loss(_central), long=True),
    Task(
        "flow", "NGF, walked one h",
        _of_loss(lambda s: lambda: integrate(flows.NGF(s.E), s.E.theta0, t=s.lr, rtol=1e-4)),
    ),
    Task("optimiser", "SGD", _optimiser(lambda p, h: torch.optim.SGD(p, lr=1e-3 * h))),
    Task(
        "optimiser", "momentum",
        _optimiser(lambda p, h: torch.optim.SGD(p, lr=1e-3 * h, momentum=0.9)),
    ),
    Task("optimiser", "Adam", _optimiser(lambda p, h: torch.optim.Adam(p, lr=1e-6))),
    Task("optimiser", "DAL", _optimiser(lambda p, h: optim.DAL(p, lr=1e-3))),
    Task("optimiser", "CDAT on SGD", _optimiser(lambda p, h: optim.CDAT(p, "sgd", lr=1e-3))),
    Task("optimiser", "CDAT on Adam", _optimiser(lambda p, h: optim.CDAT(p, lr=1e-3))),
    Task("optimiser", "AdaEoS on Adam", _optimiser(lambda p, h: optim.AdaEoS(p, lr=1e-3))),
)  # fmt: skip
