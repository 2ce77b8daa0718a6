"""How far a batch size may be changed, and the learning rate with it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from gdflows.noise import batch_factor
from gdflows.verdict.modes import Moments, edge, stepped
from gdflows.verdict.spectrum import Seen

MOST = 4000  # steps of the smallest rate that are computed


def scaling(
    seen: Seen,
    h: float,
    beta: float,
    batch_size: int,
    replacement: bool,
    steps: int,
    tol: float,
) -> pd.DataFrame:
    r"""Learning rates for other batch sizes that leave the stochastic equation the same.

    The *linear* rule keeps h times the variance of a batch's gradient, and by it the equation
    of first order, :math:`d\theta = -g\,dt + \sqrt{h\Sigma}\,dW` (for batches with replacement,
    h/B). The *square-root* rule is the one for RMSProp and Adam, whose step is divided by the
    gradient's own size: it keeps h² times the variance, if noise is what this size is made of.

    Returns
    -------
    pandas.DataFrame
        A row for each batch size, powers of two and the one in use. Columns: ``batch``;
        ``linear`` and ``root``, the rates; ``noise``, tr Σ/‖g‖²; ``used``, how much of
        mean-square stability is used up at least at the linear rate; ``apart``, how far the run at
        the linear rate is then from the run in use, in flow time, by the same measure and estimate
        as the models' errors; ``same``, whether that is within ``tol`` and ``used`` below 1;
        ``dominates``, whether noise is at least 1.

    References
    ----------
    Li, Malladi and Arora (2021) for the domination of noise as a condition of the linear rule;
    Malladi, Lyu, Panigrahi and Arora (2022) for the square-root rule, which also wants Adam's
    1 − β to grow like the batch and ε like its inverse root.
    """
    n = seen.samples
    sizes = sorted({2**i for i in range(n.bit_length()) if 2**i < n} | {batch_size})
    now = batch_factor(n, batch_size, replacement=replacement)
    square = seen.gradient**2
    rows = []
    for size in sizes:
        factor = batch_factor(n, size, replacement=replacement)
        there = seen.modes.scaled(factor / now)
        rate = h * now / factor
        used = float(edge(there, rate, beta)[1].max())
        ratio = factor * seen.noise / square if square else np.inf
        time = max(steps * h, rate)
        apart = 0.0 if size == batch_size else np.inf
        if apart and time / min(h, rate) <= MOST:
            apart = _apart(_at(seen.modes, h, beta, time), _at(there, rate, beta, time))
        rows.append(
            {
                "batch": size,
                "linear": rate,
                "root": h * (now / factor) ** 0.5,
                "noise": ratio,
                "used": used,
                "apart": apart,
                "same": apart <= tol and used < 1,
                "dominates": ratio >= 1,
            }
        )
    return pd.DataFrame(rows)


def _at(modes, h: float, beta: float, time: float) -> Moments:
    """Moments of the run at a flow time, linearly between two steps."""
    k = time / h
    below = int(np.floor(k + 1e-9))
    share = max(k - below, 0.0)
    run = stepped(modes, h, below + 1, beta)
    means, variances = (
        (1 - share) * x[below] + share * x[below + 1] for x in (run.mean, run.variance)
    )
    return Moments(means, variances)


def _apart(run: Moments, other: Moments) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        spread = np.sqrt(run.variance.sum()) - np.sqrt(other.variance.sum())
        square = ((run.mean - other.mean) ** 2).sum() + spread**2
        found = np.sqrt(square / ((run.mean**2).sum() + run.variance.sum()))
    return float(found) if np.isfinite(found) else np.inf


def window(table: pd.DataFrame, column: str, batch_size: int) -> tuple[int, int] | None:
    """The smallest and the largest batch size of an unbroken window about the one in use."""
    holds = table.set_index("batch")[column]
    if batch_size not in holds.index or not holds[batch_size]:
        return None
    sizes = list(holds.index)
    low = high = sizes.index(batch_size)
    while low > 0 and holds[sizes[low - 1]]:
        low -= 1
    while high + 1 < len(sizes) and holds[sizes[high + 1]]:
        high += 1
    return sizes[low], sizes[high]
