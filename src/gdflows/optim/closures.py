"""What a closure owes an optimiser that needs curvature, and how one sees that it does not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.weak import WeakIdKeyDictionary

from gdflows.errors import InputError

Closure = Callable[[], Tensor]

# Gradients that a step left behind, and their versions: what is not among them somebody made.
_LEFT = WeakIdKeyDictionary()

MICROBATCHES = (
    "To accumulate over microbatches give step a list of closures, one for each: "
    "optimizer.step([lambda: loss_fn(model(x1), y1), lambda: loss_fn(model(x2), y2)])."
)


def leave(parameters: Sequence[Tensor]) -> None:
    """Note the gradients as a step's own."""
    for p in parameters:
        if p.grad is not None:
            _LEFT[p.grad] = p.grad._version


def left(p: Tensor) -> bool:
    """Whether its gradient is a step's own, unchanged."""
    return p.grad is not None and _LEFT.get(p.grad) == p.grad._version


def refuse_accumulated(name: str, parameters: Sequence[Tensor]) -> None:
    """Gradients that somebody made, or changed, would be dropped without a word."""
    for p in parameters:
        if p.grad is None or left(p) or not _nonzero(p.grad):
            continue
        if p.grad in _LEFT:
            raise InputError(
                f"A gradient was changed since {name}'s last step (clip_grad_norm_, unscaling). "
                "That has no effect: each step makes its own gradient. Clip with "
                f"{name}(…, max_norm=…); in transformers.Trainer also set max_grad_norm=0."
            )
        raise InputError(
            f"A parameter has a gradient from a backward() before {name}'s step, which would be "
            f"dropped. {MICROBATCHES} If it is an old one, call zero_grad()."
        )


def refuse_skipped(name: str) -> None:
    """Accelerate calls no step, and so looks at no closure, while it accumulates."""
    if "accelerate.optimizer" not in sys.modules:
        return
    frame = sys._getframe(2)
    for _ in range(10):
        if frame is None:
            return
        if frame.f_globals.get("__name__") == "accelerate.optimizer":
            state = getattr(frame.f_locals.get("self"), "gradient_state", None)
            if getattr(state, "num_steps", 1) > 1:
                raise InputError(
                    f"With gradient_accumulation_steps={state.num_steps} accelerate drops the "
                    f"closures of all microbatches but the last. Use 1. {MICROBATCHES}"
                )
            return
        frame = frame.f_back


def as_list(name: str, closure: Closure | Sequence[Closure] | None) -> list[Closure]:
    """One closure or several, as a list."""
    if closure is None:
        raise InputError(
            f"{name}.step needs a closure that returns the loss, without calling backward: "
            "optimizer.step(lambda: loss_fn(model(x), y)). Where a trainer calls step(): see the "
            "recipes at gdflows.optim.CurvatureOptimizer."
        )
    closures = list(closure) if isinstance(closure, Sequence) else [closure]
    if not closures:
        raise InputError("step was given no closure.")
    for one in closures:
        if not callable(one):
            raise InputError(
                f"step was given {type(one).__name__} where it needs a closure, a function without "
                "arguments that returns the loss: optimizer.step(lambda: loss_fn(model(x), y)). A "
                "closure must return the loss alone, not in a tuple."
            )
    return closures


def call(name: str, parameters: Sequence[Tensor], closure: Closure, sown: bool):
    """What the closure returns, if it left gradients and parameters alone.

    With ``sown`` the gradients are marks of :func:`sow`.
    """
    before = [(p.grad, None if p.grad is None else p.grad._version, p._version) for p in parameters]
    result = closure()
    for p, (grad, version, own) in zip(parameters, before, strict=True):
        if p._version != own:
            raise InputError(
                "The closure changes a parameter in place (an embedding with max_norm, a "
                "projection, another optimiser's step), so its loss is no function of the "
                "parameters. Do that between the steps."
            )
        if p.grad is grad and (grad is None or grad._version == version):
            continue
        if p.grad is None or (sown and p.grad is grad and not _nonzero(grad)):
            p.grad = grad  # by zero_grad, which does no harm
            continue
        raise InputError(
            f"The closure calls backward, or clips gradients. {name} differentiates the loss "
            "itself: let the closure only compute and return it, and clip with max_norm=… of the "
            "optimiser. In Lightning set automatic_optimization = False."
        )
    return result


def sow(parameters: Sequence[Tensor]) -> None:
    """Ones in place of gradients: a closure that clips what is there is seen to do so."""
    for p in parameters:
        p.grad = torch.ones_like(p)


def scalar(loss) -> Tensor:
    """The closure's loss, if it is one that can be differentiated."""
    if not isinstance(loss, Tensor):
        raise InputError(
            f"The closure returned {type(loss).__name__}, not the loss as a tensor. It should "
            "return loss_fn(model(x), y), and not call backward or item."
        )
    if loss.is_complex():
        raise InputError("The closure returned a complex loss: return its real part or modulus.")
    if loss.numel() != 1:
        raise InputError(f"The closure returned shape {tuple(loss.shape)}, not a scalar loss.")
    if not loss.requires_grad:
        raise InputError(
            "The closure's loss has no graph. Do not call backward, detach or no_grad in it."
        )
    return loss.reshape(())


@contextmanager
def explained(*, again: bool = False) -> Iterator[None]:
    """torch's errors about a graph that is used up, in terms of the closure."""
    try:
        yield
    except RuntimeError as error:
        stale = again and "modified by an inplace operation" in str(error)  # by our own move
        if stale or "through the graph a second time" in str(error):
            raise InputError(
                "The closure's graph is used up: it calls backward itself, or its loss was "
                "computed outside of it. Compute the loss inside the closure, anew at each call, "
                "and only return it."
            ) from error
        raise


def _nonzero(grad: Tensor) -> bool:
    return bool((grad._values() if grad.is_sparse else grad).any())


# -- the same function at each call ----------------------------------------------------------------


def random_state(parameters: Sequence[Tensor]) -> dict:
    devices = {p.device for p in parameters if p.device.type == "cuda"}
    return {None: torch.get_rng_state()} | {d: torch.cuda.get_rng_state(d) for d in devices}


def set_random_state(states: dict) -> None:
    for device, state in states.items():
        if device is None:
            torch.set_rng_state(state)
        else:
            torch.cuda.set_rng_state(state, device)


@contextmanager
def plain_attention(needed: bool) -> Iterator[None]:
    """Fused attention has no second derivative; its plain form has."""
    if not needed:
        yield
        return
    with sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def frozen_statistics() -> Iterator[None]:
    """Undo what batch normalisation notes down on the way."""
    seen: dict[int, tuple] = {}

    def remember(module, _):
        if isinstance(module, _NormBase) and id(module) not in seen:
            seen[id(module)] = module, {n: b.clone() for n, b in module.named_buffers()}

    hook = register_module_forward_pre_hook(remember)
    try:
        yield
    finally:
        hook.remove()
        for module, buffers in seen.values():
            for name, buffer in buffers.items():
                getattr(module, name).copy_(buffer)
