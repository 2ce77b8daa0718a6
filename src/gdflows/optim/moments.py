"""What SGD, momentum and Adam make of a gradient, apart from the learning rate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gdflows.errors import InputError
from gdflows.optim import edges

BASES = ("sgd", "momentum", "adam")
AVERAGED = "schedule-free"


class Moments:
    """Running averages of gradients, their direction, preconditioner and stability edge.

    Momentum is the average m ← βm + (1 − β)g, as Adam has it. Schedule-free Adam has Adam's
    preconditioner and, in place of momentum, an average of the parameters
    (:class:`gdflows.optim.averaging.Averaging`). A parameter's averages begin at zero with its own
    first gradient, and are corrected by its own count of them.
    """

    def __init__(
        self, base: str, betas: tuple[float, float], eps: float, bases: Sequence[str] = BASES
    ):
        if base not in bases:
            raise InputError(f"base must be one of {', '.join(bases)}, got {base!r}.")
        for name, beta in zip(("betas[0]", "betas[1]"), betas, strict=True):
            if not 0 <= beta < 1:
                raise InputError(f"{name} must be in [0, 1), got {beta}.")
        if not eps > 0:
            raise InputError(f"eps must be positive, got {eps}.")
        if base == AVERAGED and not betas[0] > 0:
            raise InputError("betas[0] must be positive for averages; at 0 there are none.")
        self.base, self.betas, self.eps = base, tuple(betas), eps
        self.first, self.second = base in ("momentum", "adam"), base in ("adam", AVERAGED)

    @property
    def beta(self) -> float:
        return self.betas[0] if self.first else 0.0

    @property
    def settings(self) -> dict:
        return {"base": self.base, "betas": self.betas, "eps": self.eps}

    def update(self, states: Sequence[dict], grads: Sequence[Tensor]) -> None:
        """Take in a gradient: a tensor, and a dict to keep averages in, for each parameter."""
        for state, grad in zip(states, grads, strict=True):
            if not state.get("count"):
                state["count"] = 0
                if self.first:
                    state["exp_avg"] = torch.zeros_like(grad)
                if self.second:
                    state["exp_avg_sq"] = torch.zeros_like(grad)
            state["count"] += 1
        if self.first:
            torch._foreach_lerp_(gather(states, "exp_avg"), grads, 1 - self.betas[0])
        if self.second:
            second = gather(states, "exp_avg_sq")
            torch._foreach_mul_(second, self.betas[1])
            torch._foreach_addcmul_(second, grads, grads, value=1 - self.betas[1])

    def direction(
        self, states: Sequence[dict], grads: Sequence[Tensor]
    ) -> tuple[list[Tensor], float]:
        """A direction and a factor: the step is minus the learning rate times both."""
        counts = gather(states, "count")
        if min(counts) != max(counts):  # some joined later
            each = [
                self._direction(n, [s], [g]) for n, s, g in zip(counts, states, grads, strict=True)
            ]
            return [factor * moves[0] for moves, factor in each], 1.0
        return self._direction(counts[0], states, grads)

    def _direction(self, count: int, states, grads) -> tuple[list[Tensor], float]:
        means, factor = grads, 1.0
        if self.first:
            means, factor = gather(states, "exp_avg"), 1 / (1 - self.betas[0] ** count)
        if self.second:
            # √(v/b) + ε = (√v + √b ε)/√b: the corrections need no pass over the parameters.
            root = (1 - self.betas[1] ** count) ** 0.5
            below = torch._foreach_sqrt(gather(states, "exp_avg_sq"))
            torch._foreach_add_(below, root * self.eps)
            means, factor = torch._foreach_div(means, below), factor * root
        return list(means), factor

    def precondition(self, states: Sequence[dict], count: int | None = None) -> list[Tensor] | None:
        """Diagonal of D, 1/(√v̂ + ε); None for 1.

        The edge is that of a count, by default of the oldest among the parameters. The average of
        a younger one is divided by less, which is a larger entry here.
        """
        counts = gather(states, "count")
        count = max(counts) if count is None else count
        if min(counts) == max(counts) == count:
            return self._diagonal(count, states) if self.second else None
        if not (self.first or self.second):
            return None
        out = []
        for n, state in zip(counts, states, strict=True):
            ratio = (1 - self.beta**count) / (1 - self.beta**n)
            if self.second:
                out.append(ratio * self._diagonal(n, [state])[0])
            else:
                out.append(torch.full_like(state["exp_avg"], ratio))
        return out

    def _diagonal(self, count: int, states: Sequence[dict]) -> list[Tensor]:
        roots = torch._foreach_sqrt(gather(states, "exp_avg_sq"))
        torch._foreach_div_(roots, (1 - self.betas[1] ** count) ** 0.5)
        torch._foreach_add_(roots, self.eps)
        return list(torch._foreach_reciprocal(roots))

    def edge(self, count: int, *, weight_decay: float = 0.0) -> float:
        """The value of hλ, with D, at which the linearised step is marginal."""
        return edges.adam(self.beta, max(count, 1), weight_decay=weight_decay)


def gather(states: Sequence[dict], name: str) -> list:
    """What is kept under a name, for each parameter."""
    return [state[name] for state in states]
