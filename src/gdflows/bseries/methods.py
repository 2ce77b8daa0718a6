"""One-step methods as B-series: Runge-Kutta tableaux, their adjoints and compositions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from numbers import Rational

from gdflows.bseries.trees import Tree
from gdflows.errors import InputError

Weights = Callable[[Tree], Fraction]


@dataclass(frozen=True)
class Method:
    r"""A Runge-Kutta method with s stages, in exact arithmetic.

    .. math:: k_i = f\Bigl(y + h \sum_j A_{ij} k_j\Bigr), \qquad
              y_1 = y + h \sum_i b_i k_i

    Parameters
    ----------
    A : sequence of sequence
        The s × s matrix; numbers that :class:`fractions.Fraction` takes exactly (integers,
        fractions, strings such as ``"1/3"``; floats only where they are dyadic, as 0.5).
    b : sequence
        The s weights. They must add up to 1, or the method would not follow the equation at all.
    name : str
        For printing.

    Raises
    ------
    InputError
        If the shapes do not fit, a number is not rational, or the weights do not add up to 1.

    References
    ----------
    Hairer, Lubich and Wanner, Geometric Numerical Integration, section II.1.

    Examples
    --------
    >>> from gdflows.bseries import Method, modified_equation
    >>> heun = Method([[0, 0], [1, 0]], ["1/2", "1/2"], name="Heun")
    >>> print(modified_equation(heun, order=2).unicode())
    ẏ = f + h²(1/12 f″(f, f) − 1/6 f′f′f)
    """

    A: tuple[tuple[Fraction, ...], ...]
    b: tuple[Fraction, ...]
    name: str = "Runge-Kutta"

    def __init__(self, A: Sequence[Sequence], b: Sequence, name: str = "Runge-Kutta"):
        rows = tuple(tuple(_rational(x) for x in row) for row in A)
        weights = tuple(_rational(x) for x in b)
        if not weights or len(rows) != len(weights) or any(len(r) != len(weights) for r in rows):
            raise InputError(
                f"A tableau with {len(weights)} weights b needs a square matrix A of that size; "
                f"got rows of lengths {[len(r) for r in rows]}."
            )
        if sum(weights) != 1:
            raise InputError(
                f"The tableau is not consistent: its weights b add up to {sum(weights)}, not 1, "
                "so the method does not follow dy/dt = f(y) at all."
            )
        object.__setattr__(self, "A", rows)
        object.__setattr__(self, "b", weights)
        object.__setattr__(self, "name", name)

    def weights(self) -> Weights:
        """The elementary weights a(τ): one step is y + Σ h^|τ| a(τ)/σ(τ) F(τ)."""

        @cache
        def stages(tree: Tree) -> tuple[Fraction, ...]:
            """For every stage i, the product over the branches of Σ_j A_ij (their stages)_j."""
            out = [Fraction(1)] * len(self.b)
            for branch in tree.branches:
                inner = stages(branch)
                for i, row in enumerate(self.A):
                    out[i] *= sum((a * x for a, x in zip(row, inner, strict=True)), Fraction(0))
            return tuple(out)

        return lambda tree: sum(
            (w * x for w, x in zip(self.b, stages(tree), strict=True)), Fraction(0)
        )

    def adjoint(self) -> Method:
        """The inverse of the method with the step reversed: explicit Euler's is implicit Euler."""
        b = self.b[::-1]
        s = range(len(b))
        A = [[self.b[-1 - j] - self.A[-1 - i][-1 - j] for j in s] for i in s]
        return Method(A, b, f"adjoint of {self.name}")

    def then(self, other: Method, share: Fraction | str = "1/2") -> Method:
        """One step of this with ``share`` of h, then one of ``other`` with the rest."""
        c = _rational(share)
        m, n = len(self.b), len(other.b)
        A = [[c * x for x in row] + [Fraction(0)] * n for row in self.A]
        A += [[c * x for x in self.b] + [(1 - c) * x for x in row] for row in other.A]
        b = [c * x for x in self.b] + [(1 - c) * x for x in other.b]
        assert len(A) == m + n
        return Method(A, b, f"{self.name}, then {other.name}")


def _rational(x) -> Fraction:
    if not isinstance(x, Rational | str | float):
        raise InputError(f"{x!r} is not a rational number; write it as an integer or as '1/3'.")
    try:
        value = Fraction(x)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{x!r} is not a rational number; write it as '1/3'.") from error
    if isinstance(x, float) and value.denominator > 2**20:
        raise InputError(f"{x!r} is a rounded float; write the exact fraction, such as '1/3'.")
    return value


#: The named methods.
METHODS = {
    "explicit-euler": Method([[0]], [1], "explicit Euler"),
    "implicit-euler": Method([[1]], [1], "implicit Euler"),
    "midpoint": Method([["1/2"]], [1], "implicit midpoint"),
    "explicit-midpoint": Method([[0, 0], ["1/2", 0]], [0, 1], "explicit midpoint"),
    "trapezoid": Method([[0, 0], ["1/2", "1/2"]], ["1/2", "1/2"], "trapezoidal rule"),
    "heun": Method([[0, 0], [1, 0]], ["1/2", "1/2"], "Heun"),
    "rk4": Method(
        [[0, 0, 0, 0], ["1/2", 0, 0, 0], [0, "1/2", 0, 0], [0, 0, 1, 0]],
        ["1/6", "1/3", "1/3", "1/6"],
        "classical RK4",
    ),
}


def get_method(method: str | Method | tuple) -> Method:
    """A method by its name, or from a tableau ``(A, b)``."""
    if isinstance(method, Method):
        return method
    if isinstance(method, str):
        if method not in METHODS:
            raise InputError(f"Unknown method {method!r}; named are {', '.join(METHODS)}.")
        return METHODS[method]
    try:
        A, b = method
    except (TypeError, ValueError) as error:
        raise InputError("A method is a name, a Method, or a tableau (A, b).") from error
    return Method(A, b)
