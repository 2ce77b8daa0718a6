"""What would have happened otherwise: some steps once more, with one thing changed.

The model and the optimiser are copied, the copies are changed, and nothing else is touched.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from gdflows.errors import InputError
from gdflows.objective import Objective
from gdflows.optim.evaluation import CurvatureOptimizer

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
MANY, FEW = 0.5, 0.125  # shares of other batches that decide what a rise is put down to

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Spike:
    """Why a stretch of steps raised the loss; from :func:`gdflows.explain_spike`.

    Attributes
    ----------
    before : float
        The loss on the other batches before the stretch.
    rise : float
        By how much the stretch raised it.
    others : tuple of float
        The same with each of the other batches in place of the first, each judged on the rest.
    share : float
        The part of them that raised it by half of ``rise`` or more.
    shorter : float
        The rise with the same batches at half of the learning rate.
    slope, bend : float
        g·Δ and ½Δ·HΔ, of the whole displacement Δ: ``rise`` is their sum, and what is beyond the
        second order. A negative slope and a larger bend are a step that is too long.

    Examples
    --------
    >>> from gdflows.replay import Spike
    >>> long = Spike(0.5, 0.3, others=(0.3, 0.25), share=1.0, shorter=-0.1, slope=-0.2, bend=0.6)
    >>> long.cause  # whichever batch: the step is too long
    'step'
    """

    before: float
    rise: float
    others: tuple[float, ...]
    share: float
    shorter: float
    slope: float
    bend: float

    @property
    def cause(self) -> str:
        """``"none"``, ``"batch"``, ``"step"``, or ``"undecided"``."""
        if math.isfinite(self.rise) and self.rise <= 0:
            return "none"
        if self.share >= MANY:
            return "step"
        return "batch" if self.share <= FEW else "undecided"

    @property
    def verdict(self) -> str:
        """In a sentence or two."""
        if self.cause == "none":
            return f"No spike: the loss on the other batches changed by {self.rise:.3g}."
        said = {
            "batch": "The first batch did it: with others in its place the loss did not rise so.",
            "step": "Not the batch: with most others in its place the loss rose as well.",
            "undecided": "Some batches do it and some do not: noise, or a step near its limit.",
        }[self.cause]
        if self.cause != "batch":
            with_half = (
                "would not have risen" if self.shorter <= 0 else f"rose by {self.shorter:.3g}"
            )
            way = "downhill at first, and too far" if self.slope < 0 else "uphill from the start"
            said += f" At half the rate it {with_half}. The steps led {way}."
        return f"The loss rose by {self.rise:.3g}, of {self.before:.3g}. {said}"

    def __str__(self) -> str:
        return self.verdict


def explain_spike(
    model: torch.nn.Module,
    loss: Callable | None,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    others: Sequence[Batch],
) -> Spike:
    """Whether a rise of the loss was made by a batch, or would have come with any.

    The steps are taken again from the state before them, on copies: as they were; with each of
    some other batches in place of the first; and at half the learning rate.

    Parameters
    ----------
    model, optimizer
        As they were *before* the rise: a checkpoint, or ``copy.deepcopy((model, optimizer))`` kept
        by the loop. They are read, never changed.
    loss : callable or None
        As for :class:`gdflows.SharpnessMonitor`.
    batches : sequence of (x, y)
        Those of the steps in question, in order: the suspect first, and as many more as the rise
        took. A batch acts through momentum for some 1/(1 − β) steps.
    others : sequence of (x, y)
        Two other batches or more, of which none is among ``batches``: they stand in for the first,
        and the loss is judged on them. Eight or so.

    Returns
    -------
    Spike

    Raises
    ------
    InputError
        Without batches or with fewer than two others, or for an optimiser that takes a closure.

    Notes
    -----
    Costs (2 + number of others) times the stretch, an evaluation of the others for each, and one
    Hessian-vector product. Learning rates are those that the optimiser holds; schedulers are not
    followed. Dropout is drawn alike in all replays, and the loss is judged in evaluation mode.

    A cause is a statement about this state and these batches, by the shares 1/2 and 1/8 of the
    others that raise the loss half as much. The rise is taken for granted: asked of an ordinary
    step that happened to raise the loss a little, the call accuses something all the same. The
    chapter "A practitioner's path" says how often it is right where the cause is known.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> x = torch.ones(4, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.5)  # the edge is at 1
    >>> good = [(x, 3 * x)] * 4
    >>> gf.explain_spike(model, torch.nn.functional.mse_loss, optimizer, good[:1], good[1:]).cause
    'step'
    """
    batches, others = _checked(optimizer, batches, others, 2)
    judge = _Judge(loss, others)
    start = judge(model)
    first = _Replay(model, loss, optimizer, batches)
    rises = judge(first.model) - start
    swapped = []
    for i, other in enumerate(others):
        one = judge(_Replay(model, loss, optimizer, [other, *batches[1:]]).model) - start
        swapped.append(float(np.delete(one, i).mean()))
    rise = float(rises.mean())
    shorter = judge(_Replay(model, loss, optimizer, batches, 0.5).model) - start
    slope, bend = _expanded(model, first.model, loss, others)
    alike = [
        one >= 0.5 * rise if math.isfinite(rise) else not math.isfinite(one) for one in swapped
    ]
    share = float(np.mean(alike))
    return Spike(
        float(start.mean()), rise, tuple(swapped), share, float(shorter.mean()), slope, bend
    )


def try_rates(
    model: torch.nn.Module,
    loss: Callable | None,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    judge: Sequence[Batch],
    *,
    factors: Sequence[float] = FACTORS,
) -> pd.DataFrame:
    """What the next steps would do to the loss at other learning rates, from here.

    Parameters
    ----------
    model, loss, optimizer
        The run as it is; as for :func:`gdflows.explain_spike`.
    batches : sequence of (x, y)
        Of the next steps. The more, the better: see the notes.
    judge : sequence of (x, y)
        Two batches or more, none of them trained on, on which the loss is compared.
    factors : sequence of float
        What the learning rates are multiplied by, 1 among them.

    Returns
    -------
    pandas.DataFrame
        A row for each factor: ``factor``; ``lr``, the first group's; ``loss`` at the end of the
        stretch; ``gain``, how much lower it is than at the factor 1, and its standard ``error``,
        of the differences by batch.

    Raises
    ------
    InputError
        For factors without 1, and as :func:`gdflows.explain_spike`.

    Notes
    -----
    Costs as many stretches as there are factors. All see the same batches.

    A short stretch favours small rates: they shed the noise at once, and what they lose shows
    later. Compare two lengths before you believe it.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> x = torch.ones(4, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    >>> batches = [(x, 3 * x)] * 10
    >>> found = gf.try_rates(model, torch.nn.functional.mse_loss, optimizer, batches, batches[:2])
    >>> float(found.factor[found.loss.argmin()])
    4.0
    """
    factors = [float(f) for f in factors]
    if 1.0 not in factors or min(factors) < 0:
        raise InputError(f"factors must hold 1, and none below 0; got {factors}.")
    batches, judge = _checked(optimizer, batches, judge, 2)
    judged = _Judge(loss, judge)
    ends = {f: judged(_Replay(model, loss, optimizer, batches, f).model) for f in factors}
    rows = []
    for f, seen in ends.items():
        apart = ends[1.0] - seen
        rows.append(
            {
                "factor": f,
                "lr": f * float(optimizer.param_groups[0]["lr"]),
                "loss": float(seen.mean()),
                "gain": float(apart.mean()),
                "error": float(apart.std(ddof=1) / math.sqrt(len(apart))),
            }
        )
    return pd.DataFrame(rows)


# -- how it is done --------------------------------------------------------------------------------


class _Replay:
    """Some steps, taken on copies."""

    def __init__(self, model, loss, optimizer, batches, factor: float = 1.0):
        self.model, walker = copy.deepcopy((model, optimizer))  # together: one holds the other's
        for group in walker.param_groups:
            group["lr"] = factor * group["lr"]
        with torch.random.fork_rng(devices=_devices(model)):
            torch.manual_seed(0)
            for x, y in batches:
                walker.zero_grad()
                _value(self.model, loss, x, y).backward()
                walker.step()


class _Judge:
    """The loss of a model on each of some batches, in evaluation mode."""

    def __init__(self, loss, batches):
        self.loss, self.batches = loss, batches

    def __call__(self, model) -> np.ndarray:
        training = {m: m.training for m in model.modules()}
        model.eval()
        with torch.no_grad():
            seen = [float(_value(model, self.loss, x, y)) for x, y in self.batches]
        for module, mode in training.items():
            module.training = mode
        return np.array(seen)


def _value(model, loss, x, y) -> Tensor:
    return loss(model(x), y) if loss is not None else model(x, y)


def _expanded(before, after, loss, batches) -> tuple[float, float]:
    """Slope and bend of the loss along the way from one model to another."""
    copied = copy.deepcopy(before).eval()
    E = Objective.from_module(copied, loss, batches)
    way = [
        (b - a).detach()
        for (a, b) in zip(before.parameters(), after.parameters(), strict=True)
        if a.requires_grad
    ]
    step = parameters_to_vector(way).to(E.theta0)
    if not bool(torch.isfinite(step).all()):
        return math.nan, math.nan
    point = E.at(E.theta0)
    return float(point.grad @ step), 0.5 * float(step @ point.hvp(step))


def _checked(optimizer, batches, others, least: int) -> tuple[list[Batch], list[Batch]]:
    if isinstance(optimizer, CurvatureOptimizer):
        raise InputError(
            f"{type(optimizer).__name__} takes a closure, and its rate is made of the curvature: "
            "steps at another rate are not its own. Look at its eta and SharpnessMonitor."
        )
    batches, others = list(batches), list(others)
    if not batches:
        raise InputError("No step to take again: give the batches of the stretch.")
    if len(others) < least:
        raise InputError(f"At least {least} other batches are needed, got {len(others)}.")
    return batches, others


def _devices(model) -> list[int]:
    found = {p.device for p in model.parameters() if p.device.type == "cuda"}
    return [d.index if d.index is not None else torch.cuda.current_device() for d in found]
