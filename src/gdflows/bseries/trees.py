"""Rooted trees: what the derivatives of a differential equation's solution are indexed by.

A tree of n vertices stands for an elementary differential, a product of derivatives of the
vector field with n factors f: the single vertex for f itself, a root with branches τ₁ … τ_m for
the m-th derivative f⁽ᵐ⁾ applied to the elementary differentials of its branches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache, cached_property, total_ordering
from math import factorial
from numbers import Integral

from gdflows.errors import InputError


@total_ordering
class Tree:
    """A rooted tree whose branches have no order.

    Parameters
    ----------
    branches : iterable of Tree
        The trees that hang from the root; none for the single vertex.

    Examples
    --------
    >>> from gdflows.bseries import Tree
    >>> dot = Tree()
    >>> cherry = Tree([dot, dot])
    >>> cherry.order, cherry.symmetry, cherry.density
    (3, 2, 3)
    """

    __slots__ = ("__dict__", "branches", "order", "_key", "_hash")

    def __init__(self, branches: Iterable[Tree] = ()):
        self.branches = tuple(sorted(branches, reverse=True))
        #: The number of vertices.
        self.order = 1 + sum(b.order for b in self.branches)
        self._key = (self.order, tuple(b._key for b in self.branches))
        self._hash = hash(self._key)

    def __eq__(self, other) -> bool:
        return isinstance(other, Tree) and self._hash == other._hash and self._key == other._key

    def __lt__(self, other: Tree) -> bool:
        return self._key < other._key

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        """Nested brackets; the single vertex is •."""
        return f"[{''.join(map(str, self.branches))}]" if self.branches else "•"

    __repr__ = __str__

    @cached_property
    def symmetry(self) -> int:
        """σ(τ): how many rearrangements of equal branches leave the tree as it is."""
        out = 1
        for branch, n in Counter(self.branches).items():
            out *= factorial(n) * branch.symmetry**n
        return out

    @cached_property
    def density(self) -> int:
        """γ(τ): the product over all vertices of the number of vertices above and at each."""
        out = self.order
        for branch in self.branches:
            out *= branch.density
        return out

    @property
    def is_tall(self) -> bool:
        """Whether no vertex has two branches: f′f′…f′f, a power of the Jacobian."""
        return len(self.branches) <= 1 and all(b.is_tall for b in self.branches)

    @property
    def is_bushy(self) -> bool:
        """Whether all branches are single vertices: f⁽ᵐ⁾(f, …, f)."""
        return all(not b.branches for b in self.branches)

    @cached_property
    def cuts(self) -> Counter[tuple[Tree, Tree]]:
        """Every way to cut off one subtree: (what is left, what was cut off) with multiplicity."""
        out: Counter[tuple[Tree, Tree]] = Counter()
        for i, branch in enumerate(self.branches):
            rest = self.branches[:i] + self.branches[i + 1 :]
            out[self._like(rest), branch] += 1
            for (left, off), n in branch.cuts.items():
                out[self._like((*rest, left)), off] += n
        return out

    def _like(self, branches: Iterable[Tree]) -> Tree:
        """The same root with other branches."""
        return Tree(branches)


@cache
def rooted_trees(order: int) -> tuple[Tree, ...]:
    """All rooted trees with so many vertices: 1, 1, 2, 4, 9, 20, 48, 115, 286, 719, …

    Parameters
    ----------
    order : int
        The number of vertices, at least 1.

    Raises
    ------
    InputError
        If it is below 1.

    Examples
    --------
    >>> from gdflows.bseries import rooted_trees
    >>> [len(rooted_trees(n)) for n in range(1, 7)]
    [1, 1, 2, 4, 9, 20]
    """
    if not isinstance(order, Integral) or order < 1:
        raise InputError(f"A rooted tree has at least one vertex, got order {order!r}.")
    return tuple(sorted(Tree(b) for b in forests(order - 1, rooted_trees)))


def forests(
    total: int,
    trees: Callable[[int], tuple[Tree, ...]],
    largest: int | None = None,
    bound: Tree | None = None,
) -> Iterator[tuple[Tree, ...]]:
    """Multisets of ``trees`` with ``total`` vertices, in descending order from ``bound``."""
    if total == 0:
        yield ()
        return
    for size in range(min(total, total if largest is None else largest), 0, -1):
        for tree in reversed(trees(size)):
            if bound is None or tree <= bound:
                for rest in forests(total - size, trees, size, tree):
                    yield (tree, *rest)
