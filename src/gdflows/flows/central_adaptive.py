"""The central flows of RMSProp and Adam."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gdflows.curvature import Tracker
from gdflows.curvature.units import alike
from gdflows.flows.adaptive import (
    OPTIMIZERS,
    AdaptiveRule,
    Averages,
    OfAverages,
    begin,
    correction_drift,
    stable_rates,
)
from gdflows.flows.central import (
    CHECK_EVERY,
    CentralFlow,
    Oscillation,
    solve_complementarity,
)
from gdflows.objective import Objective, Point
from gdflows.trajectory import Trajectory


class AdaptiveCentralFlow(OfAverages, CentralFlow, optimizers=OPTIMIZERS):
    r"""The central flow of RMSProp or Adam; ``CentralFlow(E, lr, optimizer="adam")`` makes it.

    With P = D⁻¹ the preconditioner (:class:`gdflows.flows.StableFlow`) and e the edge,

    .. math:: \dot c = -\frac{1}{hb_1} D\,\bigl(\beta_1 m + (1 - \beta_1) g
                       + \tfrac12\nabla\langle\Sigma, H\rangle\bigr), \quad
              \dot\nu = \frac{1 - \beta_2}{h\beta_2}
                       \bigl(g^2 + \mathrm{diag}(H\Sigma H) - \nu\bigr), \quad
              0 \preceq \Sigma \perp eP - H \succeq 0 .

    The oscillation has two ways to hold the preconditioned Hessian at its edge: it pulls c towards
    flatter places, and it makes the squared gradients larger, hence the steps shorter. As Σ lies
    in the space of the critical directions, HΣH = e²PΣP there.

    Parameters
    ----------
    objective : Objective
        The loss.
    lr : float
        The learning rate h.
    optimizer : {"rmsprop", "rmsprop-scalar", "adam"}
        As in :class:`gdflows.flows.AdaptiveRule`.
    beta, betas, eps
        As in :class:`gdflows.flows.AdaptiveRule`.
    averages : Averages, optional
        What the optimiser remembers at the start; by default nothing, as at its first step.
    horizon, tol
        As in :class:`gdflows.flows.CentralFlow`.

    Notes
    -----
    Companions as in :class:`gdflows.flows.StableFlow`. The directions U of Σ = Uᵀ X U are
    generalised eigenvectors, HU = xPU and normed by Uᵀ P U = 1, so that X holds the variances in
    the metric P: dimensions of a loss. An evaluation costs what gradient descent's central flow
    costs: eigenpairs of D^½HD^½ and a third-derivative contraction for each pair of them.

    References
    ----------
    Cohen, Damian, Talwalkar, Kolter and Lee (2025), "Understanding optimization in deep learning
    with central flows", for scalar RMSProp and RMSProp, where :math:`e = 2`. With momentum it is
    derived here: in the space of θ and m the multiplier is −1 at Adam's edge, and the pull acts
    at once, although the optimiser's goes through m. Only where the pull changes much within
    1/(1 − β₁) steps does that matter.

    Examples
    --------
    >>> import gdflows as gf
    >>> E = gf.problems.quadratic([1.0, 3.0])
    >>> type(gf.flows.CentralFlow(E, 0.01, optimizer="adam")).__name__
    'AdaptiveCentralFlow'
    """

    def __init__(
        self,
        objective: Objective,
        lr: float,
        *,
        optimizer: str,
        beta: float | None = None,
        betas: tuple[float, float] | None = None,
        eps: float = 1e-8,
        averages: Averages | None = None,
        horizon: float = 1.0,
        tol: float = 1e-6,
    ):
        super().__init__(objective, lr, horizon=horizon, tol=tol)
        self.rule = AdaptiveRule(optimizer, lr, beta=beta, betas=betas, eps=eps)
        self.averages = averages
        self.label = f"{self.rule.name} central"

    def start(self, theta: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        self._tracker = Tracker(self.objective, tol=self._tracker.tol, check_every=CHECK_EVERY)
        return begin(self.rule, self.objective, theta, self.averages)

    def field(self, theta: Tensor, **companions: Tensor):
        return self._solve(self.objective.at(theta), companions)[1:]

    def covariance(self, theta: Tensor, **companions: Tensor) -> Oscillation:
        """Σ at a state of the path: ``flow.covariance(theta, **companions)``.

        Its ``vectors`` are normed in the metric of the preconditioner.
        """
        if not companions:
            companions = begin(self.rule, self.objective, theta, self.averages)[1]
        return self._solve(self.objective.at(theta), companions)[0]

    def oscillation(self, path: Trajectory) -> Tensor:
        rows = []
        for seen, _ in self._along(path):
            gram = seen.vectors @ seen.vectors.T
            rows.append((seen.matrix * gram).sum().clamp(min=0).sqrt())
        return torch.stack(rows)

    def mean_loss(self, path: Trajectory) -> Tensor:
        return torch.stack(
            [
                value + (seen.matrix.diagonal() * seen.values).sum() / 2
                for seen, value in self._along(path)
            ]
        )

    def _along(self, path: Trajectory):
        for i, theta in enumerate(path.states):
            point = self.objective.at(theta)
            companions = {name: rows[i] for name, rows in path.companions.items()}
            yield self._solve(point, companions)[0], point.value

    def _solve(self, point: Point, companions: dict[str, Tensor]):
        """Σ, dc/dt and the rates of the companions."""
        rule, theta, h = self.rule, point.theta, self.lr
        second, step = companions["second"].clamp(min=0), float(companions["step"])
        velocity, moved = stable_rates(rule, theta, point.grad, companions)
        rates, (b1, b2), edge = rule.rates(second, step), rule.corrections(step), rule.edge(step)
        root = rates.sqrt().expand_as(theta)
        values, vectors = self._critical(point, edge, root)
        k = len(values)
        if k == 0:
            empty = Oscillation(values.new_zeros(0, 0), vectors, values, torch.zeros_like(theta))
            return empty, velocity, moved
        right = vectors * root  # U, and PU = H U / x
        left = torch.where(root > 0, vectors / root, torch.zeros_like(root))
        rows, columns = np.triu_indices(k)
        thirds = torch.stack(
            [point.third(right[i], right[j]) for i, j in zip(rows, columns, strict=True)]
        )
        squares = rule.fold(left[rows] * left[columns]) * edge**2  # HU·HU, as ν takes them in
        spread = rule.fold(right[rows] * right[columns])
        lag = (1 - rule.beta2) / (rule.beta2 * h)
        # P = (√(ν/b₂) + ε)/h by ν, and by time through b₂
        slope = torch.where(second > 0, 0.5 / (h * (second * b2).sqrt()), 0.0)
        drift1, drift2 = correction_drift(rule, step)
        stiffening = slope * (moved["second"] - second * drift2 / (b2 * h))
        rise = spread @ (edge * stiffening) - thirds @ velocity
        alpha = torch.diag(edge - values + self.horizon * edge * drift1 / b1) / (self.horizon * h)
        alpha, rise = alpha.cpu().double().numpy(), rise.cpu().double().numpy()
        alpha[rows, columns] += rise
        alpha[columns, rows] = alpha[rows, columns]
        gram = (spread * slope * (edge * lag)) @ squares.T + (thirds * rates) @ thirds.T / (
            2 * b1 * h
        )
        x = solve_complementarity(alpha, gram.cpu().double().numpy())
        twice = np.where(rows == columns, 1.0, 2.0)
        weights = alike(torch.from_numpy(twice * x[rows, columns]), theta)
        pull = weights @ thirds / 2
        moved["second"] = moved["second"] + lag * (weights @ squares)
        seen = Oscillation(alike(torch.from_numpy(x), theta), right, values, pull)
        return seen, velocity - rates / (b1 * h) * pull, moved
