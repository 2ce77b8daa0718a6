"""The whole spectrum at a glance, and the curvature that minibatches meet."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gdflows.arguments import number, whole
from gdflows.curvature.eigen import require_real, scaled_product
from gdflows.curvature.krylov import Krylov
from gdflows.curvature.units import alike, double
from gdflows.errors import InputError
from gdflows.objective import FlatModule, Objective


@dataclass(frozen=True, eq=False)
class SpectralDensity:
    r"""Distribution of a Hessian's eigenvalues, :math:`\frac1D\sum_i\delta(\lambda - \lambda_i)`.

    Attributes
    ----------
    nodes, weights : Tensor
        A Gauss quadrature for each random vector, shape ``(probes, steps)``, float64 on the CPU;
        the weights of each sum to 1. Where a Krylov space ended early, weights are zero.
    dim : int
        D.
    hvps : int
        Hessian-vector products spent.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.problems.quadratic([3.0, 3.0, 3.0])
    >>> seen = gf.curvature.spectral_density(E, torch.zeros(3).double(), steps=3)
    >>> round(seen.mean(lambda eigenvalue: eigenvalue**2)[0], 6)
    9.0
    """

    nodes: Tensor = field(repr=False)
    weights: Tensor = field(repr=False)
    dim: int
    hvps: int

    def mean(self, function) -> tuple[float, float]:
        """Mean of a function over the eigenvalues, tr φ(H)/D, and its standard error.

        Parameters
        ----------
        function : callable
            φ, from a tensor of eigenvalues to one of the same shape.

        Returns
        -------
        tuple of float
            The error is the spread over the random vectors; not a number with a single one. That
            of the quadrature itself falls exponentially with the steps and is not in it.
        """
        seen = (self.weights * function(self.nodes)).sum(1)
        error = float(seen.std()) / math.sqrt(len(seen)) if len(seen) > 1 else math.nan
        return float(seen.mean()), error

    def __call__(self, grid: Tensor | np.ndarray, width: float) -> Tensor:
        """The density, smoothed by a Gaussian.

        Parameters
        ----------
        grid : Tensor or ndarray
            Where, shape ``(M,)``.
        width : float
            Standard deviation of the Gaussian; no finer structure is seen.

        Returns
        -------
        Tensor
            Shape ``(M,)``, float64; its integral over all eigenvalues is 1.
        """
        width = number(width, "width", positive=True)
        grid = double(grid) if isinstance(grid, Tensor) else torch.from_numpy(np.array(grid, float))
        z = (grid[:, None] - self.nodes.flatten()) / width
        bell = torch.exp(-(z**2) / 2) / (width * math.sqrt(2 * math.pi))
        return bell @ self.weights.flatten() / len(self.nodes)


def spectral_density(
    objective: Objective,
    theta: Tensor,
    *,
    steps: int = 40,
    probes: int = 4,
    seed: int = 0,
    scale: Tensor | None = None,
) -> SpectralDensity:
    """The density of the Hessian's eigenvalues, by stochastic Lanczos quadrature.

    Parameters
    ----------
    objective : Objective
        The loss.
    theta : Tensor
        Where, shape ``(D,)``, real.
    steps : int
        Lanczos steps from each random vector: how finely the spectrum is resolved.
    probes : int
        Random vectors: how exact the weights are.
    seed : int
        Of the random vectors.
    scale : Tensor, optional
        As in :func:`top_eigenpairs`.

    Returns
    -------
    SpectralDensity

    Notes
    -----
    ``steps * probes`` Hessian-vector products at most. The outermost nodes are the extreme
    eigenvalues; isolated ones in between are found once their weight, 1/D, is not lost in the
    bulk's.

    References
    ----------
    Golub and Meurant, *Matrices, Moments and Quadrature with Applications*, chapter 6; Ghorbani,
    Krishnan and Xiao (2019), "An investigation into neural net optimization via Hessian
    eigenvalue density".

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.problems.quadratic([1.0] * 90 + [10.0] * 10)
    >>> seen = gf.curvature.spectral_density(E, torch.zeros(100).double(), steps=10, probes=50)
    >>> mean, error = seen.mean(lambda eigenvalue: eigenvalue)
    >>> abs(mean - 1.9) < 4 * error  # trace/D
    True
    """
    steps, probes = whole(steps, "steps"), whole(probes, "probes")
    point, dim = objective.at(require_real(theta)), theta.numel()
    product, hvps = scaled_product(point, scale), 0
    generator = torch.Generator(device="cpu").manual_seed(seed)
    nodes = torch.zeros(probes, steps, dtype=torch.float64, device="cpu")
    weights = torch.zeros_like(nodes)
    for i in range(probes):
        start = torch.randn(dim, generator=generator, dtype=torch.float64, device="cpu")
        space = Krylov(product, alike(start, theta))
        while space.m < steps and not space.invariant:
            space.grow()
        values, vectors = np.linalg.eigh(space.small)
        nodes[i, : space.m] = torch.from_numpy(values * product.unit)
        weights[i, : space.m] = torch.from_numpy(vectors[0] ** 2)
        hvps += space.m
    return SpectralDensity(nodes, weights, dim, hvps)


@dataclass(frozen=True)
class BatchSharpness:
    """The curvature that minibatch steps meet.

    Attributes
    ----------
    value : float
        Mean over batches.
    error : float
        Its standard error; not a number with a single batch.
    hvps : int
        Hessian-vector products spent, each on one batch.

    Examples
    --------
    >>> from gdflows.curvature import BatchSharpness
    >>> BatchSharpness(value=20.0, error=0.5, hvps=16).value * 0.1 / 2  # in units of 2/lr
    1.0
    """

    value: float
    error: float
    hvps: int


def batch_sharpness(
    objective: FlatModule, theta: Tensor, batch_size: int, *, batches: int = 16, seed: int = 0
) -> BatchSharpness:
    r"""Curvature of a minibatch's loss along its own gradient, on average over batches.

    .. math:: \mathbb{E}_B\,\frac{g_B\transpose H_B\, g_B}{\|g_B\|^2}

    SGD is reported to settle where this is near 2/h, while the full batch's sharpness stays
    below. It is an average of Rayleigh quotients, no eigenvalue.

    Parameters
    ----------
    objective : FlatModule
        A module's loss on the whole data set, from :meth:`gdflows.Objective.from_module`.
    theta : Tensor
        Where, shape ``(D,)``, real.
    batch_size : int
        Samples in a batch, drawn without replacement.
    batches : int
        How many batches.
    seed : int
        Of the draws.

    Returns
    -------
    BatchSharpness

    Raises
    ------
    InputError
        If the objective has no samples to draw from, or too few.

    References
    ----------
    Andreyev and Beneventano (2024), "Edge of stochastic stability: revisiting the edge of
    stability for SGD".

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> model, x = torch.nn.Linear(1, 1, bias=False).double(), torch.ones(8, 1).double()
    >>> E = gf.Objective.from_module(model, gf.problems.squared_error, (x, 2 * x))
    >>> round(gf.curvature.batch_sharpness(E, E.theta0, batch_size=4).value, 6)
    1.0
    """
    if not isinstance(objective, FlatModule):
        raise InputError(
            "batch_sharpness draws batches from the data, and this objective has none: make it "
            "with gdflows.Objective.from_module."
        )
    if batches < 1:
        raise InputError(f"batches must be at least 1, got {batches}.")
    require_real(theta)
    generator, quotients = torch.Generator().manual_seed(seed), []
    for _ in range(batches):
        batch = objective.batch(batch_size, generator)
        point = batch.at(theta)
        square = torch.dot(point.grad, point.grad)
        if square > 0:  # without a gradient there is no step
            quotients.append(torch.dot(point.grad, point.hvp(point.grad)) / square)
    if not quotients:
        raise InputError("All batches have a vanishing gradient here: there is no direction.")
    seen = torch.stack(quotients).double()
    error = float(seen.std()) / math.sqrt(len(seen)) if len(seen) > 1 else math.nan
    return BatchSharpness(float(seen.mean()), error, len(seen))
