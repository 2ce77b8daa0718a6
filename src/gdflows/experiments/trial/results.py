"""Reading tuned trials: winners, what was reached at what cost, intervals, prices, the edge."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

from gdflows.errors import InputError
from gdflows.experiments.trial.entrants import ENTRANTS, settings_of
from gdflows.experiments.trial.rules import RULES
from gdflows.experiments.trial.search import Score, better, one_sided, rank

_RUN = ["method", "part", "setting", "seed"]
MEASURES = ("steps", "evaluations", "seconds")


def courses(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each run of a tuned trial.

    Parameters
    ----------
    table : pandas.DataFrame
        Of the study ``tuned-trial``.

    Returns
    -------
    pandas.DataFrame
        ``method``, ``part``, ``setting``, ``seed``; ``steps``, ``evaluations`` (gradients, with
        products at the rules' price) and ``seconds`` to the target, infinite if it was missed;
        ``error``, the standard error of the loss there; ``final`` and ``accuracy`` at the end;
        ``run`` and ``spent_evaluations``, ``spent_seconds`` of the whole run; the ``record``.
    """
    if "part" not in table:
        raise InputError("This is no table of the study tuned-trial: it has no column part.")
    table = table if "record" in table else table.assign(record="")
    last = _costed(table.drop_duplicates(_RUN, keep="last"))
    hits = table[table.reached.astype(bool)].drop_duplicates(_RUN)
    hits = _costed(hits)[[*_RUN, *MEASURES, "error"]]
    out = last.rename(columns={"judged": "final", "steps": "run"})
    out = out.rename(columns={m: f"spent_{m}" for m in MEASURES[1:]})
    out = out[[*_RUN, "record", "final", "accuracy", "run", *(f"spent_{m}" for m in MEASURES[1:])]]
    out = out.merge(hits, on=_RUN, how="left")
    out[list(MEASURES)] = out[list(MEASURES)].fillna(math.inf)
    return out


def _costed(rows: pd.DataFrame) -> pd.DataFrame:
    """With the three measures; rows of a run are in the order of its steps."""
    return rows.assign(
        steps=rows.step.astype(float),
        evaluations=(rows.gradients + RULES.hvp * rows.hvps).astype(float),
        seconds=rows.microseconds / 1e6,
    )


# -- the search ----------------------------------------------------------------------------------


_SEARCHES = ("sweep", "search")


def searched(table: pd.DataFrame, method: str) -> pd.DataFrame:
    """The runs of a method's search, in their order."""
    mine = table[(table.method == method) & table.part.isin(_SEARCHES)]
    if mine.empty:
        raise InputError(f"There is no search of {method!r} in this trial.")
    return courses(mine)


def ranked(table: pd.DataFrame, method: str) -> pd.DataFrame:
    """The settings of a method's search in the order in which they were tried.

    Returns
    -------
    pandas.DataFrame
        ``setting``, ``part``; ``steps`` (geometric mean over the search's seeds; infinite if it
        was given up) and ``final``, by which they are compared; ``seeds``, on how many it was run.
    """
    return _ranked(searched(table, method))


def _ranked(found: pd.DataFrame) -> pd.DataFrame:
    runs, rows = {}, []
    for run in found.itertuples():
        runs.setdefault(run.setting, []).append(run)
    seeds = max(len({run.seed for run in mine}) for mine in runs.values())
    for setting, mine in runs.items():
        scores = [
            Score(r.steps, math.inf if math.isnan(r.final) else r.final, r.spent_evaluations, r.run)
            for r in sorted(mine, key=lambda run: run.seed)
        ]
        part = mine[0].part
        steps, final = rank(scores, part, seeds)
        rows.append(
            {"setting": setting, "part": part, "steps": steps, "final": final, "seeds": len(mine)}
        )
    return pd.DataFrame(rows)


def winner(table: pd.DataFrame, method: str) -> str:
    """The settings that a search ends with: the fewest steps, then the least loss.

    In the order in which they were tried, each against the best until then, as the search did.
    """
    return _best(ranked(table, method), method)


def _best(found: pd.DataFrame, method: str) -> str:
    best, first = None, ENTRANTS[method].axes[0].name
    for row in found.itertuples():
        mine = (row.steps, row.final), settings_of(row.setting)[first]
        if best is None or better(mine[0], best[0], mine[1] < best[1]):
            best, name = mine, row.setting
    return name


def at_end(table: pd.DataFrame, method: str) -> list[str]:
    """Settings whose grid was not tried on both sides of the winner, all else being equal."""
    return _at_end(ranked(table, method), method)


def _at_end(found: pd.DataFrame, method: str) -> list[str]:
    best = settings_of(_best(found, method))
    sides = one_sided(ENTRANTS[method].axes, best, [settings_of(s) for s in found.setting])
    return list(dict.fromkeys(side.axis.name for side in sides))


def require_settled(table: pd.DataFrame) -> None:
    """Refuse a trial in which a winner stands at the end of its grid.

    Raises
    ------
    InputError
        That names the methods and settings.
    """
    runs = dict(list(courses(table[table.part.isin(_SEARCHES)]).groupby("method")))
    off = []
    for method in table.method.unique():
        if not ENTRANTS[method].axes:
            continue
        found = _ranked(runs[method] if method in runs else searched(table, method))
        if ends := _at_end(found, method):
            off.append(f"{method} with {_best(found, method)} ({', '.join(ends)})")
    if off:
        raise InputError(
            f"The winner of a search stands at the end of its grid: {'; '.join(off)}. Record the "
            "trial again with a larger budget for the search (tuning)."
        )


def sweep_price(table: pd.DataFrame, method: str, by: str = "evaluations") -> pd.Series:
    """What the first line of a search costs, each run stopped at the best so far, by order.

    Parameters
    ----------
    table : pandas.DataFrame
        Of a tuned trial.
    method : str
        Whose rates.
    by : {"steps", "evaluations", "seconds"}
        The measure.

    Returns
    -------
    pandas.Series
        ``best`` and ``worst`` over all orders; ``middle``: from the middle rate outwards, the
        larger first; ``rates``, how many; ``alone``, what the best of them took. All on the
        first seed of the search, on which each of them was run.
    """
    runs = searched(table, method)
    runs = runs[(runs.part == "sweep") & (runs.seed == runs.seed.min())]
    axis = ENTRANTS[method].axes[0].name
    runs = runs.assign(rate=[settings_of(s)[axis] for s in runs.setting]).sort_values("rate")
    spent = runs.run.astype(float) if by == "steps" else runs[f"spent_{by}"]
    pairs = list(zip(runs[by], spent, strict=True))
    alone, n = runs[by].min(), len(pairs)
    outwards = sorted(range(n), key=lambda i: (abs(i - n // 2), i < n // 2))
    best = sum(min(whole, alone) for _, whole in pairs)
    return pd.Series(
        {
            "best": best,
            "worst": float(spent.sum()),  # the missed ones first, then each better than the last
            "middle": _in_order([pairs[i] for i in outwards]),
            "rates": n,
            "alone": alone,
        }
    )


def _in_order(pairs) -> float:
    """Each a cost to the target, ∞ if it was missed, and the cost of the whole run."""
    best, total = math.inf, 0.0
    for to_target, whole in pairs:
        total += min(to_target, whole, best)
        best = min(best, to_target)
    return total


# -- what was judged -----------------------------------------------------------------------------


def judged(table: pd.DataFrame) -> pd.DataFrame:
    """The judged runs of :func:`courses`.

    Where the winner of a search is the setting without a search, its runs count as both.
    """
    found = courses(table[table.part.isin(("tuned", "default"))])
    copies = []
    for method, mine in found.groupby("method", sort=False):
        if ENTRANTS[method].axes and not (mine.part == "tuned").any():
            copies.append(mine.assign(part="tuned"))
    return pd.concat([found, *copies], ignore_index=True)


def finals(table: pd.DataFrame) -> pd.DataFrame:
    """Loss and accuracy at the end, means over seeds with their standard errors."""
    require_settled(table)
    groups = judged(table).groupby(["method", "part"])
    out = groups[["final", "accuracy"]].mean()
    out[["final_error", "accuracy_error"]] = groups[["final", "accuracy"]].sem().to_numpy()
    return out.sort_values("final")


def costs(table: pd.DataFrame, by: str, budget: int) -> pd.DataFrame:
    """Cost to the target of each judged run; a missed target counts as the rules say.

    Returns
    -------
    pandas.DataFrame
        ``method``, ``part``, ``seed``, ``cost``, ``missed``; ``beside``, the record that a cost
        may be compared in: for seconds its own, as long as tables say which that is.
    """
    if by not in MEASURES:
        raise InputError(f"by must be one of {', '.join(MEASURES)}, got {by!r}.")
    found = judged(table)
    missed = np.isinf(found.steps)
    # What a run that ended early would have cost, had it gone on at that price.
    each = 1.0 if by == "steps" else found[f"spent_{by}"] / found.run.clip(lower=1)
    cost = found[by].where(~missed, RULES.missed * budget * each)
    beside = found.record if by == "seconds" else ""
    return found[["method", "part", "seed"]].assign(cost=cost, missed=missed, beside=beside)


def log_ratios(
    tables: Mapping[str, pd.DataFrame], budgets: Mapping[str, int], ours: tuple[str, str],
    rival: tuple[str, str], by: str = "steps",
) -> pd.DataFrame:  # fmt: skip
    """Logarithms of the rival's cost over ours, by task and seed: above 0 we are ahead.

    Parameters
    ----------
    tables : mapping
        Tables of tuned trials by task.
    budgets : mapping
        Steps by task, see ``SUITE``.
    ours, rival : (str, str)
        Method and part, as in ``("adamw", "tuned")``. A rival ``("best", "tuned")`` is on each
        task the one of the others with the least median cost, in hindsight.
    by : {"steps", "evaluations", "seconds"}
        The measure.

    Returns
    -------
    pandas.DataFrame
        ``task``, ``seed``, ``log``, ``rival``, and of both whether they ``missed``; tasks that
        lack one of the two are left out.
    """
    known = {}
    for task, table in tables.items():
        require_settled(table)
        known[task] = costs(table, by, budgets[task])
    return ratios(known, ours, rival)


def ratios(
    known: Mapping[str, pd.DataFrame], ours: tuple[str, str], rival: tuple[str, str]
) -> pd.DataFrame:
    """As :func:`log_ratios`, of costs by task that are known."""
    out = []
    for task, found in known.items():
        mine = found[(found.method == ours[0]) & (found.part == ours[1])]
        theirs = found[(found.part == rival[1]) & found.beside.isin(mine.beside)]
        against = rival[0]
        if against == "best":
            others = theirs[~theirs.method.map(_of_ours)]
            against = others.groupby("method").cost.median().idxmin() if len(others) else ""
        theirs = theirs[theirs.method == against]
        if not (len(mine) and len(theirs)):
            continue
        both = mine.merge(theirs, on="seed", suffixes=("_ours", "_rival"))
        out.append(
            pd.DataFrame(
                {"task": task, "seed": both.seed, "rival": against,
                 "log": np.log(both.cost_rival / both.cost_ours),
                 "missed_ours": both.missed_ours, "missed_rival": both.missed_rival}
            )
        )  # fmt: skip
    if not out:
        raise InputError(f"No task has both {ours} and {rival}.")
    return pd.concat(out, ignore_index=True)


def _of_ours(method: str) -> bool:
    return method.startswith(("adaeos", "proposal"))


def over_seeds(values, *, seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval of a mean over seeds, at the rules' level (BCa, by scipy)."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        raise InputError("An interval needs at least two seeds.")
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = stats.bootstrap(
        (values,), np.mean, confidence_level=RULES.level, rng=np.random.default_rng(seed)
    )
    return tuple(map(float, found.confidence_interval))


def over_tasks(
    ratios: pd.DataFrame, *, draws: int = 4000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean over tasks of means over seeds, with a bootstrap interval over both.

    Tasks are drawn with replacement, and of each one seeds (percentiles). With a handful of tasks
    it is a crude interval, too short rather than too long.

    Parameters
    ----------
    ratios : pandas.DataFrame
        Of :func:`log_ratios`, or any with ``task`` and ``log``.
    draws, seed : int
        Of the bootstrap.

    Returns
    -------
    (float, float, float)
        Mean, lower and upper end, as ratios.
    """
    each = [group.log.to_numpy() for _, group in ratios.groupby("task")]
    rng = np.random.default_rng(seed)
    means = np.array([rng.choice(v, (draws, len(v))).mean(1) for v in each])
    chosen = rng.integers(len(each), size=(draws, len(each)))
    # Seeds are drawn anew for each time that a task is drawn: columns are shuffled apart.
    drawn = np.stack([
        means[chosen[:, j], rng.permutation(draws)] for j in range(len(each))
    ])  # fmt: skip
    low, high = np.quantile(drawn.mean(0), [(1 - RULES.level) / 2, (1 + RULES.level) / 2])
    mean = np.mean([v.mean() for v in each])
    return tuple(float(np.exp(x)) for x in (mean, low, high))


def summary(
    tables: Mapping[str, pd.DataFrame], budgets: Mapping[str, int], ours: tuple[str, str],
    by: str = "steps",
) -> pd.DataFrame:  # fmt: skip
    """A row for each rival: its cost over ours, with an interval over tasks and seeds.

    Returns
    -------
    pandas.DataFrame
        By ``rival`` and ``part``: ``ratio``, ``low``, ``high``; ``tasks``; ``missed_ours`` and
        ``missed_rival``, parts of the runs. The rival "best" is each task's best in hindsight.
        In seconds a rival counts on the tasks where it was recorded beside ours.
    """
    known, rivals, rows = {}, {("best", "tuned")}, {}
    for task, table in tables.items():
        require_settled(table)
        known[task] = found = costs(table, by, budgets[task])
        rivals |= set(zip(found.method, found.part, strict=True)) - {ours}
    for rival in sorted(rivals):
        try:
            found = ratios(known, ours, rival)
        except InputError:  # nowhere beside each other
            continue
        mean, low, high = over_tasks(found)
        rows[rival] = {
            "ratio": mean, "low": low, "high": high, "tasks": found.task.nunique(),
            "missed_ours": found.missed_ours.mean(), "missed_rival": found.missed_rival.mean(),
        }  # fmt: skip
    if not rows:
        raise InputError(f"No task has {ours}.")
    out = pd.DataFrame.from_dict(rows, orient="index")
    out.index = pd.MultiIndex.from_tuples(out.index, names=["rival", "part"])
    return out.sort_values("ratio")
