"""How a model is called on a batch, and a loss on what it gives."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from torch import Tensor

from gdflows.errors import InputError
from gdflows.objective.data import Batch


def call(model: Callable, batch: Batch):
    """``model(*args, **kwargs)``; a dict of one input goes to a model that names it otherwise."""
    if len(batch.kwargs) == 1 and not batch.args and not _takes(model, next(iter(batch.kwargs))):
        return model(next(iter(batch.kwargs.values())))
    return model(*batch.args, **batch.kwargs)


def _takes(model, name: str) -> bool:
    try:
        parameters = inspect.signature(getattr(model, "forward", model)).parameters
    except (TypeError, ValueError):
        return True
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def takes_target(loss: Callable) -> bool:
    """Whether a loss has to be called with a target even where there is none."""
    try:
        signature = inspect.signature(getattr(loss, "forward", loss))
        signature.bind(None)
    except TypeError:
        return True
    except ValueError:
        return False
    return False


def own_loss(out):
    """The loss in what a model returned that computes its own."""
    if isinstance(out, Tensor) and out.numel() == 1:
        return out
    if isinstance(out, Mapping) and isinstance(out.get("loss"), Tensor):
        return out["loss"]
    if isinstance(getattr(out, "loss", None), Tensor):
        return out.loss
    if (
        isinstance(out, (tuple, list))
        and out
        and isinstance(out[0], Tensor)
        and out[0].numel() == 1
    ):
        return out[0]
    raise InputError(
        f"No loss was given, and the model returned a {type(out).__name__} without a scalar .loss: "
        "pass a loss function, or labels among the data."
    )
