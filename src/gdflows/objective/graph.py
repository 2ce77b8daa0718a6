"""What a loss's graph tells: its leaves, its kinks, what torch cannot differentiate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor
from torch.autograd.function import BackwardCFunction

# Beginnings of the names of nodes whose first or second derivative jumps: differences that cross a
# kink see the jump, products do not.
KINKS = (
    "Abs", "AmaxB", "AminB", "Celu", "Clamp", "Elu", "FractionalMax", "Hardshrink", "Hardsigmoid",
    "Hardswish", "Hardtanh", "Huber", "Kthvalue", "L1Loss", "LeakyRelu", "Max", "Median", "Min",
    "MultiMargin", "MultilabelMargin", "Prelu", "Relu", "RreluWith", "SmoothL1", "Softplus",
    "Softshrink", "Sort", "Threshold", "Topk",
)  # fmt: skip

# Normalisations whose third derivative torch computes wrongly (GroupNorm's is right).
NORMS = (
    "NativeLayerNorm", "NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm", "WeightNorm",
    "FusedRmsNorm",
)  # fmt: skip


def nodes(*tensors: Tensor) -> Iterator:
    """All nodes of the graphs behind some tensors, each once."""
    seen, waiting = set(), [t.grad_fn for t in tensors]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting.extend(after for after, _ in node.next_functions)


def twice_differentiable(grads: Sequence[Tensor]) -> bool:
    """Whether torch can differentiate these gradients completely.

    Behind a function that is differentiable once only torch puts a node that raises an error. But
    a derivative with respect to given inputs never visits it: it is just left out.
    """
    return all(node.name() != "torch::autograd::Error" for node in nodes(*grads))


def leaves(e: Tensor) -> list[Tensor]:
    """The tensors on which a loss depends and that no operation has made."""
    if e.grad_fn is None:
        return [e] if e.requires_grad else []
    return [node.variable for node in nodes(e) if hasattr(node, "variable")]


def kinked(e: Tensor) -> bool:
    """Whether some operation behind a loss has a kink."""
    return any(node.name().startswith(KINKS) for node in nodes(e))


def fused_weight_norm(e: Tensor) -> bool:
    """Whether weight norm stands behind a loss: of its kernel the second derivative is wrong."""
    return any(node.name().startswith("WeightNorm") for node in nodes(e))


def fused_norms(e: Tensor) -> bool:
    """Whether some normalisation behind a loss is one whose third derivative torch gets wrong."""
    return any(node.name().startswith(NORMS) for node in nodes(e))


def own_functions(e: Tensor) -> list[str]:
    """The names of the autograd Functions behind a loss that are not torch's."""
    own = {type(n).__name__ for n in nodes(e) if isinstance(n, BackwardCFunction)}
    return sorted(name.removesuffix("Backward") for name in own)
