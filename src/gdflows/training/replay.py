"""What would have happened otherwise: some steps once more, with one thing changed.

The model and the optimiser are copied, the copies are changed, and nothing else is touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from gdflows.errors import InputError
from gdflows.training.retaken import Judge, Replay, Terms, asked

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
MANY, FEW = 0.5, 0.125  # shares of other batches that decide what a rise is put down to


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
        The part of them that raised it at least half as much: half of the way in the logarithm of
        the loss, see the notes of :func:`gdflows.explain_spike`.
    shorter : float
        The rise with the same batches at half of the learning rate.
    slope, bend : float
        g·Δ and ½Δ·HΔ, of the whole displacement Δ: ``rise`` is their sum, and what is beyond the
        second order or in what is no parameter (running statistics). A negative slope and a larger
        bend are a step that is too long.

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
            "batch": "The first batch did it: with others in its place the loss did not rise so",
            "step": "Not the batch: with most others in its place the loss rose as well",
            "undecided": "Some batches do it and some do not: noise, or a step near its limit",
        }[self.cause]
        said += f" (it changed by {min(self.others):.3g} to {max(self.others):.3g})."
        if self.cause != "batch":
            with_half = (
                "would not have risen" if self.shorter <= 0 else f"rose by {self.shorter:.3g}"
            )
            said += f" At half the rate it {with_half}."
            if math.isfinite(self.slope):
                downhill = "downhill at first, and too far"
                way = downhill if self.slope < 0 else "uphill from the start"
                said += f" The steps led {way}."
        return f"The loss rose by {self.rise:.3g}, of {self.before:.3g}. {said}"

    def __str__(self) -> str:
        return self.verdict


def explain_spike(
    model: torch.nn.Module,
    loss: Callable | None,
    optimizer: torch.optim.Optimizer,
    batches: Sequence,
    others: Sequence,
    *,
    max_norm: float | None = None,
) -> Spike:
    """Whether a rise of the loss was made by a batch, or would have come with any.

    The steps are taken again from the state before them, on copies: as they were; with each of
    some other batches in place of the first; and at half the learning rate.

    Parameters
    ----------
    model, optimizer
        As they were *before* the rise: a checkpoint, or ``copy.deepcopy((model, optimizer))`` kept
        by the loop, in one call, so that the one copy holds the other. They are read, never
        changed.
    loss : callable or None
        As for :class:`gdflows.SharpnessMonitor`.
    batches : sequence of batches
        Those of the steps in question, in order: the suspect first, and as many more as the rise
        took. A batch acts through momentum for some 1/(1 − β) steps. Each is a pair (x, y), or of
        another form that :meth:`gdflows.Objective.from_module` takes.
    others : sequence of batches
        Two other batches or more, of which none is among ``batches``: they stand in for the first,
        and the loss is judged on them, each counting alike. Eight or so.
    max_norm : float, optional
        Of :func:`torch.nn.utils.clip_grad_norm_`, if the loop clips.

    Returns
    -------
    Spike

    Raises
    ------
    InputError
        Without batches or with fewer than two others; for an optimiser that takes a closure, or
        whose parameters are not the model's; for parameters in half precision.

    Warns
    -----
    UserWarning
        For a model in evaluation mode, and for hooks that a copy has not.

    Notes
    -----
    Costs (2 + number of others) times the stretch, an evaluation of the others for each, and one
    Hessian-vector product. Learning rates are those that the optimiser holds; schedulers are not
    followed. Dropout is drawn alike in all replays, and the loss is judged in evaluation mode. A
    step that was made of several batches (accumulated gradients) is one batch here: join them.

    A cause is a statement about this state and these batches, by the shares 1/2 and 1/8 of the
    others that raise the loss half as much, which is meant in its logarithm: from E to
    √(E·(E + rise)) or beyond. Of a rise that is small against E that is half of the rise;
    explosions, whose sizes differ by orders of magnitude from batch to batch, are alike if they
    multiply the loss alike. Of a loss that is lost (not finite) those are alike that lose it too
    or double it; a loss that is not positive is compared by half of the rise.

    The rise is taken for granted: asked of an ordinary step that happened to raise the loss a
    little, the call accuses something all the same. The chapter "A practitioner's path" says how
    often it is right where the cause is known.

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
    run = asked(model, loss, optimizer, batches, others, max_norm)
    judge, begin = Judge(run.others), Replay(run, [])
    terms = Terms(begin, run.others)  # what has no second derivative is refused before the replays
    start = judge(begin)
    first = Replay(run, run.batches)
    rises = judge(first) - start
    swapped = []
    for i, other in enumerate(run.others):
        one = judge(Replay(run, [other, *run.batches[1:]])) - start
        swapped.append(float(np.delete(one, i).mean()))
    before, rise = float(start.mean()), float(rises.mean())
    shorter = judge(Replay(run, run.batches, 0.5)) - start
    least = _half(before, rise)
    share = float(np.mean([one >= least or not math.isfinite(one) for one in swapped]))
    return Spike(before, rise, tuple(swapped), share, float(shorter.mean()), *terms.along(first))


def _half(before: float, rise: float) -> float:
    """From which change on a loss has risen half as much as by the rise, in its logarithm."""
    if not math.isfinite(rise):
        return abs(before)
    if before <= 0 or rise <= 0:
        return 0.5 * rise
    return rise / (1 + math.sqrt(1 + rise / before))  # √(b(b + r)) − b


def try_rates(
    model: torch.nn.Module,
    loss: Callable | None,
    optimizer: torch.optim.Optimizer,
    batches: Sequence,
    judge: Sequence,
    *,
    factors: Sequence[float] = FACTORS,
    max_norm: float | None = None,
) -> pd.DataFrame:
    """What the next steps would do to the loss at other learning rates, from here.

    Parameters
    ----------
    model, loss, optimizer
        The run as it is; as for :func:`gdflows.explain_spike`.
    batches : sequence of batches
        Of the next steps. The more, the better: see the notes.
    judge : sequence of batches
        Two batches or more, none of them trained on, on which the loss is compared.
    factors : sequence of float
        What the learning rates are multiplied by, 1 among them.
    max_norm : float, optional
        As for :func:`gdflows.explain_spike`.

    Returns
    -------
    pandas.DataFrame
        A row for each factor: ``factor``; ``lr``, the first group's; ``loss`` at the end of the
        stretch; ``gain``, how much lower it is than at the factor 1, and its standard ``error``,
        of the differences by batch of ``judge``. What other batches of training would have done
        is not in it.

    Raises
    ------
    InputError
        For factors without 1, a learning rate of 0, and as :func:`gdflows.explain_spike`.

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
    run = asked(model, loss, optimizer, batches, judge, max_norm)
    if all(float(group["lr"]) == 0 for group in optimizer.param_groups):
        raise InputError("The learning rate is 0, which no factor changes: set it first.")
    judged = Judge(run.others)
    ends = {f: judged(Replay(run, run.batches, f)) for f in factors}
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
