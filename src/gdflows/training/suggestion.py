"""The largest stable learning rate, now, for an optimiser that one keeps."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from gdflows.curvature.eigen import top_eigenpairs
from gdflows.errors import InputError
from gdflows.objective import Objective
from gdflows.optim.evaluation import CurvatureOptimizer
from gdflows.optim.thresholds import preconditioner, stability_edge


@dataclass(frozen=True, eq=False)
class Suggestion:
    """What :func:`gdflows.suggest_lr` found.

    Attributes
    ----------
    lr : float
        The learning rate at which the optimiser's linearised step is marginal: the edge itself,
        not a rate to train with. How far below to stay depends on the noise, and on the start: a
        rate near it without a warm-up has lost runs in full batch. With minibatches AdamW was best
        at a tenth to a seventh of it, and schedule-free AdamW at six tenths (the chapters on AdaEoS
        and its trial have the measurements).
    now : float
        The learning rate in use.
    eigenvalue : float
        Largest eigenvalue of the preconditioned Hessian, λ; at the edge lr · λ = ``edge``.
    edge : float
        hλ at the edge, with ``lr``.
    residual : float
        Of the eigenpair, relative to λ.
    hvps : int
        Hessian-vector products spent.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> model, x = torch.nn.Linear(1, 1, bias=False), torch.ones(4, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> found = gf.suggest_lr(model, torch.nn.functional.mse_loss, (x, x), optimizer)
    >>> round(found.lr, 4), round(found.eigenvalue, 4)  # 2/λ
    (1.0, 2.0)
    """

    lr: float
    now: float
    eigenvalue: float
    edge: float
    residual: float
    hvps: int
    _losses: Callable[[np.ndarray], np.ndarray] = field(repr=False)

    @property
    def sharpness(self) -> float:
        """Deprecated: the former name of ``eigenvalue``."""
        warnings.warn(
            "Suggestion.sharpness is now called eigenvalue: it is λ, not hλ.",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.eigenvalue

    def plot(self, ax=None, *, points: int = 25):
        """The loss after one step of the gradient, preconditioned, against its learning rate.

        One forward pass a point. Returns matplotlib's axes.
        """
        import matplotlib.pyplot as plt  # a training script that never draws need not load it

        ax = ax if ax is not None else plt.figure().add_subplot()
        rates = np.geomspace(self.lr / 100, 4 * self.lr, points)
        ax.semilogx(rates, self._losses(rates), marker="o", markersize=3)
        ax.axvline(self.lr, color="#777777", linestyle="--", linewidth=0.8, label="edge")
        if self.now > 0:
            ax.axvline(self.now, color="#D55E00", linewidth=0.8, label="in use")
        ax.set(xlabel="learning rate", ylabel="loss after one step of the gradient")
        ax.legend(fontsize=8)
        return ax


def suggest_lr(
    model: torch.nn.Module,
    loss,
    data,
    optimizer: torch.optim.Optimizer,
    *,
    tol: float = 1e-2,
    **settings,
) -> Suggestion:
    """The largest learning rate at which this optimiser's linearised step is stable here and now.

    It is an upper end, not the best rate: see :class:`gdflows.suggestion.Suggestion` for how far
    below it the best ones were.

    Parameters
    ----------
    model, loss, data, optimizer, **settings
        As for :class:`gdflows.SharpnessMonitor`. Take as many samples as are affordable: on
        few the curvature is larger than that of the loss.
    tol : float
        Relative accuracy of the eigenvalue.

    Returns
    -------
    Suggestion

    Raises
    ------
    InputError
        For optimisers whose edge is not known, or which choose their rate themselves; before an
        adaptive one's first step (it has no preconditioner yet), with groups of different or
        negative learning rates, with groups whose weight decay makes their edges differ by more
        than a hundredth at that rate, or where no direction curves upwards.

    Notes
    -----
    Costs some ten Hessian-vector products. It is a statement about the present: the sharpness of
    a network in training usually rises until it meets the learning rate, whichever it is. It
    knows nothing of the noise of minibatches. The learning rate in use does not matter, and may
    be 0 (at the start of a warm-up).

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> x = torch.tensor([[1.0], [2.0]])
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    >>> round(gf.suggest_lr(model, torch.nn.MSELoss(), (x, 3 * x), optimizer).lr, 4)
    0.4
    """
    now = _common_rate(optimizer)
    stability_edge(optimizer)  # an unknown optimiser is refused before anything is computed
    objective = Objective.from_module(model, loss, data, **settings)
    with _at_rate(optimizer, 1.0):
        per_rate = preconditioner(optimizer, list(objective.parameters.values()))
    theta = objective.theta0
    found = top_eigenpairs(objective, theta, 1, scale=per_rate.sqrt(), tol=tol)
    eigenvalue = float(found.values[0])
    if not eigenvalue > 0:
        raise InputError(
            "No direction curves upwards here: every learning rate is stable."
            if eigenvalue <= 0
            else "The Hessian is not finite here, so it has no eigenvalue: is the loss?"
        )
    lr = _marginal(optimizer, eigenvalue)

    def losses(rates: np.ndarray) -> np.ndarray:
        step = per_rate * objective.grad(theta)
        return np.array([float(objective.value(theta - float(h) * step)) for h in rates])

    return Suggestion(
        lr=lr,
        now=now,
        eigenvalue=eigenvalue,
        edge=lr * eigenvalue,
        residual=float(found.residuals[0]) / eigenvalue,
        hvps=found.hvps,
        _losses=losses,
    )


def _common_rate(optimizer: torch.optim.Optimizer) -> float:
    if isinstance(optimizer, CurvatureOptimizer):
        name = type(optimizer).__name__
        raise InputError(
            f"{name} chooses its rate by the curvature, and lr is a factor of that, so there is no "
            "largest lr to suggest. How far its steps are from their edge is seen by "
            "SharpnessMonitor."
        )
    rates = {float(group["lr"]) for group in optimizer.param_groups}
    if len(rates) != 1:
        raise InputError(
            f"The parameter groups have learning rates {sorted(rates)}; one common rate is needed "
            "to say how large it may be."
        )
    now = rates.pop()
    if not (now >= 0 and math.isfinite(now)):
        raise InputError(f"The learning rate is {now}; it must be finite and not negative.")
    return now


@contextmanager
def _at_rate(optimizer: torch.optim.Optimizer, lr: float) -> Iterator[None]:
    """All groups at a learning rate for a moment."""
    groups = optimizer.param_groups
    kept = [group["lr"] for group in groups]
    try:
        for group in groups:
            group["lr"] = lr
        yield
    finally:
        for group, own in zip(groups, kept, strict=True):
            group["lr"] = own


def _marginal(optimizer: torch.optim.Optimizer, eigenvalue: float) -> float:
    """The rate at which lr · λ is the edge, which falls in a straight line with weight decay."""
    with _at_rate(optimizer, 0.0):
        at_zero = stability_edge(optimizer)
    decay = max(float(group["weight_decay"]) for group in optimizer.param_groups)
    probe = 1e-3 * at_zero / (eigenvalue + decay)
    with _at_rate(optimizer, probe):
        slope = (at_zero - stability_edge(optimizer)) / probe
    lr = at_zero / (eigenvalue + slope)
    with _at_rate(optimizer, lr):
        stability_edge(optimizer)  # refuses groups whose decay makes a difference there
    return lr
