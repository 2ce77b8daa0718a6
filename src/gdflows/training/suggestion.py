"""The largest stable learning rate, now, for an optimiser that one keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gdflows.errors import InputError
from gdflows.objective import Objective
from gdflows.optim.thresholds import preconditioner, stability_edge
from gdflows.training.monitor import SharpnessMonitor


@dataclass(frozen=True, eq=False)
class Suggestion:
    """What :func:`gdflows.suggest_lr` found.

    Attributes
    ----------
    lr : float
        The learning rate at which the optimiser's linearised step is marginal: the edge itself.
        Training at 0.5 to 0.9 of it is a usual choice.
    now : float
        The learning rate in use.
    sharpness : float
        Largest eigenvalue of the preconditioned Hessian, λ; at the edge lr · λ = ``edge``.
    edge : float
        hλ at the edge, with ``lr``.
    residual : float
        Of the eigenpair, relative to λ.
    hvps : int
        Hessian-vector products spent.
    """

    lr: float
    now: float
    sharpness: float
    edge: float
    residual: float
    hvps: int
    _losses: Callable[[np.ndarray], np.ndarray]

    def plot(self, ax=None, *, points: int = 25):
        """The loss after one step of the gradient, preconditioned, against its learning rate.

        One forward pass a point. Returns matplotlib's axes.
        """
        import matplotlib.pyplot as plt  # a training script that never draws need not load it

        ax = ax if ax is not None else plt.figure().add_subplot()
        rates = np.geomspace(self.lr / 100, 4 * self.lr, points)
        ax.semilogx(rates, self._losses(rates), marker="o", markersize=3)
        ax.axvline(self.lr, color="#777777", linestyle="--", linewidth=0.8, label="edge")
        ax.axvline(self.now, color="#D55E00", linewidth=0.8, label="in use")
        ax.set(xlabel="learning rate", ylabel="loss after one step of the gradient")
        ax.legend(fontsize=8)
        return ax


def suggest_lr(
    model: torch.nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    data: tuple[Tensor, Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    tol: float = 1e-2,
    chunk: int | None = None,
) -> Suggestion:
    """The largest learning rate at which this optimiser's linearised step is stable here and now.

    Parameters
    ----------
    model, loss, data, optimizer, chunk
        As for :class:`gdflows.SharpnessMonitor`. The batch should be as large as affordable: on a
        small one the curvature is larger than that of the loss.
    tol : float
        Relative accuracy of the sharpness.

    Returns
    -------
    Suggestion

    Raises
    ------
    InputError
        For optimisers whose edge is not known, before an adaptive one's first step (it has no
        preconditioner yet), with groups of different learning rates, or where no direction
        curves upwards.

    Notes
    -----
    Costs some ten Hessian-vector products. It is a statement about the present: the sharpness of
    a network in training usually rises until it meets the learning rate, whichever it is. It
    knows nothing of the noise of minibatches.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> x = torch.tensor([[1.0], [2.0]])
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    >>> round(gf.suggest_lr(model, torch.nn.MSELoss(), (x, 3 * x), optimizer).lr, 4)
    0.4
    """
    rates = {float(group["lr"]) for group in optimizer.param_groups}
    if len(rates) != 1 or not min(rates) > 0:
        raise InputError(
            f"The parameter groups have learning rates {sorted(rates)}; one common, positive rate "
            "is needed to say by how much it may grow."
        )
    now = rates.pop()
    seen = SharpnessMonitor(model, loss, data, optimizer, tol=tol, chunk=chunk).measure()
    sharpness = seen.eigenvalue
    if not sharpness > 0:
        raise InputError("No direction curves upwards here: every learning rate is stable.")
    # With weight decay the edge falls with the rate, in a straight line.
    groups, was = optimizer.param_groups, seen.edge
    try:
        for group in groups:
            group["lr"] = now / 2
        slope = (was - stability_edge(optimizer)) / (now / 2)
    finally:
        for group in groups:
            group["lr"] = now
    lr = (was - slope * now) / (sharpness - slope)
    trainable = [p for p in model.parameters() if p.requires_grad]
    per_rate = preconditioner(optimizer, trainable) / now

    def losses(rates: np.ndarray) -> np.ndarray:
        objective = Objective.from_module(model, loss, data, chunk=chunk)
        theta = objective.theta0
        step = per_rate * objective.grad(theta)
        return np.array([float(objective.value(theta - float(h) * step)) for h in rates])

    return Suggestion(
        lr=lr,
        now=now,
        sharpness=sharpness,
        edge=was + slope * (lr - now),
        residual=seen.residual * was / seen.h_lambda,
        hvps=seen.hvps,
        _losses=losses,
    )
