"""Rooted trees with two colours, for a system whose two parts a method treats differently.

For dy/dt = fʸ(y, z), dz/dt = fᶻ(y, z) a vertex of the colour ``"y"`` stands for fʸ and one of
the colour ``"z"`` for fᶻ; a branch of the colour y is a derivative with respect to y.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from numbers import Integral

from gdflows.bseries.trees import Tree, forests
from gdflows.errors import InputError

COLOURS = ("y", "z")


class ColouredTree(Tree):
    """A rooted tree each of whose vertices is of the colour ``"y"`` or ``"z"``.

    Parameters
    ----------
    colour : {"y", "z"}
        Of the root.
    branches : iterable of ColouredTree
        The trees that hang from the root, in no order.

    Raises
    ------
    InputError
        If the colour is neither.

    References
    ----------
    Hairer, Lubich and Wanner, Geometric Numerical Integration, section III.2.1.

    Examples
    --------
    >>> from gdflows.bseries import ColouredTree
    >>> y, z = ColouredTree("y"), ColouredTree("z")
    >>> fork = ColouredTree("z", [y, z])
    >>> fork, fork.order, fork.symmetry
    (z[zy], 3, 1)
    """

    __slots__ = ("colour",)

    def __init__(self, colour: str, branches: Iterable[ColouredTree] = ()):
        if colour not in COLOURS:
            raise InputError(f'A vertex is of the colour "y" or "z", not {colour!r}.')
        super().__init__(branches)
        self.colour = colour
        self._key = (self.order, colour, tuple(b._key for b in self.branches))
        self._hash = hash(self._key)

    def __str__(self) -> str:
        """The root's colour, then its branches in brackets."""
        inner = "".join(map(str, self.branches))
        return f"{self.colour}[{inner}]" if inner else self.colour

    __repr__ = __str__

    def _like(self, branches: Iterable[Tree]) -> ColouredTree:
        return ColouredTree(self.colour, branches)


@cache
def coloured_trees(order: int) -> tuple[ColouredTree, ...]:
    """All trees with so many vertices, first those with a root of the colour y, then z.

    There are 1, 2, 7, 26, 107, 458, … of each.

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
    >>> from gdflows.bseries import coloured_trees
    >>> [len(coloured_trees(n)) for n in range(1, 5)]
    [2, 4, 14, 52]
    """
    if not isinstance(order, Integral) or order < 1:
        raise InputError(f"A rooted tree has at least one vertex, got order {order!r}.")
    shapes = list(forests(order - 1, coloured_trees))
    return tuple(sorted(ColouredTree(colour, b) for colour in COLOURS for b in shapes))
