r"""Modified flows of gradient descent's relatives, to the first power of h.

Each is a gradient flow, as :class:`gdflows.flows.IGR` is for gradient descent: that of a loss
with a penalty on gradients. What a method with another memory, or another order of its data, does
beyond h¹ is no gradient flow in general.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gdflows.arguments import number
from gdflows.errors import InputError
from gdflows.flows.base import Flow
from gdflows.objective import Objective
from gdflows.problems import mean


class HeavyBall(Flow):
    r"""The modified flow of heavy ball, or of Nesterov's method, in torch's form.

    .. math:: \dot\theta = -\nabla\Bigl(\frac{E}{1 - \beta}
              + \frac{h\,p(\beta)}{4(1 - \beta)^3}\,\|\nabla E\|^2\Bigr), \qquad
              p = 1 + \beta, \quad\text{for Nesterov's method } p = 1 - \beta + 2\beta^2 .

    Started where :meth:`start` says, it stays within :math:`O(h^2)` of
    ``gdflows.descend(…, momentum=β)`` over a fixed time, once the transient of about
    1/(1 − β) steps is over. Costs one gradient and one Hessian-vector product.

    Parameters
    ----------
    objective : Objective
        The loss.
    lr : float
        The learning rate h. Flow time is t = k·h after k steps.
    momentum : float
        β, 0 ≤ β < 1.
    nesterov : bool
        Nesterov's method in place of heavy ball. The flow is that of the points at which the
        gradient is taken, which torch holds; at this order also that of the others.
    order : {0, 1}
        0 leaves the penalty out: the gradient flow, 1/(1 − β) times as fast.
    from_rest : bool
        Whether the method starts at θ₀ with v = 0. Then the flow starts at

        .. math:: \theta_0 + \frac{h q(\beta)}{(1 - \beta)^2}\,\nabla E(\theta_0), \qquad
                  q = \beta, \quad\text{for Nesterov's method } q = \beta^2 ,

        a little uphill: a method at rest needs time to get up to speed. If False, at θ₀.

    Notes
    -----
    Higher orders, for a rational β: ``Truncated(E, lr, order, series=heavy_ball("9/10", order))``
    with :func:`gdflows.bseries.heavy_ball`, whose ``shift`` is the start.

    References
    ----------
    Kovachki and Stuart (2021); Ghosh et al. (2023); Cattaneo and Shigida (2025) to
    any order, with bounds.
    """

    def __init__(
        self,
        objective: Objective,
        lr: float,
        *,
        momentum: float = 0.9,
        nesterov: bool = False,
        order: int = 1,
        from_rest: bool = True,
    ):
        super().__init__(objective, lr)
        momentum = number(momentum, "momentum")
        if not 0 <= momentum < 1:
            raise InputError(f"momentum must be in [0, 1), got {momentum}.")
        if order not in (0, 1):
            raise InputError(
                f"order must be 0 or 1, got {order!r}; for more see Truncated with a series of "
                "gdflows.bseries.heavy_ball."
            )
        self.momentum, self.nesterov = momentum, nesterov
        self.order, self.from_rest = order, from_rest
        self.label = "Nesterov flow" if nesterov else "heavy-ball flow"

    @property
    def coefficients(self) -> tuple[float, float]:
        """Of −∇E and −∇²E ∇E in the field; the second is zero at order 0."""
        b = self.momentum
        p = 1 - b + 2 * b**2 if self.nesterov else 1 + b
        return 1 / (1 - b), self.order * self.lr * p / (2 * (1 - b) ** 3)

    def vector_field(self, theta: Tensor) -> Tensor:
        first, second = self.coefficients
        if self.order == 0:
            return -first * self.objective.grad(theta)
        point = self.objective.at(theta)
        return -first * point.grad - second * point.hvp(point.grad)

    def start(self, theta: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        b = self.momentum
        if not (self.from_rest and b):
            return theta, {}
        q = b**2 if self.nesterov else b
        return theta + self.lr * q / (1 - b) ** 2 * self.objective.grad(theta), {}


class EpochFlow(Flow):
    r"""The modified flow of minibatches that are shuffled in every epoch.

    .. math:: \dot\theta = -\nabla\Bigl(C + \frac{h}{4m}\sum_{i=1}^m\|\nabla C_i\|^2\Bigr),
              \qquad C = \frac1m\sum_{i=1}^m C_i .

    An epoch takes one step of gradient descent on each :math:`C_i`, in a random order. The mean
    over all m! orders of the point that it reaches is, up to :math:`O(h^3)`, where this flow is
    after the time m·h. A single order is off by :math:`O(h^2)`. Costs m gradients and m
    Hessian-vector products.

    Parameters
    ----------
    batches : sequence of Objective
        :math:`C_1, \dots, C_m`, all of the same parameters. Their mean is kept as ``objective``.
    lr : float
        The learning rate h of one step. Flow time is t = k·h after k steps: an epoch takes m·h.

    References
    ----------
    Smith, Dherin, Barrett and De (2021), "On the origin of implicit regularization in stochastic
    gradient descent", eq. 1.
    """

    label = "epoch"

    def __init__(self, batches: Sequence[Objective], lr: float):
        if isinstance(batches, Objective):
            raise InputError(
                "EpochFlow needs a sequence of Objectives, one a batch, got a single one; with one "
                "batch use IGR."
            )
        self.batches = list(batches)
        super().__init__(mean(self.batches), lr)

    def vector_field(self, theta: Tensor) -> Tensor:
        field = torch.zeros_like(theta)
        for batch in self.batches:
            point = batch.at(theta)
            field -= point.grad + self.lr / 2 * point.hvp(point.grad)
        # what was spent on the batches, told where a walk looks for it
        self.objective._count["gradients"] += len(self.batches)
        self.objective._count["hvps"] += len(self.batches)
        return field / len(self.batches)
