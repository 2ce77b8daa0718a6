"""The rules of the tuned trial: numbers that its code obeys, and their text, made of them.

They were fixed before the first record. The text is told here once; pages print it.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass


@dataclass(frozen=True)
class Rules:
    """What the tuned trial keeps to.

    Attributes
    ----------
    tuning : float
        A method's budget for its search on a task, in runs of the task's full budget of steps.
    tuning_large : float
        The same for tasks whose run takes more than ten seconds.
    hvp : float
        A Hessian-vector product, in gradients.
    factor : float
        Between neighbours of a grid of rates; at the end of a search its root.
    tuning_seed, target_seed : int
        The first of the searches, and that of the runs that set targets; neither is judged.
    tuning_seeds : int
        Of a search; one only where a run takes more than ten seconds.
    margin : float
        By how much a setting must be better to be taken for the best.
    patience : float
        A run of a search ends when it has taken so many times as long as the best on its seed.
    development, held_out : int
        Seeds that are judged, from 0 on.
    judged : int
        Held-out samples that the target is judged on, where the data have as many.
    looks : int
        How often a run is judged on its way; between two looks the target is found to the step.
    missed : float
        What a missed target counts as where means are taken, in budgets.
    level : float
        Of the intervals.
    """

    tuning: float = 10.0
    tuning_large: float = 5.0
    hvp: float = 2.0
    factor: float = 10**0.5
    tuning_seed: int = 1000
    tuning_seeds: int = 3
    margin: float = 0.01
    patience: float = 1.5
    target_seed: int = 999
    development: int = 5
    held_out: int = 10
    judged: int = 2000
    looks: int = 16
    missed: float = 2.0
    level: float = 0.95

    def seeds(self, kind: str) -> int:
        """How many seeds a task of that kind is judged on."""
        return self.held_out if kind == "held-out" else self.development


RULES = Rules()
KINDS = ("development", "seen", "held-out")
#: Rates at which a task's target is set, by AdamW.
TARGET_RATES = (1e-3, 10**-2.5, 1e-2)

_TEXT = """\
1. Budget. On each task each method has the same budget for its search, counted in gradients:
   {tuning:g} times the task's budget of steps ({tuning_large:g} times where a run takes more
   than ten seconds). A Hessian-vector product counts as {hvp:g} gradients. A search has
   {tuning_seeds} seeds (one where a run takes so long), from {tuning_seed} on, which are not
   judged.
2. Search. The rate comes first, in factors of {factor:.3g}, and the grid is widened until the best
   has a worse neighbour on either side; these runs go to the target or to the end. Then warm-up,
   the decay's form and horizon, and what else the method has are tried one at a time from the best
   so far, and the rate is closed again after each change; these runs stop when they have taken
   {patience:g} times as long as the best on their seed. At last the rate is refined by factors of
   {fine:.3g}. Less is the geometric mean of the steps over the seeds; what misses the target on the
   first seed is compared by its loss at the end, and not tried on the others. A method that has its
   own rate searches what stands in its place (the part of the edge, the factor of the estimate).
   A setting counts as better if it is so by {margin:.0%}; of two that let every run go off, the
   one with the smaller rate. What is left of the budget is not spent. Where it is gone before the
   winner has neighbours on both sides, those are tried beyond it, for every method alike, ever
   farther away, until it has: what each method spent stands in the record. A table whose winner
   stands at the end of its grid is refused; natural ends (a part of the edge below 2, a horizon of
   twice the budget) are none. All that was tried stays in the record.
3. Contestants. Each has linear warm-up and none, constant rate, cosine and linear decay with a
   horizon that is searched; AdamW also an average of its weights. Schedule-free averaging, which
   is there to need no decay, has its beta in place of that. Methods that choose their rate are
   judged twice: at one setting for all tasks, and searched like the others. Nobody decays weights.
   No rate is chosen on the seed that is judged, except a finder's, whose cost counts.
4. Targets. AdamW with a cosine over half of the budget and a warm-up of a twentieth, at the rates
   {rates}, on seed {target_seed}: the least loss that one of them ends with, rounded up to three
   digits. Targets were set before any other method had run on a new task.
5. Judging. Of the training loss in full batch; else of the loss on at least {judged} held-out
   samples (characters, in a text), or all there are. The target counts as reached at a step, found
   by bisection between two of {looks} looks; the sampling error of the loss there is recorded.
   Losses are those of the parameters that the method would hand over (averages, where it has any).
6. Seeds. {development} on tasks that settings of AdaEoS were chosen on or whose results had been
   seen before these rules, {held_out} on held-out ones. A seed is an initialisation and an order of
   the batches, the same for all; methods take turns in another order on each.
7. Measures. Steps; gradients and products; seconds of the process on one thread, in the steps
   alone, evaluations apart; the loss at the end of the budget with its standard error over seeds,
   at the settings that were searched for the target, which is not the same thing.
8. Summary. Ratios to a rival, by seed; means of logarithms; a missed target counts as {missed:g}
   budgets on either side, and how many missed is told. Intervals of {level:.0%} by bootstrap: over
   seeds on a task; over tasks, and seeds in them, for a mean over tasks. Held-out tasks apart.
9. The price of a sweep is that of the rates of its first line, one after another, each stopped at
   the target or when it has taken longer than the best before it: in the best order, in the worst,
   and from the middle outwards.
10. The edge. At steps fixed beforehand the largest eigenvalue of the preconditioned Hessian is
   computed, of the training loss and of the batch at hand, for all whose edge is known."""


def text() -> str:
    """The rules, with their numbers."""
    numbers = vars(RULES) | {
        "fine": RULES.factor**0.5,
        "rates": ", ".join(f"{rate:.3g}" for rate in TARGET_RATES),
    }
    rules = re.split(r"\n(?=\d+\. )", _TEXT.format(**numbers).strip())
    return "\n".join(textwrap.fill(" ".join(rule.split()), 96, subsequent_indent="   ")
                     for rule in rules)
