"""A callback for Lightning's Trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import lightning.pytorch as L

from gdflows.errors import InputError
from gdflows.training.monitor import SharpnessMonitor


class SharpnessCallback(L.Callback):
    """:class:`gdflows.SharpnessMonitor` as a Lightning callback.

    Parameters
    ----------
    loss : callable
        ``loss(module(x), y)``, a scalar, as the module's ``training_step`` computes it.
    data
        The batch ``(x, y)`` on which to measure, or a DataLoader; taken to the module's device.
    every, tol, **settings
        As in :class:`gdflows.SharpnessMonitor`.

    Attributes
    ----------
    monitor : SharpnessMonitor or None
        With ``history`` and ``plot``; None before training starts.

    Notes
    -----
    Each measurement is logged as ``sharpness/ratio`` and ``sharpness/h_lambda``. What counts are
    the optimiser's steps, so accumulated gradients count once. With the Trainer's checkpoints
    the monitor is saved and restored.

    Examples
    --------
    >>> import torch, lightning as L
    >>> from gdflows.adapters.lightning import SharpnessCallback
    >>> x, y = torch.randn(8, 2), torch.randn(8, 1)
    >>> watch = SharpnessCallback(torch.nn.MSELoss(), (x, y))
    >>> trainer = L.Trainer(callbacks=[watch], logger=False)  # then trainer.fit(module, loader)
    """

    def __init__(self, loss: Callable | None, data, **settings):
        # batches are taken to the module's device
        self._loss, self._data = loss, [data] if isinstance(data, (tuple, Mapping)) else data
        self._settings = settings
        self.monitor: SharpnessMonitor | None = None
        self._restored: dict | None = None
        self._steps = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if len(trainer.optimizers) != 1:
            raise InputError(
                f"The module has {len(trainer.optimizers)} optimisers; the sharpness is compared "
                "with the edge of one."
            )
        self.monitor = SharpnessMonitor(
            pl_module, self._loss, self._data, trainer.optimizers[0], **self._settings
        )
        if self._restored is not None:
            self.monitor.load_state_dict(self._restored)
        self._steps = trainer.global_step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == self._steps:
            return  # gradients are being accumulated
        self._steps = trainer.global_step
        seen = self.monitor.step()
        if seen is not None:
            pl_module.log_dict({"sharpness/ratio": seen.ratio, "sharpness/h_lambda": seen.h_lambda})

    def state_dict(self) -> dict:
        return {} if self.monitor is None else {"monitor": self.monitor.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        self._restored = state_dict.get("monitor")
