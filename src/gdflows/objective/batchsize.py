"""What drawing a batch does to a variance."""

from __future__ import annotations

from gdflows.arguments import whole
from gdflows.errors import InputError


def batch_factor(size: int, batch_size: int, *, replacement: bool = False) -> float:
    r"""The variance of a batch's mean, over that of a single sample.

    With :math:`S = \frac1n\sum_i (g_i - g)(g_i - g)\transpose` the covariance of one draw, a batch
    of B has S/B with replacement, and without

    .. math:: \frac{1 - B/n}{B}\,\frac{n}{n - 1}\,S = \frac{n - B}{B\,(n - 1)}\,S .

    Parameters
    ----------
    size : int
        n, how many samples there are.
    batch_size : int
        B.
    replacement : bool
        Whether a sample may be drawn more than once.

    Raises
    ------
    InputError
        If B is larger than n: without replacement there is no such batch, and with it no one
        draws one.

    Examples
    --------
    >>> from gdflows.noise import batch_factor
    >>> batch_factor(100, 10), batch_factor(100, 100), batch_factor(100, 10, replacement=True)
    (0.09090909090909091, 0.0, 0.1)
    """
    n, b = whole(size, "size"), whole(batch_size, "batch_size")
    if b > n:
        raise InputError(f"batch_size is {b}, but there are only {n} samples.")
    if replacement:
        return 1 / b
    return (n - b) / (b * (n - 1)) if n > 1 else 0.0
