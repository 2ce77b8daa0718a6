"""The loss of a torch module on fixed data, as an objective on one flat vector."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from gdflows import parallel
from gdflows.errors import InputError, NonFiniteError
from gdflows.objective import chunks
from gdflows.objective.base import Objective
from gdflows.objective.data import Batch, read
from gdflows.objective.masks import check_masks, masked
from gdflows.objective.parameters import (
    all_parameters,
    check_batch,
    padding,
    refuse_aliases,
    refuse_overlaps,
    trainable,
)
from gdflows.objective.placing import Holder, ModuleTerm, slots
from gdflows.objective.randomness import GENERATORS, KINDS, Draw, drawing
from gdflows.objective.state import Memory


class FlatModule(Objective):
    """The loss of a torch module on fixed data: see :meth:`gdflows.Objective.from_module`.

    Attributes
    ----------
    names : list of str
        The parameters, in the order in which θ holds them.
    shapes : list of torch.Size
        Their shapes.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> model, loss_fn = torch.nn.Linear(3, 1), torch.nn.functional.mse_loss
    >>> x, y = torch.ones(8, 3), torch.zeros(8, 1)
    >>> E = gf.Objective.from_module(model, loss_fn, (x, y))
    >>> type(E).__name__, E.dim
    ('FlatModule', 4)
    >>> torch.testing.assert_close(E.value(E.theta0), loss_fn(model(x), y).detach())
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
        seed=None,
        check=True,
    ):
        if loss is not None and not callable(loss):
            raise InputError(
                f"The loss must be a function of the model's output, got {type(loss).__name__}. "
                "For a model that computes its own: from_module(model, data=batches)."
            )
        if isinstance(loss, type) and issubclass(loss, torch.nn.Module):
            name = loss.__name__
            raise InputError(f"The loss is the class {name}; hand over one of its kind: {name}().")
        if data is None:
            raise InputError("from_module needs data: from_module(model, loss, (x, y)).")
        # What torch.compile wraps is the same function, and can be differentiated twice.
        model = getattr(model, "_orig_mod", model)
        self.model, self.loss, self.data = model, loss, data
        self._holder = Holder(model, loss)
        self._with_loss = loss_parameters
        self._own = trainable(model, loss if loss_parameters else None)
        self.names = list(self._own)
        self.shapes = [p.shape for p in self._own.values()]
        self._numels = [p.numel() for p in self._own.values()]
        # Every place that holds a trainable parameter. A parameter shared between modules has
        # several; a module used twice has one (functional_call's own tie_weights would swap it
        # in twice and leave a stranger behind).
        canonical = {id(p): n for n, p in self._own.items()}
        self._slots = {
            slot: canonical[id(p)]
            for slot, p in slots(self._holder, "_parameters")
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
        self._checked, self._cut, self._modes = check, False, set()

        with Draw(seed).fixed():  # a DataLoader that shuffles draws from torch's own state
            batches, several = read(data, own_loss=loss is None, axis=axis)
        for batch in batches:
            check_batch(batch, first, moved=several)
        theta0 = self.read().clone()
        settings = {"constant": constant, "seed": seed, "check": check}
        self._setup([ModuleTerm(self, batches[0], 1.0)], theta0.numel(), theta0, **settings)
        self._whole = batches
        check_masks(self._own)
        refuse_overlaps(self._own)
        refuse_aliases(self._holder, self._own)
        self._fixed = padding(self._holder, self._slots, self._own)
        self._look(theta0)
        parts, weights = chunks.plan(
            self, batches, several, chunk=chunk, reduction=reduction, count=count,
            shard=shard and parallel.size() > 1, check=check,
        )  # fmt: skip
        self.terms = [ModuleTerm(self, *pair) for pair in zip(parts, weights, strict=True)]
        self.shared = shard and parallel.size() > 1
        self._cut = len(self.terms) > len(batches) or (self.shared and not several)

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
        other.shared = other._cut = False
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
        modes = tuple(m.training for m in self._holder.modules())
        if self._checked and modes not in self._modes:  # made in evaluation mode, then trained
            self._look_anew()
        self._modes.add(modes)
        super()._look(theta)
        if self._memory.places is None:
            self._memory.places = []

    def _look_anew(self) -> None:
        """Layers behave otherwise in another mode: what has been seen of them is not all."""
        if self._cut:
            chunks.refuse_batch_norm(self)
        kinds, places = self._draw.kinds, self._memory.places
        self._draw.kinds, self._memory.places = KINDS, None
        self._due.add("function")
        try:
            super()._look(self.theta0)
        finally:
            self._draw.kinds = tuple(dict.fromkeys((*self._draw.kinds, *kinds)))
            self._memory.places = [*(self._memory.places or []), *(places or [])]

    def _finite(self, value: Tensor, what: str, theta: Tensor) -> Tensor:
        try:
            return super()._finite(value, what, theta)
        except NonFiniteError as error:
            given = [t for b in self._whole for t in b.tensors() if t.is_floating_point()]
            if all(bool(torch.isfinite(t).all()) for t in given):
                raise
            raise NonFiniteError(
                f"The {what} is not finite, and the data hold numbers that are not: look for nan "
                "and inf in them, and take these samples out."
            ) from error

    def _known(self, leaf: Tensor) -> bool:
        return any(leaf is t for batch in self._whole for t in batch.tensors())

    def _random(self, theta: Tensor) -> list[str]:
        used = super()._random(theta)
        names = {id(m): f"{type(m).__name__} {n}".strip() for n, m in self.model.named_modules()}
        found = []
        if used:
            evaluate = lambda: self._run(0, theta, lambda once: once(), False)  # noqa: E731
            found = [names.get(id(m), type(m).__name__) for m in drawing(evaluate, theta.device)]
        own = [n for o, n in self._memory.places or () if isinstance(vars(o).get(n), GENERATORS)]
        return (found or used) + [f"from a generator of its own, {name}" for name in own]

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
        now = {id(p) for p in all_parameters(self.model, loss) if p.requires_grad}
        return now != {id(p) for p in self._own.values()}

    def write(self, theta: Tensor) -> None:
        """Copy θ into the module's own parameters, in place."""
        self._check(theta)
        if theta.is_complex():
            raise InputError("A module holds real parameters: write theta.real.")
        with torch.no_grad():
            for name, value in self.unflatten(theta).items():
                self._own[name].copy_(value)
