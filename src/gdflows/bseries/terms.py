"""One term of a modified equation."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from gdflows.bseries.trees import Tree


@dataclass(frozen=True)
class Term:
    """One term h^order · coefficient · F(tree) of a modified equation.

    Attributes
    ----------
    tree : Tree
        Which elementary differential.
    order : int
        The power of h: one less than the tree's number of vertices.
    coefficient : Fraction
        b(τ)/σ(τ), the symmetry divided out; what stands in front of F(τ) when the series is
        written down.

    Examples
    --------
    >>> from gdflows.bseries import modified_equation
    >>> first = modified_equation("explicit-euler", order=1).terms(1)[0]
    >>> first.order, str(first.coefficient)
    (1, '-1/2')
    """

    tree: Tree
    order: int
    coefficient: Fraction

    @property
    def loss_coefficient(self) -> Fraction:
        """The coefficient when f = −∇E and the term is written in derivatives of E."""
        return self.coefficient * (-1) ** self.tree.order
