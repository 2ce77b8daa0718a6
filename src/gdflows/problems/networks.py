"""The networks of the studies, as plain torch modules.

All functions share three keywords. ``seed`` fixes the initialisation: the same seed gives the
same network in float32 and in float64, up to rounding, and on every device; torch's global
random state is neither read nor changed. ``dtype`` and ``device`` are the parameters'.

Nothing is in place, and attention is written out, so that every network can be differentiated
as often as curvature asks for. Convolutions, normalisation layers and the layers inside blocks
carry torch's usual parameter names.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from gdflows.errors import InputError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "softplus": nn.Softplus,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
}

INITS = ("default", "xavier", "he", "orthogonal", "normal", "identity")


def mlp(
    widths: Sequence[int],
    activation: str = "tanh",
    *,
    init: str = "default",
    scale: float = 1.0,
    bias: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> nn.Sequential:
    """A fully connected network.

    Parameters
    ----------
    widths : sequence of int
        From the number of inputs to the number of outputs, ``len(widths) - 1`` linear layers.
        Inputs of any shape are flattened first.
    activation : {"tanh", "relu", "gelu", "elu", "softplus", "sigmoid", "silu"}
        After every layer but the last.
    init : {"default", "xavier", "he", "orthogonal", "normal", "identity"}
        The weights: torch's own (uniform on ±1/√fan-in), normal with variance
        2/(fan-in + fan-out) [1]_, normal with variance 2/fan-in [2]_, random with orthonormal
        rows or columns, standard normal, or ones on the diagonal. Biases are zero, but for
        ``"default"``, which draws them like its weights.
    scale : float
        Multiplies every weight matrix; so ``init="normal", scale=0.01`` is N(0, 0.01²).
    bias : bool
        Whether layers have biases.
    seed : int
        Fixes the initialisation.
    dtype, device
        Of the parameters.

    Returns
    -------
    torch.nn.Sequential
        Its layers are called ``linear1``, ``tanh1``, ``linear2``, ...

    Raises
    ------
    InputError
        If a width, the activation or the initialisation cannot be used.

    Notes
    -----
    Holomorphic in its parameters with tanh. ``mlp([3072, 200, 200, 10], "tanh")`` is "fc-tanh" of
    the edge-of-stability study [3]_, 656,810 parameters.

    References
    ----------
    .. [1] X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward
       neural networks", AISTATS, 2010.
    .. [2] K. He, X. Zhang, S. Ren and J. Sun, "Delving deep into rectifiers", ICCV, 2015.
    .. [3] J. Cohen, S. Kaur, Y. Li, Z. Kolter and A. Talwalkar, "Gradient descent on neural
       networks typically occurs at the edge of stability", ICLR, 2021.

    Examples
    --------
    >>> import torch
    >>> from gdflows.problems import mlp
    >>> mlp([64, 20, 10], "tanh")(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """
    _check_widths(widths)
    act = _activation(activation)

    def layers() -> nn.Sequential:
        parts = OrderedDict(flatten=nn.Flatten())
        for i, (n, m) in enumerate(zip(widths, widths[1:], strict=False), start=1):
            parts[f"linear{i}"] = nn.Linear(n, m, bias=bias)
            if i < len(widths) - 1:
                parts[f"{activation}{i}"] = act()
        return nn.Sequential(parts)

    return _build(layers, init, scale, seed, dtype, device)


def deep_linear(
    widths: Sequence[int],
    *,
    init: str = "xavier",
    scale: float = 1.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> nn.Sequential:
    r"""A deep linear network :math:`x \mapsto W_N \cdots W_1 x`, without biases.

    Parameters
    ----------
    widths : sequence of int
        From the number of inputs to the number of outputs.
    init : {"xavier", "default", "he", "orthogonal", "normal", "identity", "balanced"}
        As in :func:`mlp`; or balanced, :math:`W_{j+1}^\top W_{j+1} = W_j W_j^\top` up to
        rounding, with a product :math:`W_N \cdots W_1` (before ``scale``) of independent normal
        entries of variance 1/fan-in [1]_. Balanced layers need hidden widths no smaller than the
        smaller of the two outer ones.
    scale : float
        Multiplies every matrix, hence the product by ``scale**N``. Small for the near-zero
        initialisations.
    seed, dtype, device
        As in :func:`mlp`.

    Returns
    -------
    torch.nn.Sequential
        Its layers are called ``linear1``, ``linear2``, ...

    Raises
    ------
    InputError
        If a width or the initialisation cannot be used.

    References
    ----------
    .. [1] S. Arora, N. Cohen, N. Golowich and W. Hu, "A convergence analysis of gradient descent
       for deep linear neural networks", ICLR, 2019, procedure 1.

    Examples
    --------
    >>> from gdflows.problems import deep_linear
    >>> W = [p for p in deep_linear([4, 5, 5, 3], init="balanced").parameters()]
    >>> bool((W[1].T @ W[1] - W[0] @ W[0].T).abs().max() < 1e-6)
    True
    """
    _check_widths(widths)

    def layers() -> nn.Sequential:
        parts = OrderedDict(flatten=nn.Flatten())
        for i, (n, m) in enumerate(zip(widths, widths[1:], strict=False), start=1):
            parts[f"linear{i}"] = nn.Linear(n, m, bias=False)
        return nn.Sequential(parts)

    if init != "balanced":
        return _build(layers, init, scale, seed, dtype, device)
    network = _build(layers, "identity", scale, seed, dtype, device)
    with torch.no_grad():
        for p, w in zip(network.parameters(), _balanced(widths, seed), strict=True):
            p.copy_(scale * w)
    return network


def conv(
    widths: Sequence[int] = (32, 32),
    activation: str = "tanh",
    *,
    pooling: str = "average",
    in_channels: int = 3,
    image_size: int = 32,
    classes: int = 10,
    init: str = "default",
    scale: float = 1.0,
    bias: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> nn.Sequential:
    """A small convolutional network.

    One block per width: a 3x3 convolution that keeps the size, the activation, a 2x2 pooling
    that halves it. Then one linear layer.

    Parameters
    ----------
    widths : sequence of int
        Channels of the blocks. The default is the "cnn" of the edge-of-stability study [1]_.
    activation : str
        As in :func:`mlp`.
    pooling : {"average", "max"}
        The maximum is not smooth, and not holomorphic.
    in_channels, image_size : int
        Images are ``(N, in_channels, image_size, image_size)``.
    classes : int
        Number of outputs.
    init, scale, bias, seed, dtype, device
        As in :func:`mlp`.

    Returns
    -------
    torch.nn.Sequential
        Its layers are called ``conv1``, ``tanh1``, ``pool1``, ..., ``linear``. Holomorphic in its
        parameters with tanh and average pooling.

    Raises
    ------
    InputError
        If an argument cannot be used, or the image is too small for so many halvings.

    References
    ----------
    .. [1] J. Cohen et al., "Gradient descent on neural networks typically occurs at the edge of
       stability", ICLR, 2021.

    Examples
    --------
    >>> import torch
    >>> from gdflows.problems import conv
    >>> conv([8], in_channels=1, image_size=8)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """
    widths = list(widths)
    _check_widths([in_channels, *widths, classes])
    act = _activation(activation)
    if pooling not in ("average", "max"):
        raise InputError(f"pooling must be 'average' or 'max', got {pooling!r}.")
    side = image_size // 2 ** len(widths)
    if side < 1:
        raise InputError(
            f"{len(widths)} blocks halve an image of {image_size} pixels to nothing: "
            "give fewer widths."
        )

    def layers() -> nn.Sequential:
        parts = OrderedDict()
        for i, (n, m) in enumerate(zip([in_channels, *widths], widths, strict=False), start=1):
            parts[f"conv{i}"] = nn.Conv2d(n, m, 3, padding=1, bias=bias)
            parts[f"{activation}{i}"] = act()
            parts[f"pool{i}"] = AveragePool() if pooling == "average" else nn.MaxPool2d(2)
        parts["flatten"] = nn.Flatten()
        parts["linear"] = nn.Linear(widths[-1] * side * side, classes, bias=bias)
        return nn.Sequential(parts)

    return _build(layers, init, scale, seed, dtype, device)


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
    act = _activation(activation)
    _check_norm(norm, (None, "batch", "group"))
    channels = [_scaled(c, width) for c in (64, 128, 256, 256, 512, 512, 512, 512)]
    hidden = _scaled(512, width)

    def layers() -> nn.Sequential:
        parts = OrderedDict()
        for i, (n, m) in enumerate(zip([in_channels, *channels], channels, strict=False), start=1):
            parts[f"conv{i}"] = nn.Conv2d(n, m, 3, padding=1)
            if norm:
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

    return _build(layers, init, scale, seed, dtype, device)


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
    act = _activation(activation)
    _check_norm(norm, ("group", "batch"))
    channels = [_scaled(c, width) for c in (64, 128, 256, 512)]

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

    return _build(layers, init, scale, seed, dtype, device)


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
    dim = heads * _scaled(64 / heads, width)

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

    return _build(layers, init, scale, seed, dtype, device)


# -- parts -------------------------------------------------------------------------------------


class AveragePool(nn.Module):
    """The mean over 2x2 pixels, ``(N, C, H, W)`` to ``(N, C, H // 2, W // 2)``.

    ``torch.nn.AvgPool2d(2)``, which does not take complex numbers.
    """

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2] // 2, x.shape[-1] // 2
        x = x[..., : 2 * h, : 2 * w]
        return x.reshape(*x.shape[:-2], h, 2, w, 2).mean(dim=(-3, -1))


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

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(x).flatten(2).transpose(1, 2) + self.position


class Attention(nn.Module):
    """Self-attention with several heads, ``(N, P, dim)`` to the same.

    Written out, because torch's fused kernels have no second derivative.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, p, dim = x.shape
        q, k, v = self.qkv(x).view(n, p, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(dim // self.heads), dim=-1)
        return self.out((weights @ v).transpose(1, 2).reshape(n, p, dim))


class MeanOverPatches(nn.Module):
    """``(N, P, dim)`` to ``(N, dim)``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1)


# -- making and initialising -------------------------------------------------------------------


def _build(
    layers: Callable[[], nn.Sequential],
    init: str,
    scale: float,
    seed: int,
    dtype: torch.dtype,
    device: torch.device | str | None,
) -> nn.Sequential:
    if init not in INITS:
        raise InputError(f"init must be one of {', '.join(INITS)}, got {init!r}.")
    # On the meta device a module draws nothing, so the global random state stays as it was.
    with torch.device("meta"):
        network = layers()
    network = network.to(dtype=dtype).to_empty(device=device or "cpu")
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            _initialise(module, init, scale, generator)
        elif isinstance(module, PatchEmbedding):
            position = torch.empty(module.position.shape, dtype=torch.float64)
            _copy(module.position, position.normal_(0.0, 0.02, generator=generator))
        elif isinstance(module, nn.GroupNorm | nn.BatchNorm2d | nn.LayerNorm):
            module.reset_parameters()  # ones and zeros, and the running statistics
    return network


def _initialise(
    layer: nn.Linear | nn.Conv2d, init: str, scale: float, generator: torch.Generator
) -> None:
    # Drawn in float64 on the CPU, whatever the layer is: so a seed means one network.
    w = torch.empty(layer.weight.shape, dtype=torch.float64)
    fan_in = w[0].numel()
    match init:
        case "default":
            bound = 1 / math.sqrt(fan_in)
            w.uniform_(-bound, bound, generator=generator)
        case "xavier":
            nn.init.xavier_normal_(w, generator=generator)
        case "he":
            w.normal_(0.0, math.sqrt(2 / fan_in), generator=generator)
        case "orthogonal":
            nn.init.orthogonal_(w, generator=generator)
        case "normal":
            w.normal_(generator=generator)
        case "identity":
            nn.init.eye_(w) if w.ndim == 2 else nn.init.dirac_(w)
    _copy(layer.weight, scale * w)
    if layer.bias is not None:
        b = torch.zeros(layer.bias.shape, dtype=torch.float64)
        if init == "default":
            b.uniform_(-bound, bound, generator=generator)
        _copy(layer.bias, b)


def _copy(parameter: nn.Parameter, values: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(values)


def _balanced(widths: Sequence[int], seed: int) -> list[Tensor]:
    n, m, depth = widths[0], widths[-1], len(widths) - 1
    rank = min(n, m)
    if min(widths) < rank:
        raise InputError(
            f"Balanced layers from {n} to {m} need hidden widths of at least {rank}, "
            f"got {list(widths)}."
        )
    generator = torch.Generator().manual_seed(seed)
    product = torch.randn(m, n, dtype=torch.float64, generator=generator) / math.sqrt(n)
    u, s, vh = torch.linalg.svd(product, full_matrices=False)
    root = s ** (1 / depth)
    matrices = []
    for j, (a, b) in enumerate(zip(widths, widths[1:], strict=False)):
        w = torch.zeros(b, a, dtype=torch.float64)
        left = u if j == depth - 1 else torch.eye(b, rank, dtype=torch.float64)
        right = vh if j == 0 else torch.eye(rank, a, dtype=torch.float64)
        matrices.append(w + (left * root) @ right)
    return matrices


# -- checks ------------------------------------------------------------------------------------


def _check_widths(widths: Sequence[int]) -> None:
    good = all(isinstance(w, int) and w >= 1 for w in widths)
    if not good or len(widths) < 2:
        raise InputError(
            "widths must be at least two positive whole numbers, inputs first, "
            f"got {list(widths)}."
        )


def _activation(name: str) -> type[nn.Module]:
    if name not in ACTIVATIONS:
        raise InputError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}.")
    return ACTIVATIONS[name]


def _check_norm(norm: str | None, known: Sequence[str | None]) -> None:
    if norm not in known:
        raise InputError(f"norm must be one of {', '.join(map(repr, known))}, got {norm!r}.")


def _norm(norm: str, channels: int, groups: int) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(math.gcd(groups, channels), channels)


def _scaled(channels: float, width: float) -> int:
    if not width > 0:
        raise InputError(f"width must be positive, got {width}.")
    return max(1, round(channels * width))
