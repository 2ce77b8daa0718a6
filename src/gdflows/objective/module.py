"""The loss of a torch module on fixed data, as an objective on one flat vector."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from gdflows import parallel
from gdflows.errors import GdflowsError, InputError
from gdflows.objective import chunks
from gdflows.objective.base import Objective
from gdflows.objective.data import FORMS, Batch, call, own_loss, read, takes_target
from gdflows.objective.masks import check_masks, masked
from gdflows.objective.randomness import Draw
from gdflows.objective.state import Memory
from gdflows.objective.terms import CHANGED, Term


class FlatModule(Objective):
    """The loss of a torch module on fixed data: see :meth:`gdflows.Objective.from_module`.

    Attributes
    ----------
    names : list of str
        The parameters, in the order in which θ holds them.
    shapes : list of torch.Size
        Their shapes.
    """

    def __init__(
        self,
        model,
        loss=None,
        data=None,
        *,
        chunk=None,
        reduction=None,
        count=None,
        axis=0,
        loss_parameters=False,
        shard=False,
        constant=False,
        seed=0,
        check=True,
    ):
        if loss is not None and not callable(loss):
            raise InputError(
                f"The loss must be a function of the model's output, got {type(loss).__name__}. "
                "For a model that computes its own: from_module(model, data=batches)."
            )
        if data is None:
            raise InputError("from_module needs data: from_module(model, loss, (x, y)).")
        # What torch.compile wraps is the same function, and can be differentiated twice.
        model = getattr(model, "_orig_mod", model)
        self.model, self.loss, self.data = model, loss, data
        self._holder = _Holder(model, loss)
        self._with_loss = loss_parameters
        self._own = _trainable(model, loss if loss_parameters else None)
        self.names = list(self._own)
        self.shapes = [p.shape for p in self._own.values()]
        self._numels = [p.numel() for p in self._own.values()]
        # Every place that holds a trainable parameter. A parameter shared between modules has
        # several; a module used twice has one (functional_call's own tie_weights would swap it
        # in twice and leave a stranger behind).
        canonical = {id(p): n for n, p in self._own.items()}
        self._slots = {
            slot: canonical[id(p)]
            for slot, p in _slots(self._holder, "_parameters")
            if id(p) in canonical
        }
        first = next(iter(self._own.values()))
        recurrent = any(isinstance(m, torch.nn.RNNBase) for m in model.modules())
        self._without_cudnn = recurrent and first.device.type == "cuda"
        self._recomputes = True  # until it is seen that nothing is called on the way back
        self._substitute = False  # parameters that are reached past the module tree
        self._copies_data = False  # a model that changes its inputs in place
        self._memory = Memory([*self._holder.modules(), loss, getattr(loss, "__self__", None)])
        if not check:
            self._memory.places = []

        with Draw(seed).fixed():  # a DataLoader that shuffles draws from torch's own state
            batches, several = read(data, own_loss=loss is None, axis=axis)
        for batch in batches:
            _check_batch(batch, first, moved=several)
        theta0 = self.read().clone()
        settings = {"constant": constant, "seed": seed, "check": check}
        self._setup([ModuleTerm(self, batches[0], 1.0)], theta0.numel(), theta0, **settings)
        self._whole = batches
        check_masks(self._own)
        _refuse_aliases(self._holder, self._own)
        self._fixed = _padding(self._holder, self._slots, self._own)
        self._look(theta0)
        parts, weights = chunks.plan(
            self, batches, several, chunk=chunk, reduction=reduction, count=count,
            shard=shard and parallel.size() > 1, check=check,
        )  # fmt: skip
        self.terms = [ModuleTerm(self, *pair) for pair in zip(parts, weights, strict=True)]
        self.shared = shard and parallel.size() > 1

    def batch(self, size: int, generator: torch.Generator) -> FlatModule:
        """The loss of the same module on some of its samples, drawn without replacement.

        Parameters
        ----------
        size : int
            How many.
        generator : torch.Generator
            On the CPU.
        """
        whole = chunks.joined(self._whole)
        if not 1 <= size <= whole.size:
            raise InputError(f"A batch of {size} cannot be drawn from {whole.size} samples.")
        drawn = torch.randperm(whole.size, generator=generator, device="cpu")[:size]
        other = copy.copy(self)
        other._whole = [whole.rows(drawn)]
        other.terms = [ModuleTerm(other, other._whole[0], 1.0)]
        other.shared = False
        other._count = self._count.copy()
        other.reset_cost()
        return other

    def _loss_of(self, batch: Batch) -> Tensor:
        """The loss on other samples at the module's own parameters."""
        others, self.terms = self.terms, [ModuleTerm(self, batch, 1.0)]
        x = self._leaf(self.theta0)
        try:
            return self._run(0, x, lambda evaluate: evaluate().detach(), False)
        finally:
            self.terms = others

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

    def _look(self, theta: Tensor) -> None:
        super()._look(theta)
        if self._memory.places is None:
            self._memory.places = []

    def _known(self, leaf: Tensor) -> bool:
        return any(leaf is t for batch in self._whole for t in batch.tensors())

    def _take_in(self, leaves: Sequence[Tensor]) -> bool:
        own = {id(p) for p in self._own.values()}
        if self._substitute or not all(id(leaf) in own for leaf in leaves):
            return False
        self._substitute = True
        return True

    def _named(self, leaf: Tensor) -> str:
        for name, p in self._own.items():
            if p is leaf:
                return (
                    f"its parameter {name} by way of a tensor that was computed from it earlier "
                    "(a view made in __init__, a cache)"
                )
        if isinstance(self.loss, torch.nn.Module):
            for name, p in self.loss.named_parameters():
                if p is leaf:
                    return (
                        f"the loss's own parameter {name} (say loss_parameters=True to take it in)"
                    )
        return super()._named(leaf)

    def _masked(self, v: Tensor) -> Tensor:
        if self._fixed:
            v = v.clone()
            for part in self._fixed:
                v[..., part] = 0
        return masked(self._own.values(), v)

    def unflatten(self, theta: Tensor) -> dict[str, Tensor]:
        """The flat vector as the module's parameters by name (views of it)."""
        parts = theta.split(self._numels)
        named = zip(self.names, parts, self.shapes, strict=True)
        return {n: p.view(s) for n, p, s in named}

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The module's own parameters that θ stands for, by name, in θ's order."""
        return dict(self._own)

    def read(self) -> Tensor:
        """The module's parameters as they are now, as one vector ``(D,)``."""
        return torch.cat([p.detach().reshape(-1) for p in self._own.values()])

    def outdated(self) -> bool:
        """Whether other parameters require gradients now than when the objective was made."""
        loss = self.loss if self._with_loss else None
        now = {id(p) for p in _all_parameters(self.model, loss) if p.requires_grad}
        return now != {id(p) for p in self._own.values()}

    def write(self, theta: Tensor) -> None:
        """Copy θ into the module's own parameters, in place."""
        self._check(theta)
        if theta.is_complex():
            raise InputError("A module holds real parameters: write theta.real.")
        with torch.no_grad():
            for name, value in self.unflatten(theta).items():
                self._own[name].copy_(value)


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
        for name, b in _slots(owner._holder, "_buffers"):
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


class _Holder(torch.nn.Module):
    """Model and loss, in which functional_call can place θ while anything is done."""

    def __init__(self, model: torch.nn.Module, loss):
        super().__init__()
        self.model = model
        if isinstance(loss, torch.nn.Module):
            self.loss = loss

    def forward(self, action: Callable):
        return action()


def _all_parameters(model: torch.nn.Module, loss) -> list[Tensor]:
    return [*model.parameters(), *(loss.parameters() if loss is not None else ())]


def _trainable(model: torch.nn.Module, loss) -> dict[str, Tensor]:
    """What θ is made of, by name, each once; or an error that says why not."""
    if not isinstance(model, torch.nn.Module):
        raise InputError(
            f"from_module needs a torch module, got {type(model).__name__}. For a function of a "
            "flat vector use Objective(function)."
        )
    kind = type(model).__name__
    named = list(model.named_parameters())
    if loss is not None:
        if not isinstance(loss, torch.nn.Module):
            raise InputError("loss_parameters=True needs a loss that is a torch module.")
        known = {id(p) for _, p in named}
        named += [(f"loss.{n}", p) for n, p in loss.named_parameters() if id(p) not in known]
    lazy = [n for n, p in named if torch.nn.parameter.is_lazy(p)]
    if lazy:
        raise InputError(
            f"The parameter {lazy[0]} of {kind} has no shape yet (a lazy module): call the model "
            "once on its data first."
        )
    found = {n: p for n, p in named if p.requires_grad}
    if not found:
        raise InputError(
            f"{kind} has no trainable parameters: nothing to differentiate. Check requires_grad."
        )
    for attribute in ("dtype", "device"):
        values = {str(getattr(p, attribute)) for p in found.values()}
        if len(values) > 1:
            raise InputError(
                f"The parameters of {kind} mix {attribute}s "
                f"({', '.join(sorted(values))}): one flat vector needs one {attribute}."
            )
    name, first = next(iter(found.items()))
    if first.is_complex():
        raise InputError(
            f"{name} of {kind} is complex: make its real and imaginary parts two real parameters."
        )
    if torch.finfo(first.dtype).bits < 32:
        raise InputError(
            f"{name} of {kind} is in half precision ({first.dtype}), where curvature drowns in "
            "rounding. Keep the parameters in float32, or use a float32 copy."
        )
    return found


def _refuse_aliases(holder: torch.nn.Module, own: dict[str, Tensor]) -> None:
    """A tensor that shares a parameter's memory follows the training, but not θ."""
    shared = {p.untyped_storage().data_ptr(): name for name, p in own.items()}
    for prefix, module in holder.named_modules():
        for name, tensor in [*module._buffers.items(), *vars(module).items()]:
            if not isinstance(tensor, Tensor) or tensor.requires_grad or tensor.is_sparse:
                continue
            parameter = shared.get(tensor.untyped_storage().data_ptr()) if tensor.numel() else None
            if parameter is not None:
                where = f"{prefix}.{name}".removeprefix("model.")
                raise InputError(
                    f"{where} shares the memory of the parameter {parameter}: it changes with the "
                    "training, unseen by derivatives. Compute it in forward, or keep a clone."
                )


def _padding(holder, slots: dict[str, str], own: dict[str, Tensor]) -> list[slice]:
    """Where in θ the rows of embeddings for padding are: torch never moves them."""
    begins = dict(zip(own, np.cumsum([0, *(p.numel() for p in own.values())]), strict=False))
    fixed = []
    for prefix, module in holder.named_modules():
        row, name = getattr(module, "padding_idx", None), slots.get(f"{prefix}.weight")
        kinds = (torch.nn.Embedding, torch.nn.EmbeddingBag)
        if row is None or name is None or not isinstance(module, kinds):
            continue
        if list(slots.values()).count(name) > 1:
            continue  # tied to another layer, which moves the row
        rows, width = module.weight.shape
        first = int(begins[name]) + row % rows * width
        fixed.append(slice(first, first + width))
    return fixed


def _check_batch(batch: Batch, first: Tensor, *, moved: bool) -> None:
    """Devices and dtypes, before torch complains in its own words."""
    for name, parts in (("x", [*batch.args, *batch.kwargs.values()]), ("y", [batch.target])):
        for tensor in (t for t in parts if isinstance(t, Tensor)):
            if tensor.device != first.device and not moved:
                raise InputError(
                    f"The data's {name} is on {tensor.device}, the model on {first.device}: "
                    f"move one with .to({str(first.device)!r})."
                )
            wrong = tensor.is_floating_point() and tensor.dtype != first.dtype
            if name == "x" and wrong:
                raise InputError(
                    f"The data's x is {tensor.dtype}, the model's parameters are {first.dtype}: "
                    "convert one of them, e.g. model.to(x.dtype)."
                )


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


def _slots(model: torch.nn.Module, kind: str) -> list[tuple[str, Tensor]]:
    """Each place in the module tree that holds a tensor, once: (full name, tensor)."""
    return [
        (f"{prefix}.{name}" if prefix else name, tensor)
        for prefix, module in model.named_modules()
        for name, tensor in getattr(module, kind).items()
        if tensor is not None
    ]
