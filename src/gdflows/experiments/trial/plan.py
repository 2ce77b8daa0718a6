"""The records of the tuned trial: which methods on which task, at what cost, by which command."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from gdflows.errors import InputError
from gdflows.experiments.trial.entrants import ENTRANTS
from gdflows.experiments.trial.rules import RULES
from gdflows.experiments.trial.suite import EDGE_BATCHES, SUITE
from gdflows.runs import Run, available, load

CLASSIC = ("sgd", "momentum", "adamw", "adamw-ema", "adamw-finder", "schedule-free", "muon")
OTHERS = ("prodigy", "cdat")
DISTANCES = ("dog", "ldog")
PROPOSED = ("proposal", "proposal-noise", "proposal-sigma")
ADAEOS = ("adaeos", "adaeos-free", "adaeos-momentum", "adaeos-sgd", "adaeos-frozen")
EVERY = (*CLASSIC, *OTHERS, *PROPOSED, *ADAEOS)
CORE = ("momentum", "adamw", "adamw-ema", "adamw-finder", "schedule-free", "muon", "prodigy",
        "proposal", "adaeos", "adaeos-free", "adaeos-frozen")  # fmt: skip
LARGE = ("adamw", "schedule-free", "muon", "adaeos-free")

#: Milliseconds of a gradient, and gradients that a look at the loss takes: process time of one
#: thread, measured on a machine of two cores.
GRADIENT = {
    "deep-linear": (0.4, 3.4), "mlp-regression": (0.6, 2.1), "digits-ce": (1.5, 1.7),
    "digits-mse": (1.2, 1.6), "mnist-full": (7.0, 0.9), "digits": (0.9, 3.3),
    "digits-conv": (2.4, 4.5), "gpt": (8.0, 3.7), "mnist": (1.6, 3.9), "vit": (11.2, 9.1),
    "gpt-wider": (26, 3.1), "gpt-million": (92, 2.9), "resnet-million": (109, 8.8),
    "copy-full": (1.2, 2.6), "conv-full": (7, 2.0), "text-full": (8, 2.0),
    "autoencoder": (2.2, 5.2), "window": (1.9, 5.8), "lstm": (3.3, 4.1), "vgg": (32, 11.3),
}  # fmt: skip
LOOKED = RULES.looks + 6  # times in a run, the bisection included
EDGE_PRODUCTS = 30  # of one look at the true edge
#: Gradients a step, of those with products at every step.
DEAR = {"cdat": 3.0, "proposal": 5.0, "proposal-noise": 5.0, "proposal-sigma": 5.0,
        "adaeos": 1.2, "adaeos-free": 1.2, "adaeos-momentum": 1.2, "adaeos-sgd": 1.2,
        "adaeos-walk": 1.2, "adaeos-warm": 1.2}  # fmt: skip


class Planned(NamedTuple):
    """One record."""

    task: str
    methods: tuple[str, ...]
    large: bool = False
    edges: int = 2
    suffix: str = ""
    searched: bool = True  # else what has a setting without a search is judged with it alone

    @property
    def minutes(self) -> float:
        """Of one core, at most: whole budgets of all searches, and all judged runs to their end."""
        entry, judged, looked, runs = SUITE[self.task], 0.0, 0.0, 0
        options = self.options
        for method in self.methods:
            found = ENTRANTS[method]
            parts = bool(found.axes) + bool(found.default)
            runs += parts * options["seeds"]
            judged += parts * options["seeds"] * DEAR.get(method, 1.0)
            looked += 5 * parts * self.edges * (found.default is not None)
        searched = float(options["tuning"]) * sum(bool(ENTRANTS[m].axes) for m in self.methods)
        each, look = GRADIENT[self.task]
        gradients = entry.steps * (searched + judged) + LOOKED * look * (searched + runs)
        gradients += looked * EDGE_PRODUCTS * RULES.hvp * (EDGE_BATCHES if entry.batch else 1)
        return gradients * each / 60_000

    @property
    def name(self) -> str:
        """Of the record."""
        return f"tuned-{self.task}{self.suffix}"

    @property
    def options(self) -> dict:
        """Of the study."""
        return {
            "task": self.task,
            "methods": ",".join(self.methods),
            "tuning": self.searched * (RULES.tuning_large if self.large else RULES.tuning),
            "tuning_seeds": 1 if self.large else RULES.tuning_seeds,
            "seeds": RULES.seeds(SUITE[self.task].kind) if self.searched else self.edges,
            "looks": RULES.looks,
            "edges": self.edges,
        }

    @property
    def command(self) -> str:
        """That makes it."""
        words = [
            f"--{key.replace('_', '-')} {value:g}" if isinstance(value, float)
            else f"--{key.replace('_', '-')} {value}"
            for key, value in self.options.items()
        ]  # fmt: skip
        title = f"--title 'Tuned trial: {SUITE[self.task].about}'"
        return f"gdflows run tuned-trial {' '.join(words)} --out {self.name} {title}"


def _without(methods: tuple[str, ...], *names: str) -> tuple[str, ...]:
    return tuple(m for m in methods if m not in names)


MIDDLE = ("adamw", "adamw-ema", "schedule-free", "muon", "adaeos-free", "adaeos-frozen")
_FEWER = ("proposal-noise", "proposal-sigma")

PLAN = (
    Planned("deep-linear", EVERY),
    Planned("mlp-regression", EVERY),
    Planned("digits-ce", EVERY),
    Planned("digits-mse", EVERY),
    Planned("mnist-full", _without(EVERY, "muon", "cdat", *_FEWER)),
    Planned("digits", EVERY),
    Planned("digits-conv", EVERY),
    Planned("mnist", _without(EVERY, "muon")),
    Planned("gpt", _without(CORE, "proposal")),
    Planned("vit", MIDDLE, edges=0),
    Planned("gpt-wider", LARGE, large=True, edges=0),
    Planned("autoencoder", _without(EVERY, *_FEWER)),
    Planned("window", _without(EVERY, "cdat", "adaeos-sgd", *_FEWER)),
    # A product through torch's LSTM costs as much as nine gradients.
    Planned("lstm", _without(EVERY, "cdat", "proposal", *_FEWER)),
    Planned("vgg", LARGE, large=True, edges=0),
    Planned("gpt-million", LARGE[:2], large=True, edges=0, suffix="-1"),
    Planned("gpt-million", LARGE[2:], large=True, edges=0, suffix="-2"),
    Planned("resnet-million", LARGE[:2], large=True, edges=0, suffix="-1"),
    Planned("resnet-million", LARGE[2:], large=True, edges=0, suffix="-2"),
    # Added when the others were on record: the fastest rival where it had been left out,
    *(
        Planned(task, ("adamw-ema",), large=True, edges=0, suffix="-ema")
        for task in ("gpt-wider", "vgg", "gpt-million", "resnet-million")
    ),
    # tasks in full batch that are held out,
    Planned("copy-full", _without((*EVERY, *DISTANCES), *_FEWER), edges=5),
    Planned("conv-full", _without((*CORE, *DISTANCES), "proposal"), edges=5),
    Planned("text-full", _without((*CORE, *DISTANCES), "proposal"), edges=5),
    # and rivals that measure the way they have come.
    *(  # fmt: skip
        Planned(task, DISTANCES, edges=0, suffix="-dog")
        for task in (
            "deep-linear",
            "mlp-regression",
            "digits-ce",
            "digits-mse",
            "mnist-full",
            "digits",
            "digits-conv",
            "mnist",
            "autoencoder",
        )
    ),
    # What was made of AdaEoS after the others had been recorded; without a look at the true edge.
    *(
        Planned(task, ("adaeos-walk",), edges=0, suffix="-walk")
        for task in ("digits", "digits-conv", "mnist", "autoencoder", "window", "lstm")
    ),
)

#: The true edge on five seeds, of AdaEoS at its one setting.
EDGES = tuple(
    Planned(task, ("adaeos-free" if SUITE[task].batch else "adaeos",), edges=5, suffix="-edges",
            searched=False)
    for task in ("deep-linear", "mlp-regression", "digits-ce", "digits-mse", "mnist-full",
                 "digits", "digits-conv", "mnist", "gpt", "autoencoder", "window", "lstm")
)  # fmt: skip

#: AdaEoS on Adam with a warm-up over a tenth of the budget, in full batch: planned when all others
#: were on record and a warm-up had been seen to help on one task, so no part of the verdict.
WARM = tuple(
    Planned(task, ("adaeos-warm",), edges=RULES.seeds(entry.kind), suffix="-warm", searched=False)
    for task, entry in SUITE.items() if not entry.batch
)  # fmt: skip


def plan() -> pd.DataFrame:
    """The records: methods, seeds and the most that each costs, in minutes of one core."""
    return pd.DataFrame.from_dict(
        {
            p.name: {
                "kind": SUITE[p.task].kind, "methods": len(p.methods),
                "tuning": p.options["tuning"], "tuning seeds": p.options["tuning_seeds"],
                "seeds": p.options["seeds"], "edges": p.edges, "minutes": round(p.minutes, 1),
            }
            for p in PLAN
        },
        orient="index",
    )  # fmt: skip


def recorded(planned: tuple[Planned, ...] = PLAN) -> dict[str, Run]:
    """Those of a plan that ship with the package, by name, in the plan's order."""
    there = set(available())
    return {p.name: load(p.name) for p in planned if p.name in there}


def joined(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Tables by task: records of one task with other methods belong together.

    A column ``record`` says which each row is of: seconds are compared within a record alone,
    since two are made on machines of different quiet.

    Parameters
    ----------
    tables : dict
        By the names of the plan.

    Raises
    ------
    InputError
        For a name that is not in the plan, or two records of a task that share a method.
    """
    tasks, out = {p.name: p.task for p in (*PLAN, *EDGES, *WARM)}, {}
    for name, table in tables.items():
        if name not in tasks:
            raise InputError(f"There is no record {name!r} in the plan: {', '.join(tasks)}.")
        out.setdefault(tasks[name], []).append(table.assign(record=name))
    for task, parts in out.items():
        shared = [m for part in parts for m in part.method.unique()]
        if len(set(shared)) < len(shared):
            raise InputError(f"Two records of {task} have a method in common.")
    return {task: pd.concat(parts, ignore_index=True) for task, parts in out.items()}
