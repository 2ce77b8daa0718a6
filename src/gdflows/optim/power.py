"""Power iteration with a vector that is kept from one look to the next."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gdflows.optim.products import Evaluation
from gdflows.optim.vectors import norm


def iterate(
    seen: Evaluation, states: list[dict], roots: list[Tensor] | None, products: tuple[int, int]
) -> float:
    """Norm of D^½ H D^½ q, for the q kept from before.

    Parameters
    ----------
    seen : Evaluation
        Gives products.
    states : list of dict
        Where each parameter's part of q is kept.
    roots : list of Tensor, optional
        Diagonal of D^½; None for 1.
    products : tuple of int
        How many, if q is known and if it is not.

    Returns
    -------
    float
        The largest eigenvalue's modulus, from below; 0 where there is no curvature.
    """
    q = [state.get("power_vector") for state in states]
    known = all(part is not None for part in q)
    if not known:  # the gradient leans towards the top
        q = _scaled(seen.used, roots)
        q = torch._foreach_div(q, norm(q))
    found = 0.0
    for _ in range(products[0] if known else products[1]):
        q = _scaled(seen.product(_scaled(q, roots)), roots)
        found = float(norm(q))
        if not (found > 0 and math.isfinite(found)):
            return 0.0
        q = torch._foreach_div(q, found)
    for state, part in zip(states, q, strict=True):
        state["power_vector"] = part
    return found


def _scaled(vector: list[Tensor], roots: list[Tensor] | None) -> list[Tensor]:
    return list(vector) if roots is None else torch._foreach_mul(vector, roots)
