"""What a flow is: a vector field on a state, made from an objective and a learning rate."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from gdflows.arguments import number
from gdflows.errors import InputError
from gdflows.flows.decay import Decay
from gdflows.objective import Objective
from gdflows.trajectory import Trajectory


class Flow(ABC):
    """An autonomous differential equation dθ/dt = f(θ) that models an optimiser.

    Time is flow time: t = k·h after k steps at learning rate h.

    A subclass gives :attr:`label` and :meth:`vector_field`. One whose state is more than θ (a
    velocity, an oscillation, a covariance) also gives :meth:`companions`, their start, and
    :meth:`field`, the joint vector field.

    Parameters
    ----------
    objective : Objective
        The loss.
    lr : float, optional
        The learning rate h of the optimiser that is modelled. Flows that do not depend on it
        (the negative gradient flow) leave it out.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> class Halved(gf.flows.Flow):
    ...     def vector_field(self, theta):
    ...         return -0.5 * self.objective.grad(theta)
    >>> path = gf.integrate(Halved(gf.problems.quadratic([2.0])), torch.ones(1).double(), t=1.0)
    >>> round(float(path.states[-1]), 4)  # 1/e
    0.3679
    """

    #: Short name, for legends and tables.
    label: str = "flow"

    def __init__(self, objective: Objective, lr: float | None = None):
        if not isinstance(objective, Objective):
            raise InputError(
                f"{type(self).__name__} needs an Objective, got {type(objective).__name__}. "
                "Wrap a function with gdflows.Objective(function, dim)."
            )
        self.objective = objective
        self.lr = None if lr is None else check_lr(lr)

    @abstractmethod
    def vector_field(self, theta: Tensor) -> Tensor:
        """dθ/dt at θ; shapes ``(D,)`` to ``(D,)``."""

    def companions(self, theta: Tensor) -> dict[str, Tensor]:
        """The start of whatever the state holds beside θ, by name. Nothing, for most flows."""
        return {}

    def start(self, theta: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """State and companions that stand for an optimiser at θ.

        For most flows θ itself. A flow of a centre starts beside θ, at the centre.
        """
        return theta, self.companions(theta)

    def field(self, theta: Tensor, **companions: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The joint vector field: dθ/dt and the time derivatives of the companions."""
        return self.vector_field(theta), {}

    # -- what the flow says of the optimiser, along its path ---------------------------------------

    def oscillation(self, path: Trajectory) -> Tensor:
        """Root-mean-square distance of the iterates from the path's states, shape ``(T,)``.

        Zero for a flow that predicts the iterates themselves.
        """
        return torch.zeros(len(path), dtype=torch.float64, device="cpu")

    def mean_loss(self, path: Trajectory) -> Tensor:
        """The loss that the optimiser shows on average over its oscillation, shape ``(T,)``.

        For a flow without an oscillation the loss at the (real part of the) states.
        """
        states = path.states.real if path.states.is_complex() else path.states
        return torch.stack([self.objective.value(theta.contiguous()) for theta in states])

    def iterates(self, path: Trajectory) -> Tensor:
        """The optimiser's iterates that the path predicts at its times, shape ``(T, D)``."""
        return path.states

    def fast(
        self,
        theta: Tensor,
        companions: dict[str, Tensor],
        rates: dict[str, Tensor],
        *,
        slowest: float,
    ) -> Decay | None:
        """The part of the field that only damps, for the exponential methods of ``integrate``.

        ``rates`` are the companions' own at this state; ``slowest`` is the decay in a step of h
        from which on it need be told. None for a flow that does not tell.
        """
        return None

    def obstacle(self, theta: Tensor) -> str | None:
        """Why the flow may have no way on at θ; asked when the solver's steps have collapsed."""
        return None

    def __repr__(self) -> str:
        lr = "" if self.lr is None else f", lr={self.lr:g}"
        return f"{type(self).__name__}(D={self.objective.dim}{lr})"


def check_lr(lr: float) -> float:
    """A learning rate as a float: positive and finite, or an error that says so."""
    return number(lr, "The learning rate lr", positive=True)
