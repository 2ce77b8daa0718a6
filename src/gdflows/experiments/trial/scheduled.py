"""Optimisers of the tuned trial with warm-up, decay and an average of the weights around them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gdflows.optim.evaluation import CurvatureOptimizer

DECAYS = ("constant", "cosine", "linear")


def factor(step: int, *, warmup: int = 0, decay: str = "constant", horizon: int = 1) -> float:
    """What the learning rate is multiplied by.

    Parameters
    ----------
    step : int
        From 0.
    warmup : int
        Steps over which it rises in equal parts to 1, which it is at step ``warmup - 1``.
    decay : {"constant", "cosine", "linear"}
        What follows.
    horizon : int
        The step, counted from 0, at which a decay is at zero.
    """
    if step < warmup:
        return (step + 1) / warmup
    if decay == "constant":
        return 1.0
    part = min(max((step - warmup) / max(horizon - warmup, 1), 0.0), 1.0)
    return (1 + math.cos(math.pi * part)) / 2 if decay == "cosine" else 1 - part


class Scheduled:
    """One optimiser, or several that share out the parameters, under a schedule.

    Parameters
    ----------
    optimizers : sequence of torch.optim.Optimizer
        Of torch's kind, or one of :mod:`gdflows.optim`, which takes closures.
    warmup, horizon : int
        In steps; see :func:`factor`.
    decay : {"constant", "cosine", "linear"}
        Of the rate.
    ema : float
        If not 0, the parameters handed over are an exponential average, which forgets by
        min(ema, (1 + k)/(10 + k)) at step k: shorter at the beginning, so that it leaves it soon.
        At 1 it is the average with polynomial decay (γ = 8) of Shamir and Zhang (2013).
    shadows : sequence of (Tensor, Tensor)
        Parameters, and the matrices of the same memory that stand for them in an optimiser.
    """

    def __init__(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        *,
        warmup: int = 0,
        decay: str = "constant",
        horizon: int = 1,
        ema: float = 0.0,
        shadows: Sequence[tuple[Tensor, Tensor]] = (),
    ):
        self.optimizers, self.shadows, self.ema = list(optimizers), list(shadows), ema
        self.inner = self.optimizers[0]
        self._own = isinstance(self.inner, CurvatureOptimizer)
        self._cost = {"gradients": 0, "hvps": 0}
        self._shape = {"warmup": warmup, "decay": decay, "horizon": horizon}
        self.steps, self._average = 0, None
        self.schedules = [
            torch.optim.lr_scheduler.LambdaLR(o, lambda k: factor(k, **self._shape))
            for o in self.optimizers
        ]

    @property
    def cost(self) -> dict:
        """Gradients and products so far."""
        return self.inner.cost if self._own else self._cost

    @property
    def at_rest(self) -> bool:
        """Whether nothing that it hands over will change any more."""
        return not self.ema and factor(self.steps, **self._shape) == 0

    def _parameters(self) -> list[Tensor]:
        stands = {id(shadow): p for p, shadow in self.shadows}
        groups = [group for o in self.optimizers for group in o.param_groups]
        return [stands.get(id(p), p) for group in groups for p in group["params"]]

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """One step; the closure does not call backward."""
        if self._own:
            loss = self.inner.step(closure)
        else:
            for p in self._parameters():
                p.grad = None
            loss = closure()
            loss.backward()
            for p, shadow in self.shadows:
                shadow.grad = p.grad.view_as(shadow)
            for optimizer in self.optimizers:
                optimizer.step()
            self._cost["gradients"] += 1
        for schedule in self.schedules:
            schedule.step()
        if self.ema:
            self._remember()
        self.steps += 1
        return loss.detach()

    @torch.no_grad()
    def _remember(self) -> None:
        parameters = self._parameters()
        if self._average is None:
            self._average = [p.detach().clone() for p in parameters]
        part = min(self.ema, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self._average, [p.detach() for p in parameters], 1 - part)

    @contextmanager
    def handed_over(self) -> Iterator[None]:
        """Inside, the parameters are those that the method would hand over; after it, as before."""
        switch = None if self.ema else getattr(self.inner, "eval", None)
        if switch is None and self._average is None:
            yield
            return
        parameters = self._parameters()
        kept = [p.detach().clone() for p in parameters]  # averages there and back would be rounded
        try:
            if switch is not None:
                switch()
            else:
                _copy(parameters, self._average)
            yield
        finally:
            if switch is not None:
                self.inner.train()
            _copy(parameters, kept)


@torch.no_grad()
def _copy(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for p, value in zip(parameters, values, strict=True):
        p.copy_(value)


def hidden_matrices(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters that Muon is for, and the others.

    Matrices and filters of the layers between the first and the last; embeddings, positions, the
    output layer, biases and norms are the others'.
    """
    named = list(network.named_parameters())
    # A layer is the part of the network that a matrix belongs to, at the outermost level.
    layers = list(dict.fromkeys(name.partition(".")[0] for name, p in named if p.ndim > 1))
    outer = {layers[0], layers[-1]}
    hidden = [p for name, p in named if p.ndim > 1 and name.partition(".")[0] not in outer]
    known = {id(p) for p in hidden}
    return hidden, [p for _, p in named if id(p) not in known]


def as_matrices(parameters: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Each parameter with a matrix in the same memory, a row for each output."""
    return [(p, nn.Parameter(p.detach().view(len(p), -1))) for p in parameters]
