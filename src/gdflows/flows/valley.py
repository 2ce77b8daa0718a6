r"""What noise does to SGD along a valley of minima, on the way of the mean.

Let :math:`\Phi(\theta)` be the minimum at which gradient descent without noise would end. A step
without noise leaves it as it is, so over a step of SGD its mean changes by
:math:`\frac{h^2}{2}\nabla^2\Phi[\Sigma]` and terms of higher order in Σ alone. At a minimum,
differentiate :math:`\Phi(\theta - h\nabla E(\theta)) = \Phi(\theta)` twice: for eigenvectors
:math:`u_i, u_j` with curvature, and :math:`m_i = 1 - h\lambda_i`,

.. math:: (1 - m_im_j)\,\nabla^2\Phi[u_i, u_j] = -h\,P\,\nabla^3E[u_i, u_j]

along the valley, with P the projection on directions without curvature.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gdflows.arguments import number
from gdflows.errors import InputError
from gdflows.flows.base import Flow, check_lr
from gdflows.flows.covariance import Covariance, as_covariance
from gdflows.objective import Objective
from gdflows.objective.batched import Batched
from gdflows.problems.made import mean

OFF = 1e-3  # of θ's length: so far the minimum may be by Newton's step
ALONG = 1e-6  # of the noise's variance: what may point along the valley
OF = ("sgd", "order 1", "order 2")


class ValleyFlow(Flow):
    r"""The drift of SGD along a valley of minima, without the swing about it.

    .. math:: \dot c = -\tfrac12 P\,\nabla^3E(c)[Q], \qquad
              Q_{ij} = \frac{h^2\,\Sigma_{ij}}{1 - (1 - h\lambda_i)(1 - h\lambda_j)} ,

    in eigenvectors of the Hessian at the minimum c; Q is the covariance on which SGD settles
    across the valley, P projects along it. To leading order in Σ, at any :math:`h\lambda < 2`.

    Parameters
    ----------
    objective : Objective
        The loss E, whose minima lie in a valley; fit for ``torch.func.vmap``.
    lr : float
        The learning rate h. Flow time is t = k·h after k steps.
    covariance
        Σ of the gradient's noise, as for :class:`StochasticModifiedEquation`. It must not point
        along the valley.
    flat : float
        Directions whose curvature is below this share of the largest count as flat. A solver's
        stages lie beside the valley, where flat directions have some.
    of : {"sgd", "order 1", "order 2"}
        Whose drift: that of SGD, or of its stochastic modified equation, of weak order 1 or 2.
        See Notes.

    Raises
    ------
    InputError
        For arguments that cannot be used. Where it is evaluated: if the point is no minimum, no
        direction is flat, some hλ ≥ 2, or there is noise along the valley.

    Notes
    -----
    Of the equation of order 1 :math:`Q_{ij} = h\Sigma_{ij}/(\lambda_i + \lambda_j)`. That of order
    2 is driven by :math:`\tilde E = E + \frac h4\|\nabla E\|^2`, whose curvatures are
    :math:`\tilde\lambda = \lambda(1 + \frac{h\lambda}2)` and whose third derivative along the
    valley is :math:`1 + \frac h2(\lambda_i + \lambda_j)` times that of E.

    With :math:`\Sigma = s^2\,\nabla^2E` (see :class:`LabelNoise`) the drift is a gradient: that of
    :math:`\frac{s^2}2\log\det(1 - \frac h2\nabla^2E)`. In general it is none.

    What a batch does to the *curvature* is left out, which is of the order of Σ itself. Costs a
    dense Hessian and as many third derivatives as Σ has rank.

    References
    ----------
    Li, Wang and Arora (2022) for small hλ; Damian, Ma and Lee (2021) for the logarithm. The form
    above, with Φ of the discrete method, is derived here.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.Objective(lambda v: 0.5 * (1 + v[1] ** 2) * v[0] ** 2, 2)
    >>> flow = gf.flows.ValleyFlow(E, 0.1, covariance=torch.tensor([1.0, 0.0]).double())
    >>> point = torch.tensor([0.0, 1.0]).double()  # λ = 2: the drift is −h/(λ(2 − hλ))
    >>> round(float(flow.vector_field(point)[1]), 4)
    -0.0278
    """

    label = "valley"

    def __init__(
        self, objective: Objective, lr: float, *, covariance, flat: float = 1e-4, of: str = "sgd"
    ):
        super().__init__(objective, check_lr(lr))
        self.flat = _check_flat(flat)
        if of not in OF:
            raise InputError(f"of must be one of {OF}, got {of!r}.")
        self.of = of
        self.covariance: Covariance = as_covariance(covariance, objective.dim)
        self._batched = Batched(objective)

    def vector_field(self, theta: Tensor) -> Tensor:
        values, across, along = axes(self._batched, theta, self.lr, self.flat)
        sigma = across.T @ _matrix(self.covariance, theta, across, along) @ across
        q = self._swing(values, sigma)
        return _push(self._batched, theta, across, along, q)

    def _swing(self, values: Tensor, sigma: Tensor) -> Tensor:
        h, a, b = self.lr, values[:, None], values[None, :]
        if self.of == "sgd":
            return h * sigma / (a + b - h * a * b)
        if self.of == "order 1":
            return h * sigma / (a + b)
        return h * sigma * (1 + h / 2 * (a + b)) / (a + b + h / 2 * (a * a + b * b))


class ShuffledValleyFlow(Flow):
    r"""The drift along a valley of minima of SGD whose batches come in shuffled order.

    An epoch takes each of m batches once, in an order drawn anew. With :math:`g_k` the batches'
    gradients at the minimum c, :math:`H_k` their Hessians, :math:`\Sigma = \frac1m\sum_k
    g_kg_k\transpose` and Q the solution of :math:`HQ + QH = h\Sigma`,

    .. math:: \dot c = -\tfrac12 P\,\nabla^3E\bigl[\tfrac12(RQ + QR)\bigr]
              - \frac{h}{2m}P\sum_k H_k\,(1 - R)\,g_k , \qquad R = \rho(mhH),

    :math:`\rho(\tau) = 1 - \frac2\tau + \frac{2(1 - e^{-\tau})}{\tau^2}`. To leading order in h at
    fixed mhλ: long epochs (R = 1) drift as if batches were drawn anew, short ones (R = 0) by the
    penalty :math:`\frac h4\operatorname{tr}\Sigma` of :class:`EpochFlow`.

    Parameters
    ----------
    batches : sequence of Objective
        The batches' losses, whose mean is E; fit for ``torch.func.vmap``.
    lr : float
        The learning rate h of each step; an epoch takes the time m·h.
    flat : float
        See :class:`ValleyFlow`.

    Raises
    ------
    InputError
        As :class:`ValleyFlow`; and for a single batch.

    References
    ----------
    Derived in the chapter "What noise regularises". Beneventano (2023) has that the two kinds of
    drift belong to directions of high and of low curvature; Kühn and Rosenow (2023) the variances.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> def sample(sign):  # ½(1 + y²)x² ± x: the noise is the same all along the valley x = 0
    ...     return gf.Objective(lambda v: 0.5 * (1 + v[1] ** 2) * v[0] ** 2 + sign * v[0], 2)
    >>> flow = gf.flows.ShuffledValleyFlow([sample(1), sample(-1)], lr=0.01)
    >>> bool(flow.vector_field(torch.tensor([0.0, 1.0]).double())[1] < 0)  # to the flatter part
    True
    """

    label = "valley, shuffled"

    def __init__(self, batches: Sequence[Objective], lr: float, *, flat: float = 1e-4):
        if isinstance(batches, Objective) or len(batches) < 2:
            raise InputError("ShuffledValleyFlow needs a sequence of two Objectives or more.")
        self.batches = list(batches)
        super().__init__(mean(self.batches), check_lr(lr))
        self.flat = _check_flat(flat)
        self._batched = _Mean(self.batches)

    def vector_field(self, theta: Tensor) -> Tensor:
        h, m = self.lr, len(self.batches)
        values, across, along = axes(self._batched, theta, h, self.flat)
        g = torch.stack([batch.grad(theta) for batch in self.batches])
        _refuse_along(g @ along, g)
        a = g @ across
        share = epoch_share(m * h * values)
        q = h * (a.T @ a / m) / (values[:, None] + values[None, :])
        q = q * (share[:, None] + share[None, :]) / 2
        left = ((1 - share) * a) @ across.T
        pulled = sum(b.hvp(theta, v) for b, v in zip(self.batches, left, strict=True)) / m
        return _push(self._batched, theta, across, along, q) - h / 2 * along @ (along.T @ pulled)


class _Mean:
    """The mean of batches' derivatives at many points, one batch after the other."""

    def __init__(self, batches: Sequence[Objective]):
        self.parts = [Batched(batch) for batch in batches]

    def grad(self, thetas: Tensor) -> Tensor:
        return sum(part.grad(thetas) for part in self.parts) / len(self.parts)

    def hvp(self, thetas: Tensor, v: Tensor) -> Tensor:
        return sum(part.hvp(thetas, v) for part in self.parts) / len(self.parts)

    def third(self, thetas: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return sum(part.third(thetas, u, v) for part in self.parts) / len(self.parts)


def epoch_share(tau: Tensor) -> Tensor:
    r"""How much of its swing SGD keeps when batches come in shuffled order, :math:`\rho(\tau)`.

    .. math:: \rho(\tau) = 1 - \frac2\tau + \frac{2(1 - e^{-\tau})}{\tau^2} .

    Parameters
    ----------
    tau : Tensor
        mhλ, an epoch's length over the time in which the direction relaxes; not negative.

    Returns
    -------
    Tensor
        From 0, as τ/3, to 1. The variance over that with batches drawn anew, mean over the epoch,
        in the limit of many small steps.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> shares = gf.flows.epoch_share(torch.tensor([0.01, 1.0, 100.0]).double())
    >>> [round(float(x), 4) for x in shares]
    [0.0033, 0.2642, 0.9802]
    """
    if bool((tau < 0).any()):
        raise InputError("tau must not be negative.")
    small = tau < 1e-2
    safe = torch.where(small, torch.ones_like(tau), tau)
    exact = 1 - 2 / safe - 2 * torch.expm1(-safe) / safe**2
    series = tau / 3 - tau**2 / 12 + tau**3 / 60 - tau**4 / 360  # the next is τ⁵/2520
    return torch.where(small, series, exact)


def _check_flat(flat: float) -> float:
    flat = number(flat, "flat", positive=True)
    if not flat < 1:
        raise InputError(f"flat is a share of the largest curvature, below 1: got {flat:.3g}.")
    return flat


def axes(
    batched: Batched | _Mean, theta: Tensor, h: float, flat: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Curvatures across the valley ``(k,)``, and unit vectors across and along it, as columns.

    Raises
    ------
    InputError
        If θ is no minimum in a valley, or the minimum is past the edge.
    """
    size = theta.numel()
    eye = torch.eye(size, dtype=theta.dtype, device=theta.device)
    hessian = batched.hvp(theta.expand(size, -1), eye).detach()
    values, vectors = torch.linalg.eigh((hessian + hessian.T) / 2)
    top = float(values.abs().max())
    curved = values > flat * top
    if float(values[0]) < -flat * top or not bool(curved.any()):
        raise InputError(
            f"Here is no valley of minima: the Hessian's eigenvalues reach from "
            f"{float(values[0]):.3g} to {float(values[-1]):.3g}."
        )
    if bool(curved.all()):
        raise InputError("No direction is flat: there is no valley along which to drift.")
    if not h * top < 2:
        raise InputError(
            f"The sharpness here is {top:.6g}, past the edge 2/h = {2 / h:.6g}: SGD stays nowhere "
            "near this minimum. Lower the learning rate."
        )
    values, across, along = values[curved], vectors[:, curved], vectors[:, ~curved]
    g = batched.grad(theta[None])[0].detach()
    far = torch.linalg.vector_norm((g @ across) / values)
    scale = 1 + float(torch.linalg.vector_norm(theta))
    slope = torch.linalg.vector_norm(g @ along)
    if not far <= OFF * scale or not slope <= OFF * flat**0.5 * top * scale:
        raise InputError(
            f"This is no minimum: Newton's step across the valley is {float(far):.3g} long, and "
            f"the slope along it {float(slope):.3g}. Let gradient descent settle first."
        )
    return values, across, along


def _matrix(covariance: Covariance, theta: Tensor, across: Tensor, along: Tensor) -> Tensor:
    eye = torch.eye(covariance.channels, dtype=theta.dtype, device=theta.device)
    covariance.check(theta)
    columns = covariance.apply(theta.expand(len(eye), -1), eye).detach()
    _refuse_along(columns @ along, columns)
    return columns.T @ columns


def _refuse_along(part: Tensor, whole: Tensor) -> None:
    share = float((part * part).sum()), float((whole * whole).sum())
    if share[0] > ALONG * share[1]:
        raise InputError(
            f"A share of {share[0] / share[1]:.2g} of the noise's variance points along the "
            "valley: there SGD diffuses, and no flow follows it. Use StochasticModifiedEquation."
        )


def _push(
    batched: Batched | _Mean, theta: Tensor, across: Tensor, along: Tensor, q: Tensor
) -> Tensor:
    """−½ P ∇³E[Q], from as many third derivatives as Q has eigenvalues."""
    weights, turned = torch.linalg.eigh((q + q.T) / 2)
    keep = weights.abs() > 1e-14 * weights.abs().max()
    rows = (across @ turned[:, keep]).T.contiguous()
    thirds = batched.third(theta.expand(len(rows), -1), rows, rows).detach()
    return -0.5 * along @ (along.T @ (weights[keep] @ thirds))
