"""θ in a module's place, while its loss is evaluated and differentiated."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from gdflows.errors import GdflowsError, InputError
from gdflows.objective.calls import call, own_loss, takes_target
from gdflows.objective.data import FORMS, Batch
from gdflows.objective.shapes import judged
from gdflows.objective.terms import CHANGED, Term

if TYPE_CHECKING:
    from gdflows.objective.module import FlatModule


class ModuleTerm(Term):
    """The loss on one batch, weighted; while it is evaluated *and* differentiated the module holds
    θ, so that penalties over its parameters and recomputed activations see θ too.
    """

    def __init__(self, owner: FlatModule, batch: Batch, weight: float):
        self.owner, self.batch, self.weight = owner, batch, weight

    @property
    def recomputes(self) -> bool:
        return self.owner._recomputes

    def run(self, theta: Tensor, action: Callable):
        owner, memory = self.owner, self.owner._memory
        named = owner.unflatten(theta)
        tensors = {slot: named[name] for slot, name in owner._slots.items()}
        # Cloned, since BatchNorm in training mode writes to its buffers on every call.
        for name, b in slots(owner._holder, "_buffers"):
            wide = theta.is_complex() and b.is_floating_point()
            tensors[name] = b.to(theta.dtype) if wide else b.clone()
        kept = memory.take()
        try:
            # Fused attention has no second derivative; its plain form has.
            with sdpa_kernel(SDPBackend.MATH):
                return torch.func.functional_call(
                    owner._holder,
                    tensors,
                    (lambda: action(lambda: self._loss(theta, named)),),
                    tie_weights=False,
                )
        finally:
            changed = memory.put_back(kept)
            if memory.places is None and changed:
                memory.places = changed

    def _loss(self, theta: Tensor, named: dict[str, Tensor]) -> Tensor:
        owner, batch = self.owner, self.batch.map(lambda t: t.to(theta.device))
        if theta.is_complex():  # torch multiplies no real matrix with a complex one
            batch = batch.map_inputs(lambda t: t.to(theta.dtype) if t.is_floating_point() else t)
        first = owner._memory.places is None
        if owner._copies_data or first:
            batch = batch.map(torch.clone)
        data = batch.tensors()
        before = [(t._version, t.requires_grad) for t in data]
        e = self._called(batch, theta, named)
        if before != [(t._version, t.requires_grad) for t in data]:
            if not (first or owner._copies_data):
                raise InputError(
                    "The model has changed its data in place, which it did not when the objective "
                    "was made. Let it change a copy."
                )
            owner._copies_data = True
        return e if self.weight == 1.0 else self.weight * e

    def _called(self, batch: Batch, theta: Tensor, named: dict[str, Tensor]) -> Tensor:
        owner = self.owner
        with ExitStack() as stack:
            if owner._substitute:
                own = {id(p): named[name] for name, p in owner._own.items()}
                stack.enter_context(Substitute(own))
            if owner._without_cudnn:  # its recurrent kernels have no second derivative
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            try:
                out = call(owner.model, batch)
                if owner.loss is None:
                    return own_loss(out)
                if batch.judged or takes_target(owner.loss):
                    if owner._memory.places is None:  # the first evaluation
                        return judged(owner.loss, out, batch.target)
                    return owner.loss(out, batch.target)
                return owner.loss(out)
            except Exception as error:
                explained = _explained(error, owner, theta)
                if explained is None:
                    raise
                raise explained from error


class Substitute(TorchFunctionMode):
    """Inside, torch's functions are given other tensors for some: θ's parts for parameters that a
    loss reaches past the module tree (kept in a list, held by a closure).
    """

    def __init__(self, others: dict[int, Tensor]):
        super().__init__()
        self.others = others

    def __torch_function__(self, func, types, args=(), kwargs=None):
        args, kwargs = self._exchanged(tuple(args)), self._exchanged(kwargs or {})
        return func(*args, **kwargs)

    def _exchanged(self, x):
        if isinstance(x, Tensor):
            return self.others.get(id(x), x)
        if type(x) in (tuple, list):
            return type(x)(self._exchanged(v) for v in x)
        if type(x) is dict:
            return {k: self._exchanged(v) for k, v in x.items()}
        return x


class Holder(torch.nn.Module):
    """Model and loss, in which functional_call can place θ while anything is done."""

    def __init__(self, model: torch.nn.Module, loss):
        super().__init__()
        self.model = model
        if isinstance(loss, torch.nn.Module):
            self.loss = loss

    def forward(self, action: Callable):
        return action()


def _explained(error: Exception, owner: FlatModule, theta: Tensor) -> Exception | None:
    """The error to raise in its place, or None to let it pass as it is."""
    if isinstance(error, (GdflowsError, torch.OutOfMemoryError, MemoryError)):
        return None
    if theta.is_complex() and isinstance(error, (NotImplementedError, RuntimeError)):
        return InputError(
            f"The model or its loss does not take complex parameters ({error}). Use "
            "gdflows.problems.squared_error or cross_entropy as the loss, and layers "
            "that have a complex form, such as torch.nn.Linear and torch.nn.Tanh."
        )
    if "modified inplace" in str(error) or "in-place operation" in str(error):
        return InputError(CHANGED)
    if owner._memory.places is None and "allocate memory" not in str(error):
        return InputError(
            f"The model and its loss cannot be evaluated on these data: {type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else error!r}. "
            f"The data may be {FORMS}; what is called is loss(model(x), y)."
        )
    return None


def slots(model: torch.nn.Module, kind: str) -> list[tuple[str, Tensor]]:
    """Each place in the module tree that holds a tensor, once: (full name, tensor)."""
    return [
        (f"{prefix}.{name}" if prefix else name, tensor)
        for prefix, module in model.named_modules()
        for name, tensor in getattr(module, kind).items()
        if tensor is not None
    ]
