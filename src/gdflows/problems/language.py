"""A small transformer for text, one character after another.

Keywords and initialisation as in :mod:`gdflows.problems.networks`.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from gdflows.errors import InputError
from gdflows.problems.building import build, copy
from gdflows.problems.vision import Attention, Residual, scaled


def gpt(
    width: float = 1.0,
    *,
    depth: int = 3,
    heads: int = 4,
    context: int = 64,
    classes: int = 65,
    init: str = "xavier",
    scale: float = 1.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> nn.Sequential:
    """A small transformer in the manner of GPT-2, without dropout.

    Parameters
    ----------
    width : float
        Characters are embedded in ``64 * width`` dimensions, rounded to a multiple of ``heads``;
        the hidden layers have four times as many.
    depth : int
        Number of blocks, each of causal attention and a two-layer network with GELU, both after
        a normalisation.
    heads : int
        Attention heads.
    context : int
        Longest sequence.
    classes : int
        How many different characters.
    init, scale, seed, dtype, device
        As in :func:`mlp`; ``scale`` does not touch the embeddings, which are N(0, 0.02²).

    Returns
    -------
    torch.nn.Sequential
        ``embed``, ``block1``, ..., ``norm``, ``linear``; from characters' numbers ``(N, T)``,
        T ≤ context, to logits of the next ones, ``(N, T, classes)``.

    Raises
    ------
    InputError
        If an argument cannot be used.

    References
    ----------
    .. [1] A. Radford et al., "Language models are unsupervised multitask learners", 2019. Here
       the last layer is not tied to the embedding.

    Examples
    --------
    >>> import torch
    >>> from gdflows.problems import gpt
    >>> gpt(0.25, context=8)(torch.zeros(2, 8, dtype=torch.int64)).shape
    torch.Size([2, 8, 65])
    """
    if min(depth, heads, context) < 1:
        raise InputError(
            f"depth, heads and context must be at least 1, got {depth}, {heads}, {context}."
        )
    dim = heads * scaled(64 / heads, width)

    def layers() -> nn.Sequential:
        parts = OrderedDict()
        parts["embed"] = CharacterEmbedding(classes, context, dim)
        for i in range(1, depth + 1):
            hidden = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
            parts[f"block{i}"] = nn.Sequential(
                Residual(nn.Sequential(nn.LayerNorm(dim), Attention(dim, heads, causal=True))),
                Residual(nn.Sequential(nn.LayerNorm(dim), hidden)),
            )
        parts["norm"] = nn.LayerNorm(dim)
        parts["linear"] = nn.Linear(dim, classes)
        return nn.Sequential(parts)

    return build(layers, init, scale, seed, dtype, device)


class CharacterEmbedding(nn.Module):
    """Characters' numbers ``(N, T)`` to vectors with positions, ``(N, T, dim)``."""

    def __init__(self, classes: int, context: int, dim: int):
        super().__init__()
        self.character = nn.Parameter(torch.empty(classes, dim))
        self.position = nn.Parameter(torch.empty(context, dim))

    def initialise(self, generator: torch.Generator) -> None:
        for parameter in (self.character, self.position):
            values = torch.empty(parameter.shape, dtype=torch.float64)
            copy(parameter, values.normal_(0.0, 0.02, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        length, most = x.shape[-1], len(self.position)
        if length > most:
            raise InputError(f"A sequence of {length} characters does not fit a context of {most}.")
        return self.character[x] + self.position[:length]
