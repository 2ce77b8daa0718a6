r"""RMSProp and Adam as maps, and their stable flow, which knows nothing of oscillations.

Both divide each coordinate's gradient by the root of a running average of its squares,

.. math:: \nu \leftarrow \beta_2\nu + (1 - \beta_2)\,g^2, \quad
          m \leftarrow \beta_1 m + (1 - \beta_1)\,g, \quad
          \theta \leftarrow \theta - \frac{1}{b_1} D\,m, \quad
          D = \frac{h}{\sqrt{\nu/b_2} + \epsilon}

with Adam's corrections :math:`b_i = 1 - \beta_i^k` at step k; RMSProp has
:math:`\beta_1 = 0` and no corrections. D is a diagonal matrix, written as its diagonal. With D
frozen, the step is stable while the eigenvalues of :math:`D^{1/2}HD^{1/2}` are below the edge
:math:`2b_1(1 + \beta_1)/(1 - \beta_1)`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gdflows.arguments import number, whole
from gdflows.errors import InputError
from gdflows.flows.base import Flow, check_lr
from gdflows.objective import Objective

OPTIMIZERS = ("rmsprop", "rmsprop-scalar", "adam")


class Averages(NamedTuple):
    """What an adaptive optimiser remembers.

    Attributes
    ----------
    first : Tensor
        m, the average of gradients, shape ``(D,)``; torch's ``exp_avg``. RMSProp has none: zeros.
    second : Tensor
        ν, the average of squares, shape ``(D,)``; torch's ``exp_avg_sq`` or ``square_avg``. Of
        scalar RMSProp ``(1,)``.
    step : int
        Steps that the optimiser has taken.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E, theta = gf.problems.quadratic([2.0]), torch.ones(1).double()
    >>> settled = gf.flows.settled_averages(E, theta, 0.0)
    >>> settled.second.tolist()  # g², with no noise
    [4.0]
    """

    first: Tensor
    second: Tensor
    step: int


class AdaptiveRule:
    """RMSProp, scalar RMSProp or Adam, as torch has them.

    Parameters
    ----------
    optimizer : {"rmsprop", "rmsprop-scalar", "adam"}
        Scalar RMSProp averages ‖g‖² and has one rate for all coordinates; torch has no such
        optimiser.
    lr : float
        h.
    beta : float, optional
        RMSProp's β₂ (torch's ``alpha``), by default 0.99.
    betas : tuple of float, optional
        Adam's β₁ and β₂, by default (0.9, 0.999).
    eps : float
        ε.

    Examples
    --------
    >>> from gdflows.flows import AdaptiveRule
    >>> rule = AdaptiveRule("adam", lr=0.001)
    >>> rule.beta1, rule.beta2, rule.corrected  # torch's
    (0.9, 0.999, True)
    """

    def __init__(
        self,
        optimizer: str,
        lr: float,
        *,
        beta: float | None = None,
        betas: tuple[float, float] | None = None,
        eps: float = 1e-8,
    ):
        if optimizer not in OPTIMIZERS:
            raise InputError(
                f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {optimizer!r}."
            )
        self.name, self.lr = optimizer, check_lr(lr)
        self.corrected = optimizer == "adam"
        self.scalar = optimizer == "rmsprop-scalar"
        if (betas if not self.corrected else beta) is not None:
            raise InputError("RMSProp has one beta; Adam has betas, a pair.")
        if self.corrected:
            self.beta1, self.beta2 = betas if betas is not None else (0.9, 0.999)
        else:
            self.beta1, self.beta2 = 0.0, 0.99 if beta is None else beta
        self.beta1, self.beta2 = number(self.beta1, "β₁"), number(self.beta2, "β₂")
        if not (0 <= self.beta1 < 1 and 0 < self.beta2 < 1):
            raise InputError(
                f"β₁ must be in [0, 1) and β₂ in (0, 1), got {self.beta1} and {self.beta2}."
            )
        self.eps = number(eps, "eps")
        if self.eps < 0:
            raise InputError(f"eps must be at least 0, got {eps}.")

    def fold(self, squares: Tensor) -> Tensor:
        """Products of two gradients' entries as ν takes them in: each, or their sum."""
        return squares.sum(-1, keepdim=True) if self.scalar else squares

    def begin(self, theta: Tensor) -> Averages:
        """What the optimiser remembers before its first step: nothing."""
        zeros = torch.zeros_like(theta)
        return Averages(zeros, zeros[:1] if self.scalar else zeros, 0)

    def corrections(self, step: float) -> tuple[float, float]:
        """b₁ and b₂ in a step, counted from 1; a flow asks between the steps too."""
        if not self.corrected:
            return 1.0, 1.0
        return 1 - self.beta1**step, 1 - self.beta2**step

    def edge(self, step: float) -> float:
        """The preconditioned curvature at which a step is marginal, counted from 1."""
        b1, _ = self.corrections(step)
        return 2 * (1 + self.beta1) / (1 - self.beta1) * b1

    def rates(self, second: Tensor, step: float) -> Tensor:
        """D, shape of ν. Coordinates that have met no gradient (ν = 0) are at rest."""
        _, b2 = self.corrections(step)
        rates = self.lr / ((second / b2).clamp(min=0).sqrt() + self.eps)
        return torch.where(second > 0, rates, torch.zeros_like(rates))

    def update(self, averages: Averages, grad: Tensor) -> Averages:
        """The averages once they have taken in a gradient."""
        first, second, step = averages
        square = self.fold(grad**2)
        return Averages(
            self.beta1 * first + (1 - self.beta1) * grad,
            self.beta2 * second + (1 - self.beta2) * square,
            step + 1,
        )

    def move(self, averages: Averages) -> Tensor:
        """What a step adds to θ, with the averages of that step."""
        first, second, step = averages
        return -self.rates(second, step) / self.corrections(step)[0] * first

    def step(
        self, objective: Objective, theta: Tensor, averages: Averages
    ) -> tuple[Tensor, Averages]:
        """θ and the averages after one step of the optimiser."""
        averages = self.update(averages, objective.grad(theta))
        return theta + self.move(averages), averages

    def two_points(
        self, objective: Objective, centre: Tensor, rod: Tensor, taken: int
    ) -> tuple[Tensor, Tensor]:
        r"""The exact map of centre and half-rod of everything, z = (θ, m, ν).

        The ends z = c ± ε take a step each and change places:
        :math:`c \to \tfrac12[\Phi(c + \varepsilon) + \Phi(c - \varepsilon)]`,
        :math:`\varepsilon \to -\tfrac12[\Phi(c + \varepsilon) - \Phi(c - \varepsilon)]`, so that
        c + (−1)ᵏ ε is the optimiser itself.

        Parameters
        ----------
        objective : Objective
            The loss.
        centre, rod : Tensor
            θ, m and ν in one vector, shape ``(3D,)``, of scalar RMSProp ``(2D + 1,)``.
        taken : int
            Steps that the optimiser has taken.
        """
        ends, dim = [], (len(centre) - 1) // 2 if self.scalar else len(centre) // 3
        for z in (centre + rod, centre - rod):
            theta, first, second = z[:dim], z[dim : 2 * dim], z[2 * dim :]
            theta, averages = self.step(objective, theta, Averages(first, second, taken))
            ends.append(torch.cat([theta, averages.first, averages.second]))
        return (ends[0] + ends[1]) / 2, (ends[1] - ends[0]) / 2

    def checked(self, averages: Averages | None, theta: Tensor) -> Averages:
        """The averages a flow starts with: as given, or none yet."""
        if averages is None:
            return self.begin(theta)
        fresh = self.begin(theta)
        first, second, step = averages
        step = whole(step, "averages.step", 0)
        for given, wanted, name in (
            (first, fresh.first, "first"),
            (second, fresh.second, "second"),
        ):
            if not isinstance(given, Tensor) or given.shape != wanted.shape:
                shape = tuple(getattr(given, "shape", ()))
                raise InputError(
                    f"averages.{name} must be a tensor of shape {tuple(wanted.shape)}, got {shape}."
                )
        if bool((second < 0).any()):
            raise InputError("averages.second holds negative entries; it averages squares.")
        return Averages(first.to(theta), second.to(theta), step)


class OfAverages(Flow):
    """What the flows of an optimiser's mean share: its averages are their companions."""

    rule: AdaptiveRule

    def companions(self, theta: Tensor) -> dict[str, Tensor]:
        return self.start(theta)[1]

    def vector_field(self, theta: Tensor) -> Tensor:
        raise InputError(f"The field of '{self.label}' needs its averages too: use field.")

    def preconditioner(self, second: Tensor, step: Tensor) -> Tensor:
        """D at companions of the path, as one number a coordinate, shape ``(D,)``."""
        return self.rule.rates(second, float(step)).expand(self.objective.dim)


class StableFlow(OfAverages):
    r"""The stable flow of an adaptive optimiser: its average, if it did not oscillate.

    .. math:: \dot\theta = -\frac{1}{h b_1} D\,(\beta_1 m + (1 - \beta_1) g), \quad
              \dot m = \frac{1 - \beta_1}h (g - m), \quad
              \dot\nu = \frac{1 - \beta_2}{h\beta_2}(g^2 - \nu)

    ν is the average that step k divides by, and has its gradient in it already: hence the β₂
    below the line, with which it lags behind a slowly changing g² exactly as the optimiser's
    does. m is the average before the step. Past the edge the optimiser leaves this flow, as
    gradient descent leaves the gradient flow.

    Parameters
    ----------
    objective : Objective
        The loss.
    lr : float
        The learning rate h.
    optimizer : {"rmsprop", "rmsprop-scalar", "adam"}
        As in :class:`AdaptiveRule`.
    beta, betas, eps
        As in :class:`AdaptiveRule`.
    averages : Averages, optional
        What the optimiser remembers at the start; by default nothing, as at its first step.

    Notes
    -----
    Companions: ``second`` (ν), ``step`` (the number of the step to be taken, shape ``(1,)``), and
    for Adam ``first`` (m).

    References
    ----------
    Cohen, Damian, Talwalkar, Kolter and Lee (2025), "Understanding optimization in deep learning
    with central flows", for RMSProp; with momentum it is derived here.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E, start = gf.problems.quadratic([1.0]), torch.ones(1).double()
    >>> path = gf.integrate(gf.flows.StableFlow(E, lr=0.001, beta=0.9), start, t=0.1)
    >>> bool(path.states[-1] < start)
    True
    """

    label = "stable"

    def __init__(
        self,
        objective: Objective,
        lr: float,
        *,
        optimizer: str = "rmsprop",
        beta: float | None = None,
        betas: tuple[float, float] | None = None,
        eps: float = 1e-8,
        averages: Averages | None = None,
    ):
        super().__init__(objective, lr)
        self.rule = AdaptiveRule(optimizer, lr, beta=beta, betas=betas, eps=eps)
        self.averages = averages
        self.label = f"{self.rule.name} {type(self).label}"

    def start(self, theta: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return begin(self.rule, self.objective, theta, self.averages)

    def field(self, theta: Tensor, **companions: Tensor):
        return stable_rates(self.rule, theta, self.objective.grad(theta), companions)


def begin(rule: AdaptiveRule, objective: Objective, theta: Tensor, averages: Averages | None):
    """θ and the companions that a flow of the mean starts with."""
    if theta.is_complex():
        raise InputError("The flows of adaptive optimisers are real; start them at theta.real.")
    known = rule.checked(averages, theta)
    now = rule.update(known, objective.grad(theta))
    companions = {"second": now.second, "step": theta.new_tensor([now.step])}
    if rule.beta1:
        companions["first"] = known.first
    return theta, companions


def stable_rates(rule: AdaptiveRule, theta: Tensor, grad: Tensor, companions: dict[str, Tensor]):
    """The time derivatives of θ and of the companions where nothing oscillates."""
    second, step = companions["second"], float(companions["step"])
    # A fixed-step solver's trial may overshoot a ν that falls to zero
    second = second.clamp(min=0)
    rates, (b1, _) = rule.rates(second, step), rule.corrections(step)
    beta1, beta2, h = rule.beta1, rule.beta2, rule.lr
    moved = {
        "second": (1 - beta2) / beta2 * (rule.fold(grad**2) - second) / h,
        "step": torch.full_like(companions["step"], 1 / h),
    }
    push = grad
    if beta1:
        first = companions["first"]
        push = beta1 * first + (1 - beta1) * grad
        moved["first"] = (1 - beta1) * (grad - first) / h
    return -rates / b1 * push / h, moved


def correction_drift(rule: AdaptiveRule, step: float) -> tuple[float, float]:
    """How fast b₁ and b₂ change, a step."""
    if not rule.corrected:
        return 0.0, 0.0
    return tuple(-math.log(beta) * beta**step if beta else 0.0 for beta in (rule.beta1, rule.beta2))
