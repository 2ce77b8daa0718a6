"""The central flow: gradient descent's average over its oscillation, held at the edge."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gdflows.arguments import number
from gdflows.curvature import Tracker
from gdflows.curvature.units import alike
from gdflows.errors import ConvergenceError
from gdflows.flows.base import Flow
from gdflows.flows.optimizers import ByOptimizer
from gdflows.objective import Objective, Point
from gdflows.trajectory import Trajectory

CHECK_EVERY = 200  # evaluations between two cold searches for an eigenvalue that was missed
MARGIN = 0.03  # eigenvalues this far (relatively) below 2/h cannot reach it within a step


class Oscillation(NamedTuple):
    """The covariance Σ = Uᵀ X U of gradient descent's oscillation about its centre.

    Attributes
    ----------
    matrix : Tensor
        X, positive semidefinite, shape ``(k, k)``.
    vectors : Tensor
        U, unit eigenvectors of the critical eigenvalues as rows, shape ``(k, D)``.
    values : Tensor
        Those eigenvalues, descending, shape ``(k,)``.
    pull : Tensor
        ½ ∇⟨Σ, H⟩, what the oscillation adds to the gradient, shape ``(D,)``.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.problems.valley(kappa=0.2, y_star=44.0)
    >>> swing = gf.flows.CentralFlow(E, lr=0.05).covariance(torch.tensor([0.0, 40.0]).double())
    >>> round(float(swing.values[0]), 3), swing.vectors.shape  # at 2/h one direction swings
    (40.0, torch.Size([1, 2]))
    """

    matrix: Tensor
    vectors: Tensor
    values: Tensor
    pull: Tensor


class CentralFlow(ByOptimizer, Flow):
    r"""The central flow: the time average of gradient descent's oscillating path.

    .. math:: \dot c = -\nabla E(c) - \tfrac12 \nabla_c\langle \Sigma, H(c)\rangle, \qquad
              0 \preceq \Sigma \;\perp\; \tfrac2h I - H(c) \succeq 0

    The covariance Σ of the oscillation is not followed but solved for: of all positive
    semidefinite matrices in the space of the critical eigenvectors it is the one that just
    keeps the critical eigenvalues from rising over 2/h. Below the edge Σ = 0 and this is the
    gradient flow.

    Parameters
    ----------
    objective : Objective
        The loss.
    lr : float
        The learning rate h of gradient descent.
    horizon : float
        Flow time, in steps, over which an eigenvalue may come to the edge: the constraint is
        :math:`H + h\,\mathrm{horizon}\;\dot H \preceq \tfrac2h I`. It is also the time in which
        an eigenvalue that stands above the edge is brought back to it.
    tol : float
        Relative accuracy of the critical eigenvalues. They are followed along the path
        (:class:`gdflows.curvature.Tracker`), so two evaluations at one θ agree to that only;
        beyond some thousandths the solver of an accurate integration would see it as noise.
    optimizer : str
        "gd"; with "rmsprop", "rmsprop-scalar" or "adam" the call makes a
        :class:`gdflows.flows.AdaptiveCentralFlow`, which has more options.

    Notes
    -----
    An evaluation costs a few Hessian-vector products for the critical eigenpairs, and a
    third-derivative contraction (about eight gradients) for each pair (i, j) of them. The field
    has a kink where an eigenvalue arrives. ``integrate(flow, theta, t, method="euler",
    step=h / 4)`` with ``tol=1e-3`` is the scheme of the reference implementation.

    References
    ----------
    Cohen, Damian, Talwalkar, Kolter and Lee (2025), "Understanding optimization in deep learning
    with central flows", for the flow; the complementarity problem is solved directly, by a
    semismooth Newton method.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.problems.valley(kappa=0.2, y_star=44.0)
    >>> path = gf.integrate(gf.flows.CentralFlow(E, lr=0.05), E.theta0, t=20.0)
    >>> round(gf.probes.sharpness(E.at(path.states[-1])), 2)  # held at 2/h
    40.0
    """

    label = "central"
    kinds: ClassVar[dict[str, type]] = {}

    def __init__(
        self,
        objective: Objective,
        lr: float,
        *,
        horizon: float = 1.0,
        tol: float = 1e-6,
        optimizer: str = "gd",
    ):
        super().__init__(objective, lr)
        self.horizon = number(horizon, "horizon", positive=True)
        self._tracker = Tracker(objective, tol=tol, check_every=CHECK_EVERY)

    def start(self, theta: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        self._tracker = Tracker(self.objective, tol=self._tracker.tol, check_every=CHECK_EVERY)
        return super().start(theta)

    def vector_field(self, theta: Tensor) -> Tensor:
        point = self.objective.at(theta)
        return -point.grad - self._oscillation(point).pull

    def covariance(self, theta: Tensor) -> Oscillation:
        """Σ at θ, in the space of the critical eigenvectors."""
        return self._oscillation(self.objective.at(theta))

    def oscillation(self, path: Trajectory) -> Tensor:
        return torch.stack([self.covariance(c).matrix.trace().sqrt() for c in path.states])

    def mean_loss(self, path: Trajectory) -> Tensor:
        rows = []
        for c in path.states:
            point = self.objective.at(c)
            seen = self._oscillation(point)
            rows.append(point.value + (seen.matrix.diagonal() * seen.values).sum() / 2)
        return torch.stack(rows)

    def _oscillation(self, point: Point) -> Oscillation:
        values, vectors = self._critical(point, 2 / self.lr)
        k = len(values)
        zero = torch.zeros_like(point.theta)
        if k == 0:
            return Oscillation(values.new_zeros(0, 0), vectors, values, zero)
        rows, columns = np.triu_indices(k)
        thirds = torch.stack(
            [point.third(vectors[i], vectors[j]) for i, j in zip(rows, columns, strict=True)]
        )
        # α + β[X]: how far from the edge the critical block of H will be one horizon on
        slack = torch.diag(2 / self.lr - values) / (self.horizon * self.lr)
        alpha = slack.cpu().double().numpy()
        rise = (thirds @ point.grad).cpu().double().numpy()
        alpha[rows, columns] += rise
        alpha[columns, rows] = alpha[rows, columns]
        gram = (thirds @ thirds.T).cpu().double().numpy() / 2
        x = solve_complementarity(alpha, gram)
        twice = np.where(rows == columns, 1.0, 2.0)
        weights = alike(torch.from_numpy(twice * x[rows, columns] / 2), point.theta)
        return Oscillation(
            alike(torch.from_numpy(x), point.theta), vectors, values, weights @ thirds
        )

    def _critical(
        self, point: Point, edge: float, scale: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Eigenvalues that can come to the edge within a step, and their vectors."""
        close, tracker = (1 - MARGIN) * edge, self._tracker
        while True:
            pairs = tracker.update(point, scale=scale)
            if pairs.following <= close:
                break
            tracker.k += 1
        near = int((pairs.values > close).sum())
        tracker.k = max(1, near)
        return pairs.values[:near], pairs.vectors[:near]


def solve_complementarity(alpha: np.ndarray, gram: np.ndarray, *, tol: float = 1e-13) -> np.ndarray:
    r"""Solve :math:`0 \preceq X \perp \alpha + \beta[X] \succeq 0`, a complementarity problem.

    Parameters
    ----------
    alpha : ndarray
        Symmetric, shape ``(k, k)``.
    gram : ndarray
        The linear map β on symmetric matrices, positive semidefinite, by its action on the
        upper triangle: with p = k(k+1)/2 and the pairs i ≤ j in the order of
        ``numpy.triu_indices(k)``, β[X]ᵢⱼ = Σ gramᵢⱼ,ₖₗ X̂ₖₗ, where X̂ₖₗ counts both Xₖₗ and Xₗₖ.
        Shape ``(p, p)``.
    tol : float
        Accepted residual, relative to the size of α.

    Returns
    -------
    ndarray
        X, shape ``(k, k)``.

    Raises
    ------
    ConvergenceError
        If there is no solution, or it is not found.

    Notes
    -----
    Newton's method on Robinson's normal map: with Y = X − R/s split into its positive part X and
    its negative part R/s, the equation α + β[Y₊] − s Y₋ = 0 is solved for Y. It has a kink where
    an eigenvalue of Y vanishes; if Newton's method stalls there, the positive part is smoothed,
    (y + √(y² + 4ε²))/2 in place of max(y, 0), and ε lowered step by step: the central path of
    interior-point methods.
    """
    size = np.linalg.norm(alpha)
    if size == 0 or np.linalg.eigvalsh(alpha)[0] >= 0:
        return np.zeros_like(alpha)
    problem = _NormalMap(alpha, gram)
    y, norm = problem.newton(-alpha / problem.scale, 0.0, tol * size)
    if norm > tol * size:
        smoothing = 10 * size / problem.scale
        y = np.zeros_like(alpha)
        for _ in range(60):
            y, _ = problem.newton(y, smoothing, 0.01 * problem.scale * smoothing)
            smoothing *= 0.3
            polished, norm = problem.newton(y, 0.0, tol * size)
            if norm <= tol * size:
                y = polished
                break
    # Rounding may stop Newton's method a little short of the tolerance.
    if norm <= 1e3 * tol * size:
        return problem.positive(y, 0.0)[0]
    raise ConvergenceError(
        "The central flow's complementarity problem has no solution that was found (relative "
        f"residual {norm / size:.1e}): the oscillation cannot hold the {len(alpha)} critical "
        "eigenvalues at 2/h. Is the learning rate far over the edge?"
    )


class _NormalMap:
    """α + β[Y₊] − s Y₋, its derivative, and Newton's method on it."""

    def __init__(self, alpha: np.ndarray, gram: np.ndarray):
        self.alpha, self.gram = alpha, gram
        self.scale = np.linalg.norm(gram) or 1.0
        self.rows, self.columns = np.triu_indices(len(alpha))
        self.twice = np.where(self.rows == self.columns, 1.0, 2.0)
        self.units = np.stack([self.full(e) for e in np.eye(len(self.rows))])

    def full(self, upper: np.ndarray) -> np.ndarray:
        matrix = np.zeros_like(self.alpha)
        matrix[self.rows, self.columns] = upper
        matrix[self.columns, self.rows] = upper
        return matrix

    def upper(self, matrices: np.ndarray) -> np.ndarray:
        return matrices[..., self.rows, self.columns]

    @staticmethod
    def positive(y: np.ndarray, smoothing: float):
        """The (smoothed) positive part, the eigenbasis, and the part's divided differences."""
        values, basis = np.linalg.eigh(y)
        root = np.sqrt(values**2 + 4 * smoothing**2)
        sums = root[:, None] + root[None, :]
        with np.errstate(divide="ignore", invalid="ignore"):
            slopes = np.where(sums > 0, (1 + (values[:, None] + values[None, :]) / sums) / 2, 0.5)
        return (basis * ((values + root) / 2)) @ basis.T, basis, slopes

    def residual(self, y: np.ndarray, part: np.ndarray) -> np.ndarray:
        image = self.gram @ (self.twice * self.upper(part))
        return self.upper(self.alpha + self.scale * (y - part)) + image

    def newton(self, y: np.ndarray, smoothing: float, tol: float) -> tuple[np.ndarray, float]:
        """Y and the norm of its residual; steps are halved until the residual falls."""
        part, basis, slopes = self.positive(y, smoothing)
        r = self.residual(y, part)
        for _ in range(100):
            norm = np.linalg.norm(r)
            if norm <= tol:
                break
            inner = basis.T @ self.units @ basis
            moved = self.upper(basis @ (slopes * inner) @ basis.T)
            stays = self.upper(self.units) - moved
            jacobian = (self.twice * moved) @ self.gram + self.scale * stays
            step = self.full(np.linalg.lstsq(jacobian.T, -r, rcond=None)[0])
            length = 1.0
            while length > 1e-8:
                trial = y + length * step
                parts = self.positive(trial, smoothing)
                r_trial = self.residual(trial, parts[0])
                if np.linalg.norm(r_trial) < norm * (1 - 1e-4 * length):
                    break
                length /= 2
            else:
                return y, norm
            y, r = trial, r_trial
            part, basis, slopes = parts
        return y, float(np.linalg.norm(r))
