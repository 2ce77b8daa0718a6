"""What the package must leave as it was: all that the user owns."""

import random

import numpy as np
import torch
from torch import Tensor, nn


def _tensors(thing, name="", seen=None):
    """Every tensor that a model, a loss or data hold, by where."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield name, thing
    elif isinstance(thing, nn.Module):
        for n, t in [*thing.named_parameters(), *thing.named_buffers()]:
            yield f"{name}.{n}", t
    elif isinstance(thing, dict):
        for key, part in thing.items():
            yield from _tensors(part, f"{name}.{key}", seen)
    elif isinstance(thing, (list, tuple)):
        for i, part in enumerate(thing):
            yield from _tensors(part, f"{name}[{i}]", seen)


def _flags(thing):
    """Training flags, hooks and generators of a model or a loss."""
    modules = thing.modules() if isinstance(thing, nn.Module) else [thing]
    for i, module in enumerate(modules):
        for name, value in getattr(module, "__dict__", {}).items():
            if isinstance(value, torch.Generator):
                yield f"{i}.{name}", value.get_state().tolist()
            elif isinstance(value, np.random.Generator):
                yield f"{i}.{name}", repr(value.bit_generator.state)
            elif name == "training":
                yield f"{i}.{name}", value
            elif "hooks" in name and isinstance(value, dict):
                yield f"{i}.{name}", list(value)


class Untouched:
    """A picture of all that the user owns, to be compared with a later one."""

    def __init__(self, model, loss, data):
        self.owned = {"model": model, "loss": loss, "data": data}
        self.before = self.picture()

    def picture(self) -> dict:
        seen = {
            "random": random.getstate(),
            "numpy": [str(part) for part in np.random.get_state()],  # noqa: NPY002
            "torch": torch.get_rng_state().tolist(),
            "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
                      torch.is_autocast_enabled("cpu"), torch.get_default_dtype()),
        }  # fmt: skip
        for name, t in _tensors(self.owned):
            raw = isinstance(t, nn.parameter.UninitializedParameter) or t.is_meta
            values = None if raw else t.detach().clone()
            # Inference tensors have no version, which in-place changes would raise.
            version = None if raw or t.is_inference() else t._version
            grad = None if not t.is_leaf or t.grad is None else (id(t.grad), t.grad.clone())
            seen[name] = values, version, t.requires_grad, grad
        for name in ("model", "loss"):
            seen |= {f"{name}:{n}": value for n, value in _flags(self.owned[name])}
        return seen

    def check(self) -> None:
        after = self.picture()
        for name, was in self.before.items():
            assert _same(after.get(name), was), (
                f"{name} was changed: {was} before, {after.get(name)}"
            )


def _same(a, b) -> bool:
    if isinstance(b, Tensor):
        return isinstance(a, Tensor) and torch.equal(a.nan_to_num(), b.nan_to_num())
    if isinstance(b, tuple):
        return isinstance(a, tuple) and len(a) == len(b) and all(map(_same, a, b))
    return a == b


def with_gradients(parameters):
    """As in the middle of training: the gradients of the last step are still there."""
    for p in parameters:
        if not (p.is_meta or isinstance(p, nn.parameter.UninitializedParameter)):
            p.grad = torch.full_like(p, 0.25).detach()
