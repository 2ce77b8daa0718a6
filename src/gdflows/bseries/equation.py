"""What the modified equations of all kinds of methods share: their terms, by order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction

from gdflows.bseries.printing import table
from gdflows.bseries.terms import Term
from gdflows.bseries.trees import Tree, rooted_trees
from gdflows.errors import InputError


class TreeEquation:
    """The terms of a modified equation, by order.

    Iterating yields the :class:`Term` objects that are not zero, lowest order first.

    Parameters
    ----------
    coefficients : mapping of Tree to Fraction
        b(τ) for all trees up to ``order + 1`` vertices, symmetry *not* divided out.
    order : int
        The highest power of h.
    name : str
        Of the method.

    Examples
    --------
    >>> from gdflows.bseries import TreeEquation, modified_equation
    >>> equation = modified_equation("explicit-euler", order=2)
    >>> isinstance(equation, TreeEquation), len(equation)
    (True, 4)
    """

    #: All trees of a size.
    trees: Callable[[int], tuple[Tree, ...]] = staticmethod(rooted_trees)

    def __init__(self, coefficients: dict[Tree, Fraction], order: int, name: str):
        self.b, self.order, self.name = coefficients, order, name

    def terms(self, order: int, *, zeros: bool = False) -> list[Term]:
        """The terms of one power of h; also those with coefficient 0, if asked."""
        if not 0 <= order <= self.order:
            raise InputError(f"This series has the orders 0 … {self.order}, not {order}.")
        found = [Term(tree, order, self.b[tree] / tree.symmetry) for tree in self.trees(order + 1)]
        return [t for t in found if zeros or t.coefficient]

    def __iter__(self) -> Iterator[Term]:
        for order in range(self.order + 1):
            yield from self.terms(order)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}: {len(self)} terms to h^{self.order})"

    def coefficient(self, tree: Tree) -> Fraction:
        """b(τ)/σ(τ) for one tree."""
        if tree not in self.b:
            raise InputError(
                f"{tree} has {tree.order} vertices; this series stops at h^{self.order}."
                if tree.order > self.order + 1
                else f"{tree} is no tree of this series."
            )
        return self.b[tree] / tree.symmetry

    def table(self, *, loss: bool = False, zeros: bool = True):
        """The terms as a table, one row a tree.

        Parameters
        ----------
        loss : bool
            Write the terms for f = −∇E, in derivatives of the loss.
        zeros : bool
            Also the trees whose coefficient is 0.

        Returns
        -------
        pandas.DataFrame
            Indexed by ``order``, the power of h; columns ``tree``, ``term``, ``symmetry``,
            ``density`` and ``coefficient`` (a Fraction, symmetry divided out).
        """
        return table(self._by_order(None, zeros=zeros), loss)

    def _by_order(self, largest: int | None, zeros: bool = False) -> list[list[Term]]:
        orders = range((self.order if largest is None else largest) + 1)
        return [self.terms(order, zeros=zeros) for order in orders]

    def _repr_latex_(self) -> str:
        return f"${self.latex()}$"

    def latex(self) -> str:
        """The equation in LaTeX, without dollar signs."""
        raise NotImplementedError
