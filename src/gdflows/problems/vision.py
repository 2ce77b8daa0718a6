"""The larger networks for images: VGG-11, ResNet-18 and a vision transformer, at any width.

Keywords and initialisation as in :mod:`gdflows.problems.networks`.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from gdflows.errors import InputError
from gdflows.problems.building import activation_class, build, copy


def vgg11(
    width: float = 1.0,
    *,
    norm: str | None = None,
    groups: int = 8,
    activation: str = "relu",
    in_channels: int = 3,
    classes: int = 10,
    init: str = "he",
    scale: float = 1.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> nn.Sequential:
    """VGG-11 for images of 32x32 pixels, without dropout.

    Eight 3x3 convolutions of 64, 128, 256, 256, 512, 512, 512, 512 channels, a 2x2 maximum after
    the first, second, fourth, sixth and eighth; then linear layers of 512, 512 and ``classes``.

    Parameters
    ----------
    width : float
        Multiplies all these numbers (rounded, at least 1). At 1, and with ``norm="batch"`` or
        without, these are the shapes of the edge-of-stability study [2]_.
    norm : {None, "batch", "group"}
        Normalisation after each convolution.
    groups : int
        Groups of the group normalisation; where they do not divide a layer's channels, their
        greatest common divisor.
    activation : str
        As in :func:`mlp`.
    in_channels, classes : int
        Channels of the images, number of outputs.
    init, scale, seed, dtype, device
        As in :func:`mlp`.

    Returns
    -------
    torch.nn.Sequential

    Raises
    ------
    InputError
        If an argument cannot be used.

    References
    ----------
    .. [1] K. Simonyan and A. Zisserman, "Very deep convolutional networks for large-scale image
       recognition", ICLR, 2015.
    .. [2] J. Cohen et al., "Gradient descent on neural networks typically occurs at the edge of
       stability", ICLR, 2021.

    Examples
    --------
    >>> import torch
    >>> from gdflows.problems import vgg11
    >>> vgg11(1 / 16)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    act = activation_class(activation)
    channels = [scaled(c, width) for c in (64, 128, 256, 256, 512, 512, 512, 512)]
    hidden = scaled(512, width)

    def layers() -> nn.Sequential:
        parts = OrderedDict()
        for i, (n, m) in enumerate(zip([in_channels, *channels], channels, strict=False), start=1):
            parts[f"conv{i}"] = nn.Conv2d(n, m, 3, padding=1)
            if norm is not None:
                parts[f"norm{i}"] = _norm(norm, m, groups)
            parts[f"{activation}{i}"] = act()
            if i in (1, 2, 4, 6, 8):
                parts[f"pool{i}"] = nn.MaxPool2d(2)
        parts["flatten"] = nn.Flatten()
        parts["linear1"] = nn.Linear(channels[-1], hidden)
        parts[f"{activation}9"] = act()
        parts["linear2"] = nn.Linear(hidden, hidden)
        parts[f"{activation}10"] = act()
        parts["linear3"] = nn.Linear(hidden, classes)
        return nn.Sequential(parts)

    return build(layers, init, scale, seed, dtype, device)


def resnet18(
    width: float = 1.0,
    *,
    norm: str = "group",
    groups: int = 8,
    activation: str = "relu",
    in_channels: int = 3,
    classes: int = 10,
    init: str = "he",
    scale: float = 1.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> nn.Sequential:
    """ResNet-18 in its form for small images: a 3x3 stem, and no pooling before the blocks.

    Four stages of two blocks with 64, 128, 256 and 512 channels; each stage but the first halves
    the image. A mean over the image, and a linear layer.

    Parameters
    ----------
    width : float
        Multiplies the channels (rounded, at least 1).
    norm : {"group", "batch"}
        Group normalisation keeps the samples apart, so that the loss adds up over chunks of the
        data. Batch normalisation in training mode couples them.
    groups, activation, in_channels, classes, init, scale, seed, dtype, device
        As in :func:`vgg11`.

    Returns
    -------
    torch.nn.Sequential
        ``stem``, ``stage1`` to ``stage4``, ``pool``, ``linear``.

    Raises
    ------
    InputError
        If an argument cannot be used.

    References
    ----------
    .. [1] K. He, X. Zhang, S. Ren and J. Sun, "Deep residual learning for image recognition",
       CVPR, 2016.

    Examples
    --------
    >>> import torch
    >>> from gdflows.problems import resnet18
    >>> resnet18(1 / 16, norm="group")(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    act = activation_class(activation)
    channels = [scaled(c, width) for c in (64, 128, 256, 512)]

    def normed(n: int, m: int, stride: int, size: int = 3) -> list[nn.Module]:
        convolution = nn.Conv2d(n, m, size, stride=stride, padding=size // 2, bias=False)
        return [convolution, _norm(norm, m, groups)]

    def block(n: int, m: int, stride: int) -> nn.Module:
        body = nn.Sequential(*normed(n, m, stride), act(), *normed(m, m, 1))
        same = stride == 1 and n == m
        skip = nn.Identity() if same else nn.Sequential(*normed(n, m, stride, size=1))
        return nn.Sequential(Residual(body, skip), act())

    def layers() -> nn.Sequential:
        parts = OrderedDict()
        parts["stem"] = nn.Sequential(*normed(in_channels, channels[0], 1), act())
        for i, (n, m) in enumerate(zip([channels[0], *channels], channels, strict=False), start=1):
            parts[f"stage{i}"] = nn.Sequential(block(n, m, 1 if i == 1 else 2), block(m, m, 1))
        parts["pool"] = nn.AdaptiveAvgPool2d(1)
        parts["flatten"] = nn.Flatten()
        parts["linear"] = nn.Linear(channels[-1], classes)
        return nn.Sequential(parts)

    return build(layers, init, scale, seed, dtype, device)


def vit(
    width: float = 1.0,
    *,
    depth: int = 3,
    heads: int = 4,
    patch: int = 4,
    in_channels: int = 3,
    image_size: int = 32,
    classes: int = 10,
    init: str = "xavier",
    scale: float = 1.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> nn.Sequential:
    """A small vision transformer, normalised before each block, with a mean over the patches.

    Parameters
    ----------
    width : float
        The patches are embedded in ``64 * width`` dimensions, rounded to a multiple of
        ``heads``; the hidden layers have four times as many.
    depth : int
        Number of blocks, each of attention and a two-layer network with GELU.
    heads : int
        Attention heads.
    patch : int
        Side of the square patches, a divisor of ``image_size``.
    in_channels, image_size, classes : int
        As in :func:`conv`.
    init, scale, seed, dtype, device
        As in :func:`mlp`; ``scale`` does not touch the learned positions, which are
        N(0, 0.02²).

    Returns
    -------
    torch.nn.Sequential
        ``embed``, ``block1``, ..., ``norm``, ``pool``, ``linear``.

    Raises
    ------
    InputError
        If an argument cannot be used.

    References
    ----------
    .. [1] A. Dosovitskiy et al., "An image is worth 16x16 words", ICLR, 2021.
    .. [2] L. Beyer, X. Zhai and A. Kolesnikov, "Better plain ViT baselines for ImageNet-1k",
       arXiv:2205.01580, 2022 (the mean over patches).

    Examples
    --------
    >>> import torch
    >>> from gdflows.problems import vit
    >>> vit(0.25)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    if min(depth, heads, patch) < 1:
        raise InputError(
            f"depth, heads and patch must be at least 1, got {depth}, {heads}, {patch}."
        )
    if image_size % patch:
        raise InputError(f"Patches of {patch} pixels do not tile an image of {image_size}.")
    dim = heads * scaled(64 / heads, width)

    def layers() -> nn.Sequential:
        parts = OrderedDict()
        parts["embed"] = PatchEmbedding(in_channels, image_size, patch, dim)
        for i in range(1, depth + 1):
            hidden = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
            parts[f"block{i}"] = nn.Sequential(
                Residual(nn.Sequential(nn.LayerNorm(dim), Attention(dim, heads))),
                Residual(nn.Sequential(nn.LayerNorm(dim), hidden)),
            )
        parts["norm"] = nn.LayerNorm(dim)
        parts["pool"] = MeanOverPatches()
        parts["linear"] = nn.Linear(dim, classes)
        return nn.Sequential(parts)

    return build(layers, init, scale, seed, dtype, device)


# -- parts ---------------------------------------------------------------------------------------


class Residual(nn.Module):
    """``body(x) + skip(x)``."""

    def __init__(self, body: nn.Module, skip: nn.Module | None = None):
        super().__init__()
        self.body, self.skip = body, skip or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.skip(x)


class PatchEmbedding(nn.Module):
    """Images ``(N, C, S, S)`` to embedded patches with positions, ``(N, (S/patch)², dim)``."""

    def __init__(self, in_channels: int, image_size: int, patch: int, dim: int):
        super().__init__()
        self.projection = nn.Conv2d(in_channels, dim, patch, stride=patch)
        self.position = nn.Parameter(torch.empty((image_size // patch) ** 2, dim))

    def initialise(self, generator: torch.Generator) -> None:
        position = torch.empty(self.position.shape, dtype=torch.float64)
        copy(self.position, position.normal_(0.0, 0.02, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(x).flatten(2).transpose(1, 2) + self.position


class Attention(nn.Module):
    """Self-attention with several heads, ``(N, P, dim)`` to the same.

    With ``causal`` no position sees a later one. Written out, because torch's fused kernels have
    no second derivative.
    """

    def __init__(self, dim: int, heads: int, *, causal: bool = False):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, p, dim = x.shape
        q, k, v = self.qkv(x).view(n, p, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / math.sqrt(dim // self.heads)
        if self.causal:
            later = torch.ones(p, p, dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        weights = torch.softmax(scores, dim=-1)
        return self.out((weights @ v).transpose(1, 2).reshape(n, p, dim))


class MeanOverPatches(nn.Module):
    """``(N, P, dim)`` to ``(N, dim)``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1)


def _norm(norm: str, channels: int, groups: int) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        return nn.GroupNorm(math.gcd(groups, channels), channels)
    raise InputError(f"norm must be 'batch' or 'group', got {norm!r}.")


def scaled(channels: float, width: float) -> int:
    """A number of channels times a factor: a whole number, at least 1."""
    if not width > 0:
        raise InputError(f"width must be positive, got {width}.")
    return max(1, round(channels * width))
