"""The principal flow with momentum: all that holds the Hessian alone, summed to the slow root."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from gdflows.arguments import number, whole
from gdflows.curvature.function import METHODS, function_at
from gdflows.errors import InputError
from gdflows.flows.base import Flow
from gdflows.flows.modified import check_beta
from gdflows.flows.principal import log_multiplier
from gdflows.objective import Objective


def multipliers(x, beta: float, *, nesterov: bool = False) -> tuple[np.ndarray, np.ndarray]:
    r"""The two roots by which a method with momentum multiplies along an eigenvector.

    Heavy ball: :math:`z^2 - (1 + \beta - x)z + \beta = 0`, with x = hλ; Nesterov's method:
    :math:`z^2 - (1 + \beta)(1 - x)z + \beta(1 - x) = 0`. Both have a double root at
    :func:`swinging`'s value of x.

    Parameters
    ----------
    x : array_like
        hλ, real or complex.
    beta : float
        β, 0 ≤ β < 1.
    nesterov : bool
        Nesterov's method in place of heavy ball.

    Returns
    -------
    slow, fast : ndarray
        Complex. The slow one is 1 at x = 0 and is continued from there, on the side Im z > 0 where
        both are complex; past that the larger in modulus. It is −1 at the edge.

    Examples
    --------
    >>> from gdflows.flows import multipliers
    >>> slow, fast = multipliers(0.0, beta=0.9)
    >>> round(float(slow.real), 6), round(float(fast.real), 6)
    (1.0, 0.9)
    """
    slow_less_one, gap = _slow(x, check_beta(beta), nesterov)
    return 1 + slow_less_one, 1 + slow_less_one - gap


def swinging(beta: float, *, nesterov: bool = False) -> float:
    r"""The value of hλ from which on the iterates swing: there both multipliers are the same.

    :math:`(1 - \sqrt\beta)^2` for heavy ball, :math:`((1 - \beta)/(1 + \beta))^2` for Nesterov's
    method. The series of :func:`gdflows.bseries.heavy_ball` converges along an eigenvector of the
    Hessian as long as hλ, without its sign, is below it.

    Examples
    --------
    >>> from gdflows.flows import swinging
    >>> round(swinging(0.9), 4), round((1 - 0.9**0.5) ** 2, 4)
    (0.0026, 0.0026)
    """
    beta = check_beta(beta)
    return ((1 - beta) / (1 + beta)) ** 2 if nesterov else (1 - beta**0.5) ** 2


def _slow(x, beta: float, nesterov: bool) -> tuple[np.ndarray, np.ndarray]:
    """The slow root less 1, and the slow root less the fast one, free of cancellation at x = 0."""
    x = np.asarray(x, np.complex128)
    first = swinging(beta, nesterov=nesterov)
    last, scale = (1.0, 1 + beta) if nesterov else ((1 + beta**0.5) ** 2, 1.0)
    root = scale * _turned_root(first - x) * _turned_root(last - x)
    below = 2 - (1 + beta) * (1 - x) if nesterov else 1 - beta + x
    return -2 * x / (root + below), root


def _turned_root(z: np.ndarray) -> np.ndarray:
    """√z with its cut turned away from the real axis by a right angle, as the logarithm's is."""
    return np.sqrt(np.abs(z)) * np.exp(0.5j * (np.angle(-1j * z) + np.pi / 2))


class MomentumPrincipalFlow(Flow):
    r"""The principal flow of heavy ball, or of Nesterov's method.

    .. math:: \dot\theta = \varphi(hH)\,\nabla E, \qquad \varphi(x) = \frac{\log z(x)}{x}

    with z the slow one of the two :func:`multipliers`. Where the loss is quadratic and all hλ are
    below :func:`swinging`, it passes through the iterates once the fast root has died out; along
    eigenvectors beyond, it is complex, and the iterates are *twice* its real part. Where two roots
    meet it has no start from rest: the shift is infinite there, and refused.

    Parameters
    ----------
    objective : Objective
        The loss.
    lr : float
        The learning rate h. Flow time is t = k·h.
    beta : float
        β, 0 ≤ β < 1.
    nesterov : bool
        Nesterov's method in torch's form in place of heavy ball.
    from_rest : bool
        Whether the method starts at θ₀ with v = 0. Then :meth:`start` is where its slow part is.
    tol, method, max_hvps
        As for :class:`PrincipalFlow`.

    References
    ----------
    Cattaneo and Shigida (2025), who have the principal flow of heavy ball too. The start is
    derived in the chapter *Momentum as an integrator*.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E, start = gf.problems.quadratic([1.0]), torch.ones(1).double()
    >>> flow = gf.flows.MomentumPrincipalFlow(E, lr=0.01, beta=0.5)
    >>> path = gf.integrate(flow, start, t=1.0)
    >>> ball = gf.descend(E, start, lr=0.01, steps=100, momentum=0.5)
    >>> abs(float(path.states[-1] - ball.states[-1])) < 1e-6
    True
    """

    def __init__(
        self,
        objective: Objective,
        lr: float,
        *,
        beta: float = 0.9,
        nesterov: bool = False,
        from_rest: bool = True,
        tol: float = 1e-8,
        method: str = "auto",
        max_hvps: int = 200,
    ):
        super().__init__(objective, lr)
        if method not in METHODS:
            raise InputError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
        self.beta, self.nesterov, self.from_rest = check_beta(beta), nesterov, from_rest
        tol, max_hvps = number(tol, "tol", positive=True), whole(max_hvps, "max_hvps")
        self.settings = {"tol": tol, "method": method, "max_hvps": max_hvps}
        self.label = f"PF, {'Nesterov' if nesterov else 'heavy ball'}"

    def alpha(self, x) -> np.ndarray:
        """The coefficient log z(x)/x along an eigenvector, −1/(1 − β) at x = hλ = 0."""
        x = np.asarray(x)
        less_one, _ = _slow(x, self.beta, self.nesterov)
        zero = x == 0
        safe = np.where(zero, 1.0, x)
        return self._real(x, np.where(zero, -1 / (1 - self.beta), log_multiplier(-less_one) / safe))

    def shift(self, x) -> np.ndarray:
        """The start's distance from θ₀ along an eigenvector, over h∇E."""
        x = np.asarray(x)
        less_one, gap = _slow(x, self.beta, self.nesterov)
        zero = x == 0
        safe = np.where(zero, 1.0, x)
        fast_less_beta = -self.beta * (less_one + (x if self.nesterov else 0)) / (1 + less_one)
        power = 2 if self.nesterov else 1
        at_zero = self.beta**power / (1 - self.beta) ** 2
        return self._real(x, np.where(zero, at_zero, fast_less_beta / (gap * safe)))

    def _real(self, x: np.ndarray, values: np.ndarray) -> np.ndarray:
        monotone = np.isrealobj(x) and (x < swinging(self.beta, nesterov=self.nesterov)).all()
        return values.real if monotone else values

    def vector_field(self, theta: Tensor) -> Tensor:
        return self._apply(theta, self.alpha)

    def start(self, theta: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if not (self.from_rest and self.beta):
            return theta, {}
        return theta + self.lr * self._apply(theta, self.shift), {}

    def _apply(self, theta: Tensor, coefficient) -> Tensor:
        point = self.objective.at(theta)
        phi = lambda values: coefficient(self.lr * values)  # noqa: E731
        return function_at(point, phi, point.grad, **self.settings).value
