"""A loss on many samples as a sum over parts of them, where it is one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gdflows import parallel
from gdflows.errors import InputError
from gdflows.objective.data import Batch

if TYPE_CHECKING:
    from gdflows.objective.module import FlatModule

REDUCTIONS = ("mean", "sum")
DROPOUTS = {
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout,
}  # fmt: skip


class NoDropout(TorchFunctionMode):
    """Inside, dropout lets everything pass: parts can be compared with the whole."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in DROPOUTS:
            return args[0] if args else kwargs["input"]
        return func(*args, **(kwargs or {}))


def plan(
    E: FlatModule,
    batches: Sequence[Batch],
    several: bool,
    *,
    chunk: int | None,
    reduction: str | None,
    count: Callable | None,
    shard: bool,
    check: bool,
) -> tuple[list[Batch], list[float]]:
    """The parts of the data that this process evaluates, and the weight of each.

    Parameters
    ----------
    E : FlatModule
        Whose loss it is.
    batches : sequence of Batch
        The data.
    several : bool
        They are the user's own batches: what happens within one is the loss's affair.
    chunk, reduction, count
        See :meth:`gdflows.Objective.from_module`.
    shard : bool
        Whether the processes share the data.
    check : bool
        Whether to compare wholes with their parts: about three evaluations of the loss.

    Raises
    ------
    InputError
        If the loss on the whole is not the weighted sum of its parts.
    """
    if chunk is not None and chunk < 1:
        raise InputError(f"chunk must be at least 1, got {chunk}.")
    if reduction not in (None, *REDUCTIONS):
        raise InputError(f"reduction must be 'mean' or 'sum', got {reduction!r}.")
    own = list(batches)
    if shard and several:
        own = [batches[i] for i in parallel.share(torch.arange(len(batches), device="cpu"))]
    elif shard:
        mine = parallel.share(torch.arange(batches[0].size, device="cpu"))
        own = [batches[0].rows(slice(int(mine[0]), int(mine[-1]) + 1))]
    parts = [p for b in own for p in (b.split(chunk) if chunk else [b])]
    if len(parts) == 1 and not shard:
        return parts, [1.0]
    cut = len(parts) > len(own) or (shard and not several)
    if cut:
        refuse_batch_norm(E)
    countings = _countings(E, batches, count)
    declared = reduction or getattr(E.loss, "reduction", None)
    joins = [declared] if declared in REDUCTIONS else list(REDUCTIONS)
    ways = [(name, join) for join in joins for name in countings]
    held = _additive(E, parts, countings, ways) if check else ways
    if not held and (cut or not (reduction or _batch_norms(E))):
        raise InputError(
            "The loss on some of the samples is not what its parts add up to, neither as a "
            f"{' nor as a '.join(joins)}: labels that are ignored, weights by class, samples that "
            "are compared with one another, statistics of a batch? "
            + ("Leave chunk and shard out, or say" if cut else "Say reduction='mean', if batches "
               "count by their samples, or say")
            + " by count= what the loss of a part is a mean over."
        )  # fmt: skip
    name, join = (held or ways)[0]
    if join == "sum":
        return parts, [1.0] * len(parts)
    total = math.fsum(countings[name](b) for b in batches)
    weights = [countings[name](p) / total for p in parts]
    # A part that counts nothing (all its labels are ignored) has no loss, a mean over nothing.
    some = [(p, w) for p, w in zip(parts, weights, strict=True) if w > 0]
    if not some:
        raise InputError("A process was given only samples that count nothing: shuffle them.")
    return [p for p, _ in some], [w for _, w in some]


def joined(batches: Sequence[Batch]) -> Batch:
    """All samples as one batch."""
    whole = batches[0]
    try:
        for other in batches[1:]:
            whole = whole.join(other)
    except (ValueError, KeyError) as e:
        raise InputError(
            "The batches differ in shape, so no new batch can be drawn from all of them: pass "
            "data as one pair (x, y)."
        ) from e
    return whole


def _countings(E, batches, count) -> dict[str, Callable[[Batch], float]]:
    """What the loss of a part may be a mean over, the likeliest first."""
    if count is not None:
        return {"count": lambda b: float(count(b.target if b.judged else b.kwargs or b.args))}
    ignored = getattr(E.loss, "ignore_index", -100)

    def labels(batch: Batch) -> Tensor | None:
        y = batch.target if batch.judged else batch.kwargs.get("labels")
        whole = isinstance(y, Tensor) and not y.is_floating_point() and not y.is_complex()
        return y if whole else None

    def valid(batch: Batch, shift: int = 0) -> float:
        y = labels(batch)
        return float(batch.size if y is None else (y[..., shift:] != ignored).sum())

    found = {"samples": lambda b: float(b.size), "labels": valid}
    weight = getattr(E.loss, "weight", None)
    if isinstance(weight, Tensor) and all(labels(b) is not None for b in batches):

        def weighted(batch: Batch) -> float:
            y = labels(batch)
            return float(weight[y[y != ignored]].double().sum())

        found["weights by class"] = weighted
    if E.loss is None:  # a language model predicts the next label from each
        found["next labels"] = lambda b: valid(b, 1)
    return found


def _additive(E, parts, countings, ways) -> list[tuple[str, str]]:
    """Which ways of counting and joining hold for all neighbouring halves of the parts."""
    halves = [h for p in parts for h in (p.split((p.size + 1) // 2) if p.size > 1 else [p])]
    losses = [_plain_loss(E, h) for h in halves]
    counted = {name: [of(h) for h in halves] for name, of in countings.items()}
    close = 300 * torch.finfo(E.theta0.dtype).eps
    alive = dict.fromkeys(ways, True)
    for i in range(len(halves) - 1):
        try:
            whole = _plain_loss(E, halves[i].join(halves[i + 1]))
        except (ValueError, KeyError):
            continue  # the user's batches, of different shapes
        a, b = losses[i], losses[i + 1]
        for name, join in ways:
            c, d = counted[name][i : i + 2]
            if join == "sum":
                expected = a + b
            elif c + d == 0:
                continue
            else:
                expected = ((c * a if c else 0.0) + (d * b if d else 0.0)) / (c + d)
            scale = max((abs(x) for x in (a, b, whole) if math.isfinite(x)), default=0.0)
            if not abs(whole - expected) <= close * scale:
                alive[name, join] = False
    everywhere = torch.tensor([float(alive[way]) for way in ways], device=E.theta0.device)
    everywhere = parallel.total(everywhere) if parallel.size() > 1 else everywhere
    return [w for w, n in zip(ways, everywhere.tolist(), strict=True) if n >= parallel.size()]


def _plain_loss(E, batch: Batch) -> float:
    """The loss of some samples at the module's own parameters, without dropout."""
    try:
        with NoDropout():
            return float(E._loss_of(batch))
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception:  # whatever a model says of data that were cut along the wrong axis
        return math.nan


def _batch_norms(E) -> list[str]:
    return [
        name or type(m).__name__
        for name, m in E.model.named_modules()
        if isinstance(m, torch.nn.modules.batchnorm._BatchNorm) and m.training
    ]


def refuse_batch_norm(E) -> None:
    found = _batch_norms(E)
    if found:
        raise InputError(
            f"Batch normalisation in training mode ({found[0]}) couples all samples, so a "
            "loss in chunks is a different function. Leave chunk out, call model.eval(), or "
            "use group normalisation."
        )
