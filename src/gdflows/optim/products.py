"""One batch at one point: loss, gradient, and products with the Hessian."""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gdflows import parallel
from gdflows.errors import InputError, NonFiniteError
from gdflows.objective import twice_differentiable
from gdflows.optim import checks
from gdflows.optim import closures as watch
from gdflows.optim.closures import Closure
from gdflows.optim.vectors import nodes, norm

if TYPE_CHECKING:
    from gdflows.optim.evaluation import CurvatureOptimizer


class Evaluation:
    """One batch at one point: its loss, its gradient, and products with its Hessian.

    Attributes
    ----------
    loss : float
        The mean over the closures.
    value : Tensor
        The same, detached, as ``step`` returns it.
    grads : list of Tensor
        A tensor for each parameter; zeros for those that the loss does not depend on.
    used : list of Tensor
        The same, clipped: what moments and steps are made of, and what ``p.grad`` holds after.
    """

    def __init__(self, optimizer: CurvatureOptimizer, closures: list[Closure], products: bool):
        self.optimizer, self.closures = optimizer, closures
        self.parameters = [p for p in optimizer._parameters() if p.requires_grad]
        if not self.parameters:
            raise InputError(
                f"All parameters that {type(optimizer).__name__} holds are frozen "
                "(requires_grad=False): there is nothing to step."
            )
        watch.refuse_accumulated(type(optimizer).__name__, self.parameters)
        self._graphs = None
        spread = any(parallel.sharded(p) for p in self.parameters)
        if products and spread and optimizer.hvp != "difference":
            self._refuse(
                "The parameters are spread over processes (fully_shard, tensor parallelism), and "
                "what collects them gives gradients without a graph",
                "",
            )
        for p in self.parameters:
            p.grad = None
        optimizer._evaluating = True
        self._random = watch.random_state(self.parameters) if products else {}
        try:
            self._look(exact=products and optimizer.hvp != "difference")
        except BaseException:
            for p in self.parameters:
                p.grad = None
            raise
        finally:
            optimizer._evaluating = False
        watch.leave(self.parameters)

    def _look(self, exact: bool) -> None:
        """Loss and gradients."""
        optimizer, total, graphs = self.optimizer, None, []
        sown = not optimizer._looked
        if sown:
            watch.sow(self.parameters)
        optimizer.cost["gradients"] += 1
        waiting = list(self.closures)
        while waiting:
            with torch.enable_grad(), watch.plain_attention(exact):
                result = self._call(waiting.pop(0), sown and total is None)
                if total is None and isinstance(result, (list, tuple)):
                    # Of a wrapper that takes one closure only, such as Lightning's.
                    self.closures = watch.as_list(type(optimizer).__name__, result)
                    waiting = list(self.closures)
                    continue
                loss = watch.scalar(result)
                if total is None and sown:
                    for p in self.parameters:
                        p.grad = None
                    exact = self._survey(loss) and exact
                share = loss if len(self.closures) == 1 else loss / len(self.closures)
                graph = self._graph(share) if exact else None
                graphs.append(graph)
                if graph is None or parallel.size() > 1:
                    # DistributedDataParallel averages gradients on the way back.
                    self._backward(share, retain=graph is not None)
                else:
                    for p, g in zip(self.parameters, graph, strict=True):
                        p.grad = g.detach() if p.grad is None else p.grad + g.detach()
            part = share.detach()
            total = part if total is None else total + part
        if exact and all(graph is not None for graph in graphs):
            self._graphs = graphs
        self.value = _mean(total.clone())
        self.loss = float(self.value)
        for p in self.parameters:
            if p.grad is not None and p.grad.is_sparse:
                raise InputError(
                    "A parameter has a sparse gradient, of which there is no curvature: make the "
                    "embedding with sparse=False."
                )
        self.grads = [
            torch.zeros_like(p) if p.grad is None else p.grad.detach() for p in self.parameters
        ]
        self.used = self._clipped()
        optimizer._looked = True

    def _clipped(self) -> list[Tensor]:
        most = self.optimizer.max_norm
        length = float(norm(self.grads)) if most is not None else 0.0
        if most is None or not length > most:
            return self.grads
        clipped = torch._foreach_mul(self.grads, most / length)
        for p, g in zip(self.parameters, clipped, strict=True):
            p.grad = g
        return clipped

    @property
    def finite(self) -> bool:
        """Whether loss and gradients are."""
        return math.isfinite(self.loss) and math.isfinite(float(norm(self.grads)))

    def require_finite(self) -> None:
        if not self.finite:
            raise NonFiniteError(
                f"The loss is {self.loss} or its gradient is not finite; the parameters were left "
                "as they are. Is the data clean, and is the learning rate's cap low enough?"
            )

    def product(self, vectors: list[Tensor]) -> list[Tensor]:
        """The Hessian times a vector, given and returned as a tensor for each parameter."""
        self.optimizer.cost["hvps"] += 1
        if self._graphs is not None:
            found = self._exact(vectors)
            if self._graphs is not None:
                return checks.of_exact(self, vectors, found)
        return checks.of_difference(self, vectors, self._difference(vectors))

    # -- the gradient ----------------------------------------------------------------------------

    def _call(self, closure: Closure, sown: bool = False):
        name = type(self.optimizer).__name__
        return watch.call(name, self.parameters, closure, sown)

    def _survey(self, loss: Tensor) -> bool:
        """Note whose parameters there are besides ours; whether a graph reaches all of ours."""
        ours, others, reaches = {id(p) for p in self.parameters}, {}, True
        for node in nodes([loss.grad_fn]):
            leaf = getattr(node, "variable", None)
            if leaf is not None and id(leaf) not in ours:
                others[id(leaf)] = weakref.ref(leaf)
            reaches = reaches and node.name() != "CheckpointFunctionBackward"
        self.optimizer._others = list(others.values())
        if not reaches and self.optimizer.hvp != "difference":
            self._without(RuntimeError("reentrant checkpoints have none; use_reentrant=False has"))
        return reaches

    def _backward(self, share: Tensor, retain: bool = False) -> None:
        """Into our parameters' ``grad``; that of others' is left as it is."""
        ours = {id(p) for p in self.parameters}
        others = [] if parallel.size() > 1 else [ref() for ref in self.optimizer._others]
        kept = [(q, q.grad) for q in others if q is not None and id(q) not in ours]
        for q, _ in kept:
            q.grad = None
        try:
            with watch.explained():
                share.backward(retain_graph=retain)
        finally:
            for q, grad in kept:
                q.grad = grad

    def _graph(self, share: Tensor):
        try:
            with watch.explained():
                grads = torch.autograd.grad(
                    share, self.parameters, create_graph=True, materialize_grads=True
                )
            if not self.optimizer._twice:
                if not twice_differentiable(grads):
                    raise RuntimeError("a function is marked once_differentiable")
                self.optimizer._twice = True
            return grads
        except RuntimeError as error:
            self._without(error)
            return None

    def _gradient_at(self, vectors: list[Tensor], step: float) -> list[Tensor]:
        """The gradient a step along a vector, and everything as it was."""
        kept = [p.grad for p in self.parameters]
        now = watch.random_state(self.parameters)
        self.optimizer._evaluating = True
        try:
            with self._moved(vectors, step):
                return self._again()
        finally:
            self.optimizer._evaluating = False
            watch.set_random_state(now)
            for p, grad in zip(self.parameters, kept, strict=True):
                p.grad = grad

    def _again(self) -> list[Tensor]:
        """The gradient, with the random numbers of before."""
        for p in self.parameters:
            p.grad = None
        watch.set_random_state(self._random)
        with torch.enable_grad(), watch.frozen_statistics(), watch.explained(again=True):
            for closure in self.closures:
                self._backward(watch.scalar(self._call(closure)) / len(self.closures))
        return [torch.zeros_like(p) if p.grad is None else p.grad.detach() for p in self.parameters]

    @contextmanager
    def _moved(self, vectors: list[Tensor], step: float) -> Iterator[None]:
        """Parameters a step along a vector, and back to the bit."""
        if self._graphs is not None:  # which a change in place would break
            saved = [p.data for p in self.parameters]
            try:
                for p, v in zip(self.parameters, vectors, strict=True):
                    p.data = torch.add(p.data, v, alpha=step)
                yield
            finally:
                for p, old in zip(self.parameters, saved, strict=True):
                    p.data = old
            return
        # Adding and subtracting again would not restore the parameters to the bit.
        saved = [p.detach().clone() for p in self.parameters]
        try:
            with torch.no_grad():
                for p, v in zip(self.parameters, vectors, strict=True):
                    p.add_(v, alpha=step)
            yield
        finally:
            with torch.no_grad():
                for p, old in zip(self.parameters, saved, strict=True):
                    p.copy_(old)

    # -- products --------------------------------------------------------------------------------

    def _without(self, error: Exception) -> None:
        """The model has no second derivative: differences from now on, if that is allowed."""
        if isinstance(error, torch.OutOfMemoryError):
            raise error
        self._refuse(
            "The model has no second derivative (torch.compile, or a kernel without one)",
            f"torch said: {str(error).splitlines()[0]}",
            error,
        )

    def _refuse(self, reason: str, more: str, error: Exception | None = None) -> None:
        if self.optimizer.hvp == "exact":
            raise InputError(f"{reason}. Use hvp='difference', or 'auto'. {more}") from error
        self.optimizer.hvp = "difference"
        self._graphs = None
        warnings.warn(
            f"{reason}; Hessian-vector products are taken by differences of gradients from now "
            f"on, which is inexact where the network has kinks. {more}",
            stacklevel=6,
        )

    def _exact(self, vectors: list[Tensor]) -> list[Tensor]:
        out = None
        for graph in self._graphs:
            pairs = [(g, v) for g, v in zip(graph, vectors, strict=True) if g.requires_grad]
            if not pairs:  # a linear loss
                continue
            try:
                part = torch.autograd.grad(
                    [g for g, _ in pairs], self.parameters, [v for _, v in pairs],
                    retain_graph=True, materialize_grads=True,
                )  # fmt: skip
            except RuntimeError as error:
                self._without(error)
                return []
            out = part if out is None else [a + b for a, b in zip(out, part, strict=True)]
        if out is None:
            return [torch.zeros_like(v) for v in vectors]
        return [_mean(part.detach().contiguous()) for part in out]

    def _difference(self, vectors: list[Tensor]) -> list[Tensor]:
        step = self._step(vectors)
        if step == 0:
            return [torch.zeros_like(v) for v in vectors]
        self.optimizer.cost["gradients"] += 1
        moved = self._gradient_at(vectors, step)
        return [(a - b) / step for a, b in zip(moved, self.grads, strict=True)]

    def _step(self, vectors: list[Tensor]) -> float:
        size = float(norm(vectors))
        if not (size > 0 and math.isfinite(size)):
            return 0.0
        scale = float(norm(self.parameters)) + 1e-3 * len(self.parameters)
        return torch.finfo(vectors[0].dtype).eps ** 0.5 * scale / size


def _mean(x: Tensor) -> Tensor:
    """The mean over all processes, the same bits in each."""
    return parallel.total(x) / parallel.size() if parallel.size() > 1 else x
