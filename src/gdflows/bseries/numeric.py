"""B-series in numbers: elementary differentials of a field at a point, and their sums."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import jvp

from gdflows.bseries.trees import Tree
from gdflows.errors import InputError
from gdflows.objective import Objective

if TYPE_CHECKING:
    from gdflows.bseries.modified import ModifiedEquation

#: An objective E, which stands for −∇E, or a function from y to dy/dt.
Field = Objective | Callable[[Tensor], Tensor]


def derivative(f: Callable, at: tuple, directions: list[tuple]):
    """The directional derivatives of f, one after another; f takes what the tuples hold."""

    def along(g, v):
        return lambda *x: jvp(g, x, v)[1]

    for v in directions:
        f = along(f, v)
    return f(*at)


def elementary_differentials(field: Field, y: Tensor) -> Callable[[Tree], Tensor]:
    r"""The elementary differentials F(τ) of a field at one point, each computed once.

    .. math:: F(\bullet) = f(y), \qquad
              F([\tau_1, \dots, \tau_m]) = f^{(m)}(y)\bigl(F(\tau_1), \dots, F(\tau_m)\bigr)

    Parameters
    ----------
    field : Objective or callable
        f: an objective E stands for −∇E; or a function of torch from y to dy/dt.
    y : Tensor
        The point, shape ``(D,)``.

    Returns
    -------
    callable
        From a :class:`Tree` to a Tensor of y's shape.

    Raises
    ------
    InputError
        If the function's values are not of y's shape.

    Notes
    -----
    A derivative of order m costs about 2ᵐ evaluations of f. With D = 1 the m-th derivative is
    one number, taken once for all trees.

    Examples
    --------
    >>> import torch
    >>> from gdflows.bseries import Tree, elementary_differentials
    >>> F = elementary_differentials(torch.sin, torch.tensor([0.5]))
    >>> fork = Tree([Tree(), Tree()])
    >>> bool(torch.isclose(F(fork), -torch.sin(torch.tensor(0.5)) ** 3))
    True
    """
    if isinstance(field, Objective):
        point = field.at(y)
        value = -point.grad

        def apply(vectors: list[Tensor]) -> Tensor:
            return -point.contract(*vectors)
    else:
        value = field(y)
        if value.shape != y.shape:
            raise InputError(
                f"The field's value has the shape {tuple(value.shape)}, y {tuple(y.shape)}; "
                "dy/dt must be of y's shape."
            )

        def apply(vectors: list[Tensor]) -> Tensor:
            return derivative(field, (y,), [(v,) for v in vectors])

    @cache
    def number(m: int) -> Tensor:
        """The m-th derivative where y is one number."""
        if isinstance(field, Objective):
            return apply([torch.ones_like(y)] * m)
        x = y.detach().clone().requires_grad_()
        out = field(x)
        for _ in range(m):  # backwards: for one number cheaper than forwards
            (out,) = torch.autograd.grad(out.sum(), x, create_graph=True, materialize_grads=True)
            if not out.requires_grad:
                out = out + 0 * x
        return out.detach()

    @cache
    def differential(tree: Tree) -> Tensor:
        if not tree.branches:
            return value
        inner = [differential(b) for b in tree.branches]
        if y.numel() == 1:
            return number(len(inner)) * torch.stack(inner).prod(dim=0)
        return apply(inner)

    return differential


class SeriesField:
    """A modified field in numbers: ``field(y, h)`` is f₀(y) + h f₁(y) + … + hⁿ fₙ(y).

    Made by calling a :class:`ModifiedEquation` with an objective or a function of torch.

    Parameters
    ----------
    series : ModifiedEquation
        The coefficients.
    field : Objective or callable
        f: an objective E stands for −∇E; or a function from y to dy/dt.
    order : int, optional
        n, the highest power of h; the series' last by default.

    Examples
    --------
    >>> import torch
    >>> from gdflows.bseries import modified_equation
    >>> field = modified_equation("explicit-euler", order=1)(lambda y: -y)
    >>> field(torch.ones(1).double(), 0.1).tolist()  # −1 − h/2
    [-1.05]
    """

    def __init__(self, series: ModifiedEquation, field: Field, order: int | None = None):
        self.order = series.order if order is None else order
        self._terms = [t for n in range(self.order + 1) for t in series.terms(n)]
        self.series, self.field = series, field

    def coefficients(self, y: Tensor) -> Tensor:
        """f₀(y), …, f_n(y).

        Parameters
        ----------
        y : Tensor
            The point, shape ``(D,)``.

        Returns
        -------
        Tensor
            Shape ``(n + 1, D)``.
        """
        differential = elementary_differentials(self.field, y)
        out = torch.zeros(self.order + 1, *y.shape, dtype=y.dtype, device=y.device)
        for term in self._terms:
            out[term.order] += float(term.coefficient) * differential(term.tree)
        return out

    def __call__(self, y: Tensor, h: float) -> Tensor:
        """The field at y with the step h, of y's shape."""
        powers = self.coefficients(y)
        out = powers[-1]
        for lower in powers.flip(0)[1:]:
            out = lower + h * out
        return out
