"""The methods of the tuned trial: how each is made, and what is searched, from where."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import nn

from gdflows import optim
from gdflows.errors import InputError
from gdflows.experiments.trial.proposed import Frozen, Proposed
from gdflows.experiments.trial.rules import RULES
from gdflows.experiments.trial.scheduled import DECAYS, Scheduled, as_matrices, hidden_matrices
from gdflows.experiments.trial.suite import Judged
from gdflows.optional import need

FINDER = "finder"  # in place of a rate: look for it first


class Axis(NamedTuple):
    """One setting that is searched.

    Either values in geometric progression from where the search starts, without end but for
    natural bounds, or a list: in order, so that neighbours are those beside, or in none.
    """

    name: str
    factor: float = 0.0
    least: float = 0.0
    most: float = math.inf
    values: tuple = ()
    ordered: bool = True
    only_with: str = ""  # a decay has a horizon, a constant rate none

    def neighbours(self, value, start, fine: bool = False) -> list:
        """What is tried beside a value."""
        if self.factor:
            step = self.factor**0.5 if fine else self.factor
            k = round(math.log(value / start) / math.log(step))
            beside = [_short(start * step ** (k + i)) for i in (1, -1)]
            return [v for v in beside if self.least <= v <= self.most]
        if not self.ordered:
            return [v for v in self.values if v != value]
        at = self.values.index(value)
        return [self.values[i] for i in (at + 1, at - 1) if 0 <= i < len(self.values)]


class Entrant(NamedTuple):
    """``make(network, what, **settings)``; what is searched, first the rate; where from.

    ``start`` depends on whether there are minibatches. ``default`` are the settings for all tasks
    of what chooses its rate itself, or of a rival's package; None if there is nothing to judge
    without a search.
    """

    make: Callable[..., Scheduled]
    axes: tuple[Axis, ...] = ()
    start: Callable[[bool], dict] = lambda batches: {}
    default: Callable[[bool], dict] | None = None
    own_rate: bool = False


def _short(x: float) -> float:
    return float(f"{x:.2g}")


def label(settings: Mapping) -> str:
    """Settings as a record has them: ``"lr=0.01 warmup=0.1"``; what is off is left out."""
    told = dict(settings)
    if told.get("decay", "constant") == "constant":
        told.pop("decay", None)
        told.pop("horizon", None)
    off = {"warmup": 0, "noise": 0}
    return " ".join(f"{k}={v}" for k, v in told.items() if k not in off or v != off[k])


def settings_of(text: str) -> dict:
    """The other way round."""
    return {k: _value(v) for k, _, v in (part.partition("=") for part in text.split())}


def _value(text: str):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


# -- how they are made ---------------------------------------------------------------------------


def _wrapped(what: Judged, inner, *, warmup=0.0, decay="constant", horizon=0.5, ema=0.0, **rest):
    """With a schedule; warm-up and horizon are parts of the task's budget."""
    return Scheduled(
        inner if isinstance(inner, list) else [inner],
        warmup=round(warmup * what.steps), decay=decay, horizon=max(round(horizon * what.steps), 1),
        ema=ema, **rest,
    )  # fmt: skip


_OUTER = ("warmup", "decay", "horizon", "ema")


def _split(settings: Mapping) -> tuple[dict, dict]:
    outer = {k: v for k, v in settings.items() if k in _OUTER}
    return outer, {k: v for k, v in settings.items() if k not in _OUTER}


def _of(kind: Callable, **fixed) -> Callable:
    """An optimiser that takes parameters and settings."""

    def make(network: nn.Module, what: Judged, **settings) -> Scheduled:
        outer, inner = _split(fixed | settings)
        return _wrapped(what, kind(list(network.parameters()), **inner), **outer)

    return make


def _peer(module: str, package: str, name: str, **fixed) -> Callable:
    """The same of a package that need not be there."""

    def kind(params, **settings):
        found = need(module, package, extra="trial", what=f"The contestant {name}")
        return getattr(found, name)(params, **settings)

    return _of(kind, **fixed)


def _schedule_free(network: nn.Module, what: Judged, *, warmup=0.0, beta=0.9, **settings):
    """With the warm-up of its own package, which weighs the average by it."""
    found = need("schedulefree", "schedulefree", extra="trial", what="Schedule-free AdamW")
    inner = found.AdamWScheduleFree(
        network.parameters(), betas=(beta, 0.999), warmup_steps=round(warmup * what.steps),
        **settings,
    )  # fmt: skip
    inner.train()
    return Scheduled([inner])


def _muon(network: nn.Module, what: Judged, *, lr: float, **outer):
    """torch's Muon for hidden matrices, AdamW for the rest, at one rate.

    ``match_rms_adamw`` gives a step of Muon's the size of AdamW's, so that one rate serves both.
    Filters of convolutions are matrices with a row for each output.
    """
    hidden, others = hidden_matrices(network)
    if not hidden:
        raise InputError(f"Muon finds no hidden matrix in the network of {what.name}.")
    shadows = as_matrices(hidden)
    inner = [torch.optim.AdamW(others, lr=lr, weight_decay=0.0)]
    inner.append(
        torch.optim.Muon(
            [m for _, m in shadows], lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
        )
    )
    return _wrapped(what, inner, shadows=shadows, **outer)


def _adaeos(kind: type = optim.AdaEoS, base: str | None = None) -> Callable:
    def make(network: nn.Module, what: Judged, **settings):
        outer, inner = _split(settings)
        batches = bool(what.batch)
        chosen = base or ("schedule-free" if batches else "adam")
        optimizer = kind(network.parameters(), base=chosen, stochastic=batches, **inner)
        return _wrapped(what, optimizer, **outer)

    return make


# -- what is searched ----------------------------------------------------------------------------

RATE = Axis("lr", RULES.factor)
HORIZON = Axis("horizon", 2**0.5, most=2.0, only_with="decay")
WARMUP = Axis("warmup", values=(0, 0.05, 0.1, 0.2, 0.4))
DECAY = Axis("decay", values=DECAYS, ordered=False)
SCHEDULE = (HORIZON, WARMUP, DECAY)
RHO = Axis("rho", 2.0, most=1.99)
WALK = Axis("walk", 2**0.5)
#: Those whose curve a schedule is drawn over.
_OFF = {"warmup": 0, "decay": "constant", "horizon": 0.5}


def _from(**start) -> Callable[[bool], dict]:
    return lambda batches: start | _OFF


def _rho(base: str) -> Callable[[bool], dict]:
    noisy = {"sgd": 0.4, "momentum": 0.15, "adam": 0.15}.get(base, 0.8)
    return lambda batches: {"rho": noisy if batches else 0.8} | _OFF


def _own(make: Callable, axes: tuple[Axis, ...], start: Callable[[bool], dict]) -> Entrant:
    """What chooses its rate: judged as it is, too."""
    return Entrant(make, axes, start, start, own_rate=True)


def _swept(make: Callable, lr: float, *more: Axis, default: float | None = None, **start):
    usual = None if default is None else _from(lr=default, **start)
    return Entrant(make, (RATE, *SCHEDULE, *more), _from(lr=lr, **start), usual)


_SGD, _ADAMW = torch.optim.SGD, torch.optim.AdamW
_PROPOSED = (
    Axis("gamma", values=(0.01, 0.03, 0.1, 0.3, 1.0)), Axis("every", values=(1, 5, 20)),
    Axis("products", values=(1, 2)),
)  # fmt: skip
_AS_WRITTEN = {"gamma": 0.1, "every": 1, "products": 1}
ETA = Axis("eta", RULES.factor)

ENTRANTS = {
    "sgd": _swept(_of(_SGD), 0.1),
    "momentum": _swept(_of(_SGD, momentum=0.9), 0.032),
    "adamw": _swept(_of(_ADAMW, weight_decay=0.0), 3.2e-3, default=1e-3),
    "adamw-ema": _swept(
        _of(_ADAMW, weight_decay=0.0), 3.2e-3,
        Axis("ema", values=(0.9, 0.97, 0.99, 0.997)), ema=0.97,
    ),
    "adamw-finder": Entrant(
        _of(_ADAMW, weight_decay=0.0), default=lambda batches: {"lr": FINDER}, own_rate=True
    ),
    "schedule-free": Entrant(
        _schedule_free, (RATE, WARMUP, Axis("beta", values=(0.9, 0.95, 0.98))),
        lambda batches: {"lr": 0.01, "warmup": 0, "beta": 0.9},
        lambda batches: {"lr": 0.0025, "warmup": 0, "beta": 0.9},
    ),
    "muon": _swept(_muon, 3.2e-3),
    "soap": _swept(
        _peer("pytorch_optimizer", "pytorch-optimizer", "SOAP", weight_decay=0.0), 3.2e-3
    ),
    "prodigy": _own(
        _peer("prodigyopt", "prodigyopt", "Prodigy", safeguard_warmup=True),
        (Axis("d_coef", 2.0), *SCHEDULE),
        lambda batches: {"d_coef": 1.0, "warmup": 0, "decay": "cosine", "horizon": 1.0},
    ),
    # Their averages are part of them: an average over the last steps, some ninth of all.
    **{
        name.lower(): _own(
            _peer("dog", "dog-optimizer", name, ema=1.0),
            (Axis("lr", 2.0), Axis("reps_rel", 10.0, least=1e-9, most=0.1), WARMUP),
            lambda batches: {"lr": 1.0, "reps_rel": 1e-6, "warmup": 0},
        )
        for name in ("DoG", "LDoG")
    },
    "cdat": _own(_of(optim.CDAT), (Axis("sigma", 2.0), *SCHEDULE), _from(sigma=1.0)),
    "proposal": _own(_of(Proposed), (ETA, *_PROPOSED), lambda b: {"eta": 0.1, **_AS_WRITTEN}),
    "proposal-sigma": Entrant(
        _of(Proposed), (Axis("sigma", RULES.factor), ETA, *_PROPOSED),
        lambda batches: {"sigma": 2.0, "eta": 0.1, **_AS_WRITTEN},
    ),
    "proposal-noise": Entrant(
        _of(Proposed), (ETA, Axis("noise", values=(0, 0.01, 0.1, 1.0)), *_PROPOSED),
        lambda batches: {"eta": 0.1, "noise": 0.01, **_AS_WRITTEN},
    ),
    "adaeos": _own(_adaeos(base="adam"), (RHO, *SCHEDULE), _rho("adam")),
    "adaeos-warm": Entrant(
        _adaeos(base="adam"), default=lambda b: _rho("adam")(b) | {"warmup": 0.1}, own_rate=True
    ),
    "adaeos-momentum": _own(_adaeos(base="momentum"), (RHO, *SCHEDULE), _rho("momentum")),
    "adaeos-sgd": _own(_adaeos(base="sgd"), (RHO, *SCHEDULE), _rho("sgd")),
    "adaeos-free": _own(
        _adaeos(base="schedule-free"), (RHO, WARMUP), lambda b: {"rho": 0.8, "warmup": 0}
    ),
    "adaeos-walk": _own(
        _adaeos(base="schedule-free"), (WALK, RHO), lambda b: {"walk": 1.0, "rho": 0.8}
    ),
    "adaeos-frozen": Entrant(_adaeos(Frozen), default=lambda batches: {}, own_rate=True),
}  # fmt: skip


def entrant(name: str) -> Entrant:
    """A method by its name.

    Raises
    ------
    InputError
        If there is none.
    """
    if name not in ENTRANTS:
        raise InputError(f"Unknown method {name!r}; choose among {', '.join(ENTRANTS)}.")
    return ENTRANTS[name]
