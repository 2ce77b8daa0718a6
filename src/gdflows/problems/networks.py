"""The networks of the studies, as plain torch modules.

All functions share three keywords. ``seed`` fixes the initialisation: the same seed gives the
same network in float32 and in float64, up to rounding, and on every device; torch's global
random state is neither read nor changed. ``dtype`` and ``device`` are the parameters'.

No operation is in place, so that every network can be differentiated as often as curvature asks
for. The larger networks for images are in :mod:`gdflows.problems.vision`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gdflows.errors import InputError
from gdflows.problems.building import activation_class, build, check_widths


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
    check_widths(widths)
    act = activation_class(activation)

    def layers() -> nn.Sequential:
        parts = OrderedDict(flatten=nn.Flatten())
        for i, (n, m) in enumerate(zip(widths, widths[1:], strict=False), start=1):
            parts[f"linear{i}"] = nn.Linear(n, m, bias=bias)
            if i < len(widths) - 1:
                parts[f"{activation}{i}"] = act()
        return nn.Sequential(parts)

    return build(layers, init, scale, seed, dtype, device)


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
    check_widths(widths)

    def layers() -> nn.Sequential:
        parts = OrderedDict(flatten=nn.Flatten())
        for i, (n, m) in enumerate(zip(widths, widths[1:], strict=False), start=1):
            parts[f"linear{i}"] = nn.Linear(n, m, bias=False)
        return nn.Sequential(parts)

    if init != "balanced":
        return build(layers, init, scale, seed, dtype, device)
    network = build(layers, "identity", scale, seed, dtype, device)
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
    check_widths([in_channels, *widths, classes])
    act = activation_class(activation)
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

    return build(layers, init, scale, seed, dtype, device)


class AveragePool(nn.Module):
    """The mean over 2x2 pixels, ``(N, C, H, W)`` to ``(N, C, H // 2, W // 2)``.

    ``torch.nn.AvgPool2d(2)``, which does not take complex numbers.
    """

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2] // 2, x.shape[-1] // 2
        x = x[..., : 2 * h, : 2 * w]
        return x.reshape(*x.shape[:-2], h, 2, w, 2).mean(dim=(-3, -1))


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
        left = u if j == depth - 1 else torch.eye(b, rank, dtype=torch.float64)
        right = vh if j == 0 else torch.eye(rank, a, dtype=torch.float64)
        matrices.append((left * root) @ right)
    return matrices
