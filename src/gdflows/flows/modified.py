r"""Modified flows of gradient descent's relatives.

To the first power of h each is a gradient flow, as :class:`gdflows.flows.IGR` is for gradient
descent: that of a loss with a penalty on gradients. What a method with another memory, or another
order of its data, does beyond h¹ is no gradient flow in general.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import partial

import torch
from torch import Tensor

from gdflows.arguments import number, whole
from gdflows.bseries import heavy_ball, nesterov
from gdflows.errors import InputError
from gdflows.flows.base import Flow
from gdflows.flows.truncated import Truncated
from gdflows.objective import Objective
from gdflows.problems import mean


class HeavyBall(Flow):
    r"""The modified flow of heavy ball in torch's form, to any order: a flow of θ alone.

    .. math:: \dot\theta = -\nabla\Bigl(\frac{E}{1 - \beta}
              + \frac{h\,p(\beta)}{4(1 - \beta)^3}\,\|\nabla E\|^2\Bigr) + O(h^2), \qquad
              p = 1 + \beta .

    Started where :meth:`start` says, the flow of order n stays within :math:`O(h^{n+1})` of
    ``gdflows.descend(…, momentum=β)`` over a fixed time, once the transient of about
    1/(1 − β) steps is over. At order 1 it costs one gradient and one Hessian-vector product.

    Parameters
    ----------
    objective : Objective
        The loss; n + 1 times differentiable.
    lr : float
        The learning rate h. Flow time is t = k·h after k steps.
    beta : float
        β, 0 ≤ β < 1. The series is exact for the decimal number that it is printed as.
    order : int
        n, the highest power of h. Order 0 is the gradient flow, 1/(1 − β) times as fast.
    from_rest : bool
        Whether the method starts at θ₀ with v = 0. Then the flow starts at

        .. math:: \theta_0 + \frac{h q(\beta)}{(1 - \beta)^2}\,\nabla E(\theta_0) + O(h^2),
                  \qquad q = \beta ,

        a little uphill: a method at rest needs time to get up to speed. If False, at θ₀.

    Warns
    -----
    UserWarning
        At order 2 and above, for losses that lack the derivatives: as
        :class:`gdflows.flows.Truncated`.

    Notes
    -----
    The series is :func:`gdflows.bseries.heavy_ball`. Along an eigenvector of the Hessian it
    converges only for :math:`|h\lambda| < (1 - \sqrt\beta)^2`, which is 0.0026 for β = 0.9:
    beyond, the iterates swing, and no flow of θ alone does. See :class:`InertialFlow`.

    References
    ----------
    Kovachki and Stuart (2021); Ghosh et al. (2023); Cattaneo and Shigida (2025) to
    any order, with bounds.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> flow = gf.flows.HeavyBall(gf.problems.quadratic([1.0]), lr=0.01, beta=0.9, order=0)
    >>> round(float(flow.vector_field(torch.ones(1).double())), 6)  # −1/(1 − β)
    -10.0
    """

    _equation = staticmethod(heavy_ball)

    def __init__(
        self,
        objective: Objective,
        lr: float,
        *,
        beta: float = 0.9,
        order: int = 1,
        from_rest: bool = True,
    ):
        super().__init__(objective, lr)
        self.beta, self.order, self.from_rest = (
            check_beta(beta),
            whole(order, "order", 0),
            from_rest,
        )
        self.series = self._equation(Fraction(repr(self.beta)), self.order)
        self.label = f"{self.series.name}, order {self.order}"
        self._flow = Truncated(objective, lr, self.order, series=self.series)
        # h times the shift: one power of h less is enough
        self._shift = Truncated(objective, lr, max(self.order - 1, 0), series=self.series.shift)

    @property
    def coefficients(self) -> tuple[float, float]:
        """Of −∇E and −∇²E ∇E in the field; the second is zero at order 0."""
        first = float(self.series.terms(0)[0].coefficient)
        second = float(self.series.terms(1)[0].coefficient) if self.order else 0.0
        return first, -self.lr * second

    def vector_field(self, theta: Tensor) -> Tensor:
        return self._flow.vector_field(theta)

    def start(self, theta: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if not (self.from_rest and self.beta):
            return theta, {}
        return theta + self.lr * self._shift.vector_field(theta), {}


class Nesterov(HeavyBall):
    r"""The modified flow of Nesterov's method with constant momentum, in torch's form.

    As :class:`HeavyBall`, with :math:`p = 1 - \beta + 2\beta^2` and :math:`q = \beta^2`. It is
    the flow of the points at which the gradient is taken, which torch holds in its parameters;
    through h¹ the field is also that of the points looked ahead from.

    Notes
    -----
    The series is :func:`gdflows.bseries.nesterov` with ``lookahead=True``.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> flow = gf.flows.Nesterov(gf.problems.quadratic([1.0]), lr=0.01, beta=0.9, order=0)
    >>> round(float(flow.vector_field(torch.ones(1).double())), 6)  # −1/(1 − β)
    -10.0
    """

    _equation = staticmethod(partial(nesterov, lookahead=True))


def check_beta(beta: float, name: str = "beta") -> float:
    """A momentum as a float: in [0, 1), or an error that says so."""
    beta = number(beta, name)
    if not 0 <= beta < 1:
        raise InputError(f"{name} must be in [0, 1), got {beta}.")
    return beta


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

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> batches = [gf.problems.quadratic([1.0]), gf.problems.quadratic([3.0])]
    >>> flow = gf.flows.EpochFlow(batches, lr=0.01)
    >>> round(float(flow.vector_field(torch.ones(1).double())), 6)  # −2 − h(1² + 3²)/4
    -2.025
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
