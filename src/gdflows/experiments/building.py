"""What several studies train: a network by its description, on a data set by its name."""

from __future__ import annotations

import torch

from gdflows import problems
from gdflows.errors import InputError
from gdflows.objective import FlatModule


def training_loss(
    network: str,
    widths: str,
    activation: str,
    scale: float,
    data: str,
    n: int,
    seed: int,
    device: str,
    *,
    loss: str = "mse",
    dtype: str = "float64",
) -> FlatModule:
    """The full-batch loss of a fully connected (``"mlp"``) or convolutional (``"conv"``) network.

    Hidden widths or channels are written as in ``"300-200"``; the rest is what
    :func:`gdflows.problems.mlp`, :func:`~gdflows.problems.conv` and
    :func:`~gdflows.problems.classification` take.
    """
    if dtype not in ("float32", "float64"):
        raise InputError(f"dtype must be 'float32' or 'float64', got {dtype!r}.")
    samples = problems.load(data, dtype=getattr(torch, dtype))
    hidden = [int(w) for w in widths.split("-")]
    shape, classes = samples.x_train.shape[1:], len(samples.classes)
    common = {"init": "xavier", "scale": scale, "seed": seed, "dtype": getattr(torch, dtype)}
    common["device"] = device
    if network == "mlp":
        net = problems.mlp([shape.numel(), *hidden, classes], activation, **common)
    elif network == "conv":
        rows = len(shape) == 1  # scikit-learn's images come as rows
        side = round(shape.numel() ** 0.5) if rows else shape[-1]
        channels = 1 if rows else shape[0]
        net = problems.conv(
            hidden, activation, in_channels=channels, image_size=side, classes=classes, **common
        )
        if rows:
            net = torch.nn.Sequential(torch.nn.Unflatten(1, (1, side, side)), *net)
    else:
        raise InputError(f"network must be 'mlp' or 'conv', got {network!r}.")
    return problems.classification(samples, net, loss=loss, n=n)
