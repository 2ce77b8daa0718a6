"""The optimisers in a trial, by name, each with the learning rates it is swept over."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gdflows import optim
from gdflows.arguments import numbers
from gdflows.errors import InputError
from gdflows.optional import need


class Plain:
    """A torch optimiser, stepped like those of :mod:`gdflows.optim`, with or without a schedule.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Or a schedule-free one, which has two sets of parameters.
    budget : int, optional
        If given the learning rate goes to zero over so many steps, along a cosine.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, budget: int | None = None):
        self.optimizer, self.cost = optimizer, {"gradients": 0, "hvps": 0}
        self.schedule = None
        if budget is not None:
            self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, budget)
        show(optimizer, training=True)

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """One step; the closure does not call backward."""
        self.optimizer.zero_grad()
        loss = closure()
        loss.backward()
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        self.cost["gradients"] += 1
        return loss.detach()


def show(optimizer, *, training: bool) -> None:
    """Before steps, and before the parameters are looked at: which of two sets they are."""
    inner = optimizer.optimizer if isinstance(optimizer, Plain) else optimizer
    change = getattr(inner, "train" if training else "eval", None)
    if change is not None:
        change()


class Contestant(NamedTuple):
    """``make(parameters, budget, batches, **settings)``, and the rates of its sweep, if any."""

    make: Callable
    rates: Sequence[float] = ()


def _torch(kind, *, cosine: bool, **fixed) -> Callable:
    def make(params, budget, batches, **settings):
        return Plain(kind(params, **(fixed | settings)), budget if cosine else None)

    return make


def _schedule_free(params, budget, batches, **settings):
    return Plain(_peer("schedulefree").AdamWScheduleFree(params, **settings))


def _prodigy(params, budget, batches, **settings):
    return Plain(_peer("prodigyopt").Prodigy(params, **settings), budget)


def _peer(name: str):
    return need(name, name, extra="trial", what="This contestant")


def _adaeos(kind: type[optim.AdaEoS], **fixed) -> Callable:
    def make(params, budget, batches, **settings):
        return kind(params, **({"stochastic": batches} | fixed | settings))

    return make


class _NoRestoring(optim.AdaEoS):
    """An ablation: no way back from a loss that has blown up."""

    def _blown_up(self, seen) -> bool:
        return not math.isfinite(seen.loss) and math.isnan(self.eta)


class _NoGuards(_NoRestoring):
    """An ablation: losses that jump are taken as they come."""

    def _spiked(self, seen) -> bool:
        return False


_SGD, _ADAMW = torch.optim.SGD, torch.optim.AdamW
SGD_RATES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
MOMENTUM_RATES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
ADAM_RATES = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)
FREE_RATES = (1e-3, 2.5e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)  # with the package's default

CONTESTANTS = {
    "sgd": Contestant(_torch(_SGD, cosine=False), SGD_RATES),
    "sgd-cosine": Contestant(_torch(_SGD, cosine=True), SGD_RATES),
    "momentum": Contestant(_torch(_SGD, cosine=False, momentum=0.9), MOMENTUM_RATES),
    "momentum-cosine": Contestant(_torch(_SGD, cosine=True, momentum=0.9), MOMENTUM_RATES),
    "adamw": Contestant(_torch(_ADAMW, cosine=False), ADAM_RATES),
    "adamw-cosine": Contestant(_torch(_ADAMW, cosine=True), ADAM_RATES),
    "schedule-free": Contestant(_schedule_free, FREE_RATES),
    "prodigy": Contestant(_prodigy),
    "cdat": Contestant(lambda params, budget, batches, **s: optim.CDAT(params, **s)),
    "dal": Contestant(lambda params, budget, batches, **s: optim.DAL(params, **s)),
    "adaeos": Contestant(_adaeos(optim.AdaEoS)),
    "adaeos-free": Contestant(_adaeos(optim.AdaEoS, base="schedule-free")),
    "adaeos-no-guards": Contestant(_adaeos(_NoGuards)),
    "adaeos-no-restoring": Contestant(_adaeos(_NoRestoring)),
}


def entries(methods: str) -> list[tuple[str, str, dict]]:
    """What ``"adamw:lr=0.01/0.02,adaeos:gamma=0.2"`` enters: label, contestant, settings of each.

    A contestant with a grid of rates is entered once for each, or for those that ``lr`` names.
    """
    found = []
    for method in methods.split(","):
        name, *rest = method.strip().split(":")
        if name not in CONTESTANTS:
            raise InputError(f"Unknown method {name!r}; choose among {', '.join(CONTESTANTS)}.")
        settings = {}
        for part in rest:
            key, sign, value = part.partition("=")
            if not sign:
                raise InputError(f"{part!r} in {method!r} is no setting: write name=value.")
            settings[key] = _value(value)
        rates = CONTESTANTS[name].rates
        if rates and "lr" in settings:
            rates = numbers(str(settings.pop("lr")), f"lr of {name}", separator="/")
            rest = [part for part in rest if not part.startswith("lr=")]
        label = ":".join([name, *rest])
        found += [(label, name, settings | {"lr": rate}) for rate in rates]
        if not rates:
            found.append((label, name, settings))
    return found


def _value(text: str):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
