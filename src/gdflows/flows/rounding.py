"""How much rounding pushes gradient descent along a direction in each step, measured."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gdflows.objective import Objective

LOOKS = 16  # gradients on a short line; their scatter is rounding
SPACING = 64  # ulps of θ's largest entry between two of them


def rounding(objective: Objective, theta: Tensor, direction: Tensor, lr: float) -> float:
    r"""Standard deviation of one step's rounding error along a direction.

    A step θ − hg rounds twice: the update is rounded to θ's format, which along u has the
    variance :math:`\sum u_i^2\,\mathrm{ulp}(\theta_i)^2/12`, and g carries the rounding of all
    that was added up to it. The latter is what is left of u·g, along a line so short that u·g is
    straight there, when a parabola has been taken out.

    Parameters
    ----------
    objective : Objective
        The loss; 17 gradients are spent.
    theta, direction : Tensor
        A point, and a unit vector u, shapes ``(D,)``: an eigenvector of the Hessian, or rounding
        of the points on the line is taken for the gradient's.
    lr : float
        The learning rate h.

    Returns
    -------
    float
        In units of θ.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E, theta = gf.problems.quadratic([1.0]), torch.ones(1)
    >>> 0 < gf.flows.rounding(E, theta, torch.ones(1), lr=0.1) < 1e-6  # float32
    True
    """
    # The spacing of floating-point numbers at |x|: from x to the next one up.
    size = theta.abs()
    # An entry that is zero will be as large as its first step.
    size = torch.where(size > 0, size, lr * objective.grad(theta).abs())
    ulp = torch.nextafter(size, torch.full_like(size, math.inf)) - size
    update = float(((direction * ulp) ** 2).sum()) / 12
    unit = float(ulp.max()) * SPACING
    seen, where = [], []
    for j in range(LOOKS):
        at = theta + j * unit * direction
        # Where that is along u, for the point too is rounded.
        where.append(torch.dot(direction, at - theta).double().cpu())
        seen.append(torch.dot(direction, objective.grad(at)).double().cpu())
    values, place = torch.stack(seen), torch.stack(where)
    place = 2 * place / place[-1] - 1
    smooth = torch.stack([place**k for k in range(3)], dim=1)
    left = values - smooth @ torch.linalg.lstsq(smooth, values[:, None]).solution[:, 0]
    gradient = float((left**2).sum()) / (LOOKS - 3)
    return math.sqrt(update + lr**2 * gradient)
