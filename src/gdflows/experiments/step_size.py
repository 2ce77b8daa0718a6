"""Does a smaller step change the path? Gradient descent at h against h/2, h/5, h/10, h/20."""

from __future__ import annotations

from typing import Literal

import pandas as pd
import torch

from gdflows import problems
from gdflows.errors import InputError
from gdflows.experiments.registry import study
from gdflows.experiments.samples import samples
from gdflows.runs.progress import Progress
from gdflows.walking import descend

RATIOS = (2, 5, 10, 20)


@study("step-size", keys=("ratio", "step"), check=lambda c: {"steps": 2 * c["every"]})
def step_size(
    *,
    network: Literal["fc-linear", "fc-relu", "conv"] = "fc-linear",
    data: str = "gratings",
    n: int = 100,
    scale: float = 0.5,
    lr: float = 0.02,
    steps: int = 100,
    every: int = 5,
    seed: int = 0,
    dtype: Literal["float32", "float64"] = "float64",
    device: str = "cpu",
) -> pd.DataFrame:
    """Gradient descent at step h against steps h/2, h/5, h/10 and h/20, at the same flow times.

    Parameters
    ----------
    network : {"fc-linear", "fc-relu", "conv"}
        Two hidden layers of 50, linear or ReLU; or two convolutions of 4 and 8 channels with
        ReLU and maximum pooling. No biases, so all three are homogeneous in their parameters.
    data : str
        A data set of images, by its name in :func:`gdflows.problems.load`.
    n : int
        Training samples used, all of them in every step.
    scale : float
        Of the initialisation, times Xavier's.
    lr : float
        The base step h.
    steps : int
        Steps at h; the run at h/r takes r times as many.
    every : int
        Base steps between two rows.
    seed : int
        Of the initialisation.
    dtype : {"float32", "float64"}
        Of the parameters. In single precision the rounding of many small steps adds up.
    device : str
        Where to compute.

    Returns
    -------
    pandas.DataFrame
        A row for each ratio r and each time: ``ratio``, ``step`` (in base steps), ``t``, ``loss``
        of the run at h/r, its Euclidean ``distance`` from the start, its ``travelled`` length
        (of the polygon through the states kept), and its ``gap`` to the run at h at the same
        time. The base run is ratio 1.

    Raises
    ------
    InputError
        If the network or the dtype is unknown, or ``every`` exceeds ``steps``.

    References
    ----------
    Elkabetz and Cohen, "Continuous vs. discrete optimization of deep neural networks", NeurIPS
    2021, compare the same steps from a base of 0.001.
    """
    if not 1 <= every <= steps:
        raise InputError(f"every must be in 1 … steps = {steps}, got {every}.")
    if dtype not in ("float32", "float64"):
        raise InputError(f"dtype must be 'float32' or 'float64', got {dtype!r}.")
    found = samples(data, getattr(torch, dtype))
    shape, classes = found.x_train.shape[1:], len(found.classes)
    like = {"scale": scale, "seed": seed, "dtype": getattr(torch, dtype), "device": device}
    net = small_network(network, shape, classes, init="xavier", **like)
    objective = problems.classification(found, net, n=n)
    start = objective.theta0
    base, tables, ratios = None, [], (1, *RATIOS)
    with Progress(sum(ratios) * steps) as shown:
        for ratio in ratios:
            path = descend(objective, start, lr / ratio, steps * ratio, every=every * ratio)
            base = path if base is None else base
            columns = {
                "ratio": ratio,
                "step": [round(float(t) / lr) for t in path.times],
                "t": path.times,
                "loss": [float(objective.value(theta)) for theta in path.states],
                "distance": torch.linalg.vector_norm(path.states - start, dim=1).cpu(),
                "travelled": path.travelled.cpu(),
                "gap": path.distance(base).cpu(),
            }
            tables.append(pd.DataFrame(columns))
            shown.update(ratio * steps)
    return pd.concat(tables, ignore_index=True)


def small_network(name, shape, classes, **common):
    """A network of the studies of the step, without biases."""
    widths = [shape.numel(), 50, 50, classes]
    if name == "fc-linear":
        return problems.deep_linear(widths, **common)
    if name == "fc-relu":
        return problems.mlp(widths, "relu", bias=False, **common)
    if name == "conv":
        return problems.conv(
            [4, 8],
            "relu",
            pooling="max",
            in_channels=shape[0],
            image_size=shape[-1],
            classes=classes,
            bias=False,
            **common,
        )
    raise InputError(f"network must be 'fc-linear', 'fc-relu' or 'conv', got {name!r}.")
