"""Reading tuned trials: does a method hold the edge, and does it gain by that?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

from gdflows.errors import InputError
from gdflows.experiments.trial.entrants import settings_of
from gdflows.experiments.trial.results import costs, courses, ratios, require_settled

HELD = 0.2  # within a fifth of the aim


def aim(method: str, setting: str, batches: bool) -> float:
    """What part of the edge a method aims at; nan for those that aim at none."""
    told = settings_of(setting)
    if method.startswith("proposal"):
        sigma = told.get("sigma", 2.0)
        return sigma / _edge_of_average(told.get("beta", 0.9))
    if not method.startswith("adaeos"):
        return float("nan")
    if "rho" in told:
        return float(told["rho"])
    return 0.8  # of both that AdaEoS sits on where nothing is chosen


def _edge_of_average(beta: float) -> float:
    return 2 * (1 + beta) / (1 - beta)


def held(table: pd.DataFrame, batches: bool) -> pd.DataFrame:
    """How near each judged run was to its aim, until the target or the end.

    Parameters
    ----------
    table : pandas.DataFrame
        Of a tuned trial with ``edges``.
    batches : bool
        Whether the task has minibatches.

    Returns
    -------
    pandas.DataFrame
        ``method``, ``part``, ``seed``; ``looks``; for the training loss and for the batch
        ``off_true``, ``off_batch``: means of \\|log(σ/aim)\\|; ``share_true``, ``share_batch``:
        parts of the looks with σ within a fifth of the aim; ``own``, the same of the method's own
        estimate.
    """
    out = []
    reached = courses(table).set_index(["method", "part", "setting", "seed"]).steps
    for key, run in table.groupby(["method", "part", "setting", "seed"], sort=False):
        method, part, setting, seed = key
        goal = aim(method, setting, batches)
        looks = run[run.true_sigma.notna() & (run.step <= reached[key])]
        if part not in ("tuned", "default") or not len(looks) or np.isnan(goal):
            continue
        row = {"method": method, "part": part, "seed": seed, "looks": len(looks)}
        for name, column in (("true", "true_sigma"), ("batch", "batch_sigma"), ("own", "sigma")):
            share = (looks[column] / goal).to_numpy()
            positive = share[share > 0]
            row[f"off_{name}"] = float(np.abs(np.log(positive)).mean()) if len(positive) else np.inf
            row[f"share_{name}"] = float((np.abs(share - 1) < HELD).mean())
        out.append(row)
    if not out:
        raise InputError("No judged run here has a true edge and an aim: record it with edges.")
    return pd.DataFrame(out)


def gain_by_edge(
    tables: Mapping[str, pd.DataFrame], budgets: Mapping[str, int], batches: Mapping[str, bool],
    rival: tuple[str, str] = ("adamw", "tuned"), by: str = "steps",
) -> tuple[pd.DataFrame, dict[str, float]]:  # fmt: skip
    """Whether those gain most who hold the edge best.

    Parameters
    ----------
    tables, budgets, rival, by
        As in :func:`gdflows.experiments.trial.results.log_ratios`.
    batches : mapping
        Whether a task has minibatches.

    Returns
    -------
    pandas.DataFrame
        A row for each task, method and part that aims at an edge: means over seeds of
        ``off_true``, ``off_batch`` and ``log``, the gain over the rival.
    dict
        Spearman's correlations of the gain with minus ``off_true`` and ``off_batch`` (positive:
        who holds it better gains more), ``n``, and p-values by permutation. Methods on one task
        share their rival, and are not independent: the p-values are too small.
    """
    rows = []
    for task, table in tables.items():
        try:
            near = held(table, batches[task])
        except InputError:
            continue
        require_settled(table)
        known = {task: costs(table, by, budgets[task])}
        for (method, part), mine in near.groupby(["method", "part"]):
            gain = ratios(known, (method, part), rival)
            seen = gain[gain.seed.isin(mine.seed)]
            rows.append(
                {"task": task, "method": method, "part": part, "log": seen.log.mean(),
                 "off_true": mine.off_true.mean(), "off_batch": mine.off_batch.mean()}
            )  # fmt: skip
    found = pd.DataFrame(rows)
    if len(found) < 4:
        raise InputError(f"{len(found)} pairs of edge and gain are too few to correlate.")
    out = {"n": float(len(found))}
    y = _ranks(found.log)
    for name in ("off_true", "off_batch"):
        x = _ranks(-found[name])
        out[name] = float(x @ y)
        test = stats.permutation_test(
            (x,), lambda a, axis: (a * y).sum(axis), permutation_type="pairings",
            vectorized=True, n_resamples=5000, rng=np.random.default_rng(0),
        )  # fmt: skip
        out[f"p_{name}"] = float(test.pvalue)
    return found, out


def _ranks(values) -> np.ndarray:
    """Ranks, centred and of length 1: their product is Spearman's correlation."""
    ranks = stats.rankdata(np.asarray(values, dtype=float))
    ranks -= ranks.mean()
    size = np.linalg.norm(ranks)
    return ranks / size if size else ranks
