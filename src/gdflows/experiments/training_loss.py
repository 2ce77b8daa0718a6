"""What several studies train: a network by its description, on a data set by its name."""

from __future__ import annotations

import torch

from gdflows import problems
from gdflows.arguments import numbers, wholes
from gdflows.errors import InputError
from gdflows.experiments.samples import samples
from gdflows.objective import FlatModule

LARGE = {
    # Without normalisation, as in the study of Cohen et al. (2021); and with that of groups,
    # which unlike that of batches leaves the loss a sum over the samples.
    "vgg11": problems.vgg11,
    "resnet18": problems.resnet18,
    "vit": lambda width, activation, **rest: problems.vit(width, **rest),
    "gpt": lambda width, activation, **rest: problems.gpt(width, **rest),
}


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
    init: str = "xavier",
    chunk: int | None = None,
) -> FlatModule:
    """The full-batch loss of a network on a data set, shared among the processes there are.

    The network is fully connected (``"mlp"``) or convolutional (``"conv"``), with hidden widths
    or channels written as in ``"300-200"``; or ``"vgg11"``, ``"resnet18"``, ``"vit"`` or, for
    texts, ``"gpt"``, whose one width is a factor, as in ``"0.5"``. The rest is what
    :func:`gdflows.problems.mlp`, :func:`~gdflows.problems.conv` and
    :func:`~gdflows.problems.classification` take.
    """
    if dtype not in ("float32", "float64"):
        raise InputError(f"dtype must be 'float32' or 'float64', got {dtype!r}.")
    found = samples(data, getattr(torch, dtype))
    shape, classes = found.x_train.shape[1:], len(found.classes)
    if found.y_train.is_floating_point():
        classes = found.y_train.shape[1]  # regression: an output for each target
    common = {"init": init, "scale": scale, "seed": seed, "dtype": getattr(torch, dtype)}
    common["device"] = device
    if network == "gpt":
        common["context"] = shape[0]
    if network in LARGE:
        factors = numbers(widths, "widths")
        if len(factors) != 1:
            raise InputError(f"widths must be one number for {network}, got {widths!r}.")
        net = LARGE[network](factors[0], classes=classes, activation=activation, **common)
        return problems.classification(found, net, loss=loss, n=n, chunk=chunk, shard=True)
    hidden = wholes(widths, "widths", separator="-")
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
        known = ", ".join(["mlp", "conv", *LARGE])
        raise InputError(f"network must be one of {known}, got {network!r}.")
    return problems.classification(found, net, loss=loss, n=n, chunk=chunk, shard=True)
