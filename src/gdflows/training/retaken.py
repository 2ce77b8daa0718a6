"""Steps taken again on copies, and what is refused before they are."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from gdflows.errors import InputError
from gdflows.objective import Objective
from gdflows.objective.calls import call, own_loss, takes_target
from gdflows.objective.data import Batch, read
from gdflows.objective.shapes import judged
from gdflows.optim.evaluation import CurvatureOptimizer


@dataclass(frozen=True)
class Run:
    """A run at one state, and the batches that are asked about."""

    model: torch.nn.Module
    loss: Callable | None
    optimizer: torch.optim.Optimizer
    batches: list[Batch]
    others: list[Batch]
    max_norm: float | None


def asked(model, loss, optimizer, batches, others, max_norm) -> Run:
    """What is asked about, if it can be answered.

    Raises
    ------
    InputError
        Where it cannot.

    Warns
    -----
    UserWarning
        Where the answer may be of other steps than the run's.
    """
    if isinstance(model, DistributedDataParallel):
        raise InputError(
            "The replays are of one process: give model.module, and whole batches, those of all "
            "processes joined."
        )
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps is the same function
    _check_optimizer(optimizer)
    _check_parameters(model, loss, optimizer)
    if torch.is_autocast_enabled(next(model.parameters()).device.type):
        raise InputError(
            "Inside torch.autocast weights that were cast once are used again, so that steps taken "
            "there do not move the loss. Ask outside (the steps are then taken without it), or "
            "let the model's forward open the region itself."
        )
    if max_norm is not None and not max_norm > 0:
        raise InputError(f"max_norm must be above 0, got {max_norm}.")
    batches, others = (_read(given, loss, model) for given in (batches, others))
    if not batches:
        raise InputError("No step to take again: give the batches of the stretch.")
    if len(others) < 2:
        raise InputError(f"At least 2 other batches are needed, got {len(others)}.")
    _look_for_differences(model, optimizer)
    return Run(model, loss, optimizer, batches, others, max_norm)


class Replay:
    """Some steps of a run, taken on copies; afterwards the model is in evaluation mode.

    Attributes
    ----------
    model : torch.nn.Module
        Where they led.
    """

    def __init__(self, run: Run, batches: Sequence[Batch], factor: float = 1.0):
        try:  # together: the optimiser holds the model's parameters
            self.model, self.loss, walker = copy.deepcopy((run.model, run.loss, run.optimizer))
        except Exception as error:
            raise InputError(
                f"{type(run.model).__name__}, its loss and its optimiser cannot be copied "
                f"({error}): copy.deepcopy((model, loss, optimizer)) must work."
            ) from error
        for group in walker.param_groups:
            group["lr"] = factor * group["lr"]
        with torch.random.fork_rng(devices=_devices(run.model)):
            torch.manual_seed(0)
            for batch in batches:
                walker.zero_grad()
                value(self.model, self.loss, batch).backward()
                if run.max_norm is not None:
                    held = [p for group in walker.param_groups for p in group["params"]]
                    torch.nn.utils.clip_grad_norm_(held, run.max_norm)
                walker.step()
        if callable(getattr(walker, "eval", None)):  # schedule-free: to the average of its points
            walker.eval()
        self.model.eval()


class Judge:
    """The loss on each of some batches, where a replay led."""

    def __init__(self, batches: Sequence[Batch]):
        self.batches = batches

    def __call__(self, replay: Replay) -> np.ndarray:
        with torch.no_grad():
            return np.array([float(value(replay.model, replay.loss, b)) for b in self.batches])


class Terms:
    """Slope and bend of the mean of some batches' losses, on the way from one replay's end."""

    def __init__(self, begin: Replay, batches: Sequence[Batch]):
        with_loss = _trainable(begin.loss)
        self.parts = [
            Objective.from_module(begin.model, begin.loss, _pair(b), loss_parameters=with_loss)
            for b in batches
        ]

    def along(self, end: Replay) -> tuple[float, float]:
        """g·Δ and ½Δ·HΔ, for the way Δ to another replay's end; not numbers if that is lost."""
        there = dict(end.model.named_parameters())
        if _trainable(end.loss):
            there |= {f"loss.{name}": p for name, p in end.loss.named_parameters()}
        step = torch.cat([there[n].detach().reshape(-1) for n in self.parts[0].names])
        step = step - self.parts[0].theta0
        if not bool(torch.isfinite(step).all()):
            return math.nan, math.nan
        points = [E.at(E.theta0) for E in self.parts]
        slopes = [float(point.grad @ step) for point in points]
        bends = [0.5 * float(step @ point.hvp(step)) for point in points]
        return float(np.mean(slopes)), float(np.mean(bends))


def value(model, loss, batch: Batch) -> Tensor:
    """The loss of a model on a batch, as a loop computes it."""
    out = call(model, batch)
    if loss is None:
        return own_loss(out)
    return judged(loss, out, batch.target) if batch.judged or takes_target(loss) else loss(out)


# -- inside --------------------------------------------------------------------------------------


def _trainable(loss) -> bool:
    """Whether a loss has parameters of its own that are trained."""
    return isinstance(loss, torch.nn.Module) and any(p.requires_grad for p in loss.parameters())


def _read(given, loss, model) -> list[Batch]:
    """Each item is a batch; on the model's device."""
    device, found = next(model.parameters()).device, []
    for item in given:
        (batch,), _ = read(item, own_loss=loss is None, axis=0)
        if loss is not None and not batch.judged and takes_target(loss):
            raise InputError(
                f"A {type(item).__name__} is no batch with a target: give a list of batches, "
                "[(x, y), ...]."
            )
        found.append(batch.map(lambda t: t.to(device)))
    return found


def _pair(batch: Batch):
    """A batch in a form that objectives read."""
    if batch.kwargs:
        return dict(batch.kwargs) if not batch.judged else (dict(batch.kwargs), batch.target)
    inputs = batch.args[0] if len(batch.args) == 1 else batch.args
    return (inputs, batch.target) if batch.judged else inputs


def _check_optimizer(optimizer) -> None:
    if isinstance(optimizer, CurvatureOptimizer):
        raise InputError(
            f"{type(optimizer).__name__} takes a closure, and its rate is made of the curvature: "
            "steps at another rate are not its own. Look at its eta and SharpnessMonitor."
        )
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise InputError(
            f"{type(optimizer).__name__} takes a closure, and may call it several times a step: "
            "its steps are not taken again here."
        )


def _check_parameters(model, loss, optimizer) -> None:
    own = {id(p): p for p in model.parameters()}
    if isinstance(loss, torch.nn.Module):
        own |= {id(p): p for p in loss.parameters()}
    strange = [p for group in optimizer.param_groups for p in group["params"] if id(p) not in own]
    if strange:
        raise InputError(
            f"The optimiser moves {len(strange)} tensors that are not this model's (the first has "
            f"the shape {tuple(strange[0].shape)}), so a replay would leave the model where it is. "
            "Copy both in one call, copy.deepcopy((model, optimizer)), or load both checkpoints "
            "into a model and an optimiser that is made of its parameters."
        )
    for name, p in model.named_parameters():
        if p.requires_grad and torch.finfo(p.dtype).bits < 32:
            raise InputError(
                f"{name} is in half precision ({p.dtype}), where a loss of 2.5 has steps of 0.016 "
                "and what is asked here is smaller. Keep the parameters in float32 (with autocast "
                "in the loop, if you like), and ask again."
            )


def _look_for_differences(model, optimizer) -> None:
    """Warn of what would make a replay other than the run."""
    if not model.training:
        warnings.warn(
            "The model is in evaluation mode, so the steps are taken again without dropout and "
            "with fixed statistics. If the run was in training mode: model.train() first.",
            stacklevel=4,
        )
    hooked = [name for name, p in model.named_parameters() if p._backward_hooks]
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        hooked.append(f"{type(optimizer).__name__}'s step")
    if hooked:
        warnings.warn(
            f"There are hooks at {hooked[0]}, and copies have none: if they change gradients or "
            "parameters, the replay is not the run. (A clipped norm is max_norm=.)",
            stacklevel=4,
        )


def _devices(model) -> list[int]:
    found = {p.device for p in model.parameters() if p.device.type == "cuda"}
    return [d.index if d.index is not None else torch.cuda.current_device() for d in found]
