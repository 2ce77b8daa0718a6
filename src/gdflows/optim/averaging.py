"""Schedule-free averaging: steps of one sequence, gradients between it and its average."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gdflows.optim import edges


class Averaging:
    r"""z takes the steps, x is its average, and gradients are taken at y = (1 − β)z + βx.

    While training the parameters are y, and each has its z in its state. x ← (1 − c)x + cz with
    c the square of the largest rate so far, in units of the sum of these squares: 1/k at a
    constant rate.

    References
    ----------
    Defazio et al. (2024), "The road less scheduled".
    """

    def __init__(self, beta: float):
        self.beta, self.share = beta, 1.0
        self.rate = self.sum = 0.0  # the largest so far; of squares

    @property
    def edge(self) -> float:
        return edges.schedule_free(self.beta, self.share)

    def begin(self, states: Sequence[dict], parameters: Sequence[Tensor]) -> None:
        """Before the first step all three are the same."""
        for state, p in zip(states, parameters, strict=True):
            if "z" not in state:
                state["z"] = p.detach().clone()

    def weigh(self, rate: float) -> None:
        """Set c for a step of that rate."""
        self.rate = max(self.rate, rate)
        self.sum += self.rate**2
        self.share = self.rate**2 / self.sum if self.sum > 0 else 1.0

    def step(
        self, states: Sequence[dict], y: Sequence[Tensor], along: Sequence[Tensor], rate: float
    ) -> None:
        """z moves by minus rate times ``along``; y by what that makes of it."""
        z = [state["z"] for state in states]
        torch._foreach_lerp_(y, z, self.share)
        torch._foreach_add_(y, along, alpha=rate * (self.beta * (1 - self.share) - 1))
        torch._foreach_add_(z, along, alpha=-rate)

    def show(self, states: Sequence[dict], parameters: Sequence[Tensor]) -> None:
        """From y to x."""
        self._towards(states, parameters, 1 - 1 / self.beta)

    def hide(self, states: Sequence[dict], parameters: Sequence[Tensor]) -> None:
        """From x back to y."""
        self._towards(states, parameters, 1 - self.beta)

    @staticmethod
    def _towards(states, parameters, part: float) -> None:
        with torch.no_grad():
            for p, state in zip(parameters, states, strict=True):
                if "z" in state:
                    p.lerp_(state["z"], part)
