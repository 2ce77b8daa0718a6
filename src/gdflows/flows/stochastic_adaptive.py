r"""Flows with a noise for RMSProp and Adam.

The state is θ and what the optimiser remembers, z = (θ, m, ν). Whatever the map, let one step
change z by :math:`hm_0(z) + h^2m_1(z) + \dots` in mean, with the covariance
:math:`h^2S(z) + \dots`. Matching moments as in :mod:`gdflows.flows.stochastic` then gives

.. math:: dz = \bigl(m_0 + hm_1 - \tfrac h2(\nabla m_0)m_0\bigr)\,dt + \sqrt h\,S^{1/2}\,dW,

of weak order 2. With :math:`1 - \beta = \rho h` the optimisers are such maps. With
:math:`G = g + \xi`, the entries of ξ normal with variances s,

.. math:: \operatorname{Cov}(G_i, G_j^2) = 2\Sigma_{ij}g_j, \quad
          \operatorname{Cov}(G_i^2, G_j^2) = 4g_ig_j\Sigma_{ij} + 2\Sigma_{ij}^2, \quad
          \mathbb E\,G_i^3 = g_i^3 + 3g_is_i .

So ν has a noise :math:`2g\odot\xi`, which is the gradient's own, and one of covariance
:math:`2\Sigma\odot\Sigma`, independent of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gdflows.errors import InputError
from gdflows.flows.adaptive import AdaptiveRule, Averages
from gdflows.flows.covariance import Constant, Covariance, as_covariance
from gdflows.flows.stochastic import StochasticFlow
from gdflows.objective import Objective
from gdflows.objective.batched import Batched, push

#: A count of steps after which Adam's corrections have gone: 1 − βᵏ = 1 in float64 for β < 0.9999.
LONG = 10**6


class AdaptiveModifiedEquation(StochasticFlow):
    r"""The stochastic modified equation of RMSProp and of Adam, of weak order 1 or 2.

    With :math:`D = 1/(\sqrt\nu + \epsilon)`, s the diagonal of Σ, RMSProp's of order 1 is

    .. math:: d\theta = -D\,(\nabla E\,dt + \sqrt h\,\Sigma^{1/2}dW), \qquad
              d\nu = \tfrac{1 - \beta}h\,\bigl((\nabla E)^2 + s - \nu\bigr)\,dt,

    and Adam's, with :math:`b_i = 1 - \beta_i^k`,

    .. math:: d\theta = -\tfrac1{b_1}\frac{m}{\sqrt{\nu/b_2} + \epsilon}\,dt, \qquad
              dm = \tfrac{1 - \beta_1}h\,\bigl((\nabla E - m)\,dt + \sqrt h\,\Sigma^{1/2}dW\bigr)

    with the same ν. Order 2 adds the drift of the next power of h and the noise of ν.

    Parameters
    ----------
    objective : Objective
        The loss; fit for ``torch.func.vmap``.
    lr : float
        The learning rate h. Flow time is t = k·h after k steps.
    covariance
        Σ, as for :class:`StochasticModifiedEquation`.
    averages : Averages
        What the optimiser remembers at the start, all of ν positive: ``(m, ν, k)`` after k steps
        of the optimiser itself, or :func:`settled_averages`.
    optimizer : {"rmsprop", "adam"}
        As torch has them.
    beta, betas, eps
        As in :class:`AdaptiveRule`.
    order : {1, 2}
        2 takes ξ to be normal. It costs a product with the Jacobian of the drift, and of a Σ that
        is not diagonal the square of its channels in random numbers.
    dominated : bool
        Leave :math:`(\nabla E)^2` out of the drift of ν, as Malladi et al. do. Then the square
        root scaling rule holds exactly of RMSProp's equation. Order 1 only.

    Raises
    ------
    InputError
        For arguments that cannot be used, such as averages of an optimiser that has not begun:
        the first ν are single squares, whose law is no diffusion's. On the way, if the noise
        makes some ν negative (order 2, with a 1 − β₂ that is not small).

    Notes
    -----
    **Two scalings.** With 1 − β = ρh and Σ fixed, the errors over a fixed time t = kh are of
    :math:`O(h)` and :math:`O(h^2)`; in that limit the noise is a correction, as it is for SGD.
    With Σ ∝ h⁻², 1 − β ∝ h² and ε ∝ h⁻¹, the noise stays in the limit; then order 1 errs by
    :math:`O(h^2)` over a fixed kh² with normal noise, and so it does without (∇E)².

    **The noises of θ and ν** are independent where g vanishes; the covariance of the two is
    :math:`-hD\,\tfrac{1 - \beta}h\,2\Sigma_{ij}g_j`, of the order of the others.

    References
    ----------
    Malladi, Lyu, Panigrahi and Arora (2022) for order 1 and the second scaling, without (∇E)²;
    Compagnoni et al. (2025) for the first scaling; Callisti, Romito and Triggiano (2025) for the
    noise of ν. Order 2 as written here is derived in the module;
    they have another.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E, theta = gf.problems.quadratic([1.0]), torch.zeros(1).double()
    >>> start = gf.flows.settled_averages(E, theta, 4.0)
    >>> sme = gf.flows.AdaptiveModifiedEquation(E, lr=0.1, covariance=4.0, averages=start)
    >>> seen = gf.integrate(sme, theta, t=20.0, paths=10_000, seed=0)
    >>> abs(float(seen.variance[-1, 0]) - 0.1 * 2 / 2) < 0.01
    True
    """

    def __init__(
        self,
        objective: Objective,
        lr: float,
        *,
        covariance,
        averages: Averages,
        optimizer: str = "rmsprop",
        beta: float | None = None,
        betas: tuple[float, float] | None = None,
        eps: float = 1e-8,
        order: int = 1,
        dominated: bool = False,
    ):
        super().__init__(objective, lr)
        if order not in (1, 2):
            raise InputError(f"order must be 1 or 2, got {order!r}.")
        if dominated and order == 2:
            raise InputError("dominated leaves out what order 2 needs: choose one of them.")
        if optimizer == "rmsprop-scalar":
            raise InputError("The equation is for RMSProp and Adam; choose one of them.")
        self.rule = AdaptiveRule(optimizer, lr, beta=beta, betas=betas, eps=eps)
        if not isinstance(averages, Averages):
            raise InputError(
                "averages must be gdflows.flows.Averages: what the optimiser remembers after some "
                f"steps, or settled_averages(...); got {type(averages).__name__}."
            )
        self.averages, self.order, self.dominated = averages, order, dominated
        self.covariance: Covariance = as_covariance(covariance, objective.dim)
        self._own = self.covariance.channels
        self._diagonal = isinstance(self.covariance, Constant) and self.covariance.factor.ndim < 2
        self.channels = self._own
        if order == 2:
            self.channels += self._own if self._diagonal else self._own**2
        self.additive = self.rule.corrected and order == 1 and self.covariance.constant
        self._batched = Batched(objective)
        self.label = f"{self.rule.name} SME-{order}"

    # -- the state --------------------------------------------------------------------------------

    def rows(self, thetas: Tensor) -> Tensor:
        """θ, m, ν and the number of steps taken, of Adam; θ and ν of RMSProp."""
        first, second, step = self.rule.checked(self.averages, thetas[0])
        parts = [first, second, second.new_tensor([step])] if self.rule.corrected else [second]
        return torch.cat([thetas, torch.cat(parts).expand(len(thetas), -1)], 1)

    def check(self, theta: Tensor) -> None:
        if theta.is_complex():
            raise InputError(f"The flow '{self.label}' is real; start it at theta.real.")
        _, second, step = self.rule.checked(self.averages, theta)
        if not bool((second > 0).all()) or (self.rule.corrected and step < 1):
            raise InputError(
                "averages must be those of an optimiser on its way, all of ν positive: the first "
                "ν are single squares, which no diffusion describes. Take some steps of the "
                "optimiser, or gdflows.flows.settled_averages(objective, theta, covariance)."
            )
        self.covariance.check(theta)
        row = self.rows(theta[None])
        self.drift(row)
        self.noise(row, row.new_zeros(1, self.channels))

    def vector_field(self, theta: Tensor) -> Tensor:
        raise InputError(f"The field of '{self.label}' needs its averages too: use drift.")

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        dim = (x.shape[1] - 1) // 3 if self.rule.corrected else x.shape[1] // 2
        theta, rest = x[:, :dim], x[:, dim:]
        if not self.rule.corrected:
            return theta, None, rest, None
        return theta, rest[:, :dim], rest[:, dim : 2 * dim], rest[:, 2 * dim :]

    def _rates(self, second: Tensor, step: Tensor | None) -> Tensor:
        """D, which the optimiser divides by, at each row."""
        if bool((second <= 0).any()):
            raise InputError(
                f"The noise has made an entry of ν negative on some path of '{self.label}': with "
                f"1 − β₂ = {1 - self.rule.beta2:.3g} ν is not near its mean. Use order=1, or "
                "β₂ nearer to 1."
            )
        b2 = 1.0 if step is None else 1 - self.rule.beta2**step
        return 1 / ((second / b2).sqrt() + self.rule.eps)

    # -- drift and noise --------------------------------------------------------------------------

    def _first(self, x: Tensor) -> Tensor:
        """The mean change of a row per step, over h, to leading order."""
        rule, h = self.rule, self.lr
        theta, m, nu, step = self._split(x)
        g, s = self._batched.grad(theta), self.covariance.variances(theta)
        squares = s if self.dominated else g**2 + s
        slow = (1 - rule.beta2) / h * (squares - nu)
        rates = self._rates(nu, step)
        if not rule.corrected:
            return torch.cat([-rates * g, slow], 1)
        b1 = 1 - rule.beta1**step
        pull = (1 - rule.beta1) / h * (g - m)
        return torch.cat([-rates * m / b1, pull, slow, torch.full_like(step, 1 / h)], 1)

    def drift(self, thetas: Tensor) -> Tensor:
        """b at each row of :meth:`rows`' form."""
        b = self._first(thetas)
        if self.order == 1:
            return b
        turned = self.lr / 2 * push(self._first, thetas, b)
        theta, _, nu, _ = self._split(thetas)
        dim = theta.shape[1]
        # θ moves with the averages that have this gradient in them already
        if self.rule.corrected:
            ahead = 2 * turned[:, :dim]  # θ's rate is a function of the averages alone
        else:
            g, s = self._batched.grad(theta), self.covariance.variances(theta)
            slope = -0.5 * self._rates(nu, None) ** 2 / nu.sqrt()
            ahead = -(1 - self.rule.beta2) * slope * (g**3 + 3 * g * s - nu * g)
        return b - turned + torch.nn.functional.pad(ahead, (0, thetas.shape[1] - dim))

    def noise(self, thetas: Tensor, z: Tensor) -> Tensor:
        """σ z at each row of :meth:`rows`' form."""
        rule, root = self.rule, self.lr**0.5
        theta, _, nu, step = self._split(thetas)
        moved = self.covariance.apply(theta, z[:, : self._own])
        in_nu = torch.zeros_like(moved)
        if self.order == 2:
            in_nu = self._of_squares(theta, z[:, self._own :])
            in_nu = in_nu - 2 * self._batched.grad(theta) * moved
            in_nu = (1 - rule.beta2) / root * in_nu
        if not rule.corrected:
            return torch.cat([root * self._rates(nu, step) * moved, in_nu], 1)
        in_m = -(1 - rule.beta1) / root * moved
        return torch.cat([torch.zeros_like(moved), in_m, in_nu, torch.zeros_like(step)], 1)

    def _of_squares(self, theta: Tensor, z: Tensor) -> Tensor:
        r"""A noise of covariance :math:`2\Sigma\odot\Sigma`."""
        if self._diagonal:
            return 2**0.5 * self.covariance.variances(theta) * z
        columns = self.covariance.columns(theta)
        square = z.reshape(len(z), self._own, self._own)
        return 2**0.5 * torch.einsum("pir,prs,pis->pi", columns, square, columns)

    def correction(self, thetas: Tensor) -> Tensor:
        if self.order == 1 and (self.rule.corrected or self.covariance.constant):
            return torch.zeros_like(thetas)  # what the noise moves its factor does not see
        return super().correction(thetas)


def settled_averages(objective: Objective, theta: Tensor, covariance) -> Averages:
    r"""What RMSProp and Adam would remember had they stood at θ for a long time, in mean.

    :math:`m = g` and :math:`\nu = g^2 + s`, with s the diagonal of Σ; a million steps, after which
    Adam corrects nothing.

    Parameters
    ----------
    objective : Objective
        The loss.
    theta : Tensor
        Where, shape ``(D,)``.
    covariance
        Σ, as for :class:`StochasticModifiedEquation`.

    Returns
    -------
    Averages

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E, theta = gf.problems.quadratic([2.0]), torch.ones(1).double()
    >>> gf.flows.settled_averages(E, theta, 0.5).second.tolist()  # g² + Σ
    [4.5]
    """
    law = as_covariance(covariance, objective.dim)
    law.check(theta)
    g = objective.grad(theta)
    return Averages(g, g**2 + law.variances(theta[None])[0], LONG)
