"""Truncated modified equations of gradient descent: NGF, IGR and beyond, to any order."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gdflows.bseries import ModifiedEquation, modified_equation
from gdflows.errors import InputError
from gdflows.flows.base import Flow
from gdflows.objective import Objective

METHODS = ("derivatives", "differences")

#: Functions that are not three times differentiable, as torch calls them.
KINKED = {
    "relu": "ReLU",
    "threshold": "Threshold",
    "leaky_relu": "LeakyReLU",
    "_prelu_kernel": "PReLU",
    "hardtanh": "Hardtanh or ReLU6",
    "hardswish": "Hardswish",
    "hardsigmoid": "Hardsigmoid",
    "elu": "ELU or SELU",
    "celu": "CELU",
    "abs": "abs",
    "clamp": "clamp",
    "clamp_min": "clamp",
    "maximum": "maximum",
    "minimum": "minimum",
    "huber_loss": "Huber's loss",
    "smooth_l1_loss": "smooth L1 loss",
    **{f"max_pool{d}d_with_indices": f"max-pooling in {d}-D" for d in (1, 2, 3)},
    **{f"adaptive_max_pool{d}d": f"max-pooling in {d}-D" for d in (1, 2, 3)},
}


class _Listener(TorchDispatchMode):
    """Notes which functions with kinks are called while it is active."""

    def __init__(self):
        super().__init__()
        self.heard: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__.removesuffix("_")
        if name in KINKED:
            self.heard.add(KINKED[name])
        return func(*args, **(kwargs or {}))


class Truncated(Flow):
    r"""The modified equation of gradient descent, cut off after the power :math:`h^n`.

    .. math:: \dot\theta = -g - \tfrac h2 Hg - h^2\bigl(\tfrac13 H^2 g + \tfrac1{12} T[g, g]\bigr)
              - \dots

    with :math:`g = \nabla E`, :math:`H = \nabla^2 E`, :math:`T = \nabla^3 E`. One step of gradient
    descent leaves it by :math:`O(h^{n+2})`. Order 0 is the NGF, order 1 the IGR flow, order 2
    what Rosca et al. call the third-order flow.

    Parameters
    ----------
    objective : Objective
        The loss; n + 1 times differentiable.
    lr : float
        The learning rate h of gradient descent.
    order : int
        n, the highest power of h.
    method : {"derivatives", "differences"}
        How the field is evaluated, without forming a tensor either way. ``"derivatives"``: the
        terms themselves, each a nested directional derivative; one gradient, and by order 1, 2,
        3, 4 in all 1, 3, 6, 16 contractions. ``"differences"``: n + 1 gradients at gradient
        descent's own next iterates,

        .. math:: \tilde f = \frac1h \sum_{k=1}^{n+1} \frac{(-1)^{k+1}}{k} \Delta^k \theta ,

        the logarithm of the shift along the iterates, cut off. It differs from the terms by
        :math:`O(h^{n+1})`, so the order is the same; on a quadratic they are equal.

    series : ModifiedEquation, optional
        Another method's equation in place of gradient descent's, say
        ``gdflows.bseries.heavy_ball("9/10", order)``, cut off after ``order``; also the ``shift``
        of one with momentum. By derivatives only.

    Warns
    -----
    UserWarning
        By derivatives of order 2 and above, if the loss calls functions such as ReLU that lack
        them: when it is made if the objective has a starting point, else at the first evaluation.

    Raises
    ------
    InputError
        If the order or the method cannot be used.

    References
    ----------
    Hairer, Lubich and Wanner, Geometric Numerical Integration, chapter IX; Barrett and Dherin
    (2021); Rosca et al. (2023), eqs. 3 and 8.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> flow = gf.flows.Truncated(gf.problems.quadratic([1.0]), lr=0.1, order=2)
    >>> round(float(flow.vector_field(torch.ones(1).double())), 6)  # −1 − h/2 − h²/3
    -1.053333
    """

    def __init__(
        self,
        objective: Objective,
        lr: float,
        order: int,
        *,
        method: str = "derivatives",
        series: ModifiedEquation | None = None,
    ):
        super().__init__(objective, lr)
        if method not in METHODS:
            raise InputError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
        self.order, self.method = order, method
        self.series = modified_equation("explicit-euler", order)  # checks the order
        self.label = {0: "NGF", 1: "IGR"}.get(order, f"order {order}")
        if series is not None:
            if method != "derivatives":
                raise InputError(
                    "The difference formula holds for gradient descent alone; leave series out, "
                    'or use method="derivatives".'
                )
            if order > series.order:
                raise InputError(f"The series given stops at h^{series.order}, below {order}.")
            self.series, self.label = series, f"{series.name}, order {order}"
        self._field = self.series(objective, order)
        self._unchecked = order >= 2 and method == "derivatives"
        if self._unchecked and objective.theta0 is not None:
            self._check_smooth(objective.theta0)

    def _check_smooth(self, theta: Tensor) -> None:
        """Warn if the loss is made with functions that lack the derivatives."""
        self._unchecked = False
        # with gradients on, or torch may take a fused path in which the functions cannot be heard
        x = theta.detach().clone().requires_grad_()
        with torch.enable_grad(), _Listener() as listener:
            self.objective.terms[0](x)
        if listener.heard:
            warnings.warn(
                f"Order {self.order} needs {self.order + 1} derivatives, and "
                f"{', '.join(sorted(listener.heard))} has fewer: what happens at its kinks is "
                "lost, and with it the order of accuracy. Use a smooth activation (tanh, GELU), "
                "or order 0 or 1.",
                stacklevel=3,
            )

    def vector_field(self, theta: Tensor) -> Tensor:
        return (
            self._derivatives(theta) if self.method == "derivatives" else self._differences(theta)
        )

    def _derivatives(self, theta: Tensor) -> Tensor:
        if self._unchecked:
            self._check_smooth(theta)
        return self._field(theta, self.lr)

    def _differences(self, theta: Tensor) -> Tensor:
        # θ_{k+1} − θ_k = −h g(θ_k): the differences of the iterates without cancellation at k = 1
        steps = []
        for _ in range(self.order + 1):
            steps.append(-self.objective.grad(theta))
            theta = theta + self.lr * steps[-1]
        delta = torch.stack(steps)  # Δθ/h along the iterates
        out = torch.zeros_like(theta)
        for k in range(1, self.order + 2):
            out += (-1) ** (k + 1) / k * delta[0]
            delta = delta.diff(dim=0)
        return out


def third_order_nonprincipal(objective: Objective, theta: Tensor, lr: float) -> Tensor:
    r"""The non-principal term of order 2, :math:`-\frac{h^2}{12}\nabla^3E[\nabla E, \nabla E]`.

    What the truncation of order 2 has beside the powers of the Hessian.

    Parameters
    ----------
    objective : Objective
        The loss.
    theta : Tensor
        Where, shape ``(D,)``.
    lr : float
        The learning rate h.

    Returns
    -------
    Tensor
        Shape ``(D,)``.

    References
    ----------
    Rosca et al. (2023), definition 3.2 and eq. 14.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.Objective(lambda v: (v**4).sum() / 4, 1)  # E' = θ³, E''' = 6θ
    >>> term = gf.flows.third_order_nonprincipal(E, torch.ones(1).double(), lr=0.1)
    >>> round(float(term), 6)  # −0.1²/12 · 6
    -0.005
    """
    point = objective.at(theta)
    return -(lr**2) / 12 * point.third(point.grad, point.grad)
