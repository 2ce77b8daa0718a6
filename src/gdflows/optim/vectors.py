"""Small algebra on lists of tensors, one for each parameter, and on their graphs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gdflows import parallel


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


def lengths(tensors: Sequence[Tensor]) -> list[float]:
    """Euclidean norm of each."""
    parts = torch._foreach_norm([t.detach() for t in tensors])
    parts = [part.full_tensor() if parallel.sharded(part) else part for part in parts]
    return torch.stack([part.to(parts[0].device, torch.float64) for part in parts]).tolist()


def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """Inner product of all entries together."""
    parts = [(a * b).sum() for a, b in zip(left, right, strict=True)]
    # The number in a spread tensor is one process's part of it.
    parts = [part.full_tensor() if parallel.sharded(part) else part for part in parts]
    return float(sum(part.double() for part in parts))


def minus(left: Sequence[Tensor], right: Sequence[Tensor]) -> list[Tensor]:
    return [a - b for a, b in zip(left, right, strict=True)]
