"""The two classical models of gradient descent, NGF and IGR; and the gradient flow uphill."""

from __future__ import annotations

from torch import Tensor

from gdflows.flows.base import Flow
from gdflows.objective import Objective


class NGF(Flow):
    r"""The negative gradient flow, :math:`\dot\theta = -\nabla E(\theta)`.

    Gradient descent is its Euler discretisation; one step leaves it by :math:`O(h^2)`.

    Parameters
    ----------
    objective : Objective
        The loss.
    lr : float, optional
        Not used; taken so that all flows can be made alike.

    References
    ----------
    Rosca et al. (2023), eq. 2.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> flow = gf.flows.NGF(gf.problems.quadratic([1.0, 3.0]))
    >>> flow.vector_field(torch.ones(2).double()).tolist()
    [-1.0, -3.0]
    """

    label = "NGF"

    def __init__(self, objective: Objective, lr: float | None = None):
        super().__init__(objective, lr)

    def vector_field(self, theta: Tensor) -> Tensor:
        return -self.objective.grad(theta)


class PositiveGradientFlow(Flow):
    r"""The positive gradient flow, :math:`\dot\theta = +\nabla E(\theta)`: straight uphill.

    No model of gradient descent. It is what gradient descent is compared with in a direction
    where the real part of the principal flow's coefficient is positive.

    Parameters
    ----------
    objective : Objective
        The loss.
    lr : float, optional
        Not used; taken so that all flows can be made alike.

    References
    ----------
    Rosca et al. (2023), section 5 and figures 11 and 13.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> flow = gf.flows.PositiveGradientFlow(gf.problems.quadratic([1.0, 3.0]))
    >>> flow.vector_field(torch.ones(2).double()).tolist()
    [1.0, 3.0]
    """

    label = "positive gradient flow"

    def vector_field(self, theta: Tensor) -> Tensor:
        return self.objective.grad(theta)


class IGR(Flow):
    r"""The implicit gradient regularisation flow.

    .. math:: \dot\theta = -\nabla E - \tfrac{h}{2}\,\nabla^2 E\,\nabla E
              = -\nabla\bigl(E + \tfrac{h}{4}\|\nabla E\|^2\bigr)

    One step of gradient descent leaves it by :math:`O(h^3)`. Costs one gradient and one
    Hessian-vector product.

    Parameters
    ----------
    objective : Objective
        The loss.
    lr : float
        The learning rate h of gradient descent.

    References
    ----------
    Barrett and Dherin (2021), eq. 4; Rosca et al. (2023), eq. 3.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> flow = gf.flows.IGR(gf.problems.quadratic([1.0, 3.0]), lr=0.1)
    >>> [round(f, 6) for f in flow.vector_field(torch.ones(2).double()).tolist()]  # −λ − hλ²/2
    [-1.05, -3.45]
    """

    label = "IGR"

    def __init__(self, objective: Objective, lr: float):
        super().__init__(objective, lr)

    def vector_field(self, theta: Tensor) -> Tensor:
        point = self.objective.at(theta)
        return -point.grad - self.lr / 2 * point.hvp(point.grad)
