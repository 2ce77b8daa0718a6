"""Is the loss the function of θ that it is taken for, and are torch's derivatives of it right?

Each check is made once an objective, where it is first needed, and its cost is not counted in
``Objective.cost``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gdflows.errors import InputError, NonFiniteError, warn
from gdflows.lengths import length as _norm
from gdflows.objective.graph import fused_weight_norm, kinked, leaves, own_functions

if TYPE_CHECKING:
    from gdflows.objective.base import Objective

TORCH = torch.__path__[0]
# Relative disagreement that rounding and the bend of a difference are allowed.
TOLERANCE = {torch.float32: 2e-2, torch.float64: 1e-4}
ASYMMETRY = {torch.float32: 1e-3, torch.float64: 1e-7}


# -- the loss as a function ----------------------------------------------------------------------


def function(E: Objective, theta: Tensor) -> None:
    """Refuse a loss that is not a function of θ, or depends on trained tensors besides θ.

    Four evaluations of the loss and one gradient (of its first term, where it has several).

    Raises
    ------
    InputError
        If two evaluations at one point differ, if θ is changed by them, if there is no graph, or
        if it ends in tensors other than θ.
    """
    x, y = E._leaf(theta), E._leaf(theta)
    first, used = _evaluated(E, x)
    E._draw.kinds = ("torch", *(kind for kind in used if kind != "torch"))
    second, _ = _evaluated(E, y)
    if not same(first, second):
        raise InputError(
            f"The loss is {float(first):.9g} and then {float(second):.9g} at one and the same "
            "theta: it is no function of theta. Look for a random generator of its own, for state "
            "kept between calls (a counter, a cache), or for data changed in place; pass the "
            "random numbers in, or freeze the state."
        )
    if "CheckpointFunction" in own_functions(first):
        raise InputError(
            "A reentrant activation checkpoint can be differentiated by backward alone: use "
            "torch.utils.checkpoint.checkpoint(..., use_reentrant=False)."
        )
    before, now = leaves(first), leaves(second)
    if any(a is x for a in now):
        raise InputError(
            "The loss keeps tensors that were computed from an earlier theta (a cache, features "
            "stored outside the modules), so derivatives would be those of two points at once. "
            "Empty the cache in each call, or detach what is kept."
        )
    # What is made anew in each evaluation belongs to the loss (a gradient by its inputs).
    strangers = [a for a in before if any(a is b for b in now) and not E._known(a)]
    if strangers and E._take_in(strangers):
        return function(E, theta)
    if strangers:
        raise InputError(
            f"The loss depends on {E._named(strangers[0])}, which is trained (requires_grad) and "
            "not part of theta, so its derivatives would be missing without a word. Register it "
            "with the model, or detach it."
        )
    if first.requires_grad and not any(a is x for a in before) and not E._constant:
        raise InputError(
            "The loss has a graph that does not reach the parameters: it was detached from them, "
            "and depends on other tensors that require gradients. If it is meant to be constant, "
            "say constant=True."
        )
    E._recomputes = first.requires_grad and _recomputes(E, x)
    E._value_needs_graph = _needs_graph(E, x.detach(), first)
    E._kinked, E._plain = kinked(first), fused_weight_norm(first)
    culprits = [] if E._draw.meant else E._random(x.detach())
    if culprits:
        warn(
            f"The loss draws random numbers ({', '.join(culprits)}), and here the same ones at "
            "each evaluation: what is seen is one draw's loss and curvature, which is neither the "
            "mean over the draws nor the loss in evaluation mode. Call model.eval() for that, or "
            "say seed=0 if one draw is meant."
        )
    return None


def _evaluated(E: Objective, x: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """The first term at x, with its graph, and the sources of randomness it has used."""
    e = E._run(0, x, lambda evaluate: evaluate())
    return e, E._draw.used


def _recomputes(E: Objective, x: Tensor) -> bool:
    """Whether Python is called on the way back, as by activation checkpoints."""
    if x.device.type != "cpu" or sys.getprofile() is not None:
        return True  # autograd works in another thread there; or somebody else is looking
    called = False

    def look(frame, event, _):
        nonlocal called
        file = frame.f_code.co_filename
        called |= event == "call" and (not file.startswith(TORCH) or file.endswith("checkpoint.py"))

    def action(evaluate):
        e = evaluate()
        sys.setprofile(look)
        try:
            torch.autograd.grad(e, x, allow_unused=True)
        finally:
            sys.setprofile(None)

    E._run(0, x, action)
    return called


def _needs_graph(E: Objective, x: Tensor, expected: Tensor) -> bool:
    """Whether the loss cannot be evaluated under no_grad (it differentiates by its inputs)."""
    try:
        plain = E._run(0, x, lambda evaluate: evaluate(), False)
    except (RuntimeError, InputError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return True
    return not same(plain, expected)


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two losses are one number, up to the rounding of kernels that add in any order."""
    a, b = a.detach(), b.detach()
    close = torch.isclose(a, b, rtol=64 * torch.finfo(a.dtype).eps, atol=0.0, equal_nan=True)
    return bool(close)


# -- its derivatives -----------------------------------------------------------------------------


def second(E: Objective, theta: Tensor) -> None:
    """Refuse second derivatives that are not symmetric, or not those of the gradient, or the loss.

    Two products, and some gradients and values for the differences.
    """
    gradient = E.grad(theta)
    u, v = _directions(E, theta, gradient)
    hu, hv = E.hvp(theta, torch.stack([u, v]))
    size = _norm(u) * _norm(hv) + _norm(v) * _norm(hu)
    gap = abs(float(torch.dot(u, hv)) - float(torch.dot(v, hu)))
    E.checks["symmetry"] = gap / size if size else 0.0
    if gap > ASYMMETRY[theta.dtype] * size:
        _refuse(E, theta, f"Its second derivative is not symmetric (by {gap / size:.1e}).")
    slope = torch.dot(gradient, v).reshape(1)
    E.checks["gradient"] = _differences(
        E, theta, v, slope, lambda at: E.value(at).reshape(1), "gradient", "value"
    )
    E.checks["second derivative"] = _differences(
        E, theta, v, hv, E.grad, "second derivative", "gradient"
    )


def third(E: Objective, theta: Tensor) -> None:
    """Refuse third derivatives that are not those of the products. Two products more."""
    u, v = _directions(E, theta, E.grad(theta))
    E.checks["third derivative"] = _differences(
        E, theta, u, E.contract(theta, u, v), lambda at: E.hvp(at, v),
        "third derivative", "Hessian-vector product",
    )  # fmt: skip


def derivatives(E: Objective, which: str, theta: Tensor) -> None:
    """The check ``"second"`` or ``"third"`` at θ, and where it fails a little way off as well.

    At a minimum, or where all of a derivative vanishes, rounding is everything that there is to
    compare. Wrong formulas are wrong elsewhere, too.
    """
    check = {"second": second, "third": third}[which]
    if which == "third":
        E._verify("second", theta)
    try:
        check(E, theta)
    except InputError:
        r = torch.randn(
            theta.numel(), generator=torch.Generator("cpu").manual_seed(1), dtype=torch.float64,
            device="cpu",
        )  # fmt: skip
        r = E._masked(r.to(theta))
        check(E, theta + 0.01 * (_norm(theta) or 1.0) / (_norm(r) or 1.0) * r)


def _directions(E: Objective, theta: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Two vectors: half along the gradient, where curvature is, half anywhere."""
    generator = torch.Generator("cpu").manual_seed(0)
    size = _norm(gradient)
    along = gradient / size if size and torch.isfinite(gradient / size).all() else 0.0
    found = []
    for weight in (0.5, 0.75):  # not 1: with one parameter the two halves may cancel
        r = torch.randn(theta.numel(), generator=generator, dtype=torch.float64, device="cpu")
        r = E._masked(r.to(theta))
        found.append(r / (_norm(r) or 1.0) + weight * along)
    return found[0], found[1]


def _differences(
    E: Objective,
    theta: Tensor,
    along: Tensor,
    claim: Tensor,
    of: Callable[[Tensor], Tensor],
    what: str,
    lower: str,
) -> float | None:
    """Compare a derivative with differences; their relative gap, None where they tell nothing.

    A difference errs by its bend, by rounding, and by every kink that it crosses. So the step is
    made smaller until both agree, or until rounding covers all. Only differences that agree among
    themselves, and not with the derivative, convict it.
    """
    eps = torch.finfo(theta.dtype).eps
    if E._kinked and eps > 1e-10:
        return None  # in single precision every step is long enough to cross kinks
    reach = (_norm(theta) or 1.0) / (_norm(along) or math.inf)
    step = (1e-7 if E._kinked else eps ** (1 / 3) / 4) * reach
    here, before = of(theta), None
    for _ in range(5 if step > 0 else 0):
        try:
            right, left = of(theta + step * along), of(theta - step * along)
        except NonFiniteError:
            right = left = None
        quotient = None if right is None else (right - left) / (2 * step)
        if quotient is not None:
            gap, scale = _norm(quotient - claim), max(_norm(quotient), _norm(claim))
            if scale == 0:
                return 0.0
            # Rounding of what is compared; and of what it is computed from, as if θ were moved.
            moved = scale + _norm(right + left - 2 * here) / step
            noise = 100 * eps * (_norm(here) + reach * moved) / step
            if noise > scale / 10:
                return None
            if gap <= TOLERANCE[theta.dtype] * scale + noise:
                return gap / scale
            if before is not None and _norm(quotient - before) <= gap / 10:
                _refuse(
                    E, theta,
                    f"Its {what} is off by {gap / scale:.1e} from the differences of its {lower}.",
                )  # fmt: skip
        before, step = quotient, step / 8
    return None


def _refuse(E: Objective, theta: Tensor, why: str) -> None:
    own = own_functions(E._run(0, E._leaf(theta), lambda evaluate: evaluate()))
    culprit = (
        f"The autograd function {' or '.join(own)} is the likely culprit: write it with plain "
        "torch operations."
        if own
        else "Look for detach or no_grad inside the loss, for gradients changed on the "
        "way back (hooks, reversal, straight-through), for parts computed in coarser precision, "
        "or for an operation that torch differentiates wrongly."
    )
    raise InputError(f"The derivatives of the loss are wrong here. {why} {culprit}")
