r"""Local rules of one neuron: Hebb, Oja, and Bienenstock, Cooper and Munro.

The neuron's activity is :math:`y = w^\top x`. The fields are averages over the inputs x, as they
hold when inputs change much faster than weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gdflows.arguments import number
from gdflows.errors import InputError
from gdflows.flows.base import Flow
from gdflows.objective import Objective


class Hebb(Flow):
    r"""Hebb's rule, :math:`\dot w = \langle y\,x\rangle = C w`: uphill on the output's power.

    Time is in units of the rule's own time constant. The objective is
    :math:`-\tfrac12 w^\top C w`, whose gradient flow it is; nothing bounds it from below.

    Parameters
    ----------
    correlation : Tensor
        :math:`C = \langle xx^\top\rangle`, shape ``(D, D)``, symmetric, no eigenvalue below 0.

    Raises
    ------
    InputError
        If C is no such matrix.

    Examples
    --------
    >>> import torch
    >>> from gdflows.flows.learning import Hebb
    >>> Hebb(torch.diag(torch.tensor([1.0, 3.0]))).vector_field(torch.ones(2)).tolist()
    [1.0, 3.0]
    """

    label = "Hebb"

    def __init__(self, correlation: Tensor):
        self.correlation = _correlation(correlation)
        super().__init__(Objective(self._energy, len(correlation)))

    def _energy(self, w: Tensor) -> Tensor:
        return -(w @ (self.correlation @ w)) / 2

    def vector_field(self, theta: Tensor) -> Tensor:
        self.objective._check(theta)
        return self.correlation @ theta


class Oja(Flow):
    r"""Oja's rule, :math:`\dot w = \langle y(x - yw)\rangle = Cw - (w^\top Cw)\,w`.

    It goes to a unit eigenvector of the largest eigenvalue of C from almost everywhere. The
    objective is :math:`V(w) = \tfrac12(\|w\|^2 - \log w^\top Cw)`, and
    :math:`\dot w = -(w^\top Cw)\nabla V`: a gradient flow in a metric that depends on w.

    Parameters
    ----------
    correlation : Tensor
        C, as for :class:`Hebb`.

    References
    ----------
    Oja (1982); for many neurons −V is the criterion of Miao and Hua (1998).

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> from gdflows.flows.learning import Oja
    >>> rule = Oja(torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64)))
    >>> w = torch.tensor([0.1, 1.0], dtype=torch.float64)
    >>> gf.integrate(rule, w, times=[0, 20]).states[-1].round(decimals=4)
    tensor([1., 0.], dtype=torch.float64)
    """

    label = "Oja"

    def __init__(self, correlation: Tensor):
        self.correlation = _correlation(correlation)
        super().__init__(Objective(self._energy, len(correlation)))

    def _energy(self, w: Tensor) -> Tensor:
        return (w @ w - torch.log(w @ (self.correlation @ w))) / 2

    def vector_field(self, theta: Tensor) -> Tensor:
        self.objective._check(theta)
        push = self.correlation @ theta
        return push - (theta @ push) * theta

    def solution(self, w0: Tensor, t: float) -> Tensor:
        r"""Where the flow is at time t, in closed form, shape ``(D,)``.

        .. math:: w(t) = \frac{u}{\sqrt{1 + \|u\|^2 - \|w_0\|^2}}, \qquad u = e^{Ct}w_0

        Of times before 0 there is none: backwards long weights run away in finite time.
        """
        self.objective._check(w0, "w0")
        t = number(t, "t")
        if t < 0:
            raise InputError(f"t must not be negative, got {t:g}.")
        values, vectors = torch.linalg.eigh(self.correlation)
        start, values = vectors.T @ w0, values.clamp_min(0)
        if not (start != 0).any():
            return torch.zeros_like(w0)
        # u times exp(-t·largest that is excited), so that nothing overflows; ‖u‖² − ‖w₀‖² as a
        # sum of what is not negative, so that nothing cancels
        top = values[start != 0].max()
        u = torch.where(start != 0, torch.exp((values - top).clamp_max(0) * t) * start, 0)
        grown = (u**2 * -torch.expm1(-2 * values * t)).sum()
        return vectors @ (u / torch.sqrt(torch.exp(-2 * top * t) + grown))

    @property
    def edge(self) -> float:
        """The step at which Euler's method leaves the eigenvector: one over the largest λ."""
        return 1 / float(torch.linalg.eigvalsh(self.correlation)[-1])


class BCM(Flow):
    r"""The rule of Bienenstock, Cooper and Munro, with a threshold that slides.

    .. math:: \dot w = \langle y(y - \vartheta)\,x\rangle, \qquad
              \tau\dot\vartheta = \langle y^2\rangle - \vartheta

    Time is in units of the weights' time constant. With τ = 0 the threshold is
    :math:`\langle y^2\rangle` at once, and the rule is the gradient flow of its objective
    :math:`-\tfrac13\langle y^3\rangle + \tfrac14\langle y^2\rangle^2`.

    Parameters
    ----------
    patterns : Tensor
        The inputs, one a row, shape ``(P, D)``.
    probabilities : Tensor, optional
        How often each is shown, shape ``(P,)``, of sum 1; equally often by default.
    threshold_time : float
        τ, the threshold's time constant over the weights'.

    Raises
    ------
    InputError
        If the patterns are no matrix, the probabilities none, or τ is negative.

    Notes
    -----
    Companion, if τ > 0: ``threshold``, shape ``(1,)``; it starts at :math:`\langle y^2\rangle`.

    References
    ----------
    Bienenstock, Cooper and Munro (1982), whose threshold is a power of the mean activity; Intrator
    and Cooper (1992) for the mean of the square and the objective; Udeigwe, Munro and Ermentrout
    (2017) for τ near 1.

    Examples
    --------
    >>> import torch
    >>> from gdflows.flows.learning import BCM
    >>> rule = BCM(torch.eye(2).double())
    >>> rule.vector_field(torch.tensor([2.0, 0.0]).double()).tolist()  # at rest: one is chosen
    [0.0, 0.0]
    """

    label = "BCM"

    def __init__(
        self,
        patterns: Tensor,
        probabilities: Tensor | None = None,
        *,
        threshold_time: float = 0.0,
    ):
        if not isinstance(patterns, Tensor) or patterns.ndim != 2 or not patterns.numel():
            raise InputError("patterns must be a tensor of shape (P, D), one pattern a row.")
        _check_real(patterns, "patterns")
        if probabilities is None:
            probabilities = patterns.new_full((len(patterns),), 1 / len(patterns))
        if not isinstance(probabilities, Tensor) or probabilities.shape != patterns.shape[:1]:
            raise InputError("probabilities must be a tensor, one number from 0 to 1 a pattern.")
        _check_real(probabilities, "probabilities")
        if probabilities.dtype != patterns.dtype:
            raise InputError(
                f"probabilities are {probabilities.dtype}, patterns {patterns.dtype}: convert one."
            )
        if float(probabilities.min()) < 0:
            raise InputError("probabilities must be one number from 0 to 1 a pattern.")
        total = float(probabilities.sum())
        if abs(total - 1) > 1e-6:
            raise InputError(f"probabilities must add up to 1, not {total:g}.")
        self.patterns, self.probabilities = patterns, probabilities
        self.threshold_time = number(threshold_time, "threshold_time")
        if self.threshold_time < 0:
            raise InputError(f"threshold_time must not be negative, got {threshold_time}.")
        super().__init__(Objective(self._energy, patterns.shape[1]))

    def _energy(self, w: Tensor) -> Tensor:
        y, p = self.patterns @ w, self.probabilities
        return -(p @ y**3) / 3 + (p @ y**2) ** 2 / 4

    def vector_field(self, theta: Tensor) -> Tensor:
        if self.threshold_time:
            raise InputError(f"{self.label}: the field needs the threshold too; use field.")
        return self._push(theta, self.probabilities @ (self.patterns @ theta) ** 2)

    def _push(self, w: Tensor, threshold: Tensor) -> Tensor:
        self.objective._check(w)
        y = self.patterns @ w
        return (self.probabilities * y * (y - threshold)) @ self.patterns

    def companions(self, theta: Tensor) -> dict[str, Tensor]:
        if not self.threshold_time:
            return {}
        return {"threshold": (self.probabilities @ (self.patterns @ theta) ** 2).reshape(1)}

    def field(self, theta: Tensor, **companions: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if not self.threshold_time:
            return self.vector_field(theta), {}
        threshold = companions["threshold"]
        power = (self.probabilities @ (self.patterns @ theta) ** 2).reshape(1)
        rate = (power - threshold) / self.threshold_time
        return self._push(theta, threshold), {"threshold": rate}


def _correlation(matrix: Tensor) -> Tensor:
    """A correlation matrix, or an error that says what it lacks."""
    if not isinstance(matrix, Tensor) or matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError("correlation must be a square matrix, a tensor of shape (D, D).")
    _check_real(matrix, "correlation")
    scale = float(matrix.abs().max())
    if not torch.allclose(matrix, matrix.T, rtol=0, atol=1e-6 * scale):
        raise InputError("correlation must be symmetric: it is the mean of x xᵀ.")
    values = torch.linalg.eigvalsh(matrix)
    if float(values[0]) < -1e-6 * scale or not float(values[-1]) > 0:
        raise InputError("correlation must have no negative eigenvalue and not be zero.")
    return (matrix + matrix.T) / 2


def _check_real(values: Tensor, name: str) -> None:
    if not values.is_floating_point():
        raise InputError(f"{name} needs a real floating-point dtype, got {values.dtype}.")
    if not torch.isfinite(values).all():
        raise InputError(f"{name} holds values that are not finite.")
