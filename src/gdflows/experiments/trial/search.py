"""The search of a method's settings: a grid that widens itself, within a budget of gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from gdflows.experiments.trial.entrants import Axis, Entrant, label
from gdflows.experiments.trial.rules import RULES

SWEEP, SEARCH = "sweep", "search"  # parts of a record: the first line over the rate, and the rest
FARTHEST = 4.0  # steps of the grid that are gone at once to close it


class Score(NamedTuple):
    """How a run went."""

    steps: float  # to the target, ∞ if it was not reached
    final: float  # the loss at the end
    spent: float  # in gradients
    run: int  # steps that were made


def rank(scores: Sequence[Score], part: str, seeds: int) -> tuple[float, float]:
    """What a setting is compared by; less is better.

    Steps to the target, in geometric mean over the seeds of the search; then the loss at the end
    on the first. In the sweep a missed target counts as the rules say; one that was missed on the
    first seed, or in the search on any, is no number of steps.
    """
    missed = [math.isinf(s.steps) for s in scores]
    if len(scores) < seeds or missed[0] or (part == SEARCH and any(missed)):
        return math.inf, scores[0].final
    logs = [math.log(max(RULES.missed * s.run if m else s.steps, 1))
            for s, m in zip(scores, missed, strict=True)]  # fmt: skip
    return math.exp(sum(logs) / len(logs)), scores[0].final


def active(axis: Axis, settings: Mapping) -> bool:
    """Whether a setting plays a part beside the others."""
    return not axis.only_with or settings.get(axis.only_with, "constant") != "constant"


def better(new: tuple[float, float], old: tuple[float, float], slower: bool) -> bool:
    """Whether one rank beats another by more than what may be chance.

    Of two settings with which every run goes off the one with the smaller rate is the better.

    Parameters
    ----------
    new, old : (float, float)
        Of :func:`rank`.
    slower : bool
        Whether the new one has the smaller rate.
    """
    if new[0] < math.inf or old[0] < math.inf:
        return new[0] < (1 - RULES.margin) * old[0]
    if math.isinf(new[1]) and math.isinf(old[1]):
        return slower
    return new[1] < (1 - RULES.margin) * old[1]


class Side(NamedTuple):
    """What would have to be tried, for a setting not to stand at the end of its grid."""

    axis: Axis
    value: float


def one_sided(
    axes: Sequence[Axis], best: Mapping, tried: Sequence[Mapping], reach: float = 0.5
) -> list[Side]:
    """Where to look beside the best, of settings without end, on sides where nothing was tried.

    Parameters
    ----------
    axes : sequence of Axis
        Of the search.
    best : mapping
        Its settings.
    tried : sequence of mapping
        All that were tried.
    reach : float
        How far from the best, as a power of the grid's factor, where the bounds have room for it;
        else the next of the fine grid.
    """

    def others(settings: Mapping, name: str) -> str:
        return label({k: v for k, v in settings.items() if k != name})

    out = []
    for axis in axes:
        if axis.factor and active(axis, best):
            name, here = axis.name, best[axis.name]
            rest = others(best, name)
            beside = [s[name] for s in tried if name in s and others(s, name) == rest]
            for value in axis.neighbours(here, here, fine=True):
                if not any((v > here) == (value > here) for v in beside if v != here):
                    far = axis.factor ** (reach if value > here else -reach)
                    far = float(f"{here * far:.2g}")
                    out.append(Side(axis, far if axis.least <= far <= axis.most else value))
    return out


class Search:
    """Pattern search: neighbours of the best so far, the rate's first, until none is better.

    Parameters
    ----------
    entrant : Entrant
        Its axes, the first of which is the rate's.
    start : dict
        Where to begin.
    run : callable
        ``run(settings, seed, steps, part)`` makes a run of at most so many steps, on one of the
        seeds 0, 1, … of the search, and gives its Score.
    budget : float
        In gradients.
    steps : int
        The longest run.
    seeds : int
        Of the search. A setting that misses on one is not tried on the next.

    Attributes
    ----------
    best : dict
        The best settings so far.
    tried : dict
        Scores by label.
    spent : float
        Gradients so far. It exceeds the budget by the runs at the start at most, and by those that
        close the grid around the best at the end.
    """

    def __init__(
        self, entrant: Entrant, start: dict, run: Callable[[dict, int, int, str], Score],
        budget: float, steps: int, seeds: int = 1,
    ):  # fmt: skip
        self.entrant, self.start, self.run = entrant, dict(start), run
        self.budget, self.steps, self.seeds = budget, steps, seeds
        self.spent, self.tried, self.best, self.ranks = 0.0, {}, None, {}
        self._settings = []
        self._look(self.start, SWEEP)

    def all(self) -> dict:
        """Carry it out; the best settings."""
        rate, *others = self.entrant.axes
        self._settle([rate], SWEEP)
        self._settle([rate, *others], SEARCH)
        self._settle([axis for axis in (rate, *others) if axis.factor], SEARCH, fine=True)
        reach = 0.5
        while sides := one_sided(self.entrant.axes, self.best, self._settings, reach):
            self._look(self.best | {sides[0].axis.name: sides[0].value}, SEARCH)
            reach = min(2 * reach, FARTHEST)
        return self.best

    def _limits(self, part: str) -> list[int]:
        """The most steps on each seed."""
        if part == SWEEP or math.isinf(self.ranks[label(self.best)][0]):
            return [self.steps] * self.seeds
        known = self.tried[label(self.best)]
        return [math.ceil(min(self.steps, RULES.patience * s.steps)) for s in known]

    def _dearest(self, runs: int, part: str) -> float:
        """What so many settings may cost."""
        scores = [s for each in self.tried.values() for s in each]
        each = max(s.spent / max(s.run, 1) for s in scores)
        limits = self._limits(part)
        best = self.ranks[label(self.best)][0]
        # As long as nothing has come to the target a setting is not tried on a second seed.
        return runs * each * (limits[0] if math.isinf(best) else sum(limits))

    def _look(self, settings: dict, part: str) -> None:
        limits = [self.steps] * self.seeds if self.best is None else self._limits(part)
        scores = []
        for seed, limit in enumerate(limits):
            scores.append(self.run(settings, seed, limit, part))
            self.spent += scores[-1].spent
            if math.isinf(scores[-1].steps) and (seed == 0 or part == SEARCH):
                break
        self._settings.append(dict(settings))
        name = label(settings)
        self.tried[name], self.ranks[name] = scores, rank(scores, part, self.seeds)
        first = self.entrant.axes[0].name
        if self.best is None or better(
            self.ranks[name], self.ranks[label(self.best)], settings[first] < self.best[first]
        ):
            self.best = dict(settings)

    def _untried(self, axes: list[Axis], fine: bool) -> tuple[Axis, dict] | None:
        for axis in axes:
            if active(axis, self.best):
                beside = axis.neighbours(self.best[axis.name], self.start[axis.name], fine)
                for value in beside:
                    candidate = self.best | {axis.name: value}
                    if label(candidate) not in self.tried:
                        return axis, candidate
        return None

    def _settle(self, axes: list[Axis], part: str, fine: bool = False) -> None:
        """Until no neighbour is better, or what is left would not do."""
        while found := self._untried(axes, fine):
            axis, candidate = found
            # After a change of another setting the rate must be closed again on both sides.
            runs = 1 if axis.factor else 1 + 2 * len([a for a in axes if a.factor])
            if self.spent + self._dearest(runs, part) > self.budget:
                if axis.factor or not any(a.factor for a in axes):
                    return
                axes = [a for a in axes if a.factor]
                continue
            self._look(candidate, part)
