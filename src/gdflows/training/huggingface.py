"""A callback for the Trainer of Hugging Face's transformers."""

from __future__ import annotations

from collections.abc import Mapping

from transformers import TrainerCallback

from gdflows.errors import InputError
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
        while hasattr(optimizer, "optimizer"):  # accelerate's wrapping
            optimizer = optimizer.optimizer
        self.monitor = SharpnessMonitor(model, None, self._data, optimizer, **self._settings)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.monitor.step()
