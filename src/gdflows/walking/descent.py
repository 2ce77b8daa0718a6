"""Gradient descent itself, step by step."""

from __future__ import annotations

import torch
from torch import Tensor

from gdflows.arguments import number, whole
from gdflows.errors import InputError, IntegrationError, NonFiniteError
from gdflows.flows.base import check_lr
from gdflows.lengths import length
from gdflows.objective import Objective
from gdflows.trajectory import Trajectory
from gdflows.walking.progress import bar as progress_bar
from gdflows.walking.start import starting_point

METHOD = {"GD": "Gradient descent", "heavy ball": "Heavy ball", "Nesterov": "Nesterov's method"}


def descend(
    objective: Objective,
    theta0: Tensor,
    lr: float,
    steps: int,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    buffer: Tensor | None = None,
    every: int = 1,
    progress: bool | None = None,
) -> Trajectory:
    r"""Gradient descent θ ← θ − h ∇E(θ), the discrete original that every flow is held against.

    With momentum β, what ``torch.optim.SGD`` does: heavy ball,

    .. math:: v \leftarrow \beta v + \nabla E(\theta), \qquad \theta \leftarrow \theta - h v,

    or Nesterov's method, :math:`\theta \leftarrow \theta - h(\nabla E(\theta) + \beta v)` with
    the new v. The gradient is added to v whole, without a factor 1 − β, so that in the long run a
    step is 1/(1 − β) times as long as without momentum. Flow time stays t = k·h.

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
    momentum : float
        β, 0 ≤ β < 1; 0 is plain gradient descent.
    nesterov : bool
        Nesterov's method in torch's form: the states are the points at which the gradient is
        taken, looked ahead to.
    buffer : Tensor, optional
        v at the start, shape ``(D,)``; zero by default, a start from rest. To go on with a run:
        ``theta0=run.states[-1], buffer=run.companions["buffer"][-1]``.
    every : int
        Keep every so-manieth state (and the last), to save memory with many parameters.
    progress : bool, optional
        Show a progress bar. By default only on a terminal, after two seconds.

    Returns
    -------
    Trajectory
        Times 0, h, 2h, …; ``steps + 1`` states if all are kept. With momentum it has a companion,
        ``buffer``: v at the states, shape ``(T, D)``.

    Raises
    ------
    InputError
        For arguments that cannot be used.
    IntegrationError
        If the iterates run away until the loss or its gradient is no longer finite. Its
        ``partial`` holds the steps before.

    References
    ----------
    Polyak (1964) for heavy ball; the form is that of ``torch.optim.SGD``, with dampening 0.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E, start = gf.problems.quadratic([1.0, 3.0]), torch.ones(2).double()
    >>> path = gf.descend(E, start, lr=0.1, steps=2)
    >>> [round(x, 4) for x in path.states[-1].tolist()]  # (1 − hλ)²
    [0.81, 0.49]
    """
    lr = check_lr(lr)
    momentum = number(momentum, "momentum")
    if not 0 <= momentum < 1:
        raise InputError(f"momentum must be in [0, 1), got {momentum}.")
    if not momentum and (nesterov or buffer is not None):
        raise InputError("nesterov and buffer are for momentum: give momentum as well.")
    name = "GD" if not momentum else "Nesterov" if nesterov else "heavy ball"
    steps, every = whole(steps, "steps", 0), whole(every, "every")
    counts0 = dict(objective.cost)
    theta = starting_point(objective, theta0).clone()
    v = torch.zeros_like(theta) if buffer is None else _like(theta, buffer).clone()
    kept, states, buffers = [0], [theta], [v]

    def trajectory() -> Trajectory:
        counts = {k: n - counts0.get(k, 0) for k, n in objective.cost.items()}
        return Trajectory(
            times=torch.tensor(kept, dtype=torch.float64, device="cpu") * lr,
            states=torch.stack(states),
            label=name,
            companions={"buffer": torch.stack(buffers)} if momentum else {},
            cost={"steps": kept[-1], **counts},
        )

    with progress_bar(steps, progress, name, unit="step") as bar:
        for k in range(1, steps + 1):
            try:
                push = objective.grad(theta)
            except NonFiniteError as e:
                norm = length(theta)
                raise IntegrationError(
                    f"{METHOD[name]} at lr = {lr:g} could not go beyond step {k - 1} "
                    f"(t = {(k - 1) * lr:.6g}, ‖θ‖ = {norm:.3g}): {e}",
                    cause="non-finite",
                    time=(k - 1) * lr,
                    norm=norm,
                    partial=trajectory(),
                ) from e
            if momentum:
                v = momentum * v + push
                push = push + momentum * v if nesterov else v
            theta = theta - lr * push
            if k % every == 0 or k == steps:
                kept.append(k)
                states.append(theta)
                if momentum:
                    buffers.append(v)
            bar.update()
    return trajectory()


def _like(theta: Tensor, buffer) -> Tensor:
    """The buffer at the start, if it fits θ."""
    if not isinstance(buffer, Tensor):
        raise InputError(f"buffer must be a torch tensor, got {type(buffer).__name__}.")
    for what in ("shape", "dtype", "device"):
        if getattr(buffer, what) != getattr(theta, what):
            raise InputError(
                f"buffer must be like theta0; its {what} is {getattr(buffer, what)}, "
                f"theta0's {getattr(theta, what)}."
            )
    return buffer.detach()
