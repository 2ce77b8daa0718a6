"""An objective at many points at once, one a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from gdflows.errors import InputError, NonFiniteError
from gdflows.objective.base import Objective
from gdflows.objective.norms import PlainNorms


class Batched:
    """Value and derivatives of an objective at the rows of ``(P, D)``, by ``torch.func``.

    Parameters
    ----------
    objective : Objective
        The loss. It must be fit for ``torch.func.vmap``: no ``.item()``, no Python branches on
        its values, no random numbers.

    Raises
    ------
    InputError
        At the first evaluation, if the loss is not fit for vmap, or is another function under it.
        Shares of processes are refused when it is made.

    Notes
    -----
    A value that is not finite is handed on; whoever walks looks for it. Each row counts in the
    objective's ``cost``.
    """

    def __init__(self, objective: Objective):
        if objective.shared:
            raise InputError(
                "A loss that is shared out over processes cannot be evaluated at many points at "
                "once: leave shard out."
            )
        self.objective = objective
        self._verified = False

    def _loss(self, theta: Tensor) -> Tensor:
        return sum(term(theta) for term in self.objective.terms).reshape(())

    def value(self, thetas: Tensor) -> Tensor:
        """E at every row, shape ``(P,)``."""
        self._begin(thetas, values=1)
        with fit_for_vmap():
            return vmap(self._loss)(thetas)

    def grad(self, thetas: Tensor) -> Tensor:
        """∇E at every row, shape ``(P, D)``."""
        self._begin(thetas, gradients=1)
        with fit_for_vmap():
            return self.objective._masked(vmap(grad(self._loss))(thetas))

    def hvp(self, thetas: Tensor, v: Tensor) -> Tensor:
        """∇²E v at every row, with a vector ``(P, D)`` a row."""
        self._begin(thetas, gradients=1, hvps=1)
        return self._pushed(lambda x, v: push(grad(self._loss), x, v), thetas, v)

    def third(self, thetas: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """∇³E[u, v] at every row, with two vectors ``(P, D)`` a row."""
        self._begin(thetas, gradients=1, thirds=1)

        def at(x, u, v):
            return push(lambda y: push(grad(self._loss), y, u), x, v)

        return self._pushed(at, thetas, u, v)

    def _pushed(self, at: Callable, thetas: Tensor, *vectors: Tensor) -> Tensor:
        masked = self.objective._masked
        with fit_for_vmap():
            return masked(vmap(at)(thetas, *(masked(v) for v in vectors)))

    def _begin(self, thetas: Tensor, **work: int) -> None:
        if not self._verified:
            self._verified = True
            try:
                self._verify(thetas)
            except InputError:
                self._verified = False
                raise
        for name, n in work.items():
            self.objective._count[name] += n * len(thetas)

    def _verify(self, thetas: Tensor) -> None:
        """Is the gradient that of the objective? Beside the first row, not counted.

        Beside it, because at a minimum rounding is everything that there is to compare.
        """
        E, theta = self.objective, thetas[0]
        steps = torch.arange(theta.numel(), dtype=torch.float64, device="cpu").cos().to(theta)
        before = dict(E._count)
        try:
            E.grad(theta)  # the objective's own checks are made where the walk begins
            at = theta + 0.01 * (1 + theta.abs().max()) * steps
            try:
                expected = E.grad(at)
            except NonFiniteError:
                at, expected = theta, E.grad(theta)
            seen = self.grad(at[None])[0]
        finally:
            E._count.update({k: before[k] - n for k, n in E._count.items()})
        gap, size = (float(torch.linalg.vector_norm(x)) for x in (seen - expected, expected))
        if not gap <= 1e4 * torch.finfo(theta.dtype).eps * (size or 1.0):
            raise InputError(
                f"Under torch.func.vmap the loss is another function: its gradient is off by "
                f"{gap:.1e} (of {size:.1e}). Look for random numbers (dropout: call model.eval()), "
                "or for functions with a vmap of their own."
            )


def push(f: Callable, x: Tensor, v: Tensor) -> Tensor:
    """The derivative of f at x along v."""
    return jvp(f, (x.contiguous(),), (v.contiguous(),))[1]  # dual numbers are not expanded


@contextmanager
def fit_for_vmap() -> Iterator[None]:
    """Inside, normalisations are plain, and torch's word that it cannot vmap something is ours."""
    try:
        with PlainNorms():
            yield
    except (RuntimeError, NotImplementedError) as error:
        if isinstance(error, (torch.OutOfMemoryError, InputError)):
            raise
        said = str(error).strip().split(". ")[0].split("\n")[0]
        raise InputError(
            f"The loss cannot be evaluated at many points at once ({said}): torch.func.vmap takes "
            "no .item(), no Python branches on values, no changes in place of what is outside, no "
            "random numbers (call model.eval()). Write the loss with plain torch operations, as "
            "those of gdflows.problems are."
        ) from error
