"""What an entry of the zoo is, and the small parts that entries are made of."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

F64 = torch.float64
CE = nn.functional.cross_entropy
MSE = nn.functional.mse_loss
CONSUMERS = ("objective", "monitor", "suggestion", "optimizer")
ZOO: dict[str, Hostile] = {}


@dataclass(frozen=True)
class Verdict:
    """What is allowed: right numbers, an error that names something, or either."""

    numbers: bool
    naming: str | None  # a pattern that the error's message must contain


RIGHT = Verdict(True, None)
# An optimiser that needs the closure twice may refuse one that is another function each time.
REPEATABLE = Verdict(True, "from call to call|closure|parameter")
UNASKED = None  # for a consumer to which the question makes no sense


@dataclass(frozen=True)
class Hostile:
    """One entry.

    Attributes
    ----------
    kind : str
        What is hostile about it.
    make : callable
        Returns ``(model, loss, data)``, fresh and always the same.
    verdicts : dict
        A verdict for each consumer.
    by : {"grad", "hvp", "third"}
        When a refusal must have come at the latest.
    call : callable
        ``call(model, loss, data)``: what the user's own training loop computes.
    truth : callable, optional
        The same, where there is a plainer way to it.
    orders : int
        Highest derivative to be compared.
    rtol : float
        Relative to the norm.
    within : callable
        Projects vectors on the directions in which the parameters can move.
    context : callable
        Makes the context in which the consumer is called.
    options : dict
        Keyword arguments of from_module, the monitor and the suggestion.
    """

    kind: str
    make: Callable
    verdicts: dict[str, Verdict | None]
    by: str = "grad"
    call: Callable = field(default=lambda model, loss, data: loss(model(data[0]), data[1]))
    truth: Callable | None = None
    orders: int = 3
    rtol: float = 1e-6
    within: Callable[[Tensor], Tensor] = field(default=lambda v: v)
    context: Callable = contextlib.nullcontext
    options: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.make.__name__


def _entry(kind: str, verdict: Verdict, **settings) -> Callable:
    def register(make: Callable) -> Callable:
        special = {c: settings.pop(c) for c in CONSUMERS if c in settings}
        verdicts = dict.fromkeys(CONSUMERS, verdict) | special
        # The monitor's verdict is also that of the suggestion, which asks it.
        if "monitor" in special:
            verdicts["suggestion"] = special.get("suggestion", special["monitor"])
        assert make.__name__ not in ZOO, make.__name__
        ZOO[make.__name__] = Hostile(kind, make, verdicts, **settings)
        return make

    return register


def right(kind: str, **settings) -> Callable:
    """The numbers must be right."""
    return _entry(kind, RIGHT, **settings)


def refused(kind: str, naming: str, **settings) -> Callable:
    """An error must name the culprit. The optimisers' closure may be right all the same."""
    return _entry(kind, Verdict(False, naming), **{"optimizer": REPEATABLE} | settings)


def right_or_refused(kind: str, naming: str, **settings) -> Callable:
    """Either; never a wrong number."""
    return _entry(kind, Verdict(True, naming), **{"optimizer": REPEATABLE} | settings)


def error(naming: str) -> Verdict:
    """The verdict of one consumer: an error."""
    return Verdict(False, naming)


def either(naming: str) -> Verdict:
    """The verdict of one consumer: right or an error."""
    return Verdict(True, naming)


# -- parts -----------------------------------------------------------------------------------------


def inputs(n: int = 12, features: int = 2) -> Tensor:
    return torch.randn(n, features, dtype=F64)


def labels(n: int = 12, classes: int = 2) -> Tensor:
    return torch.arange(n) % classes


def batch(n: int = 12) -> tuple[Tensor, Tensor]:
    return inputs(n), labels(n)


def net(*middle: nn.Module, ends: int = 2) -> nn.Sequential:
    """17 parameters, and what is put in the middle (where there are three features)."""
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), *middle, nn.Linear(3, ends)).to(F64)


class Around(nn.Module):
    """A network inside, for entries that do something before, after or around it."""

    def __init__(self, *middle: nn.Module):
        super().__init__()
        self.net = net(*middle)

    def forward(self, x):
        return self.net(x)
