"""Two points with noise: the centre of SGD and the covariance of its swing about it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gdflows.arguments import whole
from gdflows.curvature.eigen import extreme_eigenpairs
from gdflows.errors import ConvergenceError, InputError
from gdflows.flows.base import Flow
from gdflows.flows.covariance import Constant, Covariance, PerSampleNoise, as_covariance
from gdflows.flows.modified import check_beta
from gdflows.flows.slow import Slow
from gdflows.flows.swing import Relaxation
from gdflows.lengths import length
from gdflows.objective import Objective
from gdflows.trajectory import Trajectory

NEGATIVE = 1e-3  # of the path's largest: a mean square below minus this is no rounding
TURNED = 2e-2  # the same with momentum, of the largest of positions and velocities: where a swing
# turns its mean square comes down to nothing, and in steps of h/2 is followed to a per cent or two
NODES = {"two-point": 1.0, "gaussian": 3.0}  # squares of where a law of variance 1 is looked at
TOL = 1e-3  # of the eigenpairs that the flow starts with
QUADRATIC = 1e-7  # ∇³E[u, u] below this share of the curvature, per length of θ, bends nothing


class StochasticRodFlow(Flow):
    r"""Two points with noise: SGD as a centre and the covariance of its swing.

    Write an iterate of SGD as :math:`\theta = c + \xi`. On a quadratic, with gradient noise of
    covariance Σ, the mean square Q of ξ obeys :math:`Q \to (I - hH)\,Q\,(I - hH) + h^2\Sigma`,
    and near the edge, where :math:`(1 - h\lambda)^2` is near 1, that is slow. The flow is

    .. math:: \dot c = -\mathbb E\, g(c + \xi), \qquad
              \dot Q_{ij} = \frac{\log|m_i m_j|}h
              \Bigl[Q_{ij} - \frac{h^2\,\mathbb E\,\Sigma_{ij}(c + \xi)}{1 - m_i m_j}\Bigr],
              \qquad m_i = 1 - h\lambda_i,

    in the eigenbasis of the mean Hessian along the swing. Q is kept in ``rank`` directions U only,
    which turn as :math:`\dot U = UH(I - U\transpose U)`: the dynamical low-rank approximation of
    the equation for Q. Expectations over ξ are taken at 2 · rank nodes beside the centre, so they
    hold the force ½∇³E[Q], the curvature's change along the swing, and *multiplicative* noise
    (batches differ in their Hessians too) without a derivative higher than the first.

    Parameters
    ----------
    objective : Objective
        The loss.
    lr : float
        The learning rate h of SGD.
    batch_size : int, optional
        B, for the noise of minibatches; the loss is then a module's, a mean over its samples.
    replacement : bool
        Whether a batch may hold a sample more than once.
    covariance : optional
        In place of ``batch_size``: the covariance of the *gradient's* noise, as for
        :class:`StochasticModifiedEquation`.
    beta : float
        β of heavy ball in torch's form, 0 ≤ β < 1. It starts from rest.
    rank : int
        How many of the sharpest directions swing.
    swing : {"gaussian", "two-point"}
        The law of ξ at whose nodes the loss is looked at: at ±√3 or ±1 standard deviations along
        each axis of Q. A swing of SGD is nearer to the former, that of gradient descent is the
        latter.

    Raises
    ------
    InputError
        If there is no covariance or there are two, if a batch is larger than the data, if the
        loss is not fit for samples; at the start of a path, if the covariance grows past
        mean-square stability and the loss is a quadratic, where nothing stops it.

    Notes
    -----
    Companions: ``directions`` U, ``(rank, D)``, and ``covariance`` of the swing along them,
    ``(rank, rank)``; with momentum that of positions and, after them, velocities h·v,
    ``(2 · rank, 2 · rank)``, and the centre's ``velocity``, ``(D,)``. Follow it with
    ``integrate(flow, theta, times=..., method="rk4", step=h)``, with momentum ``step=h/2``: an
    evaluation costs 2 · rank + 1 gradients, with minibatches as many gradients sample by sample.
    Mean squares that would shrink by more than a factor of 12 in a step shrink by that, for such
    steps' sake, and those that turn by more than 2.5 in a step turn by that; where they settle is
    the same.

    **Limits.** On a quadratic with constant noise the stationary covariance is SGD's own,
    :math:`h^2\Sigma_{ij}/(1 - m_i m_j)`. Without noise, of rank one and with
    ``swing="two-point"``, this is :class:`PrincipalRodFlow` of order 0 near the edge; where the
    centre is slow too it is held where :class:`CentralFlow` is. With momentum these are heavy
    ball's stationary covariance (:func:`gdflows.noise.stationary_covariance`) and, near the edge,
    :class:`MomentumRodFlow` of order 0.

    The centre must be slow beside the swing, which is remembered for some 1/(1 − β) steps, while
    the centre moves 1/(1 − β) times as fast: large β asks for more.

    **What it leaves out.** The swing in all other directions, which with cross-entropy or small
    batches may be what counts (raise ``rank`` and look whether the answer stays), correlations
    between swing and centre, and third moments of the noise. The path of a mean says nothing of a
    single run's time of outbreak.

    References
    ----------
    Ours. For the rod see :class:`RodFlow`; for low-rank approximations of matrix equations Koch
    and Lubich (2007).

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.problems.quadratic([1.9])
    >>> flow = gf.flows.StochasticRodFlow(E, 1.0, covariance=0.01, rank=1)
    >>> path = gf.integrate(flow, torch.zeros(1).double(), 60.0, method="rk4", step=1.0)
    >>> exact = 0.01 / (1 - 0.9**2)
    >>> round(float(flow.covariance_of(path)[-1, 0, 0]) / exact, 4)
    1.0
    """

    label = "stochastic rod"

    def __init__(
        self,
        objective: Objective,
        lr: float,
        *,
        batch_size: int | None = None,
        replacement: bool = False,
        covariance=None,
        beta: float = 0.0,
        rank: int = 5,
        swing: Literal["gaussian", "two-point"] = "gaussian",
    ):
        super().__init__(objective, lr)
        if (batch_size is None) == (covariance is None):
            raise InputError("Give either batch_size, for minibatches, or covariance.")
        if swing not in NODES:
            raise InputError(f"swing must be 'gaussian' or 'two-point', got {swing!r}.")
        self.rank, self.swing, self.beta = whole(rank, "rank"), swing, check_beta(beta)
        self._relax = Relaxation(self.lr, self.beta)
        self._node = NODES[swing]
        if batch_size is None:
            if replacement:
                raise InputError("replacement is for minibatches: give batch_size.")
            self.noise: Covariance = as_covariance(covariance, objective.dim)
        else:
            self.noise = PerSampleNoise(objective, batch_size, replacement=replacement)

    # -- the start ---------------------------------------------------------------------------------

    def start(self, theta: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if theta.is_complex():
            raise InputError(f"The flow '{self.label}' is real; start it at theta.real.")
        if self.rank > theta.numel():
            raise InputError(f"rank must be at most D = {theta.numel()}, got {self.rank}.")
        self.noise.check(theta)
        # gradient descent at this rate has heavy ball's edge, and swings where heavy ball turns by
        # more than a right angle in each step
        rod, _ = Slow(self.objective, self.lr / (1 + self.beta)).split(theta)
        centre = theta - rod
        pairs = extreme_eigenpairs(self.objective.at(centre), self.rank, "LA", TOL)
        along = pairs.vectors @ rod
        self._refuse_unstable(centre, pairs.vectors)
        swing = torch.cat([along, torch.zeros_like(along)][: self._relax.parts])
        companions = {"directions": pairs.vectors, "covariance": torch.outer(swing, swing)}
        if self.beta:
            companions["velocity"] = torch.zeros_like(centre)
        return centre, companions

    def companions(self, theta: Tensor) -> dict[str, Tensor]:
        return self.start(theta)[1]

    def _refuse_unstable(self, centre: Tensor, axes: Tensor) -> None:
        growth = self.growth(centre, axes)
        if growth <= 1:
            return
        size = length(centre) or 1.0
        for u in axes:
            point = self.objective.at(centre)
            bend = length(point.third(u, u)) * size
            if bend > QUADRATIC * abs(float(torch.dot(u, point.hvp(u)))):
                return
        raise InputError(
            f"At lr = {self.lr:g} SGD is past mean-square stability: the mean square of its swing "
            f"is multiplied by {growth:.3g} in each step, and on a quadratic nothing stops it. "
            "Take a lower learning rate or a larger batch."
        )

    def growth(self, theta: Tensor, axes: Tensor | None = None) -> float:
        r"""What a step multiplies a small swing's mean square by: stable in mean square up to 1.

        Without momentum the largest eigenvalue of
        :math:`(1 - h\lambda_i)^2\delta_{ij} + h^2 V_{ij}` along the sharpest directions, where V
        holds what the noise's variance along the i-th gains from a swing of mean square 1 along
        the j-th; with momentum the same of the mean squares of position and velocity and their
        product. Mixed moments of two directions are left out.

        Parameters
        ----------
        theta : Tensor
            Where, shape ``(D,)``.
        axes : Tensor, optional
            Unit eigenvectors ``(k, D)``; by default the ``rank`` sharpest.
        """
        if axes is None:
            axes = extreme_eigenpairs(self.objective.at(theta), self.rank, "LA", TOL).vectors
        small = torch.full_like(axes[:, 0], 1e-3 * (length(theta) or 1.0) / theta.numel() ** 0.5)
        _, _, slopes, spreads = self._look(theta, axes, small)
        gain = torch.stack([s.diagonal() for s in spreads[1:]], dim=1) / small**2
        return self._relax.growth((slopes * axes).sum(1), gain)

    # -- the field ---------------------------------------------------------------------------------

    def vector_field(self, theta: Tensor) -> Tensor:
        raise InputError(f"The field of '{self.label}' needs the covariance too: use field.")

    def field(
        self, theta: Tensor, *, directions: Tensor, covariance: Tensor,
        velocity: Tensor | None = None,
    ):  # fmt: skip
        """Time derivatives of the centre, of the directions and of the second moments along them.

        Parameters
        ----------
        theta : Tensor
            Centre c, shape ``(D,)``.
        directions : Tensor
            U, shape ``(k, D)``; made orthonormal here.
        covariance : Tensor
            Of the swing along U, shape ``(k, k)``; with momentum of its positions and velocities,
            ``(2k, 2k)``.
        velocity : Tensor, optional
            With momentum: h times the centre's, shape ``(D,)``.
        """
        h, k = self.lr, len(directions)
        axes, turns, sizes = self._axes(theta, directions, covariance)
        steps = self._steps(theta, sizes)
        mean, pulls, slopes, spreads = self._look(theta, axes, steps)
        weights = sizes / steps**2  # 1, or 1/3 where a node is at √3 deviations
        mean = mean + weights @ pulls
        noise = spreads[0] + (weights[:, None, None] * torch.stack(spreads[1:])).sum(0)
        curvature = slopes @ axes.T
        values, basis = torch.linalg.eigh((curvature + curvature.T) / 2)
        back = turns @ basis
        second = (covariance + covariance.T) / 2
        second[:k, :k] = turns @ torch.diag(sizes) @ turns.T
        twice = torch.block_diag(*[back] * self._relax.parts)
        rate = self._relax(values, twice.T @ second @ twice, basis.T @ noise @ basis)
        rates = {
            "directions": turns @ (slopes - curvature @ axes) / (1 + self.beta),
            "covariance": twice @ rate @ twice.T,
        }
        if velocity is None:
            return -mean, rates
        rates["velocity"] = mean - (1 - self.beta) / h * velocity
        return -mean - self.beta / h * velocity, rates

    def _axes(self, theta: Tensor, directions: Tensor, covariance: Tensor):
        """Principal axes of the swing ``(k, D)``, how they lie in U, and their mean squares."""
        gram, basis = torch.linalg.eigh(directions @ directions.T)
        units = basis @ ((basis.T @ directions) / gram[:, None].sqrt())
        k = len(directions)
        own = covariance[:k, :k]
        sizes, turns = torch.linalg.eigh((own + own.T) / 2)
        return turns.T @ units, turns, sizes.clamp(min=0)

    def _steps(self, theta: Tensor, sizes: Tensor) -> Tensor:
        """How far from the centre the nodes are; not so near that differences drown."""
        closest = torch.finfo(theta.dtype).eps ** 0.5 * (length(theta) or 1.0)
        return (self._node * sizes).sqrt().clamp(min=closest)

    def _look(self, theta: Tensor, axes: Tensor, steps: Tensor):
        """The gradient at the centre; and of each axis half the second difference of gradients, the
        first difference quotient, and, after the noise's covariance along the axes at the centre,
        half the second difference of that.
        """
        g, s = self._seen(theta, axes)
        pulls, slopes, spreads = [], [], [s]
        for u, d in zip(axes, steps, strict=True):
            (front, ahead), (back, behind) = (
                self._seen(theta + sign * d * u, axes) for sign in (1, -1)
            )
            pulls.append((front + back) / 2 - g)
            slopes.append((front - back) / (2 * d))
            spreads.append((ahead + behind) / 2 - s)
        return g, torch.stack(pulls), torch.stack(slopes), spreads

    def _seen(self, theta: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient, and the noise's covariance along the axes."""
        law = self.noise
        if isinstance(law, PerSampleNoise):
            return _of_samples(law, theta, axes)
        g = self.objective.grad(theta)
        if isinstance(law, Constant):
            factor = law.factor.to(theta)
            seen = axes @ factor if factor.ndim == 2 else axes * factor
        else:
            eye = torch.eye(law.channels, dtype=theta.dtype, device=theta.device)
            seen = axes @ law.apply(theta.expand(law.channels, -1), eye).T
        return g, seen @ seen.T

    # -- what it says of SGD -----------------------------------------------------------------------

    def covariance_of(self, path: Trajectory) -> Tensor:
        """The swing's covariance along its directions at the path's times, ``(T, k, k)``.

        Raises
        ------
        ConvergenceError
            If it has a negative eigenvalue, as where steps were too long; so do all that use it.
        """
        k = path.companions["directions"].shape[1]
        second = path.companions["covariance"]
        found = second[:, :k, :k]
        sizes = torch.linalg.eigvalsh((found + found.mT) / 2)
        largest = torch.linalg.eigvalsh((second + second.mT) / 2).abs().max()
        share, step = (TURNED, self.lr / 2) if self.beta else (NEGATIVE, self.lr)
        rounding = torch.finfo(sizes.dtype).eps * path.states.pow(2).sum(1)
        lost = -sizes[:, 0] > torch.maximum(share * largest, rounding)
        if bool(lost.any()):
            k = int(lost.nonzero()[0])
            raise ConvergenceError(
                f"At t = {float(path.times[k]):.6g} the swing has a negative mean square, "
                f"{float(sizes[k, 0]):.3g}: follow the flow in shorter steps, with method='rk4' "
                f"and step at most {step:g}."
            )
        return found

    def oscillation(self, path: Trajectory) -> Tensor:
        matrices = self.covariance_of(path)
        return matrices.diagonal(dim1=1, dim2=2).sum(1).clamp(min=0).sqrt()

    def mean_loss(self, path: Trajectory) -> Tensor:
        """The loss of SGD's iterates on average over the swing, shape ``(T,)``."""
        losses = []
        for c, u, m in self._states(path):
            axes, _, sizes = self._axes(c, u, m)
            middle = self.objective.value(c)
            total = middle
            for a, d, q in zip(axes, self._steps(c, sizes), sizes, strict=True):
                ends = self.objective.value(c + d * a) + self.objective.value(c - d * a)
                total = total + q / d**2 * (ends / 2 - middle)
            losses.append(total)
        return torch.stack(losses)

    def iterates(self, path: Trajectory) -> Tensor:
        raise InputError("The iterates of SGD are random: draw some with sample.")

    def sample(self, path: Trajectory, count: int, *, seed: int) -> Tensor:
        """Points as SGD's iterates lie about the path, ``(T, count, D)``, normally distributed.

        Their swing has the path's covariance; in antithetic pairs, so that of an even count the
        mean is the centre.
        """
        generator = torch.Generator().manual_seed(seed)
        drawn = []
        for c, u, m in self._states(path):
            axes, _, sizes = self._axes(c, u, m)
            # An axis has no sign, and machines choose differently: the same points on all of them
            largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
            axes = torch.where(largest < 0, -axes, axes)
            z = torch.randn((whole(count, "count") + 1) // 2, len(axes), generator=generator,
                            dtype=torch.float64)  # fmt: skip
            swings = (z.to(c) * sizes.sqrt()) @ axes
            drawn.append((c + torch.cat([swings, -swings]))[:count])
        return torch.stack(drawn)

    def _states(self, path: Trajectory):
        return zip(
            path.states, path.companions["directions"], self.covariance_of(path), strict=True
        )


def _of_samples(law: PerSampleNoise, theta: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
    rows = law.samples.gradients(theta)
    law.objective._count["gradients"] += 1
    mean = rows.mean(0)
    seen = (rows - mean) @ axes.T
    return mean, law.factor / law.channels * (seen.T @ seen)
