"""How fast noise of the labels carries a network along its minima, measured and told."""

from __future__ import annotations

from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from gdflows import problems
from gdflows.arguments import chosen, number, numbers, whole
from gdflows.errors import InputError
from gdflows.experiments.registry import study
from gdflows.experiments.samples import samples
from gdflows.flows import LabelNoise, PerSampleNoise, ValleyFlow
from gdflows.objective import FlatModule, Objective
from gdflows.runs.progress import Progress
from gdflows.walking import descend, integrate, sgd

WAYS = ("labels", "batches", "epochs")
FIRST = 200  # steps of descent towards a minimum, before the method of Gauss and Newton


@study(
    "label-drift",
    keys=("seed", "way", "rate"),
    check=lambda c: {
        "seeds": 1,
        "ways": c["ways"].split(",")[0],
        "rates": c["rates"].split(",")[0],
    },
)
def label_drift(
    *,
    data: str = "wine",
    n: int = 8,
    hidden: int = 6,
    ways: str = "labels",
    rates: str = "1.5",
    unit: Literal["sharpness", "trace"] = "sharpness",
    size: float = 0.1,
    settle: int = 60,
    steps: int = 60,
    paths: int = 32,
    seeds: int = 1,
    device: str = "cpu",
) -> pd.DataFrame:
    """SGD with noisy labels from a minimum that fits them: where the Hessian's trace goes.

    Parameters
    ----------
    data : str
        A data set for classification, by its name in :func:`gdflows.problems.load`. The numbers
        of the classes, standardised, are the targets of one output.
    n : int
        Training samples used; those of the test set are for the test.
    hidden : int
        Units of the one hidden layer, with tanh.
    ways : str
        With commas between them: ``labels``, each label has a fresh error in each step, and all
        samples are in the batch; ``batches``, each sample is there twice, its label moved up and
        down, and single samples are drawn anew; ``epochs``, these in shuffled order.
    rates : str
        Learning rates, with commas between them, times ``unit`` at the start.
    unit : {"sharpness", "trace"}
        Of the Hessian at the minimum.
    size : float
        Standard deviation of a label's error.
    settle, steps : int
        Steps until the first look, and from there to the second; of epochs whole ones, as many
        as fit.
    paths : int
        Runs of SGD from each minimum.
    seeds : int
        Initialisations, 0 to seeds - 1; each has its own random numbers.
    device : str
        Where to compute, in double precision.

    Returns
    -------
    pandas.DataFrame
        A row for each initialisation ``seed``, ``way`` and ``rate``: the learning rate ``lr``,
        ``sharpness`` and ``trace`` of the Hessian at the start; mean ``change`` of the trace from
        the first look to the second, at the ends of Gauss and Newton's steps, and its standard
        ``error``; ``swing``, the mean square distance from them; the changes told by the drift of
        SGD and of its equations of ``order 1`` and ``order 2`` as ``sgd``, ``order_1``,
        ``order_2``; and the loss on the test set at both looks, ``test_before`` and
        ``test_after``.

    Raises
    ------
    InputError
        If a way is unknown, or an epoch does not fit into the steps.

    References
    ----------
    Blanc et al. (2020), Damian, Ma and Lee (2021), Li, Wang and Arora (2022).
    """
    wanted, scaled = chosen(ways, "way", WAYS), numbers(rates, "rates")
    if unit not in ("sharpness", "trace"):
        raise InputError(f"unit must be 'sharpness' or 'trace', got {unit!r}.")
    size, n = number(size, "size", positive=True), whole(n, "n")
    rows = []
    with Progress(seeds * len(wanted) * len(scaled)) as shown:
        for seed in range(whole(seeds, "seeds")):
            E, test = _network(data, n, hidden, seed, device)
            noise = LabelNoise(E, size**2)
            start = noise.fitted(descend(E, E.theta0, 0.05, FIRST, every=FIRST).states[-1])
            values = torch.linalg.eigvalsh(E.hessian(start))
            scale = float(values[-1] if unit == "sharpness" else values.sum())
            for way in wanted:
                for rate in scaled:
                    h = rate / scale
                    row = {"seed": seed, "way": way, "rate": rate, "lr": h}
                    row |= {"sharpness": float(values[-1]), "trace": float(values.sum())}
                    row |= _drift(E, noise, test, start, way, h, settle, steps, paths, seed)
                    rows.append(row)
                    shown.update()
    return pd.DataFrame(rows)


def _network(
    data: str, n: int, hidden: int, seed: int, device: str
) -> tuple[FlatModule, Objective]:
    """Its loss on n samples, and on the test set."""
    found = samples(data, torch.float64)
    x, y = found.x_train[:n].flatten(1), found.y_train[:n].double()
    if not y.std() > 0:
        raise InputError(f"The first {n} samples of {data} are all of one class: take more.")
    net = problems.mlp([x.shape[1], hidden, 1], "tanh", seed=seed, dtype=torch.float64)
    net = net.to(device)
    both = []
    for x_, y_ in ((x, y), (found.x_test.flatten(1), found.y_test.double())):
        targets = ((y_ - y.mean()) / y.std())[:, None]
        pair = (x_.to(device), targets.to(device))
        both.append(Objective.from_module(net, problems.squared_error, pair))
    return tuple(both)


def _drift(
    E: FlatModule, noise: LabelNoise, test: Objective, start: Tensor, way: str, h: float,
    settle: int, steps: int, paths: int, seed: int,
) -> dict[str, float]:  # fmt: skip
    """What one row tells."""
    n, size = noise.samples.size, noise.variance**0.5
    if way == "labels":
        loss, drawn, kind, told = E, noise, "gaussian", noise
    else:
        x, y = E.data
        pairs = (torch.cat([x, x]), torch.cat([y + size, y - size]))
        loss = Objective.from_module(E.model, E.loss, pairs)
        drawn, kind = PerSampleNoise(loss, 1, replacement=way == "batches"), way
        settle, steps = (k // (2 * n) * 2 * n for k in (settle, steps))
        if not settle or not steps:
            raise InputError(f"An epoch has {2 * n} steps: take as many for settle and for steps.")
        told = LabelNoise(E, n * size**2)  # a single sample's noise is s² times the Hessian
    looks = [0, settle, settle + steps]
    seen = sgd(
        loss, start, h, looks[-1], covariance=drawn, noise=kind, paths=paths, seed=seed, at=looks,
        keep="paths", progress=False,
    )  # fmt: skip
    fitted = [noise.fitted(points) for points in seen.states[1:]]
    before, after = (trace(noise, points) for points in fitted)
    change = after - before
    out = {
        "change": float(change.mean()),
        "error": float(change.std()) / paths**0.5,
        "swing": float((seen.states[2] - fitted[1]).square().sum(1).mean()),
    }
    for of in ("sgd", "order 1", "order 2"):
        flow = ValleyFlow(E, h, covariance=told, of=of, flat=1e-3)
        path = integrate(
            flow, start, times=[k * h for k in looks], method="rk4", step=looks[-1] * h / 4,
            progress=False,
        )  # fmt: skip
        traces = trace(noise, path.states)
        out[of.replace(" ", "_")] = float(traces[2] - traces[1])
    for name, points in zip(("before", "after"), fitted, strict=True):
        out[f"test_{name}"] = sum(float(test.value(p)) for p in points) / paths
    return out


def trace(noise: LabelNoise, points: Tensor) -> Tensor:
    """The Hessian's trace at points that fit all labels, ``(P,)``."""
    return noise.trace(points) * noise.samples.size / noise.variance
