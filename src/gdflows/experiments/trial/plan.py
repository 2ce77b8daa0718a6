"""The records of the tuned trial: which methods on which task, at what cost, by which command."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from gdflows.errors import InputError
from gdflows.experiments.trial.rules import RULES
from gdflows.experiments.trial.suite import SUITE

CLASSIC = ("sgd", "momentum", "adamw", "adamw-ema", "adamw-finder", "schedule-free", "muon")
OTHERS = ("prodigy", "cdat")
PROPOSED = ("proposal", "proposal-noise", "proposal-sigma")
ADAEOS = ("adaeos", "adaeos-free", "adaeos-momentum", "adaeos-sgd", "adaeos-frozen")
EVERY = (*CLASSIC, *OTHERS, *PROPOSED, *ADAEOS)
CORE = ("momentum", "adamw", "adamw-ema", "adamw-finder", "schedule-free", "muon", "prodigy",
        "proposal", "adaeos", "adaeos-free", "adaeos-frozen")  # fmt: skip
LARGE = ("adamw", "schedule-free", "muon", "adaeos-free")


class Planned(NamedTuple):
    """One record."""

    task: str
    methods: tuple[str, ...]
    large: bool = False
    edges: int = 2
    minutes: float = 0.0  # of one core: what it costs at most, as measured beforehand
    suffix: str = ""

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
            "tuning": RULES.tuning_large if self.large else RULES.tuning,
            "tuning_seeds": 1 if self.large else RULES.tuning_seeds,
            "seeds": RULES.seeds(SUITE[self.task].kind),
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


PLAN = (
    Planned("deep-linear", EVERY),
    Planned("mlp-regression", EVERY),
    Planned("digits-ce", EVERY),
    Planned("digits-mse", EVERY),
    Planned("mnist-full", _without(EVERY, "muon", "proposal-noise")),
    Planned("digits", EVERY),
    Planned("digits-conv", EVERY),
    Planned("mnist", _without(EVERY, "muon")),
    Planned("gpt", CORE),
    Planned("vit", CORE),
    Planned("gpt-wider", LARGE),
    Planned("autoencoder", EVERY),
    Planned("window", EVERY),
    Planned("lstm", EVERY),
    Planned("vgg", CORE),
    Planned("gpt-million", LARGE[:2], large=True, edges=0, suffix="-1"),
    Planned("gpt-million", LARGE[2:], large=True, edges=0, suffix="-2"),
    Planned("resnet-million", LARGE[:2], large=True, edges=0, suffix="-1"),
    Planned("resnet-million", LARGE[2:], large=True, edges=0, suffix="-2"),
)


def plan() -> pd.DataFrame:
    """The records: methods, seeds and the most that each costs, in minutes of one core."""
    return pd.DataFrame.from_dict(
        {
            p.name: {
                "kind": SUITE[p.task].kind, "methods": len(p.methods),
                "tuning": p.options["tuning"], "tuning seeds": p.options["tuning_seeds"],
                "seeds": p.options["seeds"], "edges": p.edges, "minutes": p.minutes,
            }
            for p in PLAN
        },
        orient="index",
    )  # fmt: skip


def joined(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Tables by task: records of one task with other methods belong together.

    Parameters
    ----------
    tables : dict
        By the names of the plan.

    Raises
    ------
    InputError
        For a name that is not in the plan, or two records of a task that share a method.
    """
    tasks, out = {p.name: p.task for p in PLAN}, {}
    for name, table in tables.items():
        if name not in tasks:
            raise InputError(f"There is no record {name!r} in the plan: {', '.join(tasks)}.")
        out.setdefault(tasks[name], []).append(table)
    for task, parts in out.items():
        shared = [m for part in parts for m in part.method.unique()]
        if len(set(shared)) < len(shared):
            raise InputError(f"Two records of {task} have a method in common.")
    return {task: pd.concat(parts, ignore_index=True) for task, parts in out.items()}
