"""The noise of slope and curvature along a direction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gdflows.curvature.eigen import require_real
from gdflows.objective import FlatModule
from gdflows.objective.batchsize import batch_factor
from gdflows.objective.samples import Samples


@dataclass(frozen=True, eq=False)
class DirectionalNoise:
    """Slope and curvature of a batch's loss along some directions: means and variances.

    Attributes
    ----------
    slope, curvature : Tensor
        Of the full loss: v·g and v·Hv, shape ``(k,)``.
    slope_variance, curvature_variance : Tensor
        Of v·g_B and v·H_B v over batches, shape ``(k,)``.
    covariance : Tensor
        Of v·g_B and v·H_B v, shape ``(k,)``.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> x, v = torch.tensor([[1.0], [3.0]]), torch.ones(1)
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> E = gf.Objective.from_module(model, gf.problems.squared_error, (x, 0 * x))
    >>> seen = gf.noise.directional_noise(E, 0 * v, v)
    >>> seen.slope_variance.item()  # at 0 every sample is fitted: only the curvature varies
    0.0
    """

    slope: Tensor
    curvature: Tensor
    slope_variance: Tensor
    curvature_variance: Tensor
    covariance: Tensor


def directional_noise(
    objective: FlatModule,
    theta: Tensor,
    v: Tensor,
    *,
    batch_size: int = 1,
    replacement: bool = False,
) -> DirectionalNoise:
    """How the slope and the curvature along directions vary from batch to batch, exactly.

    Not an estimate from some batches: each sample's own slope and curvature are computed, by
    forward differentiation, and what drawing a batch does to a variance is known.

    Parameters
    ----------
    objective : FlatModule
        From :meth:`gdflows.Objective.from_module`, whose loss is a mean over its samples.
    theta : Tensor
        Where, shape ``(D,)``, real.
    v : Tensor
        One direction ``(D,)`` or several rows ``(k, D)``, as they are: unit vectors, usually.
    batch_size : int
        Samples in a batch.
    replacement : bool
        Whether a sample may be drawn more than once.

    Returns
    -------
    DirectionalNoise
        With k = 1 for a single direction.

    Raises
    ------
    InputError
        If a batch is larger than the data; also as
        :func:`gdflows.noise.per_sample_gradients`.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> x, v = torch.tensor([[1.0], [3.0]]), torch.ones(1)
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> E = gf.Objective.from_module(model, gf.problems.squared_error, (x, 0 * x))
    >>> seen = gf.noise.directional_noise(E, v, v)  # of batches of one
    >>> seen.curvature.item(), seen.curvature_variance.item()  # of 1 and 9
    (5.0, 16.0)
    """
    samples = Samples(objective)
    vectors = objective._vectors(require_real(theta), v, "v")
    factor = batch_factor(samples.size, batch_size, replacement=replacement)
    seen = [samples.along(theta, w) for w in vectors]
    slopes, curvatures = (torch.stack(parts).detach() for parts in zip(*seen, strict=True))
    slope, curvature = slopes.mean(1), curvatures.mean(1)
    a, b = slopes - slope[:, None], curvatures - curvature[:, None]
    return DirectionalNoise(
        slope,
        curvature,
        factor * (a * a).mean(1),
        factor * (b * b).mean(1),
        factor * (a * b).mean(1),
    )
