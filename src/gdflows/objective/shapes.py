"""Outputs and targets of different shapes, which torch would repeat until they fit.

Outputs ``(N, 1)`` and targets ``(N,)`` become ``(N, N)``: every output is compared with every
target, and the mean of that is the loss of another problem.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gdflows.errors import InputError, warn

# torch's losses that compare entry by entry, and repeat what does not fit.
ELEMENTWISE = {
    F.gaussian_nll_loss, F.hinge_embedding_loss, F.huber_loss, F.kl_div, F.l1_loss, F.mse_loss,
    F.multilabel_soft_margin_loss, F.poisson_nll_loss, F.smooth_l1_loss, F.soft_margin_loss,
}  # fmt: skip
# Operations by which people compare in losses of their own.
COMPARISONS = {
    "add", "div", "divide", "dist", "floor_divide", "maximum", "minimum", "mul", "multiply", "pow",
    "rsub", "sub", "subtract", "true_divide", "truediv", "xlogy",
}  # fmt: skip


def judged(loss: Callable, output, target) -> Tensor:
    """``loss(output, target)``, with an eye on what is compared with what.

    Raises
    ------
    InputError
        If a loss of torch's repeats outputs or targets.

    Warns
    -----
    UserWarning
        If a loss of the user's own repeats both: every output meets every target.
    """
    if not (isinstance(output, Tensor) and isinstance(target, Tensor)):
        return loss(output, target)
    if output.shape == target.shape:
        return loss(output, target)
    with _Compared(loss, output, target):
        return loss(output, target)


class _Compared(TorchFunctionMode):
    """Listens to what is done with outputs, targets and what is made of them entry by entry."""

    def __init__(self, loss: Callable, output: Tensor, target: Tensor):
        super().__init__()
        self.name = _name(loss)
        self.torchs_own = _torchs_own(loss)
        self.shapes = tuple(output.shape), tuple(target.shape)
        self.outputs, self.targets = [output], [target]

    def __torch_function__(self, func, types, args=(), kwargs=None):
        tensors = [a for a in (*args, *(kwargs or {}).values()) if isinstance(a, Tensor)]
        o, t = (self._among(tensors, known) for known in (self.outputs, self.targets))
        if o is not None and t is not None:
            self._look(func, o, t)
        result = func(*args, **(kwargs or {}))
        if len(tensors) == 1 and isinstance(result, Tensor):
            for one, known in ((o, self.outputs), (t, self.targets)):
                if one is not None and result.shape == one.shape:
                    known.append(result)  # y.float(), torch.sigmoid(o): it is still the same thing
        return result

    @staticmethod
    def _among(tensors: list[Tensor], known: list[Tensor]) -> Tensor | None:
        return next((a for a in tensors if any(a is b for b in known)), None)

    def _look(self, func: Callable, output: Tensor, target: Tensor) -> None:
        elementwise = func in ELEMENTWISE
        if not elementwise and getattr(func, "__name__", "").strip("_") not in COMPARISONS:
            return
        try:
            together = torch.broadcast_shapes(output.shape, target.shape)
        except RuntimeError:
            return  # torch refuses that itself
        size, sizes = together.numel(), (output.numel(), target.numel())
        every = size > max(sizes)
        said = (
            f"The outputs have shape {self.shapes[0]}, the targets {self.shapes[1]}: {self.name} "
            f"compares them as {tuple(together)}, "
            + ("each output with every target. " if every else "repeating what is smaller. ")
        )
        remedy = "Give targets of the outputs' shape"
        if output.numel() == target.numel():
            more, less = ("y", "model(x)") if target.ndim < output.ndim else ("model(x)", "y")
            remedy = f"Give both one shape: {more}[..., None], or {less}.squeeze(-1)"
        if elementwise and self.torchs_own and size > min(sizes):
            raise InputError(f"{said}{remedy}.")
        if every:
            warn(f"{said}{remedy}, unless it is meant.")


def _torchs_own(loss: Callable) -> bool:
    loss = getattr(loss, "func", loss)  # of functools.partial
    forward = type(loss).forward if isinstance(loss, torch.nn.Module) else loss
    return (getattr(forward, "__module__", None) or "").startswith("torch.")


def _name(loss: Callable) -> str:
    loss = getattr(loss, "func", loss)
    if isinstance(loss, torch.nn.Module):
        return type(loss).__name__
    name = getattr(loss, "__name__", type(loss).__name__)
    return "the loss" if name == "<lambda>" else name
