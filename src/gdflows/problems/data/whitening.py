"""Inputs with the identity as their covariance."""

from __future__ import annotations

import torch
from torch import Tensor

from gdflows.errors import InputError


def whiten(x: Tensor, *, centre: bool = True) -> Tensor:
    r"""Inputs turned and stretched until :math:`\frac1n x^\top x` is the identity.

    Of all linear maps that do this, the one that changes the inputs least in the mean square:
    :math:`x \mapsto x\,C^{-1/2}` with :math:`C = \frac1n x^\top x`. On whitened inputs a linear
    network's squared error is, up to a constant, half the squared distance of its product of
    matrices from one matrix :math:`\frac1n y^\top x`.

    Parameters
    ----------
    x : Tensor
        ``(n, features)``, real floating point, n samples.
    centre : bool
        Subtract the mean of each feature first. C is then the covariance.

    Returns
    -------
    Tensor
        Of x's shape, dtype and device.

    Raises
    ------
    InputError
        If x has not two axes or holds no finite real numbers, or its features are linearly
        dependent (as when there are fewer samples than features): then no map does it.

    References
    ----------
    A. Kessy, A. Lewin and K. Strimmer, "Optimal whitening and decorrelation", The American
    Statistician 72 (2018), 309-314.

    Examples
    --------
    >>> import torch
    >>> from gdflows.problems import load, whiten
    >>> x = whiten(load("iris", dtype=torch.float64).x_train)
    >>> bool((x.T @ x / len(x) - torch.eye(4)).abs().max() < 1e-12)
    True
    """
    if not isinstance(x, Tensor) or x.ndim != 2 or not x.is_floating_point():
        found = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"whiten wants a real tensor (n, features), got {found}.")
    if not bool(x.isfinite().all()):
        raise InputError("whiten: x holds infinite numbers or NaN: remove such samples.")
    if centre:
        x = x - x.mean(0)
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    features, precision = x.shape[1], torch.finfo(x.dtype).eps
    rank = int((s > s[:1] * max(x.shape) * precision).sum())
    if rank < features:
        raise InputError(
            f"whiten: the {features} features span only {rank} dimensions over {len(x)} samples: "
            "drop features that are constant or follow from the others, or give more samples."
        )
    return (u @ vh) * len(x) ** 0.5
