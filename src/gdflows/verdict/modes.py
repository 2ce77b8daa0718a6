r"""What a method and its models do along single eigenvectors of the Hessian, in mean and variance.

Near θ₀ a batch's gradient along a unit eigenvector u of curvature λ is, at the distance ξ,

.. math:: g_B(\xi) = (g + \lambda\xi) + (\alpha_B + \beta_B\xi), \qquad
          \operatorname{Var} g_B(\xi) = a + 2c\,\xi + b\,\xi^2 ,

with a, b and c the variances of slope and curvature over the batches and their covariance. Then a
method's step and every model of it are linear in (1, ξ, ξ²), and what they do in k steps is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch

from gdflows import problems
from gdflows.flows import MomentumPrincipalFlow, multipliers, swinging
from gdflows.flows.base import Flow

FLAT = 1e-9  # hλ of this modulus is rounding's, and differences over it would be too


@dataclass(frozen=True, eq=False)
class Modes:
    """Directions in which a loss and its noise are looked at.

    Attributes
    ----------
    curvature : ndarray
        λ, shape ``(J,)``: eigenvalues, or the nodes of a quadrature that stand for many.
    slope : ndarray
        The gradient's component; squares add up to its squared length.
    additive, mixed, multiplicative : ndarray
        a, c and b of a batch's gradient.
    top : int
        How many of them, the first, are the sharpest eigenvectors themselves.
    """

    curvature: np.ndarray
    slope: np.ndarray
    additive: np.ndarray
    mixed: np.ndarray
    multiplicative: np.ndarray
    top: int

    def variance(self, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        """Of a batch's gradient, on average over ξ of this mean and variance."""
        return self.additive + 2 * self.mixed * mean + self.multiplicative * (mean**2 + variance)

    def scaled(self, factor: float) -> Modes:
        """With so many times the noise, as of smaller batches."""
        noise = (factor * x for x in (self.additive, self.mixed, self.multiplicative))
        return Modes(self.curvature, self.slope, *noise, self.top)


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and variance of ξ after 0, 1, …, K steps, shape ``(K + 1, J)`` each."""

    mean: np.ndarray
    variance: np.ndarray


def stepped(modes: Modes, h: float, steps: int, beta: float = 0.0) -> Moments:
    """SGD, or heavy ball in torch's form, itself: v ← βv + g_B, ξ ← ξ − hv, from rest."""
    lam, g = modes.curvature, modes.slope
    m, w, q, qw, ww = (np.zeros_like(lam) for _ in range(5))
    means, variances = [m], [q]
    with np.errstate(over="ignore", invalid="ignore"):  # of a run that runs away
        for _ in range(steps):
            s = modes.variance(m, q)
            w_next = beta * w + g + lam * m
            # of v' = βv + λξ + noise, then of ξ' = ξ − hv'
            ww_next = beta**2 * ww + 2 * beta * lam * qw + lam**2 * q + s
            cross = beta * qw + lam * q
            q_next = q - 2 * h * cross + h**2 * ww_next
            qw, ww = cross - h * ww_next, ww_next
            m, w, q = m - h * w_next, w_next, q_next
            means.append(m)
            variances.append(q)
    return Moments(np.array(means), np.array(variances))


def flowed(
    modes: Modes, h: float, steps: int, rate: np.ndarray, start: np.ndarray, noise: float = 0.0
) -> Moments:
    r"""A flow that is linear on quadratics, :math:`d\xi = -r(\xi + g/\lambda)dt + \sigma\,dW`.

    Parameters
    ----------
    modes : Modes
        The directions.
    h : float
        The learning rate.
    steps : int
        K.
    rate : ndarray
        r/λ, shape ``(J,)``: 1 for the gradient flow.
    start : ndarray
        ξ at time 0, over g.
    noise : float
        By what the variance of a batch's gradient is multiplied: h, times 1/(1 − β)² with
        momentum; 0 without noise.
    """
    lam, g = modes.curvature, modes.slope
    a, c, b = (noise * x for x in (modes.additive, modes.mixed, modes.multiplicative))
    zero, r = np.zeros_like(lam), rate
    # of (1, ξ, ξ², variance), of means
    generator = np.array(
        [
            [zero, zero, zero, zero],
            [-r * g, -r * lam, zero, zero],
            [zero, -2 * r * g, -2 * r * lam, zero],
            [a, 2 * c, b, b - 2 * r * lam],
        ]
    ).transpose(2, 0, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        transfer = scipy.linalg.expm(h * generator)
    begin = start * g
    state = np.stack([np.ones_like(lam), begin, begin**2, zero], 1)
    seen = [state]
    with np.errstate(over="ignore", invalid="ignore"):  # what runs away is no model any more
        for _ in range(steps):
            state = np.einsum("jab,jb->ja", transfer, state)
            seen.append(state)
    seen = np.array(seen)
    return Moments(seen[:, :, 1], seen[:, :, 3])


def affine(modes: Modes, h: float, beta: float) -> np.ndarray:
    """A step of heavy ball on (1, ξ, hv), shape ``(J, 3, 3)``: one, position, h times velocity."""
    lam, g = modes.curvature, modes.slope
    zero, one = np.zeros_like(lam), np.ones_like(lam)
    rows = [
        [one, zero, zero], [-h * g, 1 - h * lam, -beta * one], [h * g, h * lam, beta * one],
    ]  # fmt: skip
    return np.array(rows).transpose(2, 0, 1)


def walked(step: np.ndarray, start: np.ndarray, steps: int, order: int) -> np.ndarray:
    r"""The flow of a linear map's differences: of F = Φ − 1 (order 0), or F − F²/2 (order 1).

    Parameters
    ----------
    step : ndarray
        Φ, shape ``(J, n, n)``.
    start : ndarray
        Shape ``(J, n)``.
    steps : int
        K.
    order : {0, 1}
        Differences that are kept.

    Returns
    -------
    ndarray
        After 0, 1, …, K steps, shape ``(K + 1, J, n)``.
    """
    field = step - np.eye(step.shape[1])
    if order:
        field = field - field @ field / 2
    seen = [start]
    with np.errstate(over="ignore", invalid="ignore"):  # of what runs away
        transfer = scipy.linalg.expm(field)
        for _ in range(steps):
            seen.append(np.einsum("jab,jb->ja", transfer, seen[-1]))
    return np.array(seen)


def principal(modes: Modes, h: float, steps: int, beta: float = 0.0) -> Moments:
    """The principal flow at the times kh, with momentum the real points that it stands for."""
    lam, g = modes.curvature, modes.slope
    if not beta:
        exact = stepped(modes, h, steps)
        return Moments(exact.mean, np.zeros_like(exact.mean))
    x, flat = h * lam, np.abs(h * lam) < FLAT
    safe = np.where(flat, 1.0, lam)
    flow = MomentumPrincipalFlow(problems.quadratic([1.0]), h, beta=beta)
    log_z = np.asarray(flow.alpha(x.astype(complex))) * x
    shift = np.asarray(flow.shift(x.astype(complex)))
    twice = np.where(x > swinging(beta), 2.0, 1.0)
    k = np.arange(steps + 1)[:, None]
    moved = (twice * (1 + x * shift) * np.exp(k * log_z)).real - 1
    along_flat = h * shift.real - k * h / (1 - beta)
    mean = np.where(flat, along_flat, moved / safe) * g
    return Moments(mean, np.zeros_like(mean))


def linear(flow: type[Flow] | object, curvature: np.ndarray, h: float, **settings):
    """A flow's rate over λ, and its start over g, on quadratics: asked of the flow itself.

    Returns
    -------
    rate, start : ndarray
        As :func:`flowed` takes them.
    """
    flat = np.abs(h * curvature) < FLAT
    # along a flat direction what it does is the limit of what it does along a flatter and flatter
    seen = np.where(flat, FLAT / h, curvature)
    E = problems.quadratic(torch.from_numpy(seen))
    made = flow(E, h, **settings)
    one = torch.ones(len(seen), dtype=torch.float64)
    rate = -made.vector_field(one).numpy() / seen
    start = (made.start(one)[0].numpy() - 1) / seen
    return rate, np.where(np.abs(start) < 1e-12 * h, 0.0, start)


def edge(modes: Modes, h: float, beta: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    r"""hλ at the edge of the method, and how much of mean-square stability is used up at least.

    Returns
    -------
    edge : ndarray
        2(1 + β), for each direction.
    used : ndarray
        :math:`h\,\mathbb E\lambda_B^2/\lambda` over :math:`2(1-\beta) +
        \frac{2\beta}{1+\beta}h\lambda`, for each direction that is curved upwards; 0 for others.
        Above 1 the mean square grows. What a batch's Hessian does between directions is not
        looked at, and uses up more.
    """
    lam, b = modes.curvature, modes.multiplicative
    up = lam > 0
    safe = np.where(up, lam, 1.0)
    most = 2 * (1 - beta) + 2 * beta / (1 + beta) * h * safe
    used = np.where(up, h * (safe + b / safe) / most, 0.0)
    return np.full_like(lam, 2 * (1 + beta)), used


__all__ = [
    "Modes", "Moments", "affine", "edge", "flowed", "linear", "multipliers", "principal",
    "stepped", "walked",
]  # fmt: skip
