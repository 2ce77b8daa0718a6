r"""Partitioned methods: symplectic Euler, Störmer–Verlet, and their modified equations.

For a system :math:`\dot y = f^y(y, z)`, :math:`\dot z = f^z(y, z)` a partitioned method treats y
with one Runge-Kutta tableau and z with another. Its series run over trees with two colours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gdflows.bseries.coloured import ColouredTree, coloured_trees
from gdflows.bseries.equation import TreeEquation
from gdflows.bseries.methods import METHODS, Method
from gdflows.bseries.modified import match
from gdflows.bseries.numeric import derivative
from gdflows.bseries.printing import equation
from gdflows.errors import InputError

if TYPE_CHECKING:
    import sympy


@dataclass(frozen=True)
class PartitionedMethod:
    r"""A partitioned Runge-Kutta method, in exact arithmetic.

    .. math:: k_i &= f^y\Bigl(y + h \sum_j A_{ij} k_j,\; z + h \sum_j \hat A_{ij} l_j\Bigr), \qquad
              y_1 = y + h \sum_i b_i k_i \\
              l_i &= f^z\Bigl(y + h \sum_j A_{ij} k_j,\; z + h \sum_j \hat A_{ij} l_j\Bigr), \qquad
              z_1 = z + h \sum_i \hat b_i l_i

    Parameters
    ----------
    for_y, for_z : Method
        The tableaux (A, b) and (Â, b̂), with equally many stages.
    name : str
        For printing.

    Raises
    ------
    InputError
        If the numbers of stages differ.

    References
    ----------
    Hairer, Lubich and Wanner, Geometric Numerical Integration, section II.2.1.

    Examples
    --------
    >>> from gdflows.bseries import METHODS, PartitionedMethod
    >>> pair = PartitionedMethod(METHODS["explicit-euler"], METHODS["implicit-euler"], "mine")
    >>> pair.adjoint().name
    'adjoint of mine'
    """

    for_y: Method
    for_z: Method
    name: str = "partitioned Runge-Kutta"

    def __post_init__(self):
        if len(self.for_y.b) != len(self.for_z.b):
            raise InputError(
                f"The tableau for y has {len(self.for_y.b)} stages and that for z "
                f"{len(self.for_z.b)}; they must have equally many (repeat a stage with weight 0)."
            )

    def weights(self) -> Callable[[ColouredTree], Fraction]:
        """The elementary weights a(τ), with b for a root of the colour y and b̂ for z."""
        by_colour = {"y": self.for_y, "z": self.for_z}

        @cache
        def stages(tree: ColouredTree) -> tuple[Fraction, ...]:
            out = [Fraction(1)] * len(self.for_y.b)
            for branch in tree.branches:
                inner = stages(branch)
                for i, row in enumerate(by_colour[branch.colour].A):
                    out[i] *= sum((a * x for a, x in zip(row, inner, strict=True)), Fraction(0))
            return tuple(out)

        return lambda tree: sum(
            (w * x for w, x in zip(by_colour[tree.colour].b, stages(tree), strict=True)),
            Fraction(0),
        )

    def adjoint(self) -> PartitionedMethod:
        """The inverse of the method with the step reversed."""
        return PartitionedMethod(
            self.for_y.adjoint(), self.for_z.adjoint(), f"adjoint of {self.name}"
        )

    def then(self, other: PartitionedMethod, share: Fraction | str = "1/2") -> PartitionedMethod:
        """One step of this with ``share`` of h, then one of ``other`` with the rest."""
        return PartitionedMethod(
            self.for_y.then(other.for_y, share),
            self.for_z.then(other.for_z, share),
            f"{self.name}, then {other.name}",
        )


_half = [["1/2", 0], ["1/2", 0]], ["1/2", "1/2"]  # Lobatto IIIB
_euler = METHODS["explicit-euler"], METHODS["implicit-euler"]
#: The named partitioned methods. For a mechanical system y is the place and z the momentum.
PARTITIONED = {
    "symplectic-euler": PartitionedMethod(*_euler, "symplectic Euler"),
    "symplectic-euler-adjoint": PartitionedMethod(*_euler[::-1], "adjoint symplectic Euler"),
    "stormer-verlet": PartitionedMethod(METHODS["trapezoid"], Method(*_half), "Störmer–Verlet"),
}


class PartitionedEquation(TreeEquation):
    """The modified equation of a partitioned method: the terms of both its parts, by order.

    Made by :func:`partitioned_equation`. Iterating yields the :class:`Term` objects that are not
    zero, lowest order first, at each order those of dy/dt (``term.tree.colour == "y"``) and then
    those of dz/dt. Called with two functions of torch, ``series(f, g)``, it gives the field in
    numbers, ``field(y, z, h)``. See :class:`TreeEquation` for what all such equations have.

    Examples
    --------
    >>> from gdflows.bseries import partitioned_equation
    >>> equation = partitioned_equation("symplectic-euler", order=1)
    >>> len(equation), equation.order
    (6, 1)
    """

    trees = staticmethod(coloured_trees)

    def __call__(self, f: Callable, g: Callable) -> Callable:
        r"""The modified field in numbers.

        Parameters
        ----------
        f, g : callable
            :math:`f^y` and :math:`f^z` as functions of torch, ``f(y, z)`` of y's shape and
            ``g(y, z)`` of z's.

        Returns
        -------
        callable
            ``field(y, z, h)``, the pair of both parts.

        Examples
        --------
        The oscillator dy/dt = z, dz/dt = −y:

        >>> import torch, gdflows as gf
        >>> series = gf.bseries.partitioned_equation("symplectic-euler", order=1)
        >>> field = series(lambda y, z: z, lambda y, z: -y)
        >>> [part.item() for part in field(torch.tensor([1.0]), torch.tensor([0.0]), 0.5)]
        [-0.25, -1.0]
        """
        terms = [(t, float(t.coefficient)) for t in self]

        def field(y: Tensor, z: Tensor, h: float) -> tuple[Tensor, Tensor]:
            parts = {"y": f, "z": g}
            none = {"y": torch.zeros_like(y), "z": torch.zeros_like(z)}

            @cache
            def differential(tree: ColouredTree) -> Tensor:
                directions = []
                for branch in tree.branches:
                    along = none | {branch.colour: differential(branch)}
                    directions.append((along["y"], along["z"]))
                return derivative(parts[tree.colour], (y, z), directions)

            out = dict(none)
            for term, coefficient in terms:
                colour = term.tree.colour
                out[colour] = out[colour] + h**term.order * coefficient * differential(term.tree)
            return out["y"], out["z"]

        return field

    def for_system(self, f, g, y, z, h: sympy.Symbol | None = None):
        r"""The modified field in formulas.

        Parameters
        ----------
        f, g : sympy.Expr or sequence of sympy.Expr
            The right-hand sides :math:`f^y` of dy/dt and :math:`f^z` of dz/dt, one expression or
            one a component.
        y, z : sympy.Symbol or sequence of sympy.Symbol
            The variables.
        h : sympy.Symbol, optional
            The step; by default the symbol ``h``.

        Returns
        -------
        tuple of sympy.Matrix
            Two columns, polynomials in h: dy/dt and dz/dt.

        Examples
        --------
        >>> import sympy, gdflows as gf
        >>> q, p = sympy.symbols("q p")
        >>> series = gf.bseries.partitioned_equation("symplectic-euler", order=1)
        >>> series.for_system(p, -sympy.sin(q), q, p)[0]
        Matrix([[-h*sin(q)/2 + p]])
        """
        import sympy

        h = sympy.Symbol("h") if h is None else h
        symbols = {"y": _listed(y), "z": _listed(z)}
        parts = {"y": sympy.Matrix(_listed(f)), "z": sympy.Matrix(_listed(g))}
        for colour, name in (("y", "f"), ("z", "g")):
            if len(parts[colour]) != len(symbols[colour]):
                raise InputError(
                    f"{name} has {len(parts[colour])} components, {colour} "
                    f"{len(symbols[colour])}; give one right-hand side for each variable."
                )

        @cache
        def differential(tree: ColouredTree) -> sympy.ImmutableMatrix:
            out, held = parts[tree.colour], []
            zero = sympy.zeros(len(out), 1)
            for branch in tree.branches:  # directions held fixed, through dummies
                direction = differential(branch)
                if direction.is_zero_matrix or out.is_zero_matrix:
                    return sympy.ImmutableMatrix(zero)
                names = symbols[branch.colour]
                v = [sympy.Dummy() for _ in names]
                held += list(zip(v, direction, strict=True))
                out = sum((out.diff(s) * w for s, w in zip(names, v, strict=True)), zero)
            return sympy.ImmutableMatrix(out.subs(held, simultaneous=True).applyfunc(sympy.expand))

        total = {colour: sympy.zeros(len(part), 1) for colour, part in parts.items()}
        for t in self:
            c = sympy.Rational(t.coefficient.numerator, t.coefficient.denominator)
            total[t.tree.colour] += h**t.order * c * differential(t.tree)
        return tuple(part.applyfunc(sympy.expand) for part in total.values())

    def latex(self, *, largest: int | None = None) -> str:
        """Both equations in LaTeX, one after the other, without dollar signs.

        Parameters
        ----------
        largest : int, optional
            Stop at this power of h.
        """
        by_order = self._by_order(largest)

        def part(colour: str) -> str:
            terms = [[t for t in level if t.tree.colour == colour] for level in by_order]
            return equation(terms, rf"\dot {colour}", "latex", False)

        return part("y") + r", \qquad " + part("z")


def partitioned_equation(
    method: str | PartitionedMethod | tuple, order: int
) -> PartitionedEquation:
    r"""The modified equation of a partitioned method, exactly.

    The method is for :math:`\dot y = f^y(y, z)`, :math:`\dot z = f^z(y, z)`. Named are

    - ``"symplectic-euler"``: :math:`z_1 = z + h f^z(y, z_1)`, then :math:`y_1 = y + h f^y(y, z_1)`;
    - ``"symplectic-euler-adjoint"``: :math:`y_1 = y + h f^y(y_1, z)`, then
      :math:`z_1 = z + h f^z(y_1, z)`;
    - ``"stormer-verlet"``: half a step of the first, then half a step of the second; where
      :math:`f^y` depends on z alone and :math:`f^z` on y alone, the leapfrog of kick, drift and
      kick.

    Parameters
    ----------
    method : str, PartitionedMethod or tuple
        A name, or two tableaux ``((A, b), (Â, b̂))`` for y and z.
    order : int
        The highest power of h.

    Returns
    -------
    PartitionedEquation

    Raises
    ------
    InputError
        If the method is unknown or not consistent, or the order is below 0.

    References
    ----------
    Hairer, Lubich and Wanner, Geometric Numerical Integration: the methods are (I.1.9) and
    (II.2.1) with table II.2.1; their series section III.2; their modified equations section
    IX.10.

    Examples
    --------
    >>> import gdflows as gf
    >>> for term in gf.bseries.partitioned_equation("symplectic-euler", order=1):
    ...     print(term.order, term.tree, term.coefficient)
    0 y 1
    0 z 1
    1 y[y] -1/2
    1 y[z] 1/2
    1 z[y] -1/2
    1 z[z] 1/2
    """
    method = _method(method)
    weights = method.weights()
    b = match(lambda tree, _: weights(tree), order, trees=coloured_trees)
    return PartitionedEquation(b, order, method.name)


def _method(method) -> PartitionedMethod:
    if isinstance(method, PartitionedMethod):
        return method
    if isinstance(method, str):
        if method not in PARTITIONED:
            raise InputError(
                f"Unknown partitioned method {method!r}; named are {', '.join(PARTITIONED)}."
            )
        return PARTITIONED[method]
    try:
        (A, b), (A_z, b_z) = method
    except (TypeError, ValueError) as error:
        raise InputError(
            "A partitioned method is a name, a PartitionedMethod, or two tableaux "
            "((A, b), (A, b)) for y and for z."
        ) from error
    return PartitionedMethod(Method(A, b), Method(A_z, b_z))


def _listed(x) -> list:
    import sympy

    return [x] if isinstance(x, sympy.Expr) else list(x) if isinstance(x, Sequence) else [*x]
