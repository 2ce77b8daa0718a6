"""The models of a method, each as what it says of the mean and the variance along eigenvectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gdflows import flows
from gdflows.verdict.modes import Modes, Moments, affine, flowed, linear, principal, stepped, walked
from gdflows.verdict.spectrum import Seen

#: Where the error of each model is from.
SOURCES = {
    "NGF": "defect (h/2)Hg a unit of time: Hairer, Nørsett and Wanner, theorem I.10.6",
    "IGR": "defect h²(⅓H²g + T[g, g]/12): Barrett and Dherin (2021), eq. 4",
    "order 2": "defect O(h³): Hairer, Lubich and Wanner, chapter IX",
    "PF": "defect (h²/12)T[g, g]: Rosca et al. (2023), theorem 3.1 and eq. 14",
    "rod": "as order 1 below hλ = 1, none along one swing: our chapter 'Two points at once'",
    "SDE 1": "drift of NGF, noise hΣ: Li, Tai and E (2017), weak order 1",
    "SDE 2": "drift of IGR, noise hΣ: Li, Tai and E (2017), weak order 2",
    "stochastic rod": "drift of NGF, exact spread in some directions: our 'Stochastic edge'",
}
TWO_POINTS = ("rod", "stochastic rod")
NOISY = ("SDE 1", "SDE 2", "stochastic rod")


@dataclass(frozen=True, eq=False)
class Settings:
    """h, β, whether batches are drawn, and how many directions the stochastic rod has."""

    lr: float
    momentum: float
    noisy: bool
    rank: int


def names(settings: Settings) -> list[str]:
    """The models that there are for these settings."""
    found = ["NGF", "IGR", "order 2", "PF", "rod"]
    return [*found, *NOISY] if settings.noisy else found


def predicted(model: str, modes: Modes, settings: Settings, steps: int, truth: Moments) -> Moments:
    """What a model says, where the loss is its second-order Taylor polynomial."""
    h, beta = settings.lr, settings.momentum
    lam = modes.curvature
    if model == "PF":
        return principal(modes, h, steps, beta)
    if model == "rod" and beta:
        return _heavy_rod(modes, h, steps, beta)
    if model == "rod":
        below = _of_order(modes, h, steps, beta, 1)
        mean = np.where(h * lam > 1, truth.mean, below.mean)
        return Moments(mean, np.zeros_like(mean))
    if model == "stochastic rod":
        return _stochastic_rod(modes, h, steps, beta, settings.rank, truth)
    if model.startswith("SDE"):
        order = int(model[-1])
        given = {"covariance": 0.0, "order": order, "beta": beta}
        rate, start = linear(flows.StochasticModifiedEquation, lam, h, **given)
        return flowed(modes, h, steps, rate, start, noise=h / (1 - beta) ** 2)
    return _of_order(modes, h, steps, beta, {"NGF": 0, "IGR": 1, "order 2": 2}[model])


def _of_order(modes: Modes, h: float, steps: int, beta: float, order: int) -> Moments:
    if beta:
        rate, start = linear(flows.HeavyBall, modes.curvature, h, beta=beta, order=order)
    else:
        rate, start = linear(flows.Truncated, modes.curvature, h, order=order)
    return flowed(modes, h, steps, rate, start)


def _heavy_rod(modes: Modes, h: float, steps: int, beta: float) -> Moments:
    """The rod flow of order 1 of heavy ball: both ends at once, from its first two points."""
    g = h * modes.slope
    start = np.stack([np.ones_like(g), -g / 2, g / 2], 1)
    centre = walked(affine(modes, h, beta), start, steps, order=1)
    rod = walked(-affine(modes, h, beta)[:, 1:, 1:], -start[:, 1:], steps, order=1)
    sign = (-1.0) ** np.arange(steps + 1)[:, None]
    mean = centre[:, :, 1] + sign * rod[:, :, 0]
    return Moments(mean, np.zeros_like(mean))


def _stochastic_rod(
    modes: Modes, h: float, steps: int, beta: float, rank: int, truth: Moments
) -> Moments:
    """Its centre follows the gradient flow, with momentum that of position and velocity; what
    swings has the exact mean square, in some directions.
    """
    lam = modes.curvature
    swings = h * lam > 1 + beta
    if beta:
        rest = np.stack([np.ones_like(lam), 0 * lam, 0 * lam], 1)
        centre = walked(affine(modes, h, beta), rest, steps, order=0)[:, :, 1]
    else:
        centre = _of_order(modes, h, steps, 0.0, 0).mean
    bottom = -modes.slope / np.where(swings, lam, 1.0)
    mean = np.where(swings, bottom, centre)
    kept = np.arange(len(lam)) < min(rank, modes.top)
    # at the start what swings is its distance from the bottom, and its square is not lost
    about = truth.variance + np.where(swings, (truth.mean - bottom) ** 2, 0.0)
    return Moments(mean, np.where(kept, about, 0.0))


def defect(model: str, seen: Seen, settings: Settings, truth: Moments) -> np.ndarray:
    r"""How far the left-out third derivative has led astray after 0, 1, …, K steps; undamped.

    Each step leaves out :math:`h^3\frac{1 + 10\beta + \beta^2}{12(1 - \beta)^5}\nabla^3E[g, g]`,
    which falls with the square of the gradient. Models of two points know what it does to a
    swing: they leave it out along the slow directions, and once at the start, where swing and
    centre are told apart.
    """
    modes, h, beta = seen.modes, settings.lr, settings.momentum
    if model == "order 2" or not seen.gradient:
        return np.zeros(len(truth.mean))
    term = h**3 * (1 + 10 * beta + beta**2) / (12 * (1 - beta) ** 5)
    left = (modes.slope + modes.curvature * truth.mean) ** 2
    turning, square, once = seen.turning, seen.gradient**2, 0.0
    if model in TWO_POINTS:
        slow = h * modes.curvature <= 1 + beta
        left, turning, square = left * slow, seen.slow_turning, (modes.slope**2 * slow).sum()
        once = 0.0 if slow.all() else term * seen.turning
    share = left.sum(1) / square if square else left.sum(1)
    return once + term * turning * np.concatenate([[0.0], np.cumsum(share[:-1])])


def error(mean: np.ndarray, variance: np.ndarray, truth: Moments, extra=0.0) -> np.ndarray:
    """Mean and root-mean-square spread off by so much, over the distance travelled.

    Shapes ``(K + 1, J)`` to ``(K,)``: at steps 1, …, K.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        apart = ((mean - truth.mean) ** 2).sum(1) + np.asarray(extra) ** 2
        spread = np.sqrt(np.clip(variance, 0, None).sum(1)) - np.sqrt(truth.variance.sum(1))
        travelled = (truth.mean**2).sum(1) + truth.variance.sum(1)
        found = np.sqrt(apart[1:] + spread[1:] ** 2) / np.sqrt(travelled[1:])
    return np.where(np.isfinite(found), found, np.inf)


__all__ = [
    "NOISY", "SOURCES", "Settings", "defect", "error", "names", "predicted", "stepped",
]  # fmt: skip
