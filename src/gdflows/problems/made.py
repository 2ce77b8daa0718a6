"""Losses made of other losses: the mean of several, one with a penalty on its gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gdflows.arguments import number
from gdflows.errors import InputError
from gdflows.objective import Objective
from gdflows.objective.derivatives import derivative
from gdflows.objective.terms import Term


def penalised(objective: Objective, c: float) -> Objective:
    r"""A loss with a penalty on the length of its gradient, :math:`E + c\,\|\nabla E\|^2`.

    With :math:`c = h/4` its gradient flow is :class:`gdflows.flows.IGR` of the step h. Under
    gradient descent of step :math:`h_0` on it, with :math:`c = (\mu - h_0)/4`, the explicit and
    the implicit penalty add up to that of a step :math:`\mu`.

    Parameters
    ----------
    objective : Objective
        E; all its samples are held in memory at once.
    c : float
        The weight of the penalty, of any sign, in units of the learning rate.

    Returns
    -------
    Objective
        With the same ``dim`` and ``theta0``. Its gradient, :math:`\nabla E + 2c\,\nabla^2E\,
        \nabla E`, costs about as much as a Hessian-vector product of E.

    Raises
    ------
    InputError
        If E is shared out over processes, or passes its gradients through masks: then the graph
        of its gradient is not at hand.

    References
    ----------
    Barrett and Dherin (2021), who call it explicit gradient regularisation; Geiping et
    al. (2022).

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.problems.quadratic([1.0, 3.0])
    >>> gf.problems.penalised(E, 0.5).grad(torch.ones(2).double())
    tensor([ 2., 12.], dtype=torch.float64)
    """
    _check(objective, "penalised")
    c = number(c, "The weight c")

    def loss(parts: list[Tensor], theta: Tensor) -> Tensor:
        e = sum(parts)
        g = derivative(e, theta, graph=True)
        return e + c * (g * g).sum()

    return _made([objective], loss)


def mean(objectives: Sequence[Objective]) -> Objective:
    r"""The mean of several losses of the same parameters, :math:`\frac1m\sum_i C_i`.

    Parameters
    ----------
    objectives : sequence of Objective
        :math:`C_1, \dots, C_m`, of the same number of parameters; the losses of m minibatches,
        say.

    Returns
    -------
    Objective
        With ``dim`` and ``theta0`` of the first.

    Raises
    ------
    InputError
        If there are none, or they do not fit together; also for those that
        :func:`penalised` refuses.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> C = gf.problems.mean([gf.problems.quadratic([1.0]), gf.problems.quadratic([3.0])])
    >>> C.grad(torch.ones(1).double())
    tensor([2.], dtype=torch.float64)
    """
    objectives = list(objectives)
    if not objectives:
        raise InputError("mean needs at least one Objective, got none.")
    for objective in objectives:
        _check(objective, "mean")
    dims = {objective.dim for objective in objectives}
    if len(dims) > 1:
        raise InputError(f"mean needs losses of the same parameters, got dimensions {dims}.")
    return _made(objectives, lambda parts, theta: sum(parts) / len(objectives))


class _Joined(Term):
    """The terms of some losses evaluated together, all in place at θ, and joined."""

    def __init__(self, terms: Sequence[Term], join: Callable[[list[Tensor], Tensor], Tensor]):
        self._terms, self._join = list(terms), join

    @property
    def recomputes(self) -> bool:
        return any(term.recomputes for term in self._terms)

    def run(self, theta: Tensor, action: Callable, ready: Sequence[Callable] = ()):
        if len(ready) == len(self._terms):
            return action(lambda: self._join([evaluate() for evaluate in ready], theta))
        inside = self._terms[len(ready)]
        return inside.run(theta, lambda evaluate: self.run(theta, action, (*ready, evaluate)))


def _made(objectives: Sequence[Objective], join: Callable) -> Objective:
    first = objectives[0]
    joined = _Joined([term for objective in objectives for term in objective.terms], join)
    made = Objective(joined, first.dim, theta0=first.theta0, seed=first._draw.seed)
    made.terms = [joined]
    made._value_needs_graph = True  # a gradient inside the loss; a check finds where there is none
    return made


def _check(objective, name: str) -> None:
    if not isinstance(objective, Objective):
        raise InputError(
            f"{name} needs an Objective, got {type(objective).__name__}. "
            "Wrap a function with gdflows.Objective(function, dim)."
        )
    if objective.shared:
        raise InputError(
            f"{name} cannot take a loss that is shared out over processes: leave shard out."
        )
    theta = objective.theta0
    if theta is not None:
        ones = torch.ones_like(theta)
        if not torch.equal(objective._masked(ones), ones):
            raise InputError(
                f"{name} cannot take a model whose gradients pass a mask (a hook, padding_idx): "
                "fix these parameters with requires_grad_(False) instead."
            )
