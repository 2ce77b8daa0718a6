"""What is looked at in a point: gradient, noise and curvature, by some tens of products."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gdflows.curvature.eigen import extreme_eigenpairs
from gdflows.curvature.krylov import Krylov
from gdflows.curvature.units import Operator, double
from gdflows.errors import NonFiniteError
from gdflows.flows import PerSampleNoise
from gdflows.lengths import length
from gdflows.noise import GradientNoise, batch_factor, directional_noise
from gdflows.objective import Objective
from gdflows.objective.point import Point
from gdflows.verdict.modes import Modes

TOL = 1e-3  # of the sharpest eigenvalues


@dataclass(frozen=True, eq=False)
class Seen:
    """A loss and its noise at a point.

    Attributes
    ----------
    modes : Modes
        Gradient and noise along the eigenvectors.
    gradient : float
        ‖g‖.
    turning : float
        ‖∇³E[g, g]‖.
    slow_turning : float
        The same of what of g is not along the sharpest directions that swing: hλ > 1, with
        momentum 1 + β.
    moved : float
        ‖Hg‖.
    sharpening : tuple of float
        −∇λ·g for each of the sharpest directions: how fast the gradient flow sharpens them.
    noise : float
        tr S, the variance of a single sample's gradient; 0 without batches.
    fading : float
        Relative change of tr S per unit of time along the gradient flow, |g·∇tr S|/tr S.
    samples : int
        n; 0 without batches.
    """

    modes: Modes
    gradient: float
    turning: float
    slow_turning: float
    moved: float
    sharpening: tuple[float, ...]
    noise: float
    fading: float
    samples: int


def look(
    objective: Objective,
    theta: Tensor,
    *,
    lr: float,
    batch_size: int | None,
    replacement: bool,
    top: int,
    products: int,
    probes: int,
    seed: int,
) -> Seen:
    """Look at a point; see :func:`gdflows.validity` for the arguments."""
    point = objective.at(theta)
    g = point.grad
    size = length(g)
    if not math.isfinite(size):
        raise NonFiniteError("The gradient is not finite here: there is nothing to follow.")
    pairs = extreme_eigenpairs(point, min(top, theta.numel()), "LA", TOL)
    axes, sharp = pairs.vectors, double(pairs.values).numpy()
    along = double(axes @ g).numpy()
    nodes, weights = _quadrature(point, _beside(g, axes), products)
    parts = [(sharp, along, 0), (nodes, np.sqrt(weights), 0)]
    noise, fading, samples = 0.0, 0.0, 0
    a, b, c = 0 * sharp, 0 * sharp, 0 * sharp
    if batch_size is not None:
        seen = GradientNoise(objective, theta)
        samples, noise = seen.size, float(seen.trace())
        factor = batch_factor(samples, batch_size, replacement=replacement)
        if factor * noise > 0:
            law = PerSampleNoise(objective, batch_size, replacement=replacement)
            half = law.correction(theta[None])[0]  # of the gradient of factor · tr S
            fading = 2 * abs(float(torch.dot(half, g))) / (factor * noise)
        by = directional_noise(
            objective, theta, axes, batch_size=batch_size, replacement=replacement
        )
        a, b, c = (
            double(x).numpy() for x in (by.slope_variance, by.curvature_variance, by.covariance)
        )
        generator = torch.Generator().manual_seed(seed)
        for _ in range(probes if factor * noise > 0 else 0):
            s = _beside(seen.draw(generator), axes)
            nodes, weights = _quadrature(point, s, max(4, products // 2))
            parts.append((nodes, 0 * weights, factor * weights / probes))
        # the probes' total is a random number, the noise's is known
        rest = max(factor * noise - float(a.sum()), 0.0)
        drawn = sum(float(np.sum(p[2])) for p in parts[2:])
        scale = rest / drawn if drawn > 0 else 0.0
        parts[2:] = [(n, z, scale * w) for n, z, w in parts[2:]]
    curvature = np.concatenate([p[0] for p in parts])
    slope = np.concatenate([p[1] for p in parts])
    additive = np.concatenate([a, np.zeros(len(parts[1][0])), *(p[2] for p in parts[2:])])
    more = np.zeros(len(curvature) - len(sharp))
    modes = Modes(curvature, slope, additive, np.append(c, more), np.append(b, more), len(sharp))
    hg = point.hvp(g) if size else torch.zeros_like(g)
    turning = length(point.third(g, g)) if size else 0.0
    swings = axes[torch.from_numpy(lr * sharp > 1).to(axes.device)]
    slow_turning = turning
    if size and len(swings):
        slow = _beside(g, swings)
        slow_turning = length(point.third(slow, slow))
    sharpening = tuple(-float(torch.dot(point.third(u, u), g)) for u in axes[:3])
    return Seen(modes, size, turning, slow_turning, length(hg), sharpening, noise, fading, samples)


def _beside(v: Tensor, axes: Tensor) -> Tensor:
    """What of a vector is not along the axes."""
    for _ in range(2):
        v = v - (axes @ v) @ axes
    return v


def _quadrature(point: Point, v: Tensor, products: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights with Σ w f(λ) = vᵀf(H)v, exact for polynomials of degree 2m − 1."""
    size = length(v)
    if not size > torch.finfo(v.dtype).eps * length(point.grad):
        return np.zeros(1), np.zeros(1)
    space = Krylov(Operator(point.hvp), v)
    for _ in range(min(products, v.numel())):
        space.grow()
        if space.invariant:
            break
    values, vectors = np.linalg.eigh(space.small * space.product.unit)
    return values, (size * vectors[0]) ** 2
