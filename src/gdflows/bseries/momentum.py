"""Modified equations of gradient descent with momentum, through their underlying one-step map.

A method with memory has no flow of its own on θ. But after a transient its iterates lie on those
of a one-step method, which has a modified equation like any other. Flow time is t = k·h.
"""

from __future__ import annotations

from fractions import Fraction

from gdflows.bseries.methods import _rational
from gdflows.bseries.modified import ModifiedEquation, match
from gdflows.bseries.trees import Tree
from gdflows.errors import InputError


def heavy_ball(beta, order: int) -> ModifiedEquation:
    r"""The modified equation of heavy ball, to any order.

    .. math:: \theta_{k+1} = \theta_k + \beta(\theta_k - \theta_{k-1}) + h f(\theta_k)

    (torch's form, v ← βv + g, θ ← θ − hv). If :math:`\theta_k = \theta(kh)` for a flow, then
    :math:`\theta(h) - \theta(0) + \beta(\theta(-h) - \theta(0)) = h f(\theta(0))`.

    Parameters
    ----------
    beta : rational
        0 ≤ β < 1, exact: a fraction, or a string such as ``"9/10"``.
    order : int
        The highest power of h.

    Returns
    -------
    ModifiedEquation

    Raises
    ------
    InputError
        If β is out of range or not exact.

    Examples
    --------
    >>> from gdflows.bseries import heavy_ball
    >>> [str(t.coefficient) for t in heavy_ball("1/2", order=1)]
    ['2', '-6']
    """
    beta = _beta(beta)
    b = match(
        lambda tree, _: Fraction(tree.order == 1), order, lambda j: 1 + beta * Fraction(-1) ** j
    )
    return ModifiedEquation(b, order, f"heavy ball, beta = {beta}")


def nesterov(beta, order: int) -> ModifiedEquation:
    r"""The modified equation of Nesterov's method with constant momentum, to any order.

    .. math:: \theta_{k+1} = \theta_k + \beta(\theta_k - \theta_{k-1})
              + h f\bigl(\theta_k + \beta(\theta_k - \theta_{k-1})\bigr)

    Parameters and result as for :func:`heavy_ball`.
    """
    beta = _beta(beta)

    def right(tree: Tree, backwards) -> Fraction:
        # f at θ(0) + β(θ(0) − θ(−h)): each branch of the root brings that displacement in
        out = Fraction(1)
        for branch in tree.branches:
            out *= -beta * backwards(branch)
        return out

    b = match(right, order, lambda j: 1 + beta * Fraction(-1) ** j)
    return ModifiedEquation(b, order, f"Nesterov, beta = {beta}")


def _beta(beta) -> Fraction:
    beta = _rational(beta)
    if not 0 <= beta < 1:
        raise InputError(f"The momentum beta must be in [0, 1), got {beta}.")
    return beta
