r"""Stochastic modified equations: flows with a noise.

For SGD, θ ← θ − h(g(θ) + ξ) with E ξ = 0 and Cov ξ = Σ(θ), a flow is looked for whose expectations
are those of the steps. Write the mean of f after one step as a series in h,

.. math:: \mathbb E f(\theta - hg - h\xi) = f - h\,g\cdot\nabla f
          + \tfrac{h^2}{2}(gg\transpose + \Sigma):\nabla^2 f - \dots,

and that of the flow, whose generator is :math:`L = L_0 + hL_1 + h^2L_2 + \dots`, as
:math:`f + hLf + \frac{h^2}{2}L^2f + \dots`; equal powers give

.. math:: L_0 = -g\cdot\nabla, \quad L_1 = -\tfrac12 Hg\cdot\nabla + \tfrac12\Sigma:\nabla^2, \quad
          L_2 = b_2\cdot\nabla + \tfrac14\bigl(H\Sigma + \Sigma H + (g\cdot\nabla)\Sigma\bigr)
          :\nabla^2,

with :math:`b_2 = -\frac13H^2g - \frac1{12}\nabla^3E[g, g] + \frac14\nabla^3E[\Sigma]`, if the
third cumulant of ξ vanishes: else L₂ has third derivatives and no diffusion has them.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from gdflows.errors import InputError
from gdflows.flows.base import Flow
from gdflows.flows.covariance import Covariance, as_covariance
from gdflows.flows.modified import HeavyBall, Nesterov, check_beta
from gdflows.objective import Objective
from gdflows.objective.batched import Batched, push


class StochasticFlow(Flow):
    r"""An Itô equation dθ = b(θ) dt + σ(θ) dW, at many points at once.

    A subclass gives :meth:`drift`, :meth:`noise` and :attr:`channels`. Walked by
    :func:`gdflows.integrate` with ``paths=``. The points are rows ``(P, D)``; if the flow has
    companions beside θ, as an adaptive method's averages are, :meth:`rows` puts them behind θ,
    and D is the length of such a row.

    Examples
    --------
    >>> import gdflows as gf
    >>> E = gf.problems.quadratic([1.0])
    >>> flow = gf.flows.StochasticModifiedEquation(E, 0.1, covariance=1.0)
    >>> isinstance(flow, gf.flows.StochasticFlow)
    True
    """

    #: How many independent noises drive it: the length of z.
    channels: int = 0
    #: Whether σ is the same everywhere.
    additive: bool = False

    @abstractmethod
    def drift(self, thetas: Tensor) -> Tensor:
        """b at each row, shape ``(P, D)``."""

    @abstractmethod
    def noise(self, thetas: Tensor, z: Tensor) -> Tensor:
        """σ z at each row; ``(P, D)`` and ``(P, channels)`` to ``(P, D)``."""

    def noise_along(self, thetas: Tensor, v: Tensor, z: Tensor) -> Tensor:
        """The derivative of σ z along v, with z held, at each row."""
        return push(lambda x: self.noise(x, z), thetas, v)

    def correction(self, thetas: Tensor) -> Tensor:
        """Σⱼ (σⱼ·∇)σⱼ at each row: twice what Stratonovich's drift lacks. A product a channel."""
        total = torch.zeros_like(thetas)
        for j in range(self.channels):
            z = thetas.new_zeros(len(thetas), self.channels)
            z[:, j] = 1
            total += self.noise_along(thetas, self.noise(thetas, z), z)
        return total

    def check(self, theta: Tensor) -> None:
        """Refuse at a point ``(D,)``, where the walk begins, what cannot be walked."""

    def rows(self, thetas: Tensor) -> Tensor:
        """Where paths from the rows of θ begin, with their companions behind them."""
        return torch.stack([self.start(theta)[0] for theta in thetas])

    def vector_field(self, theta: Tensor) -> Tensor:
        """The drift at one point, shape ``(D,)``."""
        return self.drift(theta[None])[0]


class StochasticModifiedEquation(StochasticFlow):
    r"""The stochastic modified equation of SGD, of weak order 1, 2 or 3.

    .. math:: d\theta = -\nabla\bigl(E + \tfrac h4\|\nabla E\|^2\bigr)dt
              + \sqrt h\,\Sigma^{1/2}\,dW

    is of weak order 2: over a fixed time the mean of a smooth function of θ is within
    :math:`O(h^2)` of SGD's. Order 1 leaves the penalty out.

    Parameters
    ----------
    objective : Objective
        The loss; fit for ``torch.func.vmap``.
    lr : float
        The learning rate h of SGD. Flow time is t = k·h after k steps.
    covariance
        Σ, of the *gradient's* noise (for batches of B that of the batch's mean, ∝ 1/B): a number,
        for noise of that variance in each entry; variances ``(D,)``; a matrix ``(D, D)``; a
        function of θ that returns one of these; a :class:`NoiseFactor`; or
        :class:`PerSampleNoise`, the minibatches' own.
    order : {1, 2, 3}
        3 adds drift and diffusion of the next power of h, see Notes. It needs noise whose third
        moments vanish, and a third derivative for each of Σ's channels.
    mended : bool
        The diffusion of order 3 with the drift of order 2. Still of weak order 2; on a parabola
        the stationary variance is then right to the next power of h, too.
    beta : float
        β of heavy ball or Nesterov's method in torch's form, 0 ≤ β < 1; for orders 1 and 2. Then
        the drift is that of :class:`HeavyBall` and the noise 1/(1 − β) times as large.
    nesterov, from_rest : bool
        See :class:`HeavyBall`.

    Raises
    ------
    InputError
        If the covariance is not one: not symmetric, not positive semidefinite, of the wrong
        shape. Of a function of θ at its first use.

    Notes
    -----
    **The next order.** The drift gains :math:`h^2 b_2`, the diffusion matrix
    :math:`\frac{h^2}{2}(H\Sigma + \Sigma H + (g\cdot\nabla)\Sigma)`: the derivation is that of the
    module. The factor used is :math:`\sqrt h\,(I + \frac h2 H(\theta))\,\sigma(\theta +
    \frac h2 g)`, which agrees up to :math:`O(h^3)` and is positive semidefinite whatever H is.

    **What it does not know.** On a parabola of curvature λ with noise of variance s the stationary
    variance of SGD is hs/(λ(2 − hλ)), of order 1 hs/(2λ), of order 2 hs/(λ(2 + hλ)): *further*
    off, and none of them knows that SGD diverges past hλ = 2.

    **Momentum.** With :math:`z = \theta - \frac{h\beta}{1-\beta}v` heavy ball is
    :math:`z \leftarrow z - \frac h{1-\beta}(g(\theta) + \xi)`: the noise enters at once and in
    full. What θ differs from z by has mean :math:`\frac{h\beta}{(1-\beta)^2}g + O(h^2)`, and a
    variance of :math:`O(h^2)` that the equation leaves out.

    References
    ----------
    Li, Tai and E (2017, 2019) for orders 1 and 2, and momentum in another scaling. The third
    order and the mended factor are derived here.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.problems.quadratic([1.0])
    >>> sme = gf.flows.StochasticModifiedEquation(E, lr=0.1, covariance=4.0, order=1)
    >>> seen = gf.integrate(sme, torch.zeros(1).double(), t=10.0, paths=10_000, seed=0)
    >>> abs(float(seen.variance[-1, 0]) - 0.1 * 4 / 2) < 0.01
    True
    """

    def __init__(
        self,
        objective: Objective,
        lr: float,
        *,
        covariance,
        order: int = 2,
        mended: bool = False,
        beta: float = 0.0,
        nesterov: bool = False,
        from_rest: bool = True,
    ):
        super().__init__(objective, lr)
        if order not in (1, 2, 3):
            raise InputError(f"order must be 1, 2 or 3, got {order!r}.")
        if mended and order == 1:
            raise InputError("mended needs order=2: of weak order 1 there is nothing to mend.")
        self.order, self.mended = order, mended or order == 3
        self.covariance: Covariance = as_covariance(covariance, objective.dim)
        self.channels = self.covariance.channels
        self.additive = self.covariance.constant and not self.mended
        # the method's own flow knows the drift and the start
        self._method = (Nesterov if nesterov else HeavyBall)(
            objective, lr, beta=check_beta(beta), order=min(order, 2) - 1,
            from_rest=from_rest,
        )  # fmt: skip
        if beta and self.mended:
            raise InputError("With momentum only orders 1 and 2 are known, not mended.")
        if nesterov and not beta:
            raise InputError("nesterov is for momentum: give beta as well.")
        self.beta, self.nesterov = self._method.beta, nesterov
        self._batched = Batched(objective)
        self.label = f"SME-{order}{' mended' if mended and order < 3 else ''}"

    def start(self, theta: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self._method.start(theta) if self.order > 1 else (theta, {})

    def check(self, theta: Tensor) -> None:
        if theta.is_complex():
            raise InputError(f"The flow '{self.label}' is real; start it at theta.real.")
        self.covariance.check(theta)
        try:
            self._probe(theta[None])
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise InputError(
                f"The covariance cannot be used at {theta.numel()} parameters: {error}"
            ) from error

    def _probe(self, theta: Tensor) -> None:
        self.drift(theta)
        self.noise(theta, theta.new_zeros(1, self.channels))

    def drift(self, thetas: Tensor) -> Tensor:
        first, second = self._method.coefficients
        g = self._batched.grad(thetas)
        if self.order == 1:
            return -first * g
        hg = self._batched.hvp(thetas, g)
        b = -first * g - second * hg
        if self.order == 2:
            return b
        h = self.lr
        b2 = self._batched.hvp(thetas, hg) / 3 + self._batched.third(thetas, g, g) / 12
        for j in range(self.channels):
            z = thetas.new_zeros(len(thetas), self.channels)
            z[:, j] = 1
            column = self.covariance.apply(thetas, z)
            b2 = b2 - self._batched.third(thetas, column, column) / 4
        return b - h**2 * b2

    def noise(self, thetas: Tensor, z: Tensor) -> Tensor:
        h, root = self.lr, self.lr**0.5 / (1 - self.beta)
        if not self.mended:
            return root * self.covariance.apply(thetas, z)
        at = thetas
        if not self.covariance.constant:
            at = thetas + h / 2 * self._batched.grad(thetas)
        moved = self.covariance.apply(at, z)
        return root * (moved + h / 2 * self._batched.hvp(thetas, moved))

    def correction(self, thetas: Tensor) -> Tensor:
        if not self.mended:
            known = self.covariance.correction(thetas)
            if known is not None:
                return self.lr / (1 - self.beta) ** 2 * known
        return super().correction(thetas)
