r"""Exact theory of SGD on quadratics: mean-square edges and stationary covariances.

A step is affine, with a matrix that depends on the batch: :math:`s \leftarrow A_Bs + \xi_B`. Since
batches of different steps are independent, the mean and the second moments of s after a step are
linear in those before, whatever the law of the noise. They settle if and only if the spectral
radius of :math:`\mathbb E\,A_B\otimes A_B` is below 1, and then on the solution of a linear system.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from gdflows.arguments import number, whole
from gdflows.errors import ConvergenceError, InputError
from gdflows.noise.recursions import (
    Method,
    Quadratic,
    Recursion,
    SampledQuadratics,
    require_size,
)

f64 = torch.float64
WORK = 2e10  # multiplications for all orders of the samples


def mean_square_edge(
    problem: Quadratic,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    averaging: float | None = None,
    share: float = 0.1,
) -> float:
    r"""The learning rate up to which the second moments stay bounded.

    With noise in the gradient alone it is the edge of the method without noise, such as 2/λ and
    2(1 + β)/λ. Sampled Hessians lower it: in one dimension SGD's is
    :math:`2\bar\lambda/(\bar\lambda^2 + V)` with V the variance of a batch's curvature.

    Parameters
    ----------
    problem : Quadratic or SampledQuadratics
        The loss and its noise.
    momentum, nesterov
        In torch's form, as for :func:`gdflows.descend`.
    averaging : float, optional
        β of schedule-free averaging: z ← z − hg(y), x ← (1 − c)x + cz, y = (1 − β)z + βx.
    share : float
        c, the weight of the newest z, here the same at all steps.

    Returns
    -------
    float
        The edge h, not hλ. Infinite if the loss has no curvature at all.

    Raises
    ------
    InputError
        For arguments that cannot be used, and for sampled Hessians of too many dimensions.
    ConvergenceError
        If no edge could be found that is one: stable below, unstable above.

    Notes
    -----
    :math:`\mathbb E\,A_B\otimes A_B` maps positive semidefinite matrices to such, so its spectral
    radius is one of its eigenvalues. At the edge that is 1, and
    :math:`I - \mathbb E\,A_B\otimes A_B`, a polynomial of degree 2 in h, is singular: the edge is
    an eigenvalue of a quadratic eigenvalue problem.

    References
    ----------
    Ma and Ying (2021) and Mulayoff and Michaeli (2024) for SGD, as
    :func:`gdflows.optim.thresholds.sgd_mean_square`; the others are the same argument.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> curvatures = torch.tensor([1.0, 3.0], dtype=torch.float64)
    >>> problem = gf.noise.SampledQuadratics(curvatures, batch_size=1)
    >>> round(gf.noise.mean_square_edge(problem), 6)  # 2 · 2/(2² + 1)
    0.8
    """
    top = float(problem.values[-1])
    if not top > 0:
        return math.inf
    if not bool(problem.spread().any()):  # each direction by itself: the sharpest decides
        problem = Quadratic(torch.tensor([top], dtype=f64))

    def recursion(x: float) -> Recursion:
        method = Method.of(x / top, momentum, nesterov, averaging, share)
        return Recursion.of(problem, method, ~problem.flat)  # flat directions have no edge

    def operator(x: float) -> np.ndarray:
        return recursion(x).operator().numpy()

    zero, up, down = operator(0.0), operator(1.0), operator(-1.0)
    first, second = (up - down) / 2, (up + down) / 2 - zero
    eye, none = np.eye(len(zero)), np.zeros_like(zero)
    # det(I − L₀ − xL₁ − x²L₂) = 0, as x times [1 0; 0 L₂] against [0 1; I − L₀, −L₁]
    left = np.block([[none, eye], [eye - zero, -first]])
    right = np.block([[eye, none], [none, second]])
    found = scipy.linalg.eigvals(left, right)
    found = found[np.isfinite(found)]
    real = found.real[(abs(found.imag) < 1e-6 * abs(found)) & (found.real > 1e-9)]
    for x in np.sort(real):
        if recursion(0.999 * x).radius() < 1 < recursion(1.001 * x).radius():
            return float(x) / top
    raise ConvergenceError(
        "No learning rate was found below which the second moments are bounded and above which "
        "they are not: are the curvatures too far apart?"
    )


def stationary_covariance(
    problem: Quadratic,
    lr: float,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    averaging: float | None = None,
    share: float = 0.1,
    of: str | None = None,
) -> Tensor:
    r"""The covariance on which SGD settles, exactly and at any learning rate below the edge.

    For SGD with noise in the gradient alone the solution of
    :math:`HC + CH - hHCH = h\Sigma`; in one dimension :math:`hs/(\lambda(2 - h\lambda))`. Only
    the noise's covariance counts, not its law. The mean is the minimum.

    Parameters
    ----------
    problem : Quadratic or SampledQuadratics
        The loss and its noise.
    lr : float
        The learning rate h.
    momentum, nesterov, averaging, share
        See :func:`mean_square_edge`.
    of : str, optional
        Of which sequence: ``"theta"`` (the default) or ``"velocity"``; with averaging ``"x"``
        (the default), ``"y"`` or ``"z"``.

    Returns
    -------
    Tensor
        Shape ``(D, D)``, in the dtype and on the device of the problem's Hessian.

    Raises
    ------
    InputError
        If there is none: past the mean-square edge, or with noise along a flat direction, where
        the variance grows without end.

    Examples
    --------
    >>> import torch
    >>> from gdflows.noise import Quadratic, stationary_covariance
    >>> noisy = Quadratic(torch.tensor([1.0]), covariance=0.5)
    >>> sigma = stationary_covariance(noisy, lr=0.1)  # h s/(λ(2 − hλ))
    >>> round(float(sigma), 6), round(0.1 * 0.5 / 1.9, 6)
    (0.026316, 0.026316)
    """
    h = number(lr, "lr", positive=True)
    method = Method.of(h, momentum, nesterov, averaging, share)
    recursion = Recursion.of(problem, method)
    if bool(problem.drifting.any()):
        variance = float(problem.loud[problem.flat].max())
        raise InputError(
            f"There is noise of variance {variance:.3g} along a direction without curvature: what "
            "it does to θ grows with every step and has no stationary value. Use "
            "gdflows.noise.moments for a number of steps."
        )
    if not recursion.radius() < 1:
        settings = {"momentum": momentum, "nesterov": nesterov, "averaging": averaging}
        edge = mean_square_edge(problem, **settings, share=share)
        raise InputError(
            f"The learning rate {h:.6g} is past the mean-square edge, {edge:.6g}: the covariance "
            "grows without end."
        )
    return recursion.seen(recursion.stationary(), method.weights(of)).to(problem.like)


def moments(
    problem: Quadratic,
    lr: float,
    steps: int,
    start: Tensor | None = None,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    averaging: float | None = None,
    share: float = 0.1,
    of: str | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Mean and covariance after a number of steps, exactly; stable or not.

    Parameters
    ----------
    problem : Quadratic or SampledQuadratics
        The loss and its noise.
    lr : float
        The learning rate h.
    steps : int
        How many.
    start : Tensor, optional
        Where all runs begin, as distance θ₀ − θ* from the minimum, shape ``(D,)``; at rest. By
        default there.
    momentum, nesterov, averaging, share, of
        See :func:`stationary_covariance`.

    Returns
    -------
    mean : Tensor
        Of the distance from the minimum, shape ``(D,)``.
    covariance : Tensor
        Shape ``(D, D)``.

    Raises
    ------
    InputError
        For arguments that cannot be used; with sampled Hessians *and* gradients away from the
        minimum, where their correlation counts.

    Examples
    --------
    >>> import torch
    >>> from gdflows.noise import Quadratic, moments
    >>> noisy = Quadratic(torch.tensor([1.0]), covariance=0.5)
    >>> mean, covariance = moments(noisy, 0.1, steps=2, start=torch.ones(1))
    >>> round(float(mean), 4), round(float(covariance), 6)  # (1 − hλ)², h² s (1 + (1 − hλ)²)
    (0.81, 0.00905)
    """
    h, steps = number(lr, "lr", positive=True), whole(steps, "steps", 0)
    method = Method.of(h, momentum, nesterov, averaging, share)
    weights = method.weights(of)
    begin = torch.zeros(problem.dim, dtype=f64)
    if start is not None:
        if start.shape != (problem.dim,):
            raise InputError(f"start must have shape ({problem.dim},), got {tuple(start.shape)}.")
        begin = start.detach().cpu().double()
    if bool(begin.any()) and bool(problem.spread().any()) and bool(problem.covariance.any()):
        raise InputError(
            "Away from the minimum the correlation of a batch's Hessian with its gradient counts, "
            "which is not known here: leave start out, or use shuffled_moments or walking.sgd."
        )
    recursion = Recursion.of(problem, method)
    # directions without curvature and noise stay as they are
    rest = begin - recursion.basis @ (recursion.basis.T @ begin)
    at = torch.where(torch.tensor([n == "velocity" for n in method.names]), 0.0, 1.0).double()
    mean = torch.kron(at, recursion.basis.T @ begin)
    second = torch.outer(mean, mean)
    for _ in range(steps):
        mean, second = recursion.mean @ mean, recursion.after(second)
    covariance = recursion.seen(second - torch.outer(mean, mean), weights)
    k = recursion.basis.shape[1]
    seen = recursion.basis @ (weights @ mean.reshape(len(weights), k))
    return (seen + float(weights @ at) * rest).to(problem.like), covariance.to(problem.like)


def shuffled_moments(
    problem: SampledQuadratics, lr: float, *, momentum: float = 0.0, nesterov: bool = False
) -> tuple[Tensor, Tensor]:
    r"""Mean and covariance at the ends of epochs, on which SGD in shuffled order settles.

    In an epoch each sample comes once, in an order drawn anew: the mean over all N! orders,
    exactly. The steps of an epoch are not independent, so neither is the mean the minimum, nor
    the covariance of order h: what the samples push cancels over an epoch but for terms of h².

    Parameters
    ----------
    problem : SampledQuadratics
        With ``batch_size=1``: for batches in shuffled order give one Hessian and gradient a
        batch.
    lr : float
        The learning rate h, of each step.
    momentum, nesterov
        See :func:`mean_square_edge`.

    Returns
    -------
    mean : Tensor
        Of the distance from the minimum, shape ``(D,)``.
    covariance : Tensor
        Shape ``(D, D)``.

    Raises
    ------
    InputError
        If it does not settle, batches have more than one sample, or there are too many samples or
        dimensions: the work is :math:`N2^N(1 + n + n^2)^3`.

    Notes
    -----
    An affine map :math:`s \mapsto As + b` acts linearly on :math:`(1, s, s\otimes s)`. The mean
    over the orders of a *set* of such maps is the mean over which comes last, times the mean of
    the set without it: 2^N sets in place of N! orders.

    Examples
    --------
    >>> import torch
    >>> from gdflows.noise import SampledQuadratics, shuffled_moments
    >>> problem = SampledQuadratics(torch.tensor([1.0, 1.0]), torch.tensor([[1.0], [-1.0]]))
    >>> mean, covariance = shuffled_moments(problem, lr=0.1)
    >>> bool(covariance < 0.1 * 1 / 1.9)  # far less than with batches drawn anew
    True
    """
    if not isinstance(problem, SampledQuadratics) or problem.batch_size != 1:
        raise InputError("This needs SampledQuadratics of batch_size=1: one a batch.")
    h = number(lr, "lr", positive=True)
    method = Method.of(h, momentum, nesterov, None, 0.1)
    many, m = len(problem.hessians), len(method.push)
    n = m * problem.dim
    if many * 2.0**many * (1 + n + n * n) ** 3 > WORK:
        raise InputError(
            f"The orders of {many} samples with {n} numbers are too many to average over: join "
            "samples to batches, or project on fewer dimensions."
        )
    require_size(n)
    eye = torch.eye(problem.dim, dtype=f64)
    lifted = []
    for hessian, gradient in zip(problem.hessians, problem.gradients, strict=True):
        jump = torch.kron(torch.outer(method.push, method.look), hessian)
        lifted.append(_lift(torch.kron(method.free, eye) + jump, torch.kron(method.push, gradient)))
    over = {0: torch.eye(1 + n + n * n, dtype=f64)}
    for chosen in range(1, 2**many):
        last = [i for i in range(many) if chosen >> i & 1]
        over[chosen] = sum(lifted[i] @ over[chosen & ~(1 << i)] for i in last) / len(last)
    epoch = over[2**many - 1]
    moved, pushed = epoch[1:, 1:], epoch[1:, 0]
    if not float(torch.linalg.eigvals(moved).abs().max()) < 1:
        raise InputError(
            f"At the learning rate {h:.6g} epochs in shuffled order do not settle in mean square: "
            "lower it."
        )
    found = torch.linalg.solve(torch.eye(len(moved), dtype=f64) - moved, pushed)
    mean, second = found[:n], found[n:].reshape(n, n)
    covariance = second - torch.outer(mean, mean)
    d = problem.dim
    return mean[:d].to(problem.like), covariance[:d, :d].to(problem.like)


def _lift(a: Tensor, b: Tensor) -> Tensor:
    """The map s → As + b on (1, s, s ⊗ s)."""
    n = len(b)
    out = torch.zeros(1 + n + n * n, 1 + n + n * n, dtype=f64)
    out[0, 0], out[1 : n + 1, 0], out[n + 1 :, 0] = 1, b, torch.kron(b, b)
    column = b[:, None]
    out[1 : n + 1, 1 : n + 1] = a
    out[n + 1 :, 1 : n + 1] = torch.kron(a, column) + torch.kron(column, a)
    out[n + 1 :, n + 1 :] = torch.kron(a, a)
    return out
