"""What SGD, momentum and Adam make of a gradient, apart from the learning rate."""

from __future__ import annotations

import torch
from torch import Tensor

from gdflows.errors import InputError
from gdflows.optim import thresholds

BASES = ("sgd", "momentum", "adam")


class Moments:
    """Running averages of gradients, their direction, preconditioner and stability edge.

    Momentum is the average m ← βm + (1 − β)g, as Adam has it.
    """

    def __init__(self, base: str, betas: tuple[float, float], eps: float):
        if base not in BASES:
            raise InputError(f"base must be one of {', '.join(BASES)}, got {base!r}.")
        for name, beta in zip(("betas[0]", "betas[1]"), betas, strict=True):
            if not 0 <= beta < 1:
                raise InputError(f"{name} must be in [0, 1), got {beta}.")
        if not eps > 0:
            raise InputError(f"eps must be positive, got {eps}.")
        self.base, self.betas, self.eps = base, tuple(betas), eps

    @property
    def beta(self) -> float:
        return 0.0 if self.base == "sgd" else self.betas[0]

    def update(self, state: dict, grad: Tensor) -> None:
        """Take in a gradient."""
        if not state.get("count"):
            state["count"] = 0
            if self.base != "sgd":
                state["exp_avg"] = torch.zeros_like(grad)
            if self.base == "adam":
                state["exp_avg_sq"] = torch.zeros_like(grad)
        state["count"] += 1
        if self.base != "sgd":
            state["exp_avg"].lerp_(grad, 1 - self.betas[0])
        if self.base == "adam":
            state["exp_avg_sq"].mul_(self.betas[1]).addcmul_(grad, grad, value=1 - self.betas[1])

    def direction(self, state: dict, grad: Tensor) -> Tensor:
        """The step is minus the learning rate times this."""
        if self.base == "sgd":
            return grad
        mean = state["exp_avg"] / (1 - self.betas[0] ** state["count"])
        return mean if self.base == "momentum" else mean * self.precondition(state)

    def precondition(self, state: dict) -> Tensor | float:
        """Diagonal of D: 1, or 1/(√v̂ + ε)."""
        if self.base != "adam":
            return 1.0
        second = state["exp_avg_sq"] / (1 - self.betas[1] ** state["count"])
        return 1 / (second.sqrt_().add_(self.eps))

    def edge(self, count: int) -> float:
        """The value of hλ, with D, at which the linearised step is marginal."""
        return thresholds.adam(self.beta, max(count, 1))
