"""Where a walk begins, and where it is looked at."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gdflows.arguments import number
from gdflows.errors import InputError
from gdflows.objective import Objective


def starting_point(objective: Objective, theta0) -> Tensor:
    """θ₀ as a vector that the objective takes: a tensor as it is, an array or a list converted.

    An array keeps its dtype; a list has none and takes the objective's own.
    """
    if isinstance(theta0, np.ndarray):
        try:
            theta0 = torch.from_numpy(np.array(theta0))
        except TypeError:
            raise InputError(
                f"theta0 is an array of {theta0.dtype}, which torch has not: convert it to float64."
            ) from None
    elif isinstance(theta0, list | tuple):
        like = objective.theta0
        try:
            theta0 = torch.tensor(theta0, dtype=None if like is None else like.dtype, device="cpu")
        except (TypeError, ValueError, RuntimeError):
            raise InputError(
                "theta0 is a list of something else than numbers: pass a tensor, e.g. "
                "torch.as_tensor(theta0)."
            ) from None
        theta0 = theta0 if like is None else theta0.to(like.device)
    objective._check(theta0, "theta0")
    return theta0.detach()


def check_times(times, t) -> tuple[list[float] | None, float]:
    """Where to look, if it was said, and where to stop."""
    if (times is None) == (t is None):
        raise InputError("Give either t (where to stop) or times (where to look), not both.")
    if times is None:
        return None, number(t, "t", positive=True)
    try:
        times = [number(x, "Each of times") for x in times]
    except TypeError:
        raise InputError("times must be a sequence of numbers.") from None
    if len(times) < 2 or times[0] != 0 or np.any(np.diff(times) <= 0):
        raise InputError("times must increase from 0 and hold at least two entries.")
    return times, times[-1]
