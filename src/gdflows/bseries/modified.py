r"""Modified equations: the differential equation that a method follows to every order.

Backward error analysis asks for a field :math:`\tilde f = f + h f_1 + h^2 f_2 + \dots` whose
flow over the time h is the method's step. With B-series both sides are series over rooted trees,
and their coefficients can be matched one tree at a time, in exact fractions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import factorial
from numbers import Integral
from typing import TYPE_CHECKING

from gdflows.bseries.equation import TreeEquation
from gdflows.bseries.methods import Method, get_method
from gdflows.bseries.numeric import Field, SeriesField
from gdflows.bseries.printing import equation
from gdflows.bseries.trees import Tree, rooted_trees
from gdflows.errors import InputError

# sympy is imported where it is used: flows need the numbers alone, and it is slow to load.
if TYPE_CHECKING:
    import sympy


class ModifiedEquation(TreeEquation):
    """The terms of a modified equation, by order.

    Iterating yields the :class:`Term` objects that are not zero, lowest order first. Called with
    an objective or a function of torch, ``series(E)``, it gives the field in numbers, a
    :class:`SeriesField`. See :class:`TreeEquation` for what all such equations have.

    Parameters
    ----------
    coefficients : mapping of Tree to Fraction
        b(τ) for all trees up to ``order + 1`` vertices, symmetry *not* divided out.
    order : int
        The highest power of h.
    name : str
        Of the method.
    left : str, optional
        What :meth:`latex` writes left of the equals sign, if not the derivative of y or θ.

    Examples
    --------
    >>> from gdflows.bseries import modified_equation
    >>> print(modified_equation("explicit-euler", order=1).unicode())
    ẏ = f − h 1/2 f′f
    """

    def __init__(
        self,
        coefficients: dict[Tree, Fraction],
        order: int,
        name: str,
        left: str | None = None,
    ):
        super().__init__(coefficients, order, name)
        self.left = left

    # -- in numbers ----------------------------------------------------------------------------

    def __call__(self, field: Field, order: int | None = None) -> SeriesField:
        r"""The modified field in numbers, for one right-hand side f.

        Parameters
        ----------
        field : Objective or callable
            f: an objective E stands for f = −∇E; otherwise any function of torch from y to
            dy/dt, of y's shape ``(D,)``, as often differentiable as the order asks.
        order : int, optional
            Cut off after this power of h, the series' last by default.

        Returns
        -------
        SeriesField
            ``(y, h) ↦ f₀(y) + h f₁(y) + … + hⁿ fₙ(y)``; its method ``coefficients(y)`` gives the
            f_k apart.

        Raises
        ------
        InputError
            If the series does not reach so far.

        Examples
        --------
        >>> import torch, gdflows as gf
        >>> series = gf.bseries.modified_equation("explicit-euler", order=2)
        >>> y = torch.tensor([2.0])
        >>> series(lambda y: y**2).coefficients(y).flatten().tolist()
        [4.0, -8.0, 24.0]
        >>> series(lambda y: y**2)(y, 0.5).item()
        6.0
        """
        return SeriesField(self, field, order)

    # -- in formulas ---------------------------------------------------------------------------

    def for_scalar(self, f: sympy.Expr, symbol: sympy.Symbol, h: sympy.Symbol | None = None):
        """The modified field of the scalar equation dy/dt = f(y).

        Parameters
        ----------
        f : sympy.Expr
            The right-hand side; for gradient descent minus the loss's derivative.
        symbol : sympy.Symbol
            y.
        h : sympy.Symbol, optional
            The step; by default the symbol ``h``.

        Returns
        -------
        sympy.Expr
            A polynomial in h of degree ``order``, its coefficients simplified.

        Examples
        --------
        >>> import sympy, gdflows as gf
        >>> y = sympy.Symbol("y")
        >>> gf.bseries.modified_equation("explicit-euler", order=2).for_scalar(y**2, y)
        3*h**2*y**4/2 - h*y**3 + y**2
        """
        import sympy

        h = sympy.Symbol("h") if h is None else h
        derivatives = [sympy.sympify(f)]

        def differential(tree: Tree):
            m = len(tree.branches)
            while len(derivatives) <= m:
                derivatives.append(sympy.diff(derivatives[-1], symbol))
            return derivatives[m] * sympy.Mul(*(differential(b) for b in tree.branches))

        out = sympy.Integer(0)
        for order in range(self.order + 1):
            terms = (_sympy(t.coefficient) * differential(t.tree) for t in self.terms(order))
            out += h**order * sympy.simplify(sympy.Add(*terms))
        return sympy.expand(out)

    def for_system(self, f: Sequence, symbols: Sequence, h: sympy.Symbol | None = None):
        """The modified field of a system dy/dt = f(y) in n dimensions.

        Parameters
        ----------
        f : sequence of sympy.Expr
            The right-hand sides.
        symbols : sequence of sympy.Symbol
            The components of y.
        h : sympy.Symbol, optional
            The step.

        Returns
        -------
        sympy.Matrix
            A column of polynomials in h.
        """
        import sympy

        h = sympy.Symbol("h") if h is None else h
        f, symbols = sympy.Matrix(list(f)), list(symbols)
        known: dict[Tree, sympy.Matrix] = {}

        def differential(tree: Tree) -> sympy.Matrix:
            if tree not in known:
                out = f
                # f⁽ᵐ⁾(v₁, …, v_m): directional derivatives with the v held fixed, via dummies
                held = []
                for branch in tree.branches:
                    v = [sympy.Dummy() for _ in symbols]
                    held += list(zip(v, differential(branch), strict=True))
                    out = sum(
                        (out.diff(s) * w for s, w in zip(symbols, v, strict=True)),
                        sympy.zeros(len(symbols), 1),
                    )
                known[tree] = out.subs(held, simultaneous=True).applyfunc(sympy.expand)
            return known[tree]

        total = sympy.zeros(len(symbols), 1)
        for t in self:
            total += h**t.order * _sympy(t.coefficient) * differential(t.tree)
        return total.applyfunc(sympy.expand)

    def lambdify(self, f, symbols, modules: str = "numpy") -> Callable:
        """The modified field of a formula as a plain function of NumPy or torch.

        Parameters
        ----------
        f : sympy.Expr or sequence of sympy.Expr
            The right-hand side of dy/dt = f(y).
        symbols : sympy.Symbol or sequence of sympy.Symbol
            y, or its components.
        modules : {"numpy", "torch"}
            Whose arrays the function takes and returns.

        Returns
        -------
        callable
            ``field(y, h)``, of y's shape. For a system y's first axis holds the components, and
            whatever axes follow are points; for a scalar equation every entry is a point.

        Raises
        ------
        InputError
            If ``modules`` is neither.

        Examples
        --------
        >>> import numpy, sympy, gdflows as gf
        >>> y = sympy.Symbol("y")
        >>> field = gf.bseries.modified_equation("explicit-euler", order=1).lambdify(y**2, y)
        >>> field(numpy.array([1.0, 2.0]), 0.25)
        array([0.75, 2.  ])
        """
        import sympy

        from gdflows.bseries.symbolic import plain_function

        h = sympy.Dummy("h")
        if isinstance(symbols, sympy.Symbol):
            return plain_function(self.for_scalar(f, symbols, h), symbols, h, modules)
        return plain_function(list(self.for_system(f, symbols, h)), list(symbols), h, modules)

    def latex(self, *, loss: bool = False, largest: int | None = None) -> str:
        r"""The equation in LaTeX.

        Parameters
        ----------
        loss : bool
            Write it for f = −∇E, in derivatives of the loss: g, H, T = ∇³E and ∇ᵐE.
        largest : int, optional
            Stop at this power of h.

        Returns
        -------
        str
            Without dollar signs.
        """
        return equation(self._by_order(largest), self.left, "latex", loss)

    def unicode(self, *, loss: bool = False, largest: int | None = None) -> str:
        """The equation in plain text, parameters as for :meth:`latex`.

        Examples
        --------
        >>> import gdflows as gf
        >>> gf.bseries.modified_equation("explicit-euler", order=2).unicode(loss=True)
        'θ̇ = −g − h 1/2 Hg + h²(−1/12 T[g, g] − 1/3 H²g)'
        """
        return equation(self._by_order(largest), self.left, "unicode", loss)


def modified_equation(method: str | Method | tuple, order: int) -> ModifiedEquation:
    """The modified equation of a one-step method, exactly.

    Parameters
    ----------
    method : str, Method or tuple
        ``"explicit-euler"`` (gradient descent), ``"implicit-euler"``, ``"midpoint"``, ``"rk4"``
        and the others of :data:`gdflows.bseries.METHODS`; or a Butcher tableau ``(A, b)``.
    order : int
        The highest power of h.

    Returns
    -------
    ModifiedEquation

    Raises
    ------
    InputError
        If the method is unknown or not consistent, or the order is below 0.

    References
    ----------
    Hairer, Lubich and Wanner, Geometric Numerical Integration, lemma IX.9.1 and theorem IX.9.2.

    Examples
    --------
    >>> import gdflows as gf
    >>> for term in gf.bseries.modified_equation("explicit-euler", order=2):
    ...     print(term.order, term.tree, term.coefficient)
    0 • 1
    1 [•] -1/2
    2 [••] 1/12
    2 [[•]] 1/3
    """
    method = get_method(method)
    weights = method.weights()
    b = match(lambda tree, _: weights(tree), order)
    return ModifiedEquation(b, order, method.name)


def match(
    right: Callable[[Tree, Callable[[Tree], Fraction]], Fraction],
    order: int,
    step_weight: Callable[[int], Fraction] = lambda j: Fraction(1),
    trees: Callable[[int], tuple[Tree, ...]] = rooted_trees,
) -> dict[Tree, Fraction]:
    r"""Solve :math:`\sum_j w_j \frac{h^j}{j!} D^{j-1} \tilde f = h\,r` for the field, by trees.

    D is the derivative along the field itself. With all :math:`w_j = 1` the left is one step of
    the flow, :math:`\theta(h) - \theta(0)`; momentum methods combine the steps forward and back.

    Parameters
    ----------
    right : callable
        The right side's weight at a tree, given the tree and a function with the weights of the
        flow *backwards* over h at all smaller trees (for methods with memory).
    order : int
        The highest power of h.
    step_weight : callable
        w_j.
    trees : callable
        All trees of a size.

    Returns
    -------
    dict of Tree to Fraction
        b(τ), symmetry not divided out.
    """
    if not isinstance(order, Integral) or order < 0:
        raise InputError(f"order is the highest power of h, a whole number from 0; got {order!r}.")
    first = Fraction(step_weight(1))
    # powers[j][τ]: the weight of D^{j-1} f̃ at τ
    powers: dict[int, dict[Tree, Fraction]] = {1: {}}
    b = powers[1]

    def backwards(tree: Tree) -> Fraction:
        return sum(
            (Fraction((-1) ** j, factorial(j)) * powers[j][tree] for j in range(1, tree.order + 1)),
            Fraction(0),
        )

    for n in range(1, order + 2):
        powers.setdefault(n, {})
        for tree in trees(n):
            rest = right(tree, backwards)
            for j in range(2, n + 1):
                below = powers[j - 1]
                # D acts on every vertex but the root: cut there, and put the field's own term in
                value = sum(
                    (
                        m * below[left] * b[off]
                        for (left, off), m in tree.cuts.items()
                        if left in below
                    ),
                    Fraction(0),
                )
                powers[j][tree] = value
                rest -= Fraction(step_weight(j)) * value / factorial(j)
            b[tree] = rest / first
    return b


def _sympy(x: Fraction) -> sympy.Rational:
    import sympy

    return sympy.Rational(x.numerator, x.denominator)
