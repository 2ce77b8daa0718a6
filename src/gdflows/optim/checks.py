"""Tried at the first product of either kind: is the closure a function, is its Hessian right."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gdflows.errors import InputError
from gdflows.optim.vectors import dot, minus, nodes, norm

if TYPE_CHECKING:
    from gdflows.optim.products import Evaluation

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


def _due(seen: Evaluation, kind: str, vectors: list[Tensor], found: list[Tensor]) -> bool:
    checks = seen.optimizer._checked
    if not seen.optimizer.check or kind in checks:
        return False
    return seen._step(vectors) > 0 and math.isfinite(float(norm(found)))


def _spend(seen: Evaluation, vectors: list[Tensor], step: float) -> list[Tensor]:
    seen.optimizer.cost["checks"] += 1
    return seen._gradient_at(vectors, step)


def of_difference(seen: Evaluation, vectors: list[Tensor], found: list[Tensor]) -> list[Tensor]:
    """A closure that is another function at each call has no differences."""
    if _due(seen, "difference", vectors, found):
        _require_repeatable(seen, vectors, float(norm(found)) * seen._step(vectors))
        seen.optimizer._checked.append("difference")
    return found


def _require_repeatable(seen: Evaluation, vectors: list[Tensor], change: float) -> None:
    off = float(norm(minus(_spend(seen, vectors, 0.0), seen.grads)))
    eps = torch.finfo(seen.grads[0].dtype).eps
    if off > REPEATS * eps * float(norm(seen.grads)) and off > 0.01 * change:
        raise InputError(
            "The closure gave another gradient at the same parameters: its data or random "
            "numbers change between calls (next(iterator), a generator of its own, numpy), or "
            "it keeps something from call to call, or a hook changes what has been accumulated. "
            "Draw them before step; torch's own random numbers are repeated."
        )


def of_exact(seen: Evaluation, vectors: list[Tensor], found: list[Tensor]) -> list[Tensor]:
    """torch's second derivative against a difference of gradients."""
    if not _due(seen, "exact", vectors, found):
        return found
    step = seen._step(vectors)
    first = [g / step for g in minus(_spend(seen, vectors, step), seen.grads)]
    gap, size = float(norm(minus(first, found))), float(norm(first))
    rounding = 100 * torch.finfo(seen.grads[0].dtype).eps * float(norm(seen.grads)) / step
    if gap > AGREE * max(size, float(norm(found))) + rounding:
        back = [g / step for g in minus(seen.grads, _spend(seen, vectors, -step))]
        if float(norm(minus(first, back))) > 0.2 * gap:
            # They contradict each other: another function each time, or no verdict.
            _require_repeatable(seen, vectors, size * step)
        elif not _kinked(seen) or not _symmetric(seen, vectors, found):
            _require_reached(seen, vectors, step, first)
            seen._refuse(
                "torch's second derivative contradicts differences of gradients by "
                f"{gap / max(size, float(norm(found))):.0%}: some function, perhaps a "
                "torch.autograd.Function of your own, has a wrong one",
                "If that is not so, check=False leaves this check out.",
            )
            seen.optimizer._checked.append("difference")  # they repeat
            return first
    seen.optimizer._checked.append("exact")
    return found


def _require_reached(
    seen: Evaluation, vectors: list[Tensor], step: float, first: list[Tensor]
) -> None:
    """The difference once more, with the parameters changed in place: views of them follow then.

    The graph is of no use afterwards.
    """
    seen._graphs = None
    placed = [g / step for g in minus(_spend(seen, vectors, step), seen.grads)]
    if float(norm(minus(placed, first))) > AGREE * float(norm(placed)):
        raise InputError(
            "The closure reaches a parameter by way of a tensor that was made earlier (a view or "
            "a piece of it kept from __init__), whose curvature cannot be checked. Make it in "
            "forward, or use hvp='difference'."
        )


def _kinked(seen: Evaluation) -> bool:
    """Whether differences in this precision cross kinks that derivatives know nothing of."""
    if seen.grads[0].dtype == torch.float64:
        return False
    return any(
        node.name().partition("Backward")[0] in KINKS
        for node in nodes([g.grad_fn for graph in seen._graphs for g in graph])
    )


def _symmetric(seen: Evaluation, vectors: list[Tensor], found: list[Tensor]) -> bool:
    """Whether ⟨g, Hv⟩ = ⟨v, Hg⟩."""
    other = seen._exact(seen.grads)
    left, right = dot(seen.grads, found), dot(vectors, other)
    size = float(norm(seen.grads) * norm(found) + norm(vectors) * norm(other))
    return abs(left - right) <= 1e-2 * size
