"""For the Trainer of Hugging Face's transformers: the monitor, and optimisers with closures."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback

from gdflows.errors import InputError
from gdflows.optim.evaluation import CurvatureOptimizer
from gdflows.training.monitor import SharpnessMonitor


class SharpnessCallback(TrainerCallback):
    """:class:`gdflows.SharpnessMonitor` as a callback for ``transformers.Trainer``.

    Parameters
    ----------
    data : mapping of str to Tensor, or batches
        On what to measure, as the model takes it, labels included: the loss is the one that the
        model returns. A batch, or a DataLoader or list of them; taken to the model's device.
    every, tol, **settings
        As in :class:`gdflows.SharpnessMonitor`.

    Attributes
    ----------
    monitor : SharpnessMonitor or None
        With ``history`` and ``plot``; None before training starts.

    Examples
    --------
    >>> import torch
    >>> from gdflows.adapters.huggingface import SharpnessCallback
    >>> tokens = torch.randint(0, 50, (4, 16))
    >>> watch = SharpnessCallback({"input_ids": tokens, "labels": tokens})
    >>> watch.monitor  # made when transformers.Trainer(model, ..., callbacks=[watch]) trains
    """

    def __init__(self, data, **settings):
        one = isinstance(data, Mapping)
        if one and "labels" not in data:
            raise InputError("The batch has no 'labels', so the model returns no loss.")
        if one and len({len(part) for part in data.values()}) != 1:
            lengths = {name: len(part) for name, part in data.items()}
            raise InputError(f"The batch's parts have different lengths: {lengths}.")
        self._data = [data] if one else data  # batches are taken to the model's device
        self._settings = settings
        self.monitor: SharpnessMonitor | None = None

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs) -> None:
        optimizer = _unwrapped(optimizer)
        self.monitor = SharpnessMonitor(model, None, self._data, optimizer, **self._settings)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.monitor.step()


class ClosureTrainer(Trainer):
    """``transformers.Trainer`` for :class:`~gdflows.optim.DAL` and others that take a closure.

    Every microbatch becomes a closure, and the optimiser is given those since its last step, so
    ``gradient_accumulation_steps`` works. ``max_grad_norm`` is handed to an optimiser that has no
    ``max_norm`` of its own.

    Parameters
    ----------
    optimizers : tuple
        As for ``Trainer``, the optimiser first: ``(gf.optim.AdaEoS(model.parameters()), None)``.
    *args, **kwargs
        As for ``Trainer``.

    Raises
    ------
    InputError
        For other optimisers, and with fp16, whose scaling of the loss takes no closures.

    Notes
    -----
    The loss for the log takes a forward pass of its own. The Trainer's schedules multiply the
    optimiser's rate; ``lr_scheduler_type="constant"`` leaves it alone.

    Examples
    --------
    >>> from gdflows.adapters.huggingface import ClosureTrainer  # doctest: +SKIP
    >>> optimizer = gf.optim.AdaEoS(model.parameters(), base="schedule-free")  # doctest: +SKIP
    >>> ClosureTrainer(
    ...     model, arguments, train_dataset=data, optimizers=(optimizer, None)
    ... ).train()  # doctest: +SKIP
    """

    def __init__(self, *args, optimizers=(None, None), **kwargs):
        super().__init__(*args, optimizers=optimizers, **kwargs)
        optimizer = _unwrapped(self.optimizer)
        if not isinstance(optimizer, CurvatureOptimizer):
            raise InputError(
                "ClosureTrainer needs an optimiser of gdflows.optim, as "
                "optimizers=(gf.optim.AdaEoS(model.parameters()), None). For others use Trainer."
            )
        if self.args.fp16:
            raise InputError(
                "fp16 scales the loss in a way that takes no closures: use bf16=True, or float32."
            )
        if optimizer.max_norm is None and self.args.max_grad_norm:
            optimizer.max_norm = float(self.args.max_grad_norm)
        self._waiting: list = []
        optimizer.register_step_pre_hook(self._hand_over)

    def _hand_over(self, optimizer, args, kwargs):
        closures, self._waiting = self._waiting, []
        return (args[0], closures), {}

    def training_step(self, model, inputs, num_items_in_batch=None) -> Tensor:
        model.train()
        if callable(getattr(self.optimizer, "train", None)):
            self.optimizer.train()
        inputs, together = self._prepare_inputs(inputs), self._waiting
        # The loss is then this batch's part of a sum, not a mean of its own.
        part = num_items_in_batch is not None and (
            self.model_accepts_loss_kwargs or self.compute_loss_func is not None
        )
        more = {} if num_items_in_batch is None else {"num_items_in_batch": num_items_in_batch}

        def loss() -> Tensor:
            with self.compute_loss_context_manager():
                return self.compute_loss(model, dict(inputs), **more).mean()

        together.append(lambda: loss() * len(together) if part else loss())
        with torch.no_grad():
            seen = loss().detach()
        steps = getattr(
            self, "current_gradient_accumulation_steps", self.args.gradient_accumulation_steps
        )
        return seen if part else seen / steps


def _unwrapped(optimizer):
    while hasattr(optimizer, "optimizer"):  # accelerate's wrapping
        optimizer = optimizer.optimizer
    return optimizer
