"""The loss of a torch module on fixed data, as an objective on one flat vector."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gdflows import parallel
from gdflows.errors import InputError
from gdflows.objective.base import Objective


class FlatModule(Objective):
    """The loss of a torch module on fixed data: see :meth:`gdflows.Objective.from_module`.

    Attributes
    ----------
    names : list of str
        The parameters, in the order in which θ holds them.
    shapes : list of torch.Size
        Their shapes.
    """

    def __init__(self, model, loss, data, *, chunk=None, reduction=None, shard=False):
        parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if not parameters:
            raise InputError(
                f"{type(model).__name__} has no trainable parameters: nothing to differentiate. "
                "Check requires_grad."
            )
        for attribute in ("dtype", "device"):
            found = {str(getattr(p, attribute)) for p in parameters.values()}
            if len(found) > 1:
                raise InputError(
                    f"The parameters of {type(model).__name__} mix {attribute}s "
                    f"({', '.join(sorted(found))}): one flat vector needs one {attribute}."
                )
        x, y = data
        first = next(iter(parameters.values()))
        for name, part in (("x", x), ("y", y)):
            if part.device != first.device:
                raise InputError(
                    f"The data's {name} is on {part.device}, the model on {first.device}: "
                    f"move one with .to({str(first.device)!r})."
                )
        if x.is_floating_point() and x.dtype != first.dtype:
            raise InputError(
                f"The data's x is {x.dtype}, the model's parameters are {first.dtype}: "
                "convert one of them, e.g. model.to(x.dtype)."
            )
        if len(x) != len(y):
            raise InputError(f"x has {len(x)} samples, y {len(y)}.")
        if len(x) == 0:
            raise InputError("The data set is empty.")

        self.model, self.loss, self.data = model, loss, (x, y)
        self.names = list(parameters)
        self.shapes = [p.shape for p in parameters.values()]
        self._numels = [p.numel() for p in parameters.values()]
        # Every place that holds a trainable parameter. A parameter shared between modules has
        # several; a module used twice has one (functional_call's own tie_weights would swap it
        # in twice and leave a stranger behind).
        canonical = {id(p): n for n, p in parameters.items()}
        self._slots = {
            slot: canonical[id(p)] for slot, p in _slots(model, "_parameters") if id(p) in canonical
        }
        dim = sum(self._numels)
        theta0 = torch.cat([p.detach().reshape(-1) for p in parameters.values()]).clone()

        whole, shard = len(x), shard and parallel.size() > 1
        if shard:
            x, y = parallel.share(x), parallel.share(y)
        if chunk is not None and chunk < 1:
            raise InputError(f"chunk must be at least 1, got {chunk}.")
        chunk = min(chunk or len(x), len(x))
        if chunk == whole:
            terms = [self._term(x, y, 1.0)]
        else:
            reduction = reduction or getattr(loss, "reduction", "mean")
            self._chunkable(reduction)
            weight = {"mean": lambda n: n / whole, "sum": lambda n: 1.0}[reduction]
            pairs = zip(x.split(chunk), y.split(chunk), strict=True)
            terms = [self._term(a, b, weight(len(a))) for a, b in pairs]
        self._setup(terms, dim, theta0)
        self.shared = shard

    def batch(self, size: int, generator: torch.Generator) -> FlatModule:
        """The loss of the same module on some of its samples, drawn without replacement.

        Parameters
        ----------
        size : int
            How many.
        generator : torch.Generator
            On the CPU.
        """
        x, y = self.data
        if not 1 <= size <= len(x):
            raise InputError(f"A batch of {size} cannot be drawn from {len(x)} samples.")
        drawn = torch.randperm(len(x), generator=generator)[:size].to(x.device)
        return FlatModule(self.model, self.loss, (x[drawn], y[drawn]))

    def _chunkable(self, reduction: str) -> None:
        if reduction not in ("mean", "sum"):
            raise InputError(f"reduction must be 'mean' or 'sum', got {reduction!r}.")
        if getattr(self.loss, "weight", None) is not None and reduction == "mean":
            raise InputError(
                "A mean weighted by class cannot be added up from chunks: "
                "leave chunk out, or use reduction='sum'."
            )
        coupling = [
            n
            for n, m in self.model.named_modules()
            if isinstance(m, torch.nn.modules.batchnorm._BatchNorm) and m.training
        ]
        if coupling:
            raise InputError(
                f"Batch normalisation in training mode ({coupling[0]}) couples all samples, so a "
                "loss in chunks is a different function. Leave chunk out, call model.eval(), or "
                "use group normalisation."
            )

    def _term(self, x: Tensor, y: Tensor, weight: float) -> Callable[[Tensor], Tensor]:
        def term(theta: Tensor) -> Tensor:
            # Cloned, since BatchNorm in training mode writes to its buffers on every call.
            buffers = {n: b.clone() for n, b in _slots(self.model, "_buffers")}
            inputs = x
            if theta.is_complex():  # torch multiplies no real matrix with a complex one
                inputs = x.to(theta.dtype) if x.is_floating_point() else x
                buffers = {
                    n: b.to(theta.dtype) if b.is_floating_point() else b for n, b in buffers.items()
                }
            named = self.unflatten(theta)
            parameters = {slot: named[name] for slot, name in self._slots.items()}
            try:
                out = torch.func.functional_call(
                    self.model, {**parameters, **buffers}, (inputs,), tie_weights=False
                )
                e = self.loss(out, y)
            except (NotImplementedError, RuntimeError) as error:
                if not theta.is_complex() or isinstance(error, torch.OutOfMemoryError):
                    raise
                raise InputError(
                    f"The model or its loss does not take complex parameters ({error}). Use "
                    "gdflows.problems.squared_error or cross_entropy as the loss, and layers "
                    "that have a complex form, such as torch.nn.Linear and torch.nn.Tanh."
                ) from error
            return e if weight == 1.0 else weight * e

        return term

    def _check(self, theta: Tensor, name: str = "theta") -> None:
        super()._check(theta, name)
        if theta.device != self.theta0.device:
            raise InputError(
                f"{name} is on {theta.device}, the model on {self.theta0.device}: move one of them."
            )
        if theta.dtype not in (self.theta0.dtype, self.theta0.dtype.to_complex()):
            raise InputError(
                f"{name} is {theta.dtype}, the model's parameters are {self.theta0.dtype}: "
                "convert one of them, e.g. build the objective from model.double()."
            )

    def unflatten(self, theta: Tensor) -> dict[str, Tensor]:
        """The flat vector as the module's parameters by name (views of it)."""
        parts = theta.split(self._numels)
        named = zip(self.names, parts, self.shapes, strict=True)
        return {n: p.view(s) for n, p, s in named}

    def write(self, theta: Tensor) -> None:
        """Copy θ into the module's own parameters, in place."""
        self._check(theta)
        if theta.is_complex():
            raise InputError("A module holds real parameters: write theta.real.")
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in self.unflatten(theta).items():
                own[name].copy_(value)


def _slots(model: torch.nn.Module, kind: str) -> list[tuple[str, Tensor]]:
    """Each place in the module tree that holds a tensor, once: (full name, tensor)."""
    return [
        (f"{prefix}.{name}" if prefix else name, tensor)
        for prefix, module in model.named_modules()
        for name, tensor in getattr(module, kind).items()
        if tensor is not None
    ]
