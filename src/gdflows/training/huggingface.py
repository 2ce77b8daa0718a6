"""A callback for the Trainer of Hugging Face's transformers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import TrainerCallback

from gdflows.errors import InputError
from gdflows.training.monitor import SharpnessMonitor


class SharpnessCallback(TrainerCallback):
    """:class:`gdflows.SharpnessMonitor` as a callback for ``transformers.Trainer``.

    Parameters
    ----------
    batch : mapping of str to Tensor
        The batch on which to measure, as the model takes it, labels included: the loss is the
        one that the model returns. Samples along the first axis of each.
    every, tol, chunk
        As in :class:`gdflows.SharpnessMonitor`. In chunks the loss must be a mean over samples,
        so sequences should not be padded.

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

    def __init__(
        self,
        batch: Mapping[str, Tensor],
        *,
        every: int = 100,
        tol: float = 0.05,
        chunk: int | None = None,
    ):
        lengths = {name: len(part) for name, part in batch.items()}
        if "labels" not in lengths:
            raise InputError("The batch has no 'labels', so the model returns no loss.")
        if len(set(lengths.values())) != 1:
            raise InputError(f"The batch's parts have different lengths: {lengths}.")
        self._batch = dict(batch)
        self._settings = {"every": every, "tol": tol, "chunk": chunk}
        self.monitor: SharpnessMonitor | None = None

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs) -> None:
        while hasattr(optimizer, "optimizer"):  # accelerate's wrapping
            optimizer = optimizer.optimizer
        device = next(model.parameters()).device
        rows = torch.arange(len(self._batch["labels"]), device=device)
        batch = {name: part.to(device) for name, part in self._batch.items()}
        self.monitor = SharpnessMonitor(
            _ByRows(model, batch), _loss_of_output, (rows, rows), optimizer, **self._settings
        )

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.monitor.step()


class _ByRows(torch.nn.Module):
    """A model of keyword arguments as one of the rows of a batch."""

    def __init__(self, model: torch.nn.Module, batch: dict[str, Tensor]):
        super().__init__()
        self.model, self.batch = model, batch

    def forward(self, rows: Tensor):
        return self.model(**{name: part[rows] for name, part in self.batch.items()})


def _loss_of_output(output, rows: Tensor) -> Tensor:
    return output["loss"]
