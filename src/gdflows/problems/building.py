"""How a module is made and initialised: from a seed, in float64, on the CPU, and then moved."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from gdflows.errors import InputError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "softplus": nn.Softplus,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
}

INITS = ("default", "xavier", "he", "orthogonal", "normal", "identity")


def build(
    layers: Callable[[], nn.Sequential],
    init: str,
    scale: float,
    seed: int,
    dtype: torch.dtype,
    device: torch.device | str | None,
) -> nn.Sequential:
    """The module that ``layers()`` makes, initialised from a seed.

    Parts with parameters of their own, beside torch's layers, have a method
    ``initialise(generator)``.
    """
    if init not in INITS:
        raise InputError(f"init must be one of {', '.join(INITS)}, got {init!r}.")
    # On the meta device a module draws nothing, so the global random state stays as it was.
    with torch.device("meta"):
        network = layers()
    network = network.to(dtype=dtype).to_empty(device=device or "cpu")
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            _initialise(module, init, scale, generator)
        elif isinstance(module, nn.GroupNorm | nn.BatchNorm2d | nn.LayerNorm):
            module.reset_parameters()  # ones and zeros, and the running statistics
        elif hasattr(module, "initialise"):
            module.initialise(generator)
    return network


def _initialise(
    layer: nn.Linear | nn.Conv2d, init: str, scale: float, generator: torch.Generator
) -> None:
    # Drawn in float64 on the CPU, whatever the layer is: so a seed means one network.
    w = torch.empty(layer.weight.shape, dtype=torch.float64)
    fan_in = w[0].numel()
    match init:
        case "default":
            bound = 1 / math.sqrt(fan_in)
            w.uniform_(-bound, bound, generator=generator)
        case "xavier":
            nn.init.xavier_normal_(w, generator=generator)
        case "he":
            w.normal_(0.0, math.sqrt(2 / fan_in), generator=generator)
        case "orthogonal":
            nn.init.orthogonal_(w, generator=generator)
        case "normal":
            w.normal_(generator=generator)
        case "identity":
            nn.init.eye_(w) if w.ndim == 2 else nn.init.dirac_(w)
    copy(layer.weight, scale * w)
    if layer.bias is not None:
        b = torch.zeros(layer.bias.shape, dtype=torch.float64)
        if init == "default":
            b.uniform_(-bound, bound, generator=generator)
        copy(layer.bias, b)


def copy(parameter: nn.Parameter, values: Tensor) -> None:
    """Write values into a parameter, in its own dtype and on its own device."""
    with torch.no_grad():
        parameter.copy_(values)


def check_widths(widths: Sequence[int]) -> None:
    """Raise InputError unless these are two or more positive whole numbers."""
    good = all(isinstance(w, int) and w >= 1 for w in widths)
    if not good or len(widths) < 2:
        raise InputError(
            f"widths must be at least two positive whole numbers, inputs first, got {list(widths)}."
        )


def activation_class(name: str) -> type[nn.Module]:
    """The module class of an activation's name, or InputError."""
    if name not in ACTIVATIONS:
        raise InputError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}.")
    return ACTIVATIONS[name]
