"""The principal flow: all terms of the modified equation that hold the Hessian alone, summed."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from gdflows.arguments import number, whole
from gdflows.curvature.function import METHODS, function_at
from gdflows.errors import ConvergenceError, InputError, SingularityError
from gdflows.flows.base import Flow
from gdflows.objective import Objective

SINGULAR = 1e-12  # |1 − hλ| below this is called hλ = 1: the logarithm has lost its digits


def log_multiplier(x: np.ndarray) -> np.ndarray:
    r"""The logarithm of gradient descent's multiplier 1 − hλ, :math:`\log(1 - x)`.

    Real for real x < 1, else complex. The branch cut of the principal logarithm would lie on
    real x > 1, where every sharp direction is: the field would jump whenever Im x changes its
    sign there. The cut is turned away by a right angle, to :math:`x = 1 + is, s > 0`; on real
    x > 1 the logarithm is :math:`\log(x - 1) + i\pi`, and analytic around.

    Parameters
    ----------
    x : array_like
        hλ, any shape.

    Returns
    -------
    ndarray
        Of x's shape; −∞ where x = 1 (to 1e-12).

    Examples
    --------
    >>> from gdflows.flows import log_multiplier
    >>> log_multiplier([0.5, 1.5]).round(4).tolist()  # past 1 the multiplier is negative
    [(-0.6931+0j), (-0.6931+3.1416j)]
    """
    x = np.asarray(x)
    if np.isrealobj(x) and (x < 1 - SINGULAR).all():
        return np.log1p(-x)
    x = np.asarray(x, np.complex128)
    z = 1 - x
    modulus, near = np.abs(z), np.abs(x) < 0.5
    with np.errstate(divide="ignore"):
        far = np.log(modulus) + 1j * (np.angle(-1j * z) + np.pi / 2)
    # near x = 0 as log1p would; numpy's of a complex number loses digits
    square = np.where(near, -2 * x.real + np.abs(x) ** 2, 0.0)
    out = np.where(near, 0.5 * np.log1p(square) + 1j * np.angle(z), far)
    return np.where(modulus <= SINGULAR, -np.inf, out)


def alpha(x, model: str | int = "PF") -> np.ndarray:
    r"""The coefficient α(hλ) of a flow along an eigenvector of the Hessian.

    All flows made of the Hessian alone are :math:`\dot\theta = \sum_i \alpha(h\lambda_i)\,
    (\nabla E \cdot u_i)\, u_i` at real θ.

    Parameters
    ----------
    x : array_like
        hλ.
    model : {"NGF", "IGR", "PF"} or int
        −1; −(1 + x/2); log(1 − x)/x, which is −1 at x = 0. A number n: the principal series cut
        off after :math:`h^n`, :math:`-\sum_{p \le n} x^p/(p+1)`.

    Returns
    -------
    ndarray
        Real or complex.

    References
    ----------
    Rosca et al. (2023), table 1 and theorem 3.1.

    Examples
    --------
    >>> from gdflows.flows import alpha
    >>> alpha([0.5, 1.5], "IGR").tolist()  # −(1 + x/2)
    [-1.25, -1.75]
    """
    x = np.asarray(x)
    order = {"NGF": 0, "IGR": 1}.get(model, model)
    if order == "PF":
        log = log_multiplier(x)
        zero = x == 0
        return np.where(zero, -1.0, log / np.where(zero, 1, x))
    if not isinstance(order, int) or order < 0:
        raise InputError(f"model must be 'NGF', 'IGR', 'PF' or an order of at least 0: {model!r}.")
    return np.polyval([-1 / (p + 1) for p in range(order, -1, -1)], x)


class PrincipalFlow(Flow):
    r"""The principal flow, and with the non-principal term of order 2.

    .. math:: \dot\theta = \varphi(hH)\,\nabla E, \qquad \varphi(x) = \frac{\log(1 - x)}{x}
              \qquad \Bigl(\;- \tfrac{h^2}{12} \nabla^3E[\nabla E, \nabla E]\Bigr)

    Where the loss is quadratic, it passes through every iterate of gradient descent. Elsewhere
    one step leaves it by :math:`\tfrac{h^3}{12}\nabla^3E[\nabla E, \nabla E] + O(h^4)`, the order
    of the IGR flow; with the term, by :math:`O(h^4)`.

    The field is real where all hλ < 1, and complex otherwise: then θ leaves the real numbers and
    the loss must be holomorphic. :func:`gdflows.integrate` follows it there.

    Parameters
    ----------
    objective : Objective
        The loss.
    lr : float
        The learning rate h of gradient descent.
    nonprincipal : bool
        Add the non-principal term of order 2. Costs one contraction of the third derivative.
    tol : float
        Relative accuracy of the field, as far as θ's dtype can hold it.
    method : {"auto", "krylov", "dense"}
        How φ(hH)∇E is computed: see :func:`gdflows.curvature.apply_function`. Matrix-free, about
        twenty Hessian-vector products an evaluation; some three times as dear at complex θ.
    max_hvps : int
        The largest Krylov space to try in an evaluation.

    Raises
    ------
    SingularityError
        If hλ = 1 along a direction in which the gradient has a component: gradient descent jumps
        onto the bottom of that valley in one step, and no flow does. Where the loss is quadratic,
        :meth:`frozen` still gives the solution.
    ConvergenceError
        If the Krylov space does not reach ``tol``.
    InputError
        At complex θ, if the loss is not holomorphic.

    References
    ----------
    Rosca et al. (2023), eqs. 12 and 14.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E, start = gf.problems.quadratic([1.0, 3.0]), torch.ones(2).double()
    >>> flow = gf.flows.PrincipalFlow(E, lr=0.2)
    >>> path = gf.integrate(flow, start, times=[0.0, 0.2, 0.4])
    >>> [round(x, 4) for x in path.states[-1].tolist()]  # (1 − hλ)², as gradient descent
    [0.64, 0.16]
    """

    label = "PF"

    def __init__(
        self,
        objective: Objective,
        lr: float,
        *,
        nonprincipal: bool = False,
        tol: float = 1e-8,
        method: str = "auto",
        max_hvps: int = 200,
    ):
        super().__init__(objective, lr)
        if method not in METHODS:
            raise InputError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
        self.nonprincipal = nonprincipal
        self.label = "PF + term" if nonprincipal else "PF"
        tol, max_hvps = number(tol, "tol", positive=True), whole(max_hvps, "max_hvps")
        self.settings = {"tol": tol, "method": method, "max_hvps": max_hvps}

    def vector_field(self, theta: Tensor) -> Tensor:
        point = self.objective.at(theta)
        rate = self._apply(point, lambda values: alpha(self.lr * values))
        if self.nonprincipal:
            rate = rate - self.lr**2 / 12 * point.third(point.grad, point.grad)
        return rate

    def frozen(self, theta: Tensor, t: float) -> Tensor:
        r"""The solution at time t with gradient and Hessian frozen at their values at θ.

        .. math:: \theta + \frac{(1 - hH)^{t/h} - 1}{H} \nabla E(\theta)

        Exact where the loss is quadratic, hλ = 1 included. At t = h it is the gradient descent
        step, **for any loss**: that a frozen principal flow predicts one step is no evidence
        for it.

        Parameters
        ----------
        theta : Tensor
            Shape ``(D,)``.
        t : float
            Flow time, at least 0.

        Returns
        -------
        Tensor
            Shape ``(D,)``; complex between the iterates if some hλ > 1.

        References
        ----------
        Rosca et al. (2023), remark 3.1, which misprints the case b ≠ 0.
        """
        t = number(t, "t")
        if t < 0:
            raise InputError(f"t must be finite and at least 0, got {t}.")
        k = t / self.lr
        whole = round(k)
        if abs(k - whole) <= 1e-12 * max(1.0, k):
            k = whole

        def phi(values: np.ndarray) -> np.ndarray:
            x = self.lr * values
            zero = x == 0
            safe = np.where(zero, 1.0, x)
            near = np.abs(x) < 0.5
            log = log_multiplier(np.where(near, x, 0.0))
            far = np.where(near, 0.0, x)
            if isinstance(k, int):
                power = (1 - far) ** k - 1
            elif k > 0:
                power = np.where(np.abs(1 - far) > SINGULAR, np.exp(k * log_multiplier(far)), 0) - 1
            else:
                power = 0.0 * far
            return self.lr * np.where(zero, -k, np.where(near, np.expm1(k * log), power) / safe)

        point = self.objective.at(theta)
        return theta + self._apply(point, phi)

    def obstacle(self, theta: Tensor) -> str | None:
        if not theta.is_complex():
            return None
        point = self.objective.at(theta)
        settings = self.settings | {"tol": 1e-6}
        values = function_at(point, lambda v: 1 / (v - 0.9j / self.lr), point.grad, **settings)
        x = self.lr * values.eigenvalues.cpu().numpy()
        on_cut = (np.abs(x.real - 1) < 0.02 * np.abs(x)) & (x.imag > 0.01)
        if not on_cut.any():
            return None
        worst = x[on_cut][np.argmax(x[on_cut].imag)]
        return (
            f"an eigenvalue has run onto the branch cut of log(1 − hλ), at hλ = {worst:.4g}. "
            "Coming from the real axis beyond 1 it cannot fall below 1 again without the field "
            "jumping there: the step is too large for this loss's change of curvature, and no "
            "principal flow leads on. Restart from the real part earlier (real_every), take a "
            "smaller lr, or use a truncated flow."
        )

    def _apply(self, point, phi) -> Tensor:
        try:
            return function_at(point, phi, point.grad, **self.settings).value
        except SingularityError as e:
            raise SingularityError(
                f"The principal flow at lr = {self.lr:g} is infinite where the Hessian has the "
                f"eigenvalue {e.eigenvalue:.6g} = 1/lr and the gradient a component along it. "
                "Change lr a little; on a quadratic loss, use PrincipalFlow.frozen.",
                eigenvalue=e.eigenvalue,
            ) from e
        except ConvergenceError as e:
            raise type(e)(f"The principal flow at lr = {self.lr:g}: {e}") from e
