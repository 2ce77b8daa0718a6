"""How the targets of the tuned trial were set; running it repeats it."""

from __future__ import annotations

import math

from gdflows.experiments.trial.course import Course
from gdflows.experiments.trial.entrants import ENTRANTS
from gdflows.experiments.trial.rules import RULES, TARGET_RATES
from gdflows.experiments.trial.suite import suite_task


def target(name: str) -> tuple[float, list[float]]:
    """A task's target by rule 4, and the losses that AdamW ends with at the three rates.

    Parameters
    ----------
    name : str
        A task of ``SUITE``.

    Returns
    -------
    (float, list of float)
        The least loss, rounded up to three digits; all three.
    """
    what, ends = suite_task(name), []
    for lr in TARGET_RATES:
        network = what.network(RULES.target_seed)
        settings = {"lr": lr, "warmup": 0.05, "decay": "cosine", "horizon": 0.5}
        optimizer = ENTRANTS["adamw"].make(network, what, **settings)
        course = Course(
            what, network, optimizer, RULES.target_seed, stop=what.steps // 2, looks=1, blind=True
        )
        ends.append(course.carry_out()[-1]["judged"])
    return rounded_up(min(ends)), ends


def rounded_up(x: float, digits: int = 3) -> float:
    """To so many significant digits."""
    unit = 10.0 ** (math.floor(math.log10(x)) + 1 - digits)
    return float(f"{math.ceil(x / unit - 1e-9) * unit:.{digits}g}")
