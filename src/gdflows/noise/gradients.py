"""Gradients sample by sample, and their covariance as an operator."""

from __future__ import annotations

import torch
from torch import Tensor

from gdflows.arguments import whole
from gdflows.curvature.eigen import require_real
from gdflows.errors import InputError
from gdflows.objective import FlatModule
from gdflows.objective.batchsize import batch_factor
from gdflows.objective.samples import Samples

__all__ = ["GradientNoise", "batch_factor", "per_sample_gradients"]

AT_ONCE = 2**25  # entries of gradients that are held at once, unless told otherwise


def per_sample_gradients(
    objective: FlatModule, theta: Tensor, *, chunk: int | None = None
) -> Tensor:
    r"""The gradients of the samples' own losses, :math:`\nabla\ell_i(\theta)`, shape ``(n, D)``.

    Parameters
    ----------
    objective : FlatModule
        From :meth:`gdflows.Objective.from_module`, whose loss is a mean over its samples.
    theta : Tensor
        Where, shape ``(D,)``, real.
    chunk : int, optional
        Samples at a time, to save memory. By default as many as make 2²⁵ entries.

    Returns
    -------
    Tensor
        Their mean is ``objective.grad(theta)``.

    Raises
    ------
    InputError
        If the loss is not the mean of its samples' losses (batch normalisation, ignored labels,
        class weights, a sum), or is not fit for ``torch.func.vmap``.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> x, theta = torch.tensor([[1.0], [2.0]]), torch.ones(1)
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> E = gf.Objective.from_module(model, gf.problems.squared_error, (x, 0 * x))
    >>> gf.noise.per_sample_gradients(E, theta).tolist()  # x² θ
    [[1.0], [4.0]]
    """
    samples = Samples(objective)
    require_real(theta)
    objective._check(theta)
    rows = _chunk(samples, theta, chunk)
    parts = [samples.gradients(theta, slice(i, i + rows)) for i in range(0, samples.size, rows)]
    objective._count["gradients"] += 1  # all samples once, as in a full gradient
    return torch.cat(parts)


def _chunk(samples: Samples, theta: Tensor, chunk: int | None) -> int:
    if chunk is None:
        return max(1, min(samples.size, AT_ONCE // theta.numel()))
    return whole(chunk, "chunk")


class GradientNoise:
    r"""The covariance of the gradient of a random sample, as an operator.

    .. math:: S = \frac1n\sum_{i=1}^n (g_i - g)(g_i - g)\transpose, \qquad
              g_i = \nabla\ell_i(\theta), \quad g = \frac1n\sum_i g_i .

    A batch's mean gradient has a multiple of it, which every method applies if it is told the
    batch's size; see :func:`batch_factor`.

    Parameters
    ----------
    objective : FlatModule
        From :meth:`gdflows.Objective.from_module`, whose loss is a mean over its samples.
    theta : Tensor
        Where, shape ``(D,)``, real.
    chunk : int, optional
        See :func:`per_sample_gradients`.
    keep : bool
        Keep the gradients: n·D numbers, once. If False they are computed anew for every product,
        some at a time; :meth:`eigenpairs` needs them.

    Attributes
    ----------
    mean : Tensor
        g, shape ``(D,)``.
    size : int
        n.

    Raises
    ------
    InputError
        As :func:`per_sample_gradients`.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> x = torch.linspace(-1, 1, 10).double()[:, None]
    >>> model = torch.nn.Linear(1, 1).double()
    >>> E = gf.Objective.from_module(model, gf.problems.squared_error, (x, 2 * x))
    >>> noise = gf.noise.GradientNoise(E, torch.zeros(2).double())
    >>> round(float(noise.trace()), 4)
    2.1447
    """

    def __init__(
        self, objective: FlatModule, theta: Tensor, *, chunk: int | None = None, keep: bool = True
    ):
        self.objective, self.theta = objective, theta
        self._samples = Samples(objective)
        require_real(theta)
        objective._check(theta)
        self.size = self._samples.size
        self._rows = _chunk(self._samples, theta, chunk)
        self._kept = None
        self.mean = objective.grad(theta)
        if keep:
            self._kept = torch.cat([part - self.mean for part in self._parts()])

    def _parts(self):
        """The gradients, some at a time."""
        self.objective._count["gradients"] += 1
        for i in range(0, self.size, self._rows):
            yield self._samples.gradients(self.theta, slice(i, i + self._rows))

    def _centred(self):
        if self._kept is not None:
            yield self._kept
        else:
            for part in self._parts():
                yield part - self.mean

    def _factor(self, batch_size: int | None, replacement: bool) -> float:
        if batch_size is None:
            return 1.0
        return batch_factor(self.size, batch_size, replacement=replacement)

    def trace(self, batch_size: int | None = None, *, replacement: bool = False) -> Tensor:
        """The total variance E‖g_B − g‖², zero-dimensional."""
        total = sum((part * part).sum() for part in self._centred())
        return self._factor(batch_size, replacement) / self.size * total

    def product(
        self, v: Tensor, batch_size: int | None = None, *, replacement: bool = False
    ) -> Tensor:
        """S v for one vector ``(D,)`` or several rows ``(k, D)``."""
        vectors = self.objective._vectors(self.theta, v, "v")
        out = sum((vectors @ part.T) @ part for part in self._centred())
        return (self._factor(batch_size, replacement) / self.size * out).reshape(v.shape)

    def along(
        self, v: Tensor, batch_size: int | None = None, *, replacement: bool = False
    ) -> Tensor:
        """The variance vᵀS v along one vector ``(D,)``, or along each of several rows."""
        vectors = self.objective._vectors(self.theta, v, "v")
        out = sum(((part @ vectors.T) ** 2).sum(0) for part in self._centred())
        return (self._factor(batch_size, replacement) / self.size * out).reshape(v.shape[:-1])

    def draw(self, generator: torch.Generator) -> Tensor:
        """A random vector ``(D,)`` of mean zero and covariance S: a random sum of the gradients."""
        z = torch.randn(self.size, generator=generator, dtype=torch.float64)
        out, begin = 0.0, 0
        for part in self._centred():
            here = z[begin : begin + len(part)].to(part.dtype).to(part.device)
            out, begin = out + here @ part, begin + len(part)
        return out / self.size**0.5

    def eigenpairs(
        self, k: int = 1, batch_size: int | None = None, *, replacement: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The k largest eigenvalues ``(k,)`` of S, descending, and unit eigenvectors ``(k, D)``.

        From the singular values of the n gradients, so to rounding; rank is at most n − 1.
        """
        if self._kept is None:
            raise InputError("Eigenpairs need the gradients all at once: make it with keep=True.")
        most = min(self._kept.shape)
        if whole(k, "k") > most:
            raise InputError(f"k must be in 1 … {most}, got {k}.")
        _, values, rows = torch.linalg.svd(self._kept, full_matrices=False)
        scale = self._factor(batch_size, replacement) / self.size
        return scale * values[:k] ** 2, rows[:k]

    def scale(self) -> float:
        r"""The simple noise scale :math:`\operatorname{tr} S / \|g\|^2`.

        The batch size at which the noise of a batch is as large as the gradient itself
        (McCandlish et al. 2018). Infinite where the gradient vanishes.
        """
        square = float(torch.dot(self.mean, self.mean))
        return float(self.trace()) / square if square else float("inf")

    def curvature(self) -> Tensor:
        r"""The mean curvature along the noise, :math:`\operatorname{tr}(HS)/\operatorname{tr} S`.

        A weighted mean of the Hessian's eigenvalues. Noise of equal strength in all directions
        would see tr H/D; noise that is aligned with the sharp directions sees more. Costs n
        Hessian-vector products.
        """
        point, total, trace = self.objective.at(self.theta), 0.0, 0.0
        for part in self._centred():
            for i in range(0, len(part), 64):  # products have the gradients' own size
                some = part[i : i + 64]
                total = total + (point.hvp(some) * some).sum()
                trace = trace + (some * some).sum()
        if not trace > 0:
            raise InputError("There is no noise here: all samples have the same gradient.")
        return total / trace
