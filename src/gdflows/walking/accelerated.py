"""Nesterov's accelerated gradient method, whose momentum grows, with restarts."""

from __future__ import annotations

import torch
from torch import Tensor

from gdflows.arguments import number, whole
from gdflows.errors import InputError, IntegrationError, NonFiniteError
from gdflows.flows.base import check_lr
from gdflows.flows.modified import check_beta
from gdflows.lengths import length
from gdflows.objective import Objective
from gdflows.trajectory import Trajectory
from gdflows.walking.start import starting_point

RESTARTS = (None, "function", "gradient")


def accelerate(
    objective: Objective,
    theta0: Tensor,
    lr: float,
    steps: int,
    *,
    friction: float = 3.0,
    beta: float | None = None,
    restart: str | None = None,
) -> Trajectory:
    r"""Nesterov's accelerated gradient method, by default with the momentum that grows to 1.

    .. math:: \theta_k = \varphi_{k-1} - h\nabla E(\varphi_{k-1}), \qquad
              \varphi_k = \theta_k + \beta_k(\theta_k - \theta_{k-1}), \qquad
              \beta_k = \frac{k - 1}{k + r - 1}

    where k counts from the last restart, as if the method were begun there.
    :class:`gdflows.flows.VanishingFriction` is its equation.

    Parameters
    ----------
    objective : Objective
        The loss.
    theta0 : Tensor
        Start, shape ``(D,)``.
    lr : float
        The learning rate h.
    steps : int
        How many steps.
    friction : float
        r > 0.
    beta : float, optional
        A constant momentum in place of the growing one.
    restart : {None, "function", "gradient"}
        Forget the velocity, and begin to count anew, when the loss has risen,
        :math:`E(\theta_k) > E(\theta_{k-1})`, which costs a value of E a step; or when the motion
        goes uphill, :math:`\nabla E(\varphi_{k-1})\cdot(\theta_k - \theta_{k-1}) > 0`, for nothing.

    Returns
    -------
    Trajectory
        The states θ (not the points φ looked ahead to) at times 0, h, 2h, …; its companion
        ``restarted``, shape ``(T, 1)``, is 1 where the velocity was forgotten.

    Raises
    ------
    InputError
        For arguments that cannot be used.
    IntegrationError
        If the iterates run away; its ``partial`` holds the steps before.

    References
    ----------
    Nesterov (1983) in the form of Su, Boyd and Candès (2016); O'Donoghue and Candès (2015) for
    both restarts.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E, start = gf.problems.quadratic([1.0, 100.0]), torch.ones(2).double()
    >>> fast = gf.walking.accelerate(E, start, lr=0.01, steps=60)
    >>> slow = gf.descend(E, start, lr=0.01, steps=60)
    >>> bool(E.value(fast.states[-1]) < E.value(slow.states[-1]))
    True
    """
    lr, steps = check_lr(lr), whole(steps, "steps", 0)
    friction = number(friction, "friction", positive=True)
    beta = None if beta is None else check_beta(beta)
    if restart not in RESTARTS:
        raise InputError(f"restart must be None, 'function' or 'gradient', got {restart!r}.")
    counts0 = dict(objective.cost)
    theta = ahead = starting_point(objective, theta0)
    if restart and theta.is_complex():
        raise InputError("restart needs real parameters: a complex loss neither rises nor falls.")
    states, restarted = [theta], [0.0]
    loss = objective.value(theta) if restart == "function" else None
    since = 0

    def trajectory() -> Trajectory:
        counts = {k: n - counts0.get(k, 0) for k, n in objective.cost.items()}
        return Trajectory(
            times=torch.arange(len(states), dtype=torch.float64, device="cpu") * lr,
            states=torch.stack(states),
            label="Nesterov" + (f", {restart} restart" if restart else ""),
            companions={"restarted": torch.tensor(restarted, device=theta.device)[:, None]},
            cost={"steps": len(states) - 1, **counts},
        )

    for k in range(1, steps + 1):
        try:
            push = objective.grad(ahead)
            new = ahead - lr * push
            new_loss = objective.value(new) if restart == "function" else None
        except NonFiniteError as e:
            norm = length(theta)
            raise IntegrationError(
                f"Nesterov's method at lr = {lr:g} could not go beyond step {k - 1} "
                f"(t = {(k - 1) * lr:.6g}, ‖θ‖ = {norm:.3g}): {e}",
                cause="non-finite",
                time=(k - 1) * lr,
                norm=norm,
                partial=trajectory(),
            ) from e
        move = new - theta
        uphill = (restart == "function" and bool(new_loss > loss)) or (
            restart == "gradient" and bool(torch.dot(push, move) > 0)
        )
        # where it restarts is the new θ₀: the next step is k = 1, as if begun there
        since = 0 if uphill else since + 1
        theta, loss = new, new_loss
        ahead = theta
        if not uphill:
            momentum = (since - 1) / (since + friction - 1) if beta is None else beta
            ahead = theta + momentum * move
        states.append(theta)
        restarted.append(float(uphill))
    return trajectory()
