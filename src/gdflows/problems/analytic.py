"""Losses given by a formula: small enough to check by hand, and each with a point to make.

Every function returns an :class:`gdflows.Objective` with ``dim`` and a starting point
``theta0``. All formulas are analytic, so complex parameter vectors are taken too. The dtype of
``theta0`` is the caller's; the formula itself follows whatever vector it is given.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gdflows.errors import InputError
from gdflows.objective import Objective


def quadratic(
    eigenvalues: Sequence[float] | Tensor,
    b: Sequence[float] | Tensor | None = None,
    *,
    rotation_seed: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> Objective:
    r"""A quadratic of known spectrum, :math:`\tfrac12 \theta^\top A \theta + b^\top \theta`.

    Parameters
    ----------
    eigenvalues : sequence of float or Tensor
        The eigenvalues of A, shape ``(D,)``, of any sign.
    b : sequence of float or Tensor, optional
        The linear term, shape ``(D,)``; zero by default.
    rotation_seed : int, optional
        With a seed, :math:`A = Q\,\mathrm{diag}(\lambda)\,Q^\top` for a random orthogonal Q drawn
        from it (Haar measure). Without one, A is diagonal.
    dtype : torch.dtype
        Of ``theta0``.

    Returns
    -------
    Objective
        ``theta0`` is the sum of A's unit eigenvectors, so that every mode starts with amplitude
        1: all ones where A is diagonal.

    Raises
    ------
    InputError
        If there are no eigenvalues, or b has another length.

    Notes
    -----
    With b = 0 and one dimension this is the bowl :math:`\tfrac12 \lambda z^2` of figures 2 and 4
    of [1]_, in two dimensions that of figure 5.

    References
    ----------
    .. [1] M. Rosca, Y. Wu, C. Qin and B. Dherin, "On a continuous time model of gradient descent
       dynamics and instability in deep learning", TMLR, 2023.

    Examples
    --------
    >>> import gdflows as gf
    >>> E = gf.problems.quadratic([1.0, 3.0])
    >>> E.grad(E.theta0)
    tensor([1., 3.], dtype=torch.float64)
    """
    lam = torch.as_tensor(eigenvalues, dtype=torch.float64).detach().clone()
    if lam.ndim != 1 or lam.numel() == 0:
        raise InputError(
            f"eigenvalues must be a non-empty list of numbers, got shape {tuple(lam.shape)}."
        )
    dim = lam.numel()
    linear = None if b is None else torch.as_tensor(b, dtype=torch.float64).detach().clone()
    if linear is not None and linear.shape != lam.shape:
        raise InputError(
            f"b must have shape ({dim},) like the eigenvalues, got {tuple(linear.shape)}."
        )
    q = None if rotation_seed is None else _random_rotation(dim, rotation_seed)

    def loss(theta: Tensor) -> Tensor:
        u = theta if q is None else q.to(theta).T @ theta
        e = 0.5 * (lam.to(theta) * u * u).sum()
        return e if linear is None else e + (linear.to(theta) * theta).sum()

    start = torch.ones(dim, dtype=torch.float64)
    theta0 = start if q is None else q @ start
    return Objective(loss, dim, theta0=theta0.to(dtype))


def _random_rotation(dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    q = torch.empty(dim, dim, dtype=torch.float64)
    return torch.nn.init.orthogonal_(q, generator=generator)


def banana(a: float = 1.0, b: float = 100.0, *, dtype: torch.dtype = torch.float64) -> Objective:
    r"""The banana function :math:`E(x, y) = (a - x)^2 + b\,(y - x^2)^2` of Rosenbrock.

    A curved valley with steep walls; its only critical point is the minimum
    :math:`(a, a^2)`, where the Hessian is ``[[2 + 8 b a², -4 b a], [-4 b a, 2 b]]``.

    Parameters
    ----------
    a, b : float
        Place of the minimum and steepness of the walls. The defaults are Rosenbrock's.
    dtype : torch.dtype
        Of ``theta0``.

    Returns
    -------
    Objective
        ``theta0`` is Rosenbrock's own starting point (-1.2, 1).

    Notes
    -----
    The function of figure 6 of the principal-flow paper (Rosca et al., 2023), whose text gives
    neither constants nor starting points.

    References
    ----------
    .. [1] H. H. Rosenbrock, "An automatic method for finding the greatest or least value of a
       function", The Computer Journal 3(3), 175-184, 1960.

    Examples
    --------
    >>> import gdflows as gf
    >>> E = gf.problems.banana()
    >>> E.value(E.theta0)
    tensor(24.2000, dtype=torch.float64)
    """

    def loss(theta: Tensor) -> Tensor:
        x, y = theta
        return (a - x) ** 2 + b * (y - x**2) ** 2

    return Objective(loss, 2, theta0=torch.tensor([-1.2, 1.0], dtype=dtype))


def cosh(*, dtype: torch.dtype = torch.float64) -> Objective:
    r"""The hyperbolic cosine :math:`E(x) = \cosh x`, in one dimension.

    The simplest convex loss whose curvature changes along the way (:math:`E'' = \cosh x`); every
    even derivative is cosh x and every odd one sinh x, so all terms of the modified equation are
    there, and known.

    Parameters
    ----------
    dtype : torch.dtype
        Of ``theta0``.

    Returns
    -------
    Objective
        ``theta0`` is (1,).

    Examples
    --------
    >>> import gdflows as gf
    >>> E = gf.problems.cosh()
    >>> E.hessian(E.theta0)
    tensor([[1.5431]], dtype=torch.float64)
    """
    return Objective(
        lambda theta: torch.cosh(theta).sum(), 1, theta0=torch.tensor([1.0], dtype=dtype)
    )


def cubic(*, dtype: torch.dtype = torch.float64) -> Objective:
    r"""The cubic :math:`E(x) = -\tfrac13 x^3`, whose gradient flow is :math:`\dot x = x^2`.

    The flow is :math:`x(t) = x_0 / (1 - x_0 t)` and reaches infinity at :math:`t = 1/x_0`. It is
    the standard example of backward error analysis, since the modified equation of Euler's
    method is known to every order [1]_.

    Parameters
    ----------
    dtype : torch.dtype
        Of ``theta0``.

    Returns
    -------
    Objective
        ``theta0`` is (0.1,): blow-up at t = 10.

    References
    ----------
    .. [1] E. Hairer, C. Lubich and G. Wanner, Geometric Numerical Integration, 2nd ed., Springer,
       2006, example IX.1.1.

    Examples
    --------
    >>> import gdflows as gf
    >>> E = gf.problems.cubic()
    >>> E.grad(E.theta0)
    tensor([-0.0100], dtype=torch.float64)
    """
    return Objective(
        lambda theta: -(theta**3).sum() / 3, 1, theta0=torch.tensor([0.1], dtype=dtype)
    )


def product(
    depth: int = 2, target: float = 1.0, *, dtype: torch.dtype = torch.float64
) -> Objective:
    r"""The scalar deep linear network, :math:`\tfrac12 (\theta_1 \cdots \theta_N - y)^2`.

    The smallest loss with the geometry of depth: a saddle at the origin, a whole
    hypersurface of minima of different sharpness, and conserved quantities
    :math:`\theta_i^2 - \theta_j^2` of the gradient flow. At a minimum the sharpness is
    :math:`y^2 \sum_i \theta_i^{-2}`.

    Parameters
    ----------
    depth : int
        The number N of factors, at least 1.
    target : float
        y.
    dtype : torch.dtype
        Of ``theta0``.

    Returns
    -------
    Objective
        ``theta0`` is (0.5, ..., 0.5, 1).

    Raises
    ------
    InputError
        If depth is below 1.

    Examples
    --------
    >>> import gdflows as gf
    >>> E = gf.problems.product(2)
    >>> E.value(E.theta0)
    tensor(0.1250, dtype=torch.float64)
    """
    if depth < 1:
        raise InputError(f"depth must be at least 1, got {depth}.")

    def loss(theta: Tensor) -> Tensor:
        # factor by factor: torch.prod divides in its derivatives and so fails at zeros
        p = theta[0]
        for factor in theta[1:]:
            p = p * factor
        return 0.5 * (p - target) ** 2

    theta0 = torch.full((depth,), 0.5, dtype=dtype)
    theta0[-1] = 1.0
    return Objective(loss, depth, theta0=theta0)


def valley(
    kappa: float = 0.2, y_star: float = 44.0, *, dtype: torch.dtype = torch.float64
) -> Objective:
    r"""A valley that sharpens: :math:`E(x, y) = \tfrac12 y x^2 + \tfrac12 \kappa (y - y^*)^2`.

    The sharpness across the valley is y itself, and a spring of stiffness κ pulls it towards
    y*. The gradient flow goes to x = 0, y = y*. Gradient descent with :math:`2/h < y^*` cannot:
    it hovers at the edge of stability, y = 2/h, and oscillates across the valley with
    :math:`x^2 = 2 \kappa (y^* - 2/h)`; that two-step cycle is stable for 2 < h y* < 2.5.

    Parameters
    ----------
    kappa : float
        κ > 0.
    y_star : float
        y*.
    dtype : torch.dtype
        Of ``theta0``.

    Returns
    -------
    Objective
        Of θ = (x, y); ``theta0`` is (0.05, 39.5), just below the edge 2/h = 40 of h = 0.05.

    Raises
    ------
    InputError
        If kappa is not positive.

    Examples
    --------
    >>> import gdflows as gf
    >>> E = gf.problems.valley()
    >>> E.grad(E.theta0)
    tensor([ 1.9750, -0.8988], dtype=torch.float64)
    """
    if not kappa > 0:
        raise InputError(f"kappa must be positive, got {kappa}: without a spring E has no minimum.")

    def loss(theta: Tensor) -> Tensor:
        x, y = theta
        return 0.5 * y * x**2 + 0.5 * kappa * (y - y_star) ** 2

    return Objective(loss, 2, theta0=torch.tensor([0.05, 39.5], dtype=dtype))


def concave(m: float = 1.0, *, dtype: torch.dtype = torch.float64) -> Objective:
    r"""The concave parabola :math:`E(y) = -\tfrac{m}{2} y^2`, where errors grow as :math:`e^{mt}`.

    Gradient descent gives :math:`y_0 (1 + hm)^{t/h}`, the flow :math:`y_0 e^{mt}`. To stay within
    ε of the flow to time t takes :math:`h \approx 2 \varepsilon e^{-mt} / (y_0 m^2 t)`: an
    exponentially small step cannot be avoided where the loss is concave.

    Parameters
    ----------
    m : float
        The curvature is -m; positive.
    dtype : torch.dtype
        Of ``theta0``.

    Returns
    -------
    Objective
        ``theta0`` is (1,).

    Raises
    ------
    InputError
        If m is not positive.

    References
    ----------
    .. [1] O. Elkabetz and N. Cohen, "Continuous vs. discrete optimization of deep neural
       networks", NeurIPS, 2021.

    Examples
    --------
    >>> import gdflows as gf
    >>> E = gf.problems.concave(m=2.0)
    >>> E.grad(E.theta0)
    tensor([-2.], dtype=torch.float64)
    """
    if not m > 0:
        raise InputError(f"m must be positive, got {m}: otherwise the parabola is not concave.")
    return Objective(
        lambda theta: -0.5 * m * (theta**2).sum(), 1, theta0=torch.tensor([1.0], dtype=dtype)
    )
