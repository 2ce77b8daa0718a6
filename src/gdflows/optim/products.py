"""One batch at one point: loss, gradient, and products with the Hessian, checked once."""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gdflows import parallel
from gdflows.errors import InputError, NonFiniteError
from gdflows.objective import twice_differentiable
from gdflows.optim import closures as watch
from gdflows.optim.closures import Closure

if TYPE_CHECKING:
    from gdflows.optim.evaluation import CurvatureOptimizer

AGREE = 0.05  # products and differences of gradients, relatively; what is beyond is looked into
REPEATS = 1e3  # by how many roundings a gradient may differ when it is computed again
# Nodes whose gradient jumps. Many samples cross such kinks on the way of a difference in single
# precision, so that differences say nothing about torch's second derivative there.
KINKS = {
    "Relu", "LeakyRelu", "Threshold", "Hardtanh", "Hardswish", "Hardsigmoid", "PreluKernel",
    "RreluWithNoise", "Abs", "Clamp", "ClampMin", "ClampMax", "Where", "Maximum", "Minimum", "Max",
    "Min", "Amax", "Amin", "MaxPool1D", "MaxPool2DWithIndices", "MaxPool3DWithIndices",
    "AdaptiveMaxPool2D", "AdaptiveMaxPool3D", "Sort", "Topk",
}  # fmt: skip


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
                return self._checked_exact(vectors, found)
        return self._checked_difference(vectors, self._difference(vectors))

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

    # -- checks, at the first product of either kind ---------------------------------------------

    def _due(self, kind: str, vectors: list[Tensor], found: list[Tensor]) -> bool:
        checks = self.optimizer._checked
        if not self.optimizer.check or kind in checks:
            return False
        return self._step(vectors) > 0 and math.isfinite(float(norm(found)))

    def _spend(self, vectors: list[Tensor], step: float) -> list[Tensor]:
        self.optimizer.cost["checks"] += 1
        return self._gradient_at(vectors, step)

    def _checked_difference(self, vectors: list[Tensor], found: list[Tensor]) -> list[Tensor]:
        """A closure that is another function at each call has no differences."""
        if self._due("difference", vectors, found):
            self._require_repeatable(vectors, float(norm(found)) * self._step(vectors))
            self.optimizer._checked.append("difference")
        return found

    def _require_repeatable(self, vectors: list[Tensor], change: float) -> None:
        off = float(norm(_minus(self._spend(vectors, 0.0), self.grads)))
        eps = torch.finfo(self.grads[0].dtype).eps
        if off > REPEATS * eps * float(norm(self.grads)) and off > 0.01 * change:
            raise InputError(
                "The closure gave another gradient at the same parameters: its data or random "
                "numbers change between calls (next(iterator), a generator of its own, numpy), or "
                "it keeps something from call to call. Draw them before step; torch's own random "
                "numbers are repeated."
            )

    def _checked_exact(self, vectors: list[Tensor], found: list[Tensor]) -> list[Tensor]:
        """torch's second derivative against a difference of gradients."""
        if not self._due("exact", vectors, found):
            return found
        step = self._step(vectors)
        first = [g / step for g in _minus(self._spend(vectors, step), self.grads)]
        gap, size = float(norm(_minus(first, found))), float(norm(first))
        rounding = 100 * torch.finfo(self.grads[0].dtype).eps * float(norm(self.grads)) / step
        if gap > AGREE * max(size, float(norm(found))) + rounding:
            back = [g / step for g in _minus(self.grads, self._spend(vectors, -step))]
            if float(norm(_minus(first, back))) > 0.2 * gap:
                # They contradict each other: another function each time, or no verdict.
                self._require_repeatable(vectors, size * step)
            elif not self._kinked() or not self._symmetric(vectors, found):
                self._refuse(
                    "torch's second derivative contradicts differences of gradients by "
                    f"{gap / max(size, float(norm(found))):.0%}: some function, perhaps a "
                    "torch.autograd.Function of your own, has a wrong one",
                    "If that is not so, check=False leaves this check out.",
                )
                self.optimizer._checked.append("difference")  # they repeat
                return first
        self.optimizer._checked.append("exact")
        return found

    def _kinked(self) -> bool:
        """Whether differences in this precision cross kinks that derivatives know nothing of."""
        if self.grads[0].dtype == torch.float64:
            return False
        return any(
            node.name().partition("Backward")[0] in KINKS
            for node in nodes([g.grad_fn for graph in self._graphs for g in graph])
        )

    def _symmetric(self, vectors: list[Tensor], found: list[Tensor]) -> bool:
        """Whether ⟨g, Hv⟩ = ⟨v, Hg⟩."""
        other = self._exact(self.grads)
        left, right = dot(self.grads, found), dot(vectors, other)
        size = float(norm(self.grads) * norm(found) + norm(vectors) * norm(other))
        return abs(left - right) <= 1e-2 * size


def nodes(roots: list) -> Iterator:
    """All nodes of a graph, each once."""
    seen, waiting = set(), list(roots)
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(after for after, _ in node.next_functions)
            yield node


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all entries together."""
    parts = torch._foreach_norm([t.detach() for t in tensors])
    return torch.linalg.vector_norm(torch.stack([part.to(tensors[0]) for part in parts]))


def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """Inner product of all entries together."""
    return float(sum((a * b).sum().double() for a, b in zip(left, right, strict=True)))


def _minus(left: Sequence[Tensor], right: Sequence[Tensor]) -> list[Tensor]:
    return [a - b for a, b in zip(left, right, strict=True)]


def _mean(x: Tensor) -> Tensor:
    """The mean over all processes, the same bits in each."""
    return parallel.total(x) / parallel.size() if parallel.size() > 1 else x
