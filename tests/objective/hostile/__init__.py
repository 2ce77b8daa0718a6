"""A zoo of models, losses and data that have led measuring tools to wrong numbers.

Each entry is a function that makes ``(model, loss, data)`` afresh, from the same seed, in float64
and with fewer than a hundred parameters, under one of three verdicts: ``right`` (the numbers are
those of plain ``backward`` on the user's own module), ``refused`` (an error that names the
culprit), or ``right_or_refused``. None may be silently wrong.
"""

from hostile import (  # noqa: F401
    batches,
    calls,
    curvature,
    draws,
    functions,
    hooks,
    kernels,
    losses,
    made,
    modules,
    norms,
    odd,
    reached,
    state,
)
from hostile.entry import ZOO, Hostile

__all__ = ["ZOO", "Hostile"]
