"""Modified equations of gradient descent with momentum, through their underlying one-step map.

A method with memory has no flow of its own on θ. But after a transient its iterates lie on those
of a one-step method, which has a modified equation like any other. Flow time is t = k·h.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from functools import cached_property
from math import comb, prod

from gdflows.bseries.methods import _rational
from gdflows.bseries.modified import ModifiedEquation, match
from gdflows.bseries.trees import Tree, rooted_trees
from gdflows.errors import InputError


class MomentumEquation(ModifiedEquation):
    """The modified equation of a method with momentum; also knows where its flow must start."""

    def __init__(self, coefficients, order: int, name: str, beta: Fraction, motion: tuple):
        super().__init__(coefficients, order, name)
        self._beta, self._motion = beta, motion

    @cached_property
    def shift(self) -> ModifiedEquation:
        r"""Where the flow starts, if the method starts at θ₀ from rest: θ₀ + h · (this field).

        The transient dies out, but leaves the iterates behind those that would have started on
        the flow. From θ₀ itself the flow is wrong by O(h) for ever; from the shifted start the
        error is :math:`O(h^{n+1})` once the transient is over, n being the order.

        The first term is :math:`-\beta/(1-\beta)^2 f`, uphill by :math:`h\beta/(1-\beta)^2 g`.
        """
        c = _slow_start(self._beta, self.order, *self._motion)
        return ModifiedEquation(c, self.order, f"start of {self.name}", left=r"\Delta\theta_0 / h")


def heavy_ball(beta, order: int) -> MomentumEquation:
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
        With one attribute more, ``shift``: the series whose h-fold, added to θ₀, is where the
        flow must start when the method starts from rest (:math:`\theta_{-1} = \theta_0`).

    Raises
    ------
    InputError
        If β is out of range or not exact.

    References
    ----------
    Cattaneo and Shigida (2025), "Modified loss of momentum gradient descent: fine-grained
    analysis", arXiv:2509.08483, derive modified equations of any order, with bounds. The shift is
    our own derivation.

    Examples
    --------
    >>> from gdflows.bseries import heavy_ball
    >>> series = heavy_ball("1/2", order=1)
    >>> [str(t.coefficient) for t in series]
    ['2', '-6']
    >>> str(series.shift.terms(0)[0].coefficient)
    '-2'
    """
    beta = _beta(beta)
    b = match(lambda tree, _: Fraction(tree.order == 1), order, _both_ways(beta))
    return MomentumEquation(b, order, f"heavy ball, beta = {beta}", beta, (0, beta, 1))


def nesterov(beta, order: int, *, lookahead: bool = False) -> MomentumEquation:
    r"""The modified equation of Nesterov's method with constant momentum, to any order.

    .. math:: \theta_{k+1} = \phi_k + h f(\phi_k), \qquad
              \phi_k = \theta_k + \beta(\theta_k - \theta_{k-1})

    Parameters
    ----------
    beta : rational
        0 ≤ β < 1, exact: a fraction, or a string such as ``"9/10"``.
    order : int
        The highest power of h.
    lookahead : bool
        Follow the points φ instead of θ. They are what ``torch.optim.SGD(nesterov=True)`` holds
        in its parameters: v ← βv + g, φ ← φ − h(g + βv). The two equations agree through h¹ and
        differ from h² on.

    Returns
    -------
    ModifiedEquation
        With the attribute ``shift`` of :func:`heavy_ball`.

    Raises
    ------
    InputError
        If β is out of range or not exact.

    Examples
    --------
    >>> import gdflows as gf
    >>> print(gf.bseries.nesterov("1/2", order=1).unicode())
    ẏ = 2 f − h 4 f′f
    """
    beta = _beta(beta)

    def at_lookahead(tree: Tree, backwards) -> Fraction:
        # f at θ(0) + β(θ(0) − θ(−h)): each branch of the root brings that displacement in
        return prod((-beta * backwards(b) for b in tree.branches), start=Fraction(1))

    def two_forces(tree: Tree, backwards) -> Fraction:
        # without θ: φ₁ − φ₀ = β(φ₀ − φ₋₁) + (1+β) h f(φ₀) − β h f(φ₋₁)
        old = prod((backwards(b) for b in tree.branches), start=Fraction(1))
        return (1 + beta) * (tree.order == 1) - beta * old

    b = match(two_forces if lookahead else at_lookahead, order, _both_ways(beta))
    name = f"Nesterov, beta = {beta}" + (", lookahead" if lookahead else "")
    # torch keeps v_{k+1} = β v_k + h f(φ_k), and moves φ by β v_{k+1} + h f(φ_k)
    motion = (0, beta * beta, 1 + beta) if lookahead else (beta, beta, 1)
    return MomentumEquation(b, order, name, beta, motion)


def _both_ways(beta: Fraction) -> Callable[[int], Fraction]:
    """Weights of θ(h) − θ(0) + β(θ(−h) − θ(0))."""
    return lambda j: 1 + beta * Fraction(-1) ** j


def _beta(beta) -> Fraction:
    beta = _rational(beta)
    if not 0 <= beta < 1:
        raise InputError(f"The momentum beta must be in [0, 1), got {beta}.")
    return beta


# -- the start from rest ---------------------------------------------------------------------------
#
# Every iterate θ_k is itself a B-series about θ₀. Its weights a_k(τ) depend on k as sums of
# c k^j β^(ik), kept as {(i, j): c}. What has i = 0 outlives the transient: an orbit that is
# polynomial in k, hence one of the flow, and its value at k = 0 is where that flow starts.

_Sequence = dict[tuple[int, int], Fraction]


def _slow_start(beta: Fraction, order: int, ahead, keep, push) -> dict[Tree, Fraction]:
    """Weights of the flow's start from θ₀ and v₀ = 0, for the method

    r_k = h f(θ_k + ahead · v_k), v_{k+1} = β v_k + r_k, θ_{k+1} = θ_k + keep · v_k + push · r_k.
    """
    if beta == 0:
        return {t: Fraction(0) for n in range(1, order + 2) for t in rooted_trees(n)}
    reached: dict[Tree, _Sequence] = {}  # weights of where f is evaluated
    start: dict[Tree, Fraction] = {}
    for n in range(1, order + 2):
        for tree in rooted_trees(n):
            r: _Sequence = {(0, 0): Fraction(1)}
            for branch in tree.branches:
                r = _product(r, reached[branch])
            v = _recurrence(beta, 1, beta, r)
            a = _recurrence(Fraction(1), 0, beta, _sum((keep, v), (push, r)))
            reached[tree] = _sum((1, a), (ahead, v))
            start[tree] = a.get((0, 0), Fraction(0))
    return start


def _sum(*parts: tuple[Fraction | int, _Sequence]) -> _Sequence:
    out: _Sequence = defaultdict(Fraction)
    for factor, sequence in parts:
        for key, c in sequence.items():
            out[key] += factor * c
    return dict(out)


def _product(x: _Sequence, y: _Sequence) -> _Sequence:
    out: _Sequence = defaultdict(Fraction)
    for (i, j), c in x.items():
        for (k, m), d in y.items():
            out[i + k, j + m] += c * d
    return dict(out)


def _recurrence(rate: Fraction, power: int, beta: Fraction, r: _Sequence) -> _Sequence:
    """The sequence with x₀ = 0 and x_{k+1} = rate · x_k + r_k, where rate is β^power."""
    out: _Sequence = {}
    for i in {i for i, _ in r}:
        q, degree = beta**i, max(j for n, j in r if n == i)
        p = [r.get((i, j), Fraction(0)) for j in range(degree + 1)]
        # x_k = q^k X(k), and q X(k+1) − rate X(k) = p(k): from the highest power of k down. In
        # resonance, rate = q, the highest power cancels and X has one degree more.
        resonant = i == power
        x = [Fraction(0)] * (degree + 1 + resonant)
        for j in range(degree, -1, -1):
            above = sum(comb(m, j) * x[m] for m in range(j + 1 + resonant, len(x)))
            if resonant:
                x[j + 1] = (p[j] / q - above) / (j + 1)
            else:
                x[j] = (p[j] - q * above) / (q - rate)
        out.update({(i, j): c for j, c in enumerate(x)})
    # the free motion makes it start from 0
    at_zero = sum((c for (_, j), c in out.items() if j == 0), Fraction(0))
    return _sum((1, out), (-1, {(power, 0): at_zero}))
