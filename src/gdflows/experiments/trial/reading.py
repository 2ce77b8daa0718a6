"""Reading a trial: who reached the target, when, and at what cost."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from gdflows.errors import InputError


def reached(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each run: when it reached the target, and what it ended with.

    Parameters
    ----------
    table : pandas.DataFrame
        Of a trial.

    Returns
    -------
    pandas.DataFrame
        ``method``, ``lr``, ``seed``; ``step``, ``gradients``, ``hvps``, ``seconds`` to the
        target, infinite if it was never reached; ``final`` (what the target is for, at the end),
        ``accuracy``; ``spent``, seconds of the whole run; ``steps`` of the whole run.

    Examples
    --------
    >>> import pandas as pd
    >>> from gdflows.experiments.trial import reached
    >>> run = {"method": "sgd", "lr": 0.1, "seed": 0, "hvps": 0, "accuracy": 0.5}
    >>> late = [run | {"step": n, "gradients": n, "microseconds": 1000 * n, "judged": 1 / n,
    ...                "reached": n == 20} for n in (10, 20)]
    >>> reached(pd.DataFrame(late)).step.tolist()
    [20.0]
    """
    out = []
    for (method, lr, seed), run in table.groupby(["method", "lr", "seed"], sort=False):
        last, hits = run.iloc[-1], run[run.reached.astype(bool)]
        hit = hits.iloc[0] if len(hits) else None
        out.append(
            {"method": method, "lr": lr, "seed": seed}
            | {k: math.inf if hit is None else float(hit[k]) for k in ("step", "gradients", "hvps")}
            | {
                "seconds": math.inf if hit is None else hit.microseconds / 1e6,
                "final": last.judged,
                "accuracy": last.accuracy,
                "spent": last.microseconds / 1e6,
                "steps": last.step,
            }
        )
    return pd.DataFrame(out)


def standing(table: pd.DataFrame, by: str = "step") -> pd.DataFrame:
    """Medians over seeds, of each method at the rate that is best for it in hindsight.

    Parameters
    ----------
    table : pandas.DataFrame
        Of a trial.
    by : str
        What the best rate has least of: a column of :func:`reached`.

    Returns
    -------
    pandas.DataFrame
        By ``method``: ``lr``, medians of :func:`reached`'s columns, ``least`` and ``most`` of
        ``by`` over the seeds, and ``failed``, how many seeds missed the target.

    Examples
    --------
    >>> import pandas as pd
    >>> from gdflows.experiments.trial import standing
    >>> run = {"method": "sgd", "seed": 0, "hvps": 0, "accuracy": 0.5, "judged": 0.1}
    >>> ends = [run | {"lr": lr, "step": n, "gradients": n, "microseconds": 1000 * n}
    ...         | {"reached": True} for lr, n in ((0.1, 20), (0.2, 10))]
    >>> float(standing(pd.DataFrame(ends)).lr["sgd"])
    0.2
    """
    runs = reached(table)
    rows = {}
    for method, mine in runs.groupby("method", sort=False):
        options = []
        for lr, seeds in mine.groupby("lr"):
            medians = {
                k: _median(seeds[k])
                for k in ("step", "gradients", "hvps", "seconds", "final", "accuracy", "spent")
            }
            options.append(
                {"lr": lr, **medians, "least": seeds[by].min(), "most": seeds[by].max(),
                 "failed": int(np.isinf(seeds.step).sum())}
            )  # fmt: skip
        rows[method] = min(options, key=lambda o: (o[by], o["final"]))
    return pd.DataFrame.from_dict(rows, orient="index").sort_values(by)


def sweep_seconds(table: pd.DataFrame, method: str) -> pd.Series:
    """What a sweep over the method's rates costs, stopped as early as is fair; by seed.

    The rates are run one after another, from the smallest. Each run is stopped when it reaches
    the target, or when it has spent as long as the best so far took, at most the budget.

    Examples
    --------
    >>> import pandas as pd
    >>> from gdflows.experiments.trial import sweep_seconds
    >>> run = {"method": "sgd", "seed": 0, "hvps": 0, "accuracy": 0.5, "judged": 0.1}
    >>> ends = [run | {"lr": lr, "step": n, "gradients": n, "microseconds": 10**6 * n}
    ...         | {"reached": True} for lr, n in ((0.1, 20), (0.2, 10))]
    >>> sweep_seconds(pd.DataFrame(ends), "sgd").tolist()  # the second stops at the target
    [30.0]
    """
    runs = reached(table).query("method == @method")
    if runs.empty:
        raise InputError(f"There is no method {method!r} in this trial.")
    total = {}
    for seed, mine in runs.groupby("seed"):
        best, spent = math.inf, 0.0
        for run in mine.sort_values("lr").itertuples():
            spent += min(run.seconds, best, run.spent)
            best = min(best, run.seconds)
        total[seed] = spent
    return pd.Series(total, name="seconds")


def _median(values: pd.Series) -> float:
    """The middle one; of an even number the larger of the two, so that ∞ stays what it is."""
    ordered = sorted(values)
    return float(ordered[len(ordered) // 2])
