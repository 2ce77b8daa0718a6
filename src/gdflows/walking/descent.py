"""Gradient descent itself, step by step."""

from __future__ import annotations

import torch
from torch import Tensor

from gdflows.arguments import whole
from gdflows.errors import IntegrationError, NonFiniteError
from gdflows.flows.base import check_lr
from gdflows.lengths import length
from gdflows.objective import Objective
from gdflows.trajectory import Trajectory
from gdflows.walking.progress import bar as progress_bar
from gdflows.walking.start import starting_point


def descend(
    objective: Objective,
    theta0: Tensor,
    lr: float,
    steps: int,
    *,
    every: int = 1,
    progress: bool | None = None,
) -> Trajectory:
    """Gradient descent θ ← θ − h ∇E(θ), the discrete original that every flow is held against.

    Parameters
    ----------
    objective : Objective
        The loss.
    theta0 : Tensor
        Start, shape ``(D,)``; a numpy array or a list is converted.
    lr : float
        The learning rate h.
    steps : int
        How many steps.
    every : int
        Keep every so-manieth state (and the last), to save memory with many parameters.
    progress : bool, optional
        Show a progress bar. By default only on a terminal, after two seconds.

    Returns
    -------
    Trajectory
        Times 0, h, 2h, …; ``steps + 1`` states if all are kept.

    Raises
    ------
    InputError
        For arguments that cannot be used.
    IntegrationError
        If the iterates run away until the loss or its gradient is no longer finite. Its
        ``partial`` holds the steps before.
    """
    lr = check_lr(lr)
    steps, every = whole(steps, "steps", 0), whole(every, "every")
    counts0 = dict(objective.cost)
    theta = starting_point(objective, theta0).clone()
    kept, states = [0], [theta]

    def trajectory() -> Trajectory:
        counts = {k: n - counts0.get(k, 0) for k, n in objective.cost.items()}
        return Trajectory(
            times=torch.tensor(kept, dtype=torch.float64, device="cpu") * lr,
            states=torch.stack(states),
            label="GD",
            cost={"steps": kept[-1], **counts},
        )

    with progress_bar(steps, progress, "GD", unit="step") as bar:
        for k in range(1, steps + 1):
            try:
                theta = theta - lr * objective.grad(theta)
            except NonFiniteError as e:
                norm = length(theta)
                raise IntegrationError(
                    f"Gradient descent at lr = {lr:g} could not go beyond step {k - 1} "
                    f"(t = {(k - 1) * lr:.6g}, ‖θ‖ = {norm:.3g}): {e}",
                    cause="non-finite",
                    time=(k - 1) * lr,
                    norm=norm,
                    partial=trajectory(),
                ) from e
            if k % every == 0 or k == steps:
                kept.append(k)
                states.append(theta)
            bar.update()
    return trajectory()
