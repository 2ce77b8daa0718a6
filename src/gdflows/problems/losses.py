"""The losses of the studies: squared error and cross-entropy, smooth and holomorphic.

Both are means over the samples, so that a loss in chunks adds up; both take complex outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gdflows.errors import InputError


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    r"""Half the mean squared distance, :math:`\frac{1}{2N} \sum_{n=1}^N \|f(x_n) - y_n\|^2`.

    The mean is over the N samples, the sum over the outputs of each: unlike
    ``torch.nn.MSELoss``, which also divides by the number of outputs and has no ½. This is the
    convention of the edge-of-stability studies [1]_, and learning rates compare only within one.

    Parameters
    ----------
    output : Tensor
        ``(N, C)`` or ``(N, ...)``, real or complex.
    target : Tensor
        Of the output's shape; or class numbers ``(N,)`` of an integer dtype, taken as one-hot
        vectors of length C.

    Returns
    -------
    Tensor
        Zero-dimensional.

    Raises
    ------
    InputError
        If the shapes do not match, or a class number has no output.

    References
    ----------
    .. [1] J. Cohen, S. Kaur, Y. Li, Z. Kolter and A. Talwalkar, "Gradient descent on neural
       networks typically occurs at the edge of stability", ICLR, 2021.

    Examples
    --------
    >>> import torch
    >>> from gdflows.problems import squared_error
    >>> squared_error(torch.tensor([[1.0, 2.0]]), torch.tensor([0]))
    tensor(2.)
    """
    if not (target.is_floating_point() or target.is_complex()):
        target = _classes(output, target)[:, None]
        every = torch.arange(output.shape[1], device=output.device)  # one_hot looks at values
        target = (target == every).to(output.dtype)
    if output.shape != target.shape:
        raise InputError(
            f"The output has shape {tuple(output.shape)}, the target {tuple(target.shape)}, and "
            "they would be repeated until they fit. Give targets of the output's shape: one "
            "number a sample needs y[:, None] where the network's last layer has one output."
        )
    r = output - target.to(output.dtype)
    return 0.5 * (r * r).sum() / len(r)  # not |r|²: r * r is holomorphic


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    r"""Mean cross-entropy of a softmax, :math:`\frac1N \sum_n \log \sum_c e^{z_{nc}} - z_{n y_n}`.

    For real outputs equal to ``torch.nn.CrossEntropyLoss``; complex outputs are taken too.

    Parameters
    ----------
    output : Tensor
        Logits z, ``(N, C)``, real or complex; of sequences ``(N, T, C)``, whose mean is over all
        N·T places.
    target : Tensor
        Class numbers y, ``(N,)`` or ``(N, T)``, of an integer dtype.

    Returns
    -------
    Tensor
        Zero-dimensional.

    Raises
    ------
    InputError
        If the shapes do not match, or a class number has no output.

    Examples
    --------
    >>> import torch
    >>> from gdflows.problems import cross_entropy
    >>> cross_entropy(torch.zeros(1, 2), torch.tensor([0]))
    tensor(0.6931)
    """
    if target.is_floating_point() or target.is_complex():
        raise InputError(f"cross_entropy wants class numbers (N,), got {target.dtype} targets.")
    if output.ndim == 3 and target.shape == output.shape[:2]:
        output, target = output.flatten(0, 1), target.flatten()
    target = _classes(output, target)
    picked = output.gather(1, target[:, None])[:, 0]
    return (torch.logsumexp(output, 1) - picked).sum() / len(output)


def _classes(output: Tensor, target: Tensor) -> Tensor:
    if output.ndim != 2 or target.shape != output.shape[:1]:
        raise InputError(
            "Class numbers (N,) need outputs (N, C): "
            f"got outputs {tuple(output.shape)} and targets {tuple(target.shape)}."
        )
    target = target.long()
    low, high = _range(target)
    if not 0 <= low <= high < output.shape[1]:
        raise InputError(
            f"Class numbers run from {low} to {high}, "
            f"but the network has {output.shape[1]} outputs: widen its last layer."
        )
    return target


def _range(target: Tensor) -> tuple[int, int]:
    """Smallest and largest class; 0, 0 where values cannot be looked at."""
    if not target.numel():
        return 0, 0
    try:
        return int(target.min()), int(target.max())
    except RuntimeError:  # under vmap over samples: the whole is looked at before, when an
        return 0, 0  # objective is made
