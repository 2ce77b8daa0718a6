r"""The covariance of a gradient's noise, as a factor: noise = σ(θ) z with white z.

Whatever form a covariance Σ(θ) is given in, a stochastic flow needs its action on a vector only:
:math:`\sigma(\theta) z` with :math:`\sigma\sigma\transpose = \Sigma`, at many θ at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, vmap

from gdflows.arguments import whole
from gdflows.errors import InputError
from gdflows.objective import FlatModule
from gdflows.objective.batched import fit_for_vmap
from gdflows.objective.batchsize import batch_factor
from gdflows.objective.samples import Samples
from gdflows.objective.semidefinite import factor_of, require_finite


class Covariance(ABC):
    """The covariance Σ(θ) of a gradient's noise.

    A subclass gives :attr:`channels`, how many independent noises there are, and :meth:`apply`.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> factor = gf.flows.NoiseFactor(torch.tensor([[1.0], [2.0]]))
    >>> isinstance(factor, gf.flows.Covariance)
    True
    """

    #: How many independent noises there are.
    channels: int
    #: Whether Σ is the same everywhere.
    constant: bool = False

    @abstractmethod
    def apply(self, thetas: Tensor, z: Tensor) -> Tensor:
        """σ(θ) z at each row; ``(P, D)`` and ``(P, channels)`` to ``(P, D)``."""

    def check(self, theta: Tensor) -> None:  # noqa: B027, nothing to refuse unless told so
        """Refuse at a point ``(D,)``, where it is first used, what is no covariance."""

    def matrix(self, theta: Tensor) -> Tensor:
        """Σ(θ) at a point ``(D,)``, shape ``(D, D)``."""
        self.check(theta)
        eye = torch.eye(self.channels, dtype=theta.dtype, device=theta.device)
        columns = self.apply(theta.expand(self.channels, -1), eye)
        return columns.T @ columns

    def trace(self, thetas: Tensor) -> Tensor:
        """tr Σ(θ) at each row of ``(P, D)``, shape ``(P,)``."""
        return self.variances(thetas).sum(1)

    def variances(self, thetas: Tensor) -> Tensor:
        """The diagonal of Σ(θ) at each row, ``(P, D)``."""
        return (self.columns(thetas) ** 2).sum(2)

    def columns(self, thetas: Tensor) -> Tensor:
        """σ(θ) itself at each row, ``(P, D, channels)``."""
        eye = torch.eye(self.channels, dtype=thetas.dtype, device=thetas.device)
        size = (len(thetas), -1)
        return torch.stack([self.apply(thetas, z.expand(size)) for z in eye], 2)

    def correction(self, thetas: Tensor) -> Tensor | None:
        """Σⱼ (σⱼ·∇)σⱼ at each row, ``(P, D)``, where there is a cheap way to it; else None."""
        return torch.zeros_like(thetas) if self.constant else None


class Constant(Covariance):
    """The same factor everywhere: a number, a diagonal ``(D,)`` or a matrix ``(D, R)``."""

    constant = True

    def __init__(self, factor: Tensor, dim: int):
        self.factor = factor
        self.channels = factor.shape[1] if factor.ndim == 2 else dim

    def apply(self, thetas: Tensor, z: Tensor) -> Tensor:
        factor = self.factor.to(thetas)
        return z @ factor.T if factor.ndim == 2 else z * factor

    def variances(self, thetas: Tensor) -> Tensor:
        factor = self.factor.to(thetas)
        seen = (factor**2).sum(1) if factor.ndim == 2 else factor**2
        return seen.expand(thetas.shape)


class Varying(Covariance):
    """A function of θ: the variance of each entry ``()`` or ``(D,)``, or a matrix ``(D, D)``."""

    def __init__(self, function: Callable[[Tensor], Tensor], dim: int):
        self.function, self.channels = function, dim

    def check(self, theta: Tensor) -> None:
        seen = self.function(theta)
        dim = theta.numel()
        if not isinstance(seen, Tensor) or seen.shape not in ((), (dim,), (dim, dim)):
            shape = tuple(seen.shape) if isinstance(seen, Tensor) else type(seen).__name__
            raise InputError(
                f"covariance(theta) must be a tensor of shape (), ({dim},) or ({dim}, {dim}), got "
                f"{shape}. For a factor F with Σ = F Fᵀ pass gdflows.flows.NoiseFactor(function)."
            )
        factor_of(seen.detach())

    def apply(self, thetas: Tensor, z: Tensor) -> Tensor:
        with fit_for_vmap():
            seen = vmap(self.function)(thetas).to(thetas.dtype)
        if seen.ndim == 3:
            factor, failed = torch.linalg.cholesky_ex(seen)
            if bool((failed != 0).any()):
                raise InputError(
                    "The covariance is not positive definite at some point of a path, so its "
                    "root is not smooth there. Where Σ = F Fᵀ with a known F, pass "
                    "gdflows.flows.NoiseFactor(function of theta)."
                )
            return (factor @ z[..., None])[..., 0]
        if bool((seen < 0).any()):
            raise InputError("The covariance has a negative variance at some point of a path.")
        return seen.reshape(len(seen), -1).sqrt() * z

    def variances(self, thetas: Tensor) -> Tensor:
        with fit_for_vmap():
            seen = vmap(self.function)(thetas).to(thetas.dtype)
        if seen.ndim == 3:
            seen = seen.diagonal(dim1=1, dim2=2)
        return seen.reshape(len(seen), -1).expand(thetas.shape)


class NoiseFactor(Covariance):
    r"""A covariance by its factor F, ``(D, R)``: :math:`\Sigma = F F\transpose`.

    Low rank where R < D; positive semidefinite whatever F is. Costs D·R a path and product.

    Parameters
    ----------
    factor : Tensor or callable
        F, or a function of θ that returns it, fit for ``torch.func.vmap``.
    channels : int, optional
        R, for a function.

    Raises
    ------
    InputError
        If F is no matrix, or not finite.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> factor = gf.flows.NoiseFactor(torch.tensor([[1.0], [2.0]]))
    >>> factor.matrix(torch.zeros(2)).tolist()
    [[1.0, 2.0], [2.0, 4.0]]
    """

    def __init__(self, factor: Tensor | Callable[[Tensor], Tensor], channels: int | None = None):
        self.factor, self.constant = factor, isinstance(factor, Tensor)
        if self.constant:
            if factor.ndim != 2:
                raise InputError(
                    f"A factor must be a matrix (D, R), got shape {tuple(factor.shape)}."
                )
            require_finite(factor)
            self.channels = factor.shape[1]
        elif not callable(factor):
            raise InputError(
                f"A factor is a tensor or a function of theta, got {type(factor).__name__}."
            )
        elif channels is None:
            raise InputError("For a function of theta say channels=, the R of its (D, R).")
        else:
            self.channels = whole(channels, "channels")

    def check(self, theta: Tensor) -> None:
        seen = self.factor if self.constant else self.factor(theta)
        wanted = (theta.numel(), self.channels)
        if not isinstance(seen, Tensor) or tuple(seen.shape) != wanted:
            shape = tuple(seen.shape) if isinstance(seen, Tensor) else type(seen).__name__
            raise InputError(f"The factor must have shape {wanted}, got {shape}.")
        require_finite(seen)

    def apply(self, thetas: Tensor, z: Tensor) -> Tensor:
        if self.constant:
            return z @ self.factor.to(thetas).T
        with fit_for_vmap():
            return vmap(lambda x, z: self.factor(x) @ z)(thetas, z)


class PerSampleNoise(Covariance):
    r"""The covariance of minibatch gradients, exactly, at every θ.

    .. math:: \Sigma = \frac{c}{n}\sum_i (g_i - g)(g_i - g)\transpose, \qquad
              c = \frac{n - B}{B(n - 1)} \text{ without, } \frac1B \text{ with replacement.}

    A channel a sample. σ(θ)z is the gradient of a weighted sum of the samples' losses, so it
    costs one gradient, and no gradients are held sample by sample.

    Parameters
    ----------
    objective : FlatModule
        From :meth:`gdflows.Objective.from_module`, whose loss is a mean over its samples.
    batch_size : int
        B.
    replacement : bool
        Whether a batch may hold a sample more than once.

    Raises
    ------
    InputError
        If a batch is larger than the data, or the loss is not a mean over its samples.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> x, theta = torch.tensor([[1.0], [3.0]]).double(), torch.ones(1).double()
    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> E = gf.Objective.from_module(model, gf.problems.squared_error, (x, 0 * x))
    >>> noise = gf.flows.PerSampleNoise(E, batch_size=1)
    >>> round(noise.matrix(theta).item(), 6)  # of the gradients 1 and 9
    16.0
    """

    def __init__(self, objective: FlatModule, batch_size: int, *, replacement: bool = False):
        self.samples = Samples(objective)
        self.objective = objective
        self.batch_size, self.replacement = whole(batch_size, "batch_size"), replacement
        self.channels = self.samples.size
        self.factor = batch_factor(self.channels, batch_size, replacement=replacement)

    def check(self, theta: Tensor) -> None:
        self.samples.verify(theta)

    def apply(self, thetas: Tensor, z: Tensor) -> Tensor:
        weights = (self.factor / self.channels) ** 0.5 * (z - z.mean(1, keepdim=True))
        self.objective._count["gradients"] += len(thetas)

        def weighted(theta, weights):
            return (weights * self.samples.losses(theta)).sum()

        with fit_for_vmap():
            return self.objective._masked(vmap(grad(weighted))(thetas, weights))

    def _diagonal(self, theta: Tensor) -> Tensor:
        one, leaves = self.samples.one, self.samples.leaves
        rows = self.objective._masked(vmap(grad(one), (None, *(0 for _ in leaves)))(theta, *leaves))
        rows = rows - rows.mean(0)
        return self.factor * (rows * rows).mean(0)

    def variances(self, thetas: Tensor) -> Tensor:
        self.objective._count["gradients"] += len(thetas)
        with fit_for_vmap():
            return vmap(self._diagonal)(thetas)

    def correction(self, thetas: Tensor) -> Tensor:
        r""":math:`\frac cn\sum_i (H_i - H)(g_i - g)`, half the gradient of Σ's trace."""
        self.objective._count["hvps"] += 2 * len(thetas)
        with fit_for_vmap():
            half = vmap(grad(lambda theta: 0.5 * self._diagonal(theta).sum()))(thetas)
        return self.objective._masked(half)

    def of_batches(self, thetas: Tensor, index: Tensor) -> Tensor:
        """The gradients of batches: row p on the samples ``index[p]``, ``(P, B)``."""
        self.objective._count["gradients"] += len(thetas)

        def batch_loss(theta, index):
            return self.samples.losses(theta, index).mean()

        with fit_for_vmap():
            return self.objective._masked(vmap(grad(batch_loss))(thetas, index))


def as_covariance(covariance, dim: int | None) -> Covariance:
    """Whatever a user gives as a covariance.

    Raises
    ------
    InputError
        If it is none: of another shape, not symmetric, not positive semidefinite, not finite.
    """
    if isinstance(covariance, Covariance):
        return covariance
    if dim is None:
        raise InputError("The objective has no dimension: give Objective(function, dim).")
    if callable(covariance):
        return Varying(covariance, dim)
    if not isinstance(covariance, Tensor):
        try:
            covariance = torch.as_tensor(covariance, dtype=torch.float64, device="cpu")
        except (TypeError, ValueError, RuntimeError):
            raise InputError(
                "covariance must be a number, a tensor (D,) or (D, D), a function of theta, or a "
                f"gdflows.flows.Covariance, got {type(covariance).__name__}."
            ) from None
    if covariance.shape not in ((), (dim,), (dim, dim)):
        raise InputError(
            f"covariance has shape {tuple(covariance.shape)}; with {dim} parameters it must be a "
            f"number, ({dim},) or ({dim}, {dim}). For a factor F with Σ = F Fᵀ pass "
            "gdflows.flows.NoiseFactor(F)."
        )
    return Constant(factor_of(covariance.detach()), dim)
