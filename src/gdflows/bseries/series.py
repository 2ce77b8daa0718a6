r"""Composing B-series, and putting one into another.

A B-series is a number a(τ) for every tree, and stands for

.. math:: B(a, y) = a(\emptyset)\,y
          + \sum_\tau \frac{h^{|\tau|}}{\sigma(\tau)} a(\tau) F(\tau)(y) .

Here a(∅) is 1 for a step and 0 for h times a field.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from functools import cache

from gdflows.bseries.trees import Tree

Weights = Callable[[Tree], Fraction]


def exact_flow(tree: Tree) -> Fraction:
    """Weights of the exact solution after the time h: 1/γ(τ).

    Examples
    --------
    >>> from gdflows.bseries import exact_flow, rooted_trees
    >>> [str(exact_flow(tree)) for tree in rooted_trees(3)]
    ['1/3', '1/6']
    """
    return Fraction(1, tree.density)


@cache
def _prunings(tree: Tree) -> tuple[tuple[Tree, tuple[Tree, ...], int], ...]:
    """Ways to keep a subtree around the root: (what is kept, the branches cut off, how many)."""
    ways: dict[tuple[tuple[Tree, ...], tuple[Tree, ...]], int] = {((), ()): 1}
    for branch in tree.branches:
        new: dict[tuple[tuple[Tree, ...], tuple[Tree, ...]], int] = defaultdict(int)
        for (kept, off), n in ways.items():
            new[kept, tuple(sorted((*off, branch)))] += n
            for sub, suboff, m in _prunings(branch):
                key = tuple(sorted((*kept, sub))), tuple(sorted((*off, *suboff)))
                new[key] += n * m
        ways = new
    return tuple((Tree(kept), off, n) for (kept, off), n in ways.items())


def compose(first: Weights, second: Weights) -> Weights:
    r"""Weights of one step after another, both of size h: :math:`B(b, B(a, y))`.

    Parameters
    ----------
    first, second : callable
        Weights a and b of two steps (with 1 for the empty tree, understood).

    Returns
    -------
    callable
        a(τ) + Σ b(kept) Π a(cut off), over all subtrees that hold the root.

    References
    ----------
    Hairer, Lubich and Wanner, Geometric Numerical Integration, theorem III.1.10.

    Examples
    --------
    >>> from gdflows.bseries import METHODS, compose, rooted_trees
    >>> euler = METHODS["explicit-euler"].weights()
    >>> twice = compose(euler, euler)
    >>> [str(twice(tree)) for tree in rooted_trees(1) + rooted_trees(2)]
    ['2', '1']
    """

    @cache
    def weights(tree: Tree) -> Fraction:
        total = Fraction(first(tree))
        for kept, off, n in _prunings(tree):
            product = Fraction(second(kept)) * n
            for branch in off:
                product *= first(branch)
            total += product
        return total

    return weights


def substitute(field: Weights, step: Weights) -> Weights:
    r"""Weights of a method ``step`` applied to the equation whose field is ``field``.

    With the modified field of a method in place of ``field`` and :func:`exact_flow` in place of
    ``step`` this returns the method's own weights: the statement of backward error analysis.

    Parameters
    ----------
    field : callable
        Weights b of h times a vector field; b(•) need not be 1.
    step : callable
        Weights of the method.

    References
    ----------
    Chartier, Hairer and Vilmart, Algebraic structures of B-series, Found. Comput. Math. 10, 2010.

    Examples
    --------
    >>> from gdflows.bseries import METHODS, exact_flow, modified_equation, rooted_trees
    >>> from gdflows.bseries import substitute
    >>> field = modified_equation("explicit-euler", order=2).coefficient
    >>> step = substitute(field, exact_flow)  # the modified flow's step is Euler's
    >>> [int(step(tree)) for tree in rooted_trees(1) + rooted_trees(2) + rooted_trees(3)]
    [1, 0, 0, 0]
    """

    @cache
    def skeletons(tree: Tree) -> dict[Tree, Fraction]:
        """Partition into subtrees, each shrunk to a vertex: the shrunk tree with Π b(parts)."""
        out: dict[Tree, Fraction] = defaultdict(Fraction)
        for kept, off, n in _prunings(tree):
            partial = {(): Fraction(field(kept)) * n}
            for branch in off:
                longer: dict[tuple[Tree, ...], Fraction] = defaultdict(Fraction)
                for done, c in partial.items():
                    for shrunk, d in skeletons(branch).items():
                        longer[tuple(sorted((*done, shrunk)))] += c * d
                partial = longer
            for branches, c in partial.items():
                out[Tree(branches)] += c
        return {t: c for t, c in out.items() if c}

    return lambda tree: sum((c * step(t) for t, c in skeletons(tree).items()), Fraction(0))
