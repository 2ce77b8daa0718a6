"""Backward error analysis from first principles: Taylor series matched by sympy, without trees.

An independent second derivation of what :mod:`gdflows.bseries.modified` gets from trees.
"""

from __future__ import annotations

from numbers import Integral

from gdflows.errors import InputError


def taylor_matching(f, symbols, order: int, *, step=None, h=None) -> list:
    r"""The functions f₀, f₁, …, f_n of the modified equation, by matching Taylor series.

    The solution of :math:`\dot y = \tilde f(y) = \sum_j h^j f_j(y)` after the time h is
    :math:`y + h\tilde f + \frac{h^2}{2} D\tilde f + \frac{h^3}{6} D^2\tilde f + \dots`, where
    :math:`D u = u' \tilde f` is the derivative along the solution. The method's step must have
    the same coefficient at each power of h. At :math:`h^{n+1}` only f_n is new, and so one
    after another they follow.

    Parameters
    ----------
    f : sympy.Expr or sequence of sympy.Expr
        The right-hand side of dy/dt = f(y), one expression or one a component. Undefined
        functions (``sympy.Function("f")(y)``) give the general formula.
    symbols : sympy.Symbol or sequence of sympy.Symbol
        y, or its components.
    order : int
        The last function wanted.
    step : sympy.Expr or sequence of sympy.Expr, optional
        One step of any method, y₁ as a formula in y and ``h``: alternating descent of two
        players, mirror descent, an epoch of minibatches, … Then f is what stands at h¹ and may be
        None. By default explicit Euler, y + h f.
    h : sympy.Symbol, optional
        The step size in ``step``; by default the symbol ``h``.

    Returns
    -------
    list
        f₀ … f_order: expressions, or column matrices where f is a sequence.

    Examples
    --------
    >>> import sympy
    >>> from gdflows.bseries import taylor_matching
    >>> y = sympy.Symbol("y")
    >>> taylor_matching(y**2, y, 2)
    [y**2, -y**3, 3*y**4/2]

    Two players, x first and then y against the new x (each descends its own loss):

    >>> x, h = sympy.symbols("x h")
    >>> new_x = x - h * y
    >>> taylor_matching(None, [x, y], 1, step=[new_x, y + h * new_x])[1]
    Matrix([
    [ x/2],
    [-y/2]])

    References
    ----------
    Hairer, Lubich and Wanner, Geometric Numerical Integration, section IX.1.
    """
    import sympy  # slow to load, and flows do not need it

    if not isinstance(order, Integral) or order < 0:
        raise InputError(f"order is the highest power of h, a whole number from 0; got {order!r}.")
    h = sympy.Symbol("h") if h is None else h
    scalar = isinstance(symbols, sympy.Symbol)
    ys = [symbols] if scalar else list(symbols)
    zero = sympy.zeros(len(ys), 1)

    def column(value) -> sympy.Matrix:
        entries = sympy.Matrix([value] if scalar else list(value))
        if len(entries) != len(ys):
            raise InputError(f"f or step has {len(entries)} components, y has {len(ys)}.")
        return entries

    if step is None:
        wanted = [column(f)]  # explicit Euler: f at h¹, nothing beyond
    else:
        moved = column(step) - sympy.Matrix(ys)
        if moved.subs(h, 0).applyfunc(sympy.simplify) != zero:
            raise InputError("The step does not stay where it is at h = 0, so it has no field.")
        wanted = [
            moved.diff(h, n).subs(h, 0).applyfunc(lambda e, n=n: sympy.simplify(e.doit()))
            / sympy.factorial(n)
            for n in range(1, order + 2)
        ]
    fs: list[sympy.Matrix] = []

    def along(u: sympy.Matrix, v: sympy.Matrix) -> sympy.Matrix:
        return u.jacobian(ys) * v

    # powers[k][m]: the coefficient of h^m in D^{k-1} f̃, as far as the known f_j reach
    powers: list[list[sympy.Matrix]] = [[]]
    for n in range(order + 1):
        # what the known functions already contribute at h^{n+1}: h^k/k! D^{k-1} f̃, k ≥ 2
        made = zero
        for k in range(2, n + 2):
            if len(powers) < k:
                powers.append([])
            m = n + 1 - k
            value = zero
            for i in range(m + 1):
                value += along(powers[k - 2][i], fs[m - i])
            powers[k - 1].append(value)
            made += value / sympy.factorial(k)
        target = wanted[n] if n < len(wanted) else zero
        new = (target - made).applyfunc(sympy.expand)
        fs.append(new)
        powers[0].append(new)
    return [u[0] for u in fs] if scalar else fs


def plain_function(field, symbols, h, modules: str):
    """``field(y, h)`` of NumPy or torch: see :meth:`ModifiedEquation.lambdify`."""
    import sympy

    if modules == "numpy":
        import numpy as library
    elif modules == "torch":
        import torch as library
    else:
        raise InputError(f"modules must be numpy or torch, got {modules!r}.")
    if modules == "torch":  # its functions take no bare numbers: √2 must be one before

        def rounded(e):
            return sympy.sympify(e).replace(
                lambda x: x.is_number and not x.is_Rational, lambda x: x.evalf(17)
            )

        field = [rounded(e) for e in field] if isinstance(field, list) else rounded(field)
    raw = sympy.lambdify([symbols, h], field, modules=modules, cse=True)

    def function(y, h):
        if modules == "torch":
            h = library.as_tensor(h, dtype=y.dtype, device=y.device)
        if not isinstance(field, list):
            return raw(y, h) + 0 * y
        if len(y) != len(field):
            raise InputError(f"The system has {len(field)} components, y has {len(y)}.")
        values = raw(y, h)
        # a component that does not depend on y comes out as a bare number
        return library.stack([value + 0 * part for value, part in zip(values, y, strict=True)])

    return function
