r"""The stability edges of optimisers: up to which curvature their linearised step contracts.

On a quadratic an optimiser with frozen coefficients is a linear map, and along an eigenvector of
curvature λ (of the preconditioned Hessian, where there is a preconditioner) a two by two one at
most. The *edge* is the value of hλ at which it is marginal: the largest modulus of the map's
eigenvalues is 1, and beyond it grows. In all the cases here it is the eigenvalue −1 that gets
there first: the optimiser jumps to and fro.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from gdflows.errors import InputError, warn
from gdflows.optim.edges import (
    adam,
    gradient_descent,
    heavy_ball,
    nesterov,
    schedule_free,
    sgd_mean_square,
)
from gdflows.optim.evaluation import CurvatureOptimizer

__all__ = [
    "adam", "gradient_descent", "heavy_ball", "nesterov", "preconditioner", "schedule_free",
    "sgd_mean_square", "stability_edge",
]  # fmt: skip

SPREAD = 0.01  # by how much the edges of groups may differ, relatively


def stability_edge(optimizer: torch.optim.Optimizer) -> float:
    r"""The value of hλ at which an optimiser's linearised step is marginal.

    λ is an eigenvalue of the Hessian, preconditioned as the optimiser does it
    (:func:`preconditioner`); all else is frozen in its present state, the rate of DAL, CDAT and
    AdaEoS included.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        SGD (with momentum, dampening, Nesterov, weight decay), Adam, AdamW, RMSprop, Adagrad,
        AdamWScheduleFree of the package schedulefree, or an optimiser of :mod:`gdflows.optim`.

    Returns
    -------
    float
        At a learning rate of 0 too (hλ is 0 then).

    Raises
    ------
    InputError
        For other optimisers, with ``maximize``, where groups have different edges, or where
        weight decay alone, times the learning rate, is past the edge.

    Warns
    -----
    UserWarning
        For a class that is derived from one of these and has a step of its own.

    Notes
    -----
    **Groups.** Their learning rates may differ: the preconditioner has them. Let group i by itself
    have the edge :math:`e_i`, and :math:`\mathcal{E}` be the diagonal matrix of these. The step
    has the eigenvalue −1 if :math:`hH\theta = \mathcal{E}\theta` for some θ, so that it is
    stable if all hλ are below :math:`\min_i e_i`, and unstable if one is above
    :math:`\max_i e_i`. The smallest is returned, where the others are larger by no more than a
    hundredth: parameters with weight decay w and without, as usual, have edges that differ by hw.
    Groups that differ by more (another momentum) are refused.

    Adam's correction of the first average depends on how many steps a parameter has had. The edge
    is that of the oldest, and the preconditioner has the ratio for those that joined later.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> weights = [torch.nn.Parameter(torch.ones(3))]
    >>> gf.optim.stability_edge(torch.optim.SGD(weights, lr=0.1, momentum=0.5))
    3.0
    """
    if isinstance(optimizer, CurvatureOptimizer):
        edges = optimizer._edges()
    else:
        family = _family(optimizer)
        edges = [_edge_of_group(family, optimizer, group) for group in optimizer.param_groups]
    low, high = min(edges), max(edges)
    if high - low > SPREAD * abs(high):
        raise InputError(
            "The optimiser's parameter groups have different edges "
            f"({', '.join(f'{e:g}' for e in edges)}), so there is no single one. "
            "Give all groups the same momentum and weight decay × lr."
        )
    if not low > 0:
        raise InputError(
            f"Weight decay times learning rate is past the edge by itself ({low:g} is left of it): "
            "no curvature is stable. Lower one of them."
        )
    return low


def preconditioner(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> Tensor:
    r"""Learning rate over preconditioner, entry by entry: the step is this times a momentum.

    The *preconditioned sharpness*, in units of the learning rate, is the largest eigenvalue of
    :math:`D^{1/2} H D^{1/2}` with D the diagonal matrix of these entries: h for SGD,
    :math:`h/(\sqrt{\hat v} + \epsilon)` for Adam, the present rate for DAL.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        As for :func:`stability_edge`.
    parameters : iterable of Tensor
        Those that make up θ, in its order. Entries of parameters that the optimiser does not
        hold are zero: it does not move them.

    Returns
    -------
    Tensor
        Shape ``(D,)``.

    Raises
    ------
    InputError
        For other optimisers, before an adaptive one's first step, or if the optimiser holds none
        of the parameters.

    Warns
    -----
    UserWarning
        Where an adaptive optimiser knows no gradient of a whole parameter.

    Notes
    -----
    Entries whose gradient has been zero so far (:math:`v = 0`) are zero: Adam has not moved them.
    :math:`h/\epsilon`, which is what the formula says of them, is a rate that they would lose at
    their first gradient.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> w = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = torch.optim.SGD([w], lr=0.1)
    >>> gf.optim.preconditioner(optimizer, [w])
    tensor([0.1000, 0.1000])
    """
    ours = isinstance(optimizer, CurvatureOptimizer)
    family = None if ours else _family(optimizer)
    where = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    parts, unmet, met = [], [], False
    oldest = _oldest(optimizer)
    for p in parameters:
        group = where.get(id(p))
        if group is None:
            parts.append(torch.zeros_like(p).reshape(-1))
            continue
        if ours:
            entry = optimizer._rates(p, group)
            second = optimizer.state[p].get("exp_avg_sq")
        else:
            scale, second = _SCALES[family](optimizer.state.get(p, {}), group, oldest)
            lr = float(group["lr"])
            entry = None if scale is None else lr / scale
        if entry is None:
            entry = torch.zeros_like(p)
            unmet.append(_name_of(p, optimizer))
        else:
            entry = entry if isinstance(entry, Tensor) else torch.full_like(p, entry)
            if second is not None and bool((second == 0).any()):
                entry = torch.where(second == 0, torch.zeros_like(entry), entry)
                if not bool(second.any()):
                    unmet.append(_name_of(p, optimizer))
            met = True
        parts.append(entry.detach().reshape(-1))
    if not met and not unmet:
        raise InputError(
            f"{type(optimizer).__name__} holds none of the model's parameters: was it made for "
            "another model, or for copies? Make it from model.parameters() of the model that "
            "is trained."
        )
    if unmet and not met:
        raise InputError(
            "The optimiser has not taken a step yet, so it has no preconditioner. "
            "Ask again after its first step."
        )
    if unmet:
        warnings.warn(
            f"{type(optimizer).__name__} has met no gradient of {', '.join(unmet)}, so its "
            "preconditioner knows nothing there. These entries are left out (taken as at rest): "
            "the sharpness is that of all others. Does the training's loss depend on them?",
            stacklevel=2,
        )
    return torch.cat(parts)


# -- inside --------------------------------------------------------------------------------------

_FAMILIES = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,  # AdamW is one
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}


def _family(optimizer: torch.optim.Optimizer) -> str:
    name = next((n for n, kind in _FAMILIES.items() if isinstance(optimizer, kind)), None)
    if type(optimizer).__name__ == "AdamWScheduleFree":  # of a package that need not be there
        name = "schedule-free"
    if name is None:
        raise InputError(
            f"The stability edge of {type(optimizer).__name__} is not known here; known are SGD, "
            "Adam, AdamW, RMSprop and Adagrad, AdamWScheduleFree of the package schedulefree, and "
            "those of gdflows.optim."
        )
    if any(group.get("maximize") for group in optimizer.param_groups):
        raise InputError("With maximize=True an optimiser climbs; it has no edge.")
    step = inspect.unwrap(type(optimizer).step)
    if name in _FAMILIES and not (step.__module__ or "").startswith("torch."):
        warn(
            f"{type(optimizer).__name__} has a step of its own: what is said here is of the step "
            f"of {_FAMILIES[name].__name__}, from which it is derived, and wrong if it takes "
            "another."
        )
    return name


def _edge_of_group(family: str, optimizer: torch.optim.Optimizer, group: Mapping) -> float:
    lr, decay = float(group["lr"]), float(group["weight_decay"])
    if family == "sgd":
        beta, decay = float(group["momentum"]), lr * decay
        if beta == 0:
            return gradient_descent(weight_decay=decay)
        if group["nesterov"]:
            return nesterov(beta, weight_decay=decay)
        return heavy_ball(beta, dampening=float(group["dampening"]), weight_decay=decay)
    if family == "schedule-free":
        lr *= _warmed(group)
        weight = (group["k"] + 1) ** group["r"] * max(lr, group["lr_max"]) ** group[
            "weight_lr_power"
        ]
        total = group["weight_sum"] + weight
        share = weight / total if total > 0 else 1.0  # before the first rate that is not zero
        return schedule_free(float(group["betas"][0]), share) - lr * decay
    decoupled = bool(group.get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW)))
    if decay and not decoupled:
        raise InputError(
            f"An L2 term inside {type(optimizer).__name__} is scaled by the preconditioner and "
            "shifts every curvature by another amount. Put it into the loss, or use AdamW."
        )
    if family == "adam":
        steps = _oldest(optimizer)
        return adam(float(group["betas"][0]), steps or None, weight_decay=lr * decay)
    return heavy_ball(float(group.get("momentum", 0.0)))


def _warmed(group: Mapping) -> float:
    """What the schedule-free package's own warm-up makes of the learning rate at the next step."""
    warmup = group.get("warmup_steps", 0)
    return (group["k"] + 1) / warmup if group["k"] < warmup else 1.0


def _oldest(optimizer: torch.optim.Optimizer) -> int:
    """The most steps that any parameter has had."""
    return max((int(s["step"]) for s in optimizer.state.values() if "step" in s), default=0)


def _name_of(p: Tensor, optimizer: torch.optim.Optimizer) -> str:
    for i, group in enumerate(optimizer.param_groups):
        for k, own in enumerate(group["params"]):
            if own is p:
                names = group.get("param_names")
                shape = f"of shape {tuple(p.shape)}"
                return repr(names[k]) if names else f"parameter {k} of group {i}, {shape}"
    return "a parameter"


# Each gives the scale that the learning rate is divided by, and the second moments by which it is
# seen whether an entry has met a gradient; None and None before a parameter's first step.


def _sgd_scale(state: Mapping, group: Mapping, oldest: int):
    return 1.0, None


def _adam_scale(state: Mapping, group: Mapping, oldest: int):
    v = state.get("max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq")
    if v is None:
        return None, None
    beta1, beta2, step = float(group["betas"][0]), float(group["betas"][1]), int(state["step"])
    scale = (v / (1 - beta2**step)).sqrt() + group["eps"]
    if step < oldest:  # its first moment is corrected by more than the edge's
        scale = scale * ((1 - beta1**step) / (1 - beta1**oldest))
    return scale, v


def _schedule_free_scale(state: Mapping, group: Mapping, oldest: int):
    v = state.get("exp_avg_sq")
    if v is None:
        return None, None
    scale = (v / (1 - float(group["betas"][1]) ** group["k"])).sqrt() + group["eps"]
    return scale / _warmed(group), v


def _rmsprop_scale(state: Mapping, group: Mapping, oldest: int):
    v = state.get("square_avg")
    if v is None:
        return None, None
    spread = v - state["grad_avg"] ** 2 if group["centered"] else v
    return spread.sqrt() + group["eps"], v


def _adagrad_scale(state: Mapping, group: Mapping, oldest: int):
    v = state.get("sum")
    if v is None or int(state["step"]) < 1:
        return None, None
    slowed = 1 + (int(state["step"]) - 1) * group["lr_decay"]
    return slowed * (v.sqrt() + group["eps"]), v


_SCALES = {
    "sgd": _sgd_scale,
    "adam": _adam_scale,
    "rmsprop": _rmsprop_scale,
    "adagrad": _adagrad_scale,
    "schedule-free": _schedule_free_scale,
}
