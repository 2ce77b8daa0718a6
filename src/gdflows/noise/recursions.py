"""SGD and its relatives on a quadratic: linear recursions, whose moments are linear algebra."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gdflows.arguments import number, whole
from gdflows.errors import InputError
from gdflows.objective.batchsize import batch_factor
from gdflows.objective.semidefinite import factor_of, require_finite

f64 = torch.float64
LARGEST = 1200  # entries of the symmetric matrices on which a recursion of moments acts


@dataclass(frozen=True)
class Method:
    r"""A method as :math:`s \leftarrow Ms + Kg(Cs)` for each coordinate of θ, at the rate h.

    Attributes
    ----------
    free, push, look : Tensor
        M ``(m, m)``, K and C ``(m,)``: what a step does without a gradient, what a gradient
        does, and where it is taken.
    names : tuple of str
        Of the m sequences.
    """

    free: Tensor
    push: Tensor
    look: Tensor
    names: tuple[str, ...]

    @classmethod
    def of(
        cls, h: float, momentum: float, nesterov: bool, averaging: float | None, share: float
    ) -> Method:
        """SGD, heavy ball, Nesterov's method in torch's form, or schedule-free averaging."""

        def made(free, push, look, names):
            return cls(*(torch.tensor(x, dtype=f64) for x in (free, push, look)), names)

        beta = number(momentum, "momentum")
        if not 0 <= beta < 1:
            raise InputError(f"momentum must be in [0, 1), got {beta}.")
        if nesterov and not beta:
            raise InputError("nesterov is for momentum: give momentum as well.")
        if averaging is not None:
            if beta:
                raise InputError("Give momentum= or averaging=, not both.")
            a, c = number(averaging, "averaging"), number(share, "share")
            if not 0 <= a < 1:
                raise InputError(f"averaging must be in [0, 1), got {a}.")
            if not 0 < c <= 1:
                raise InputError(f"share must be in (0, 1], got {c}.")
            return made([[1, 0], [c, 1 - c]], [-h, -h * c], [1 - a, a], ("z", "x"))
        if not beta:
            return made([[1.0]], [-h], [1.0], ("theta",))
        if nesterov:
            free, push = [[1, -h * beta**2], [0, beta]], [-h * (1 + beta), 1]
        else:
            free, push = [[1, -h * beta], [0, beta]], [-h, 1]
        return made(free, push, [1.0, 0.0], ("theta", "velocity"))

    def weights(self, of: str | None) -> Tensor:
        """What makes the sequence asked for of the state; by default the method's result."""
        if of == "y" and "z" in self.names:
            return self.look
        of = ("x" if "x" in self.names else "theta") if of is None else of
        if of not in self.names:
            known = (*self.names, "y") if "z" in self.names else self.names
            raise InputError(f"of must be one of {', '.join(known)}, got {of!r}.")
        return torch.eye(len(self.names), dtype=f64)[self.names.index(of)]


class Quadratic:
    r"""A quadratic whose gradient's noise is the same everywhere: g(θ) = H(θ − θ*) + ξ.

    Parameters
    ----------
    hessian : Tensor
        H, shape ``(D, D)``, or its diagonal ``(D,)``; positive semidefinite.
    covariance
        Σ of ξ, for batches of B that of their mean (∝ 1/B): a number, for a variance in each
        entry; variances ``(D,)``; or a matrix ``(D, D)``.

    Raises
    ------
    InputError
        If H is not symmetric or has a negative eigenvalue, or Σ is no covariance.

    Examples
    --------
    >>> import torch
    >>> from gdflows.noise import Quadratic
    >>> noisy = Quadratic(torch.tensor([1.0, 3.0]), covariance=0.5)
    >>> noisy.values.tolist()
    [1.0, 3.0]
    """

    def __init__(self, hessian: Tensor, covariance=0.0):
        self._set(hessian, _floating(hessian, "hessian").detach().cpu().double(), covariance)

    def _set(self, like: Tensor, hessian: Tensor, covariance) -> None:
        self.like, self.rounding = like, rounding(like)
        self.hessian = _symmetric(hessian, self.rounding)
        self.dim = len(self.hessian)
        self.values, self.vectors = torch.linalg.eigh(self.hessian)
        top = float(self.values.abs().max())
        if float(self.values[0]) < -self.rounding * top:
            raise InputError(
                f"The Hessian has the eigenvalue {float(self.values[0]):.3g}: away from a minimum "
                "nothing is stable at any learning rate."
            )
        if not isinstance(covariance, Tensor):  # a number would be taken in single precision
            covariance = torch.as_tensor(covariance, dtype=f64)
        if covariance.shape not in ((), (self.dim,), (self.dim, self.dim)):
            raise InputError(
                f"covariance has shape {tuple(covariance.shape)}; with {self.dim} parameters it "
                f"must be a number, ({self.dim},) or ({self.dim}, {self.dim})."
            )
        root = factor_of(covariance.detach())
        diagonal = root.expand(self.dim).diag() if root.ndim < 2 else root
        self.covariance = diagonal @ diagonal.T
        #: Which eigenvectors have no curvature, and the variance along each of them.
        self.flat = self.values <= self.rounding * top
        self.loud = ((self.covariance @ self.vectors) * self.vectors).sum(0)
        self.drifting = self.flat & (self.loud > self.rounding * self.loud.max())

    def spread(self) -> Tensor:
        """Roots of the variance of a batch's Hessian, ``(R, D, D)``: here there is none."""
        return self.hessian.new_zeros(0, self.dim, self.dim)


class SampledQuadratics(Quadratic):
    r"""The mean of quadratics from which batches are drawn: noise in curvature *and* gradient.

    .. math:: E(\theta) = \frac1N\sum_i E_i(\theta), \qquad
              \nabla E_i(\theta) = H_i(\theta - \theta^\ast) + g_i .

    Parameters
    ----------
    hessians : Tensor
        :math:`H_i`, shape ``(N, D, D)``, or ``(N,)`` in one dimension.
    gradients : Tensor, optional
        The samples' gradients :math:`g_i` at the minimum θ*, shape ``(N, D)`` or ``(N,)``; their
        sum is zero. By default all vanish: the minimum interpolates.
    batch_size : int
        B.
    replacement : bool
        Whether a batch may hold a sample more than once. Batches of different steps are
        independent; for the samples in shuffled order see :func:`shuffled_moments`.

    Raises
    ------
    InputError
        If the mean Hessian is not positive semidefinite, a direction without mean curvature has
        some in single samples (nothing is stable there), the gradients do not sum to zero, or a
        batch is larger than the data.

    Examples
    --------
    >>> import torch
    >>> from gdflows.noise import SampledQuadratics
    >>> problem = SampledQuadratics(torch.tensor([1.0, 3.0]), batch_size=1)
    >>> problem.values.tolist()  # of the mean
    [2.0]
    """

    def __init__(
        self, hessians: Tensor, gradients: Tensor | None = None, *, batch_size: int = 1,
        replacement: bool = False,
    ):  # fmt: skip
        _floating(hessians, "hessians")
        h = hessians.detach().cpu().double()
        h = h.reshape(-1, 1, 1) if h.ndim == 1 else h
        if h.ndim != 3 or h.shape[1] != h.shape[2]:
            raise InputError(
                f"hessians must have shape (N,) or (N, D, D), got {tuple(hessians.shape)}."
            )
        n, d = h.shape[:2]
        g = torch.zeros(n, d, dtype=f64) if gradients is None else gradients.detach().cpu().double()
        g = g.reshape(-1, 1) if g.ndim == 1 else g
        if g.shape != (n, d):
            raise InputError(f"gradients must have shape {(n, d)}, got {tuple(gradients.shape)}.")
        require_finite(g)
        tolerance = rounding(hessians if gradients is None else gradients)
        if float(g.sum(0).abs().max()) > tolerance * float(g.abs().sum()):
            raise InputError(
                "The gradients at the minimum do not sum to zero, so it is none: subtract "
                "their mean, or take them at the minimum."
            )
        g = g - g.mean(0)
        self.factor = batch_factor(n, batch_size, replacement=replacement)
        self.batch_size, self.hessians, self.gradients = whole(batch_size, "batch_size"), h, g
        if _size(h - h.transpose(1, 2)) > rounding(hessians) * _size(h):
            raise InputError("A sample's Hessian is not symmetric: pass (H + Hᵀ)/2.")
        h = (h + h.transpose(1, 2)) / 2
        self._set(hessians, h.mean(0), self.factor / n * g.T @ g)
        self._spread = (self.factor / n) ** 0.5 * (h - self.hessian)
        flat = self.vectors[:, self.flat]
        if self.factor and _size(h @ flat) > self.rounding**0.5 * _size(h):
            raise InputError(
                "Along a direction without mean curvature single samples are curved: there no "
                "learning rate is stable in mean square."
            )

    def spread(self) -> Tensor:
        return self._spread


def _size(x: Tensor) -> float:
    return float(x.abs().max()) if x.numel() else 0.0


def _floating(x, name: str) -> Tensor:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise InputError(f"{name} must be a tensor of real numbers.")
    return x


def rounding(x: Tensor) -> float:
    """What is nothing beside 1, in numbers of this dtype."""
    return max(1e-12, 32 * torch.finfo(x.dtype).eps)


def _symmetric(x: Tensor, tolerance: float) -> Tensor:
    x = x.diag() if x.ndim == 1 else x
    if x.ndim != 2 or x.shape[0] != x.shape[1]:
        raise InputError(f"hessian must have shape (D,) or (D, D), got {tuple(x.shape)}.")
    if not bool(torch.isfinite(x).all()):
        raise InputError("The Hessian is not finite.")
    if _size(x - x.T) > tolerance * _size(x):
        raise InputError("The Hessian is not symmetric: pass (H + Hᵀ)/2.")
    return (x + x.T) / 2


@dataclass(frozen=True)
class Recursion:
    r"""A method on a quadratic: :math:`S \leftarrow \mathbb E[A_B S A_B\transpose] + N`.

    In eigenvectors of H, by default without those that are flat *and* without noise.

    Attributes
    ----------
    mean : Tensor
        E A_B, shape ``(n, n)`` with n = mk for k directions.
    spread : Tensor
        ``(R, n, n)``, with :math:`\mathbb E[A_B\otimes A_B]` the sum of their squares and the
        mean's.
    noise : Tensor
        N, shape ``(n, n)``.
    basis : Tensor
        Eigenvectors as columns, ``(D, k)``.
    """

    mean: Tensor
    spread: Tensor
    noise: Tensor
    basis: Tensor

    @classmethod
    def of(cls, problem: Quadratic, method: Method, keep: Tensor | None = None) -> Recursion:
        keep = ~problem.flat | problem.drifting if keep is None else keep
        basis = problem.vectors[:, keep]
        free, push, look = method.free, method.push, method.look
        turned = basis.T @ problem.hessian @ basis
        eye, jump = torch.eye(basis.shape[1], dtype=f64), torch.outer(push, look)
        mean = torch.kron(free, eye) + torch.kron(jump, turned)
        spread = torch.stack(
            [torch.kron(jump, basis.T @ x @ basis) for x in problem.spread()]
            or [mean.new_zeros(mean.shape)]
        )
        noise = torch.kron(torch.outer(push, push), basis.T @ problem.covariance @ basis)
        return cls(mean, spread, noise, basis)

    @property
    def separate(self) -> bool:
        """Whether each pair of eigenvectors goes its own way."""
        return not bool(self.spread.any())

    def after(self, second: Tensor) -> Tensor:
        """The second moments ``(n, n)`` after one step more."""
        moved = self.mean @ second @ self.mean.T + self.noise
        return moved + (self.spread @ second @ self.spread.transpose(1, 2)).sum(0)

    def radius(self) -> float:
        """The spectral radius of the recursion: below 1 it is stable in mean square."""
        if not len(self.mean):
            return 0.0
        if self.separate:
            return float(torch.linalg.eigvals(self.mean).abs().max() ** 2)
        return float(torch.linalg.eigvals(self.operator()).abs().max())

    def operator(self) -> Tensor:
        """The recursion as a matrix on symmetric matrices, by their upper triangle."""
        n = len(self.mean)
        require_size(n)
        rows, columns = torch.triu_indices(n, n)
        basis = torch.zeros(len(rows), n, n, dtype=f64)
        basis[range(len(rows)), rows, columns] = 1
        basis[range(len(rows)), columns, rows] = 1
        moved = self.mean @ basis @ self.mean.T
        for one in self.spread:
            moved += one @ basis @ one.T
        return moved[:, rows, columns].T

    def stationary(self) -> Tensor:
        """The second moments that a step leaves as they are, ``(n, n)``."""
        if not len(self.mean):
            return self.noise
        if self.separate:
            return self._by_pairs()
        n = len(self.mean)
        rows, columns = torch.triu_indices(n, n)
        operator = self.operator()
        eye = torch.eye(len(operator), dtype=f64)
        upper = torch.linalg.solve(eye - operator, self.noise[rows, columns])
        out = torch.zeros(n, n, dtype=f64)
        out[rows, columns] = upper
        out[columns, rows] = upper
        return out

    def _by_pairs(self) -> Tensor:
        """For each pair of eigenvectors an m² by m² system."""
        k = self.basis.shape[1]
        m = len(self.mean) // k
        blocks = self.mean.reshape(m, k, m, k).diagonal(dim1=1, dim2=3).permute(2, 0, 1)
        noise = self.noise.reshape(m, k, m, k).permute(1, 3, 0, 2).reshape(k, k, m * m)
        both = torch.einsum("iab,jcd->ijacbd", blocks, blocks).reshape(k, k, m * m, m * m)
        found = torch.linalg.solve(torch.eye(m * m, dtype=f64) - both, noise)
        return found.reshape(k, k, m, m).permute(2, 0, 3, 1).reshape(m * k, m * k)

    def seen(self, second: Tensor, weights: Tensor) -> Tensor:
        """Of a matrix ``(n, n)`` the part that is asked for, in all directions, ``(D, D)``."""
        m, k = len(weights), self.basis.shape[1]
        part = torch.einsum("a,aibj,b->ij", weights, second.reshape(m, k, m, k), weights)
        return self.basis @ part @ self.basis.T


def require_size(n: int) -> None:
    """Refuse what would take too long."""
    if n * (n + 1) // 2 > LARGEST:
        raise InputError(
            f"With sampled Hessians the second moments of {n} numbers (dimensions times sequences) "
            f"are a matrix of {n * (n + 1) // 2:,} rows, and {LARGEST:,} is the most here: "
            "project the Hessians on their leading common directions first."
        )
