"""One summand of a loss, and what must be in place while it is evaluated and differentiated."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gdflows.errors import InputError
from gdflows.objective.derivatives import explained


class Term:
    """A scalar function of θ: the whole loss, or its part on one chunk of the data.

    Parameters
    ----------
    function : callable
        From ``(D,)`` to a zero-dimensional tensor.
    """

    #: Whether a product needs the surroundings of the evaluation once more, because activations
    #: are recomputed on the way back.
    recomputes = False

    def __init__(self, function: Callable[[Tensor], Tensor]):
        self.function = function

    def __call__(self, theta: Tensor) -> Tensor:
        return self.run(theta, lambda evaluate: evaluate())

    def run(self, theta: Tensor, action: Callable):
        """``action(evaluate)`` with everything in place in which ``evaluate()`` is the loss at θ.

        Derivatives are taken inside the action: a module must hold θ then, too, not in the forward
        pass alone.
        """
        return action(lambda: self.function(theta))

    def again(self, theta: Tensor, action: Callable):
        """``action()`` in the surroundings of :meth:`run`, if they are needed on the way back."""
        with torch.enable_grad(), explained():
            return self.run(theta, lambda _: action()) if self.recomputes else action()


CHANGED = (
    "The loss changes its parameters in place while it is evaluated (an Embedding with max_norm, "
    "weights that are clipped?), so it is no function of them. Constrain them in the training loop."
)


def scalar(e, theta: Tensor) -> Tensor:
    """The loss as a zero-dimensional tensor, or an error that says what was returned instead."""
    if not isinstance(e, Tensor):
        raise InputError(
            f"The loss returned a {type(e).__name__}, not a torch tensor, "
            "so it has no derivative. Compute it with torch operations on theta, and return "
            "the tensor itself (no .item())."
        )
    if e.ndim != 0:
        if e.numel() != 1:
            raise InputError(
                f"The loss returned shape {tuple(e.shape)}; it must return a scalar. "
                "Did you forget .sum() or .mean(), or leave reduction='none'?"
            )
        e = e.reshape(())
    if theta.is_complex() and not e.is_complex():
        raise InputError(
            "The loss is real at a complex theta, so it is not holomorphic "
            "(abs, .real, |r|² or conj?). Write squares as r * r."
        )
    if e.is_complex() and not theta.is_complex():
        raise InputError(
            "The loss is complex at a real theta, so it has no gradient: return its real part "
            "or its squared modulus."
        )
    return e
