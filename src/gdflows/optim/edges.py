r"""The stability edges by themselves: up to which curvature their linearised step contracts.

On a quadratic an optimiser with frozen coefficients is a linear map, and along an eigenvector of
curvature λ (of the preconditioned Hessian, where there is a preconditioner) a two by two one at
most. The *edge* is the value of hλ at which it is marginal: the largest modulus of the map's
eigenvalues is 1, and beyond it grows. In all the cases here it is the eigenvalue −1 that gets
there first: the optimiser jumps to and fro.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gdflows.errors import InputError


def gradient_descent(*, weight_decay: float = 0.0) -> float:
    r"""Edge of θ ← θ − hg: 2, as :math:`1 - h\lambda = -1`.

    Parameters
    ----------
    weight_decay : float
        hw of an L2 term ½w‖θ‖² that is not part of the loss: it shifts all curvatures.

    Examples
    --------
    >>> from gdflows.optim import thresholds
    >>> thresholds.gradient_descent()
    2.0
    """
    return 2.0 - weight_decay


def heavy_ball(beta: float, *, dampening: float = 0.0, weight_decay: float = 0.0) -> float:
    r"""Edge of m ← βm + (1 − d)g, θ ← θ − hm, which is torch's momentum.

    With :math:`z` an eigenvalue of the map,
    :math:`z^2 - (1 + \beta - (1 - d)h\lambda)z + \beta = 0`, and :math:`z = -1` at
    :math:`h\lambda = 2(1 + \beta)/(1 - d)`. Dampening d = β is the average
    m ← βm + (1 − β)g, and its edge 38 for β = 0.9.

    Parameters
    ----------
    beta : float
        Momentum β, 0 ≤ β < 1.
    dampening : float
        d, 0 ≤ d < 1.
    weight_decay : float
        hw of an L2 term.

    Examples
    --------
    >>> from gdflows.optim import thresholds
    >>> round(thresholds.heavy_ball(0.9), 6)  # 2(1 + β)
    3.8
    """
    _check_beta(beta)
    if not 0 <= dampening < 1:
        raise InputError(f"dampening must be in [0, 1), got {dampening}.")
    return 2 * (1 + beta) / (1 - dampening) - weight_decay


def nesterov(beta: float, *, weight_decay: float = 0.0) -> float:
    r"""Edge of m ← βm + g, θ ← θ − h(g + βm), torch's Nesterov momentum.

    :math:`z^2 - (1 + \beta)(1 - x)z - \beta(x - 1) = 0` with :math:`x = h\lambda`, hence
    :math:`z = -1` at :math:`x = 2(1 + \beta)/(1 + 2\beta)`: lower than without the look-ahead.

    Parameters
    ----------
    beta : float
        Momentum β, 0 ≤ β < 1.
    weight_decay : float
        hw of an L2 term.

    Examples
    --------
    >>> from gdflows.optim import thresholds
    >>> round(thresholds.nesterov(0.9), 6)  # 2(1 + β)/(1 + 2β)
    1.357143
    """
    _check_beta(beta)
    return 2 * (1 + beta) / (1 + 2 * beta) - weight_decay


def adam(beta1: float, step: int | None = None, *, weight_decay: float = 0.0) -> float:
    r"""Edge of Adam's step with a frozen preconditioner, in the preconditioned curvature.

    Adam's first moment is the average :math:`m \leftarrow \beta_1m + (1 - \beta_1)g`, divided by
    :math:`1 - \beta_1^t` at step t. With that factor frozen as well,

    .. math:: h\lambda = (2 - hw)\,\frac{1 + \beta_1}{1 - \beta_1}\,(1 - \beta_1^t)

    with decoupled weight decay w (AdamW). The correction makes the edge rise from
    2(1 + β₁) at the first step to 38 for β₁ = 0.9.

    Parameters
    ----------
    beta1 : float
        β₁, 0 ≤ β₁ < 1.
    step : int, optional
        t, from 1. Without it the limit of many steps.
    weight_decay : float
        hw of decoupled weight decay.

    References
    ----------
    Cohen et al. (2022), "Adaptive gradient methods at the edge of stability", who count the
    correction to the preconditioner.

    Examples
    --------
    >>> from gdflows.optim import thresholds
    >>> round(thresholds.adam(0.9), 6)  # 2(1 + β₁)/(1 − β₁)
    38.0
    """
    _check_beta(beta1, "beta1")
    if step is not None and step < 1:
        raise InputError(f"step counts from 1, got {step}.")
    correction = 1.0 if step is None else 1 - beta1**step
    return (2 - weight_decay) * (1 + beta1) / (1 - beta1) * correction


def schedule_free(beta: float, share: float = 0.0) -> float:
    r"""Edge of schedule-free averaging: z ← z − hg(y), x ← (1 − c)x + cz, y = (1 − β)z + βx.

    In (z, x), with :math:`x = h\lambda`, the step is :math:`z \leftarrow z - xy`. It has the
    eigenvalue −1 at

    .. math:: h\lambda = \frac{2(2 - c)}{(1 - \beta)(2 - c) + \beta c}

    which rises from 2 (c = 1: gradient descent) to 2/(1 − β) as c goes to 0: twenty for β = 0.9.
    On top of a preconditioner (schedule-free Adam) λ is that of the preconditioned Hessian.

    Parameters
    ----------
    beta : float
        β, 0 ≤ β < 1: what y has of the average.
    share : float
        c, the weight of the newest z in the average; 1/k at step k of a constant rate.

    References
    ----------
    Defazio et al. (2024), "The road less scheduled"; Song et al. (2025), "Through the river",
    have the limit c = 0.

    Examples
    --------
    >>> from gdflows.optim import thresholds
    >>> round(thresholds.schedule_free(0.9), 6)  # 2/(1 − β)
    20.0
    """
    _check_beta(beta)
    if not 0 <= share <= 1:
        raise InputError(f"share must be in [0, 1], got {share}.")
    return 2 * (2 - share) / ((1 - beta) * (2 - share) + beta * share)


def sgd_mean_square(hessians: Tensor, batch_size: int, *, replacement: bool = False) -> float:
    r"""Largest learning rate at which SGD at an interpolating minimum is stable in mean square.

    There every sample's gradient vanishes, and a step multiplies by :math:`I - h H_B` with the
    batch's own Hessian. The second moments are multiplied by

    .. math:: \mathbb{E}\,(I - h H_B) \otimes (I - h H_B) = I - h P + h^2 Q, \quad
              P = \bar H \otimes I + I \otimes \bar H, \quad Q = \mathbb{E}\, H_B \otimes H_B,

    which is marginal at the smallest h for which :math:`P - h Q` is singular on the range of
    P. In one dimension :math:`h\bar\lambda = 2/(1 + c^2)` with c the relative standard
    deviation of the batch's curvature.

    Parameters
    ----------
    hessians : Tensor
        Hessians of the N samples' losses, shape ``(N, D, D)``, or curvatures in one dimension,
        shape ``(N,)``; positive semidefinite. The matrices here have D² rows: D is for dozens.
    batch_size : int
        B.
    replacement : bool
        Whether a batch may hold a sample more than once.

    Returns
    -------
    float
        The edge h, not hλ: there is no single λ. Infinite if all Hessians vanish.

    Raises
    ------
    InputError
        For shapes or batch sizes that cannot be.

    See Also
    --------
    gdflows.noise.mean_square_edge : With momentum and averaging, for fewer dimensions.

    References
    ----------
    Ma and Ying (2021), "On linear stability of SGD and input-smoothness of neural networks";
    Mulayoff and Michaeli (2024), "Exact mean square linear stability analysis for SGD".

    Examples
    --------
    >>> import torch
    >>> from gdflows.optim import thresholds
    >>> hessians = torch.tensor([[[1.0]], [[3.0]]])
    >>> edge = thresholds.sgd_mean_square(hessians, batch_size=1, replacement=True)
    >>> round(edge, 6)  # 2 · 2/(2² + 1)
    0.8
    """
    h = hessians.reshape(-1, 1, 1) if hessians.ndim == 1 else hessians
    if h.ndim != 3 or h.shape[1] != h.shape[2] or not h.is_floating_point():
        raise InputError(
            f"hessians must have shape (N,) or (N, D, D), got {tuple(hessians.shape)}."
        )
    n, d = h.shape[:2]
    if not (batch_size >= 1 and (replacement or batch_size <= n)):
        raise InputError(f"A batch of {batch_size} cannot be drawn from {n} samples.")
    mean, eye = h.mean(0), torch.eye(d, dtype=h.dtype, device=h.device)
    # Share of the single samples' variance that is left in a batch's mean.
    left = 1 / batch_size
    if not replacement:
        left *= (n - batch_size) / (n - 1) if n > 1 else 0.0
    p = torch.kron(mean, eye) + torch.kron(eye, mean)
    squared = torch.kron(mean, mean)
    q = squared + left * (sum(torch.kron(a, a) for a in h) / n - squared)
    # The largest eigenvalue of P^(−1/2) Q P^(−1/2); Q lives where P does.
    values, vectors = torch.linalg.eigh(p)
    keep = values > values[-1] * values.numel() * torch.finfo(h.dtype).eps
    root = vectors[:, keep] / values[keep].sqrt()
    if not root.numel():
        return math.inf
    return 1 / float(torch.linalg.eigvalsh(root.T @ q @ root)[-1])


def _check_beta(beta: float, name: str = "beta") -> None:
    if not 0 <= beta < 1:
        raise InputError(f"{name} must be in [0, 1), got {beta}.")
