"""The loss of each sample by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from gdflows.errors import InputError
from gdflows.objective.batched import fit_for_vmap, push
from gdflows.objective.chunks import joined, refuse_batch_norm
from gdflows.objective.data import Batch, _map
from gdflows.objective.module import FlatModule


class Samples:
    r"""The losses :math:`\ell_1, \dots, \ell_n` whose mean a module's loss is.

    Parameters
    ----------
    objective : FlatModule
        From :meth:`gdflows.Objective.from_module`, on the whole data set.

    Attributes
    ----------
    size : int
        n.
    leaves : list of Tensor
        The data's tensors, samples along the first axis.

    Raises
    ------
    InputError
        If there are no samples, fewer than two, or they are joined by batch normalisation. At the
        first evaluation, if the mean of the samples' losses is not the loss.
    """

    def __init__(self, objective: FlatModule):
        if not isinstance(objective, FlatModule):
            raise InputError(
                "This needs the samples' own losses, and this objective has no samples: make it "
                "with gdflows.Objective.from_module."
            )
        if objective.shared:
            raise InputError(
                "A loss that is shared out over processes has only a share of its samples here: "
                "leave shard out."
            )
        refuse_batch_norm(objective)
        self.objective = objective
        self.batch = joined(objective._whole)
        self.size = self.batch.size
        if self.size < 2:
            raise InputError("A single sample has no noise: there must be two at least.")
        self.batch.rows(slice(0, 1))  # refuses tensors that hold no samples
        axes = [self.batch.axes[0]] * len(_tensors((self.batch.args, self.batch.kwargs)))
        axes += [self.batch.axes[1]] * len(_tensors(self.batch.target))
        device = objective.theta0.device
        self._axes = axes
        self.leaves = [
            t.to(device).movedim(axis, 0) if t.ndim else t.to(device).expand(self.size)
            for t, axis in zip(self.batch.tensors(), axes, strict=True)
        ]
        self._single = [t.ndim > 0 for t in self.batch.tensors()]
        self._verified = False

    # -- functions that torch.func can transform ---------------------------------------------------

    def one(self, theta: Tensor, *leaves: Tensor) -> Tensor:
        """The loss at θ on one sample, whose tensors lack the samples' axis."""
        E = self.objective
        parts = iter(
            leaf.unsqueeze(axis) if single else leaf
            for leaf, axis, single in zip(leaves, self._axes, self._single, strict=True)
        )
        args, kwargs = _map((self.batch.args, dict(self.batch.kwargs)), lambda _: next(parts))
        target = _map(self.batch.target, lambda _: next(parts))
        batch = replace(self.batch, args=args, kwargs=kwargs, target=target, size=1)
        return self._called(theta, batch, E).reshape(())

    @staticmethod
    def _called(theta: Tensor, batch: Batch, E: FlatModule) -> Tensor:
        named = E.unflatten(theta)
        tensors = {slot: named[name] for slot, name in E._slots.items()}
        with sdpa_kernel(SDPBackend.MATH):
            return functional_call(
                E._holder,
                tensors,
                (lambda: E.terms[0]._called(batch, theta, named),),
                tie_weights=False,
            )

    def losses(self, theta: Tensor, index: slice | Tensor = slice(None)) -> Tensor:
        """The losses of some samples at θ, as a function for transforms; shape ``(n,)``."""
        leaves = [leaf[index] for leaf in self.leaves]
        return vmap(self.one, (None, *(0 for _ in leaves)))(theta, *leaves)

    # -- derivatives, sample by sample -------------------------------------------------------------

    def gradients(self, theta: Tensor, index: slice | Tensor = slice(None)) -> Tensor:
        """The gradients of some samples at θ, shape ``(n, D)``."""
        self.verify(theta)
        leaves = [leaf[index] for leaf in self.leaves]
        with fit_for_vmap():
            rows = vmap(grad(self.one), (None, *(0 for _ in leaves)))(theta, *leaves)
        return self.objective._masked(rows)

    def along(self, theta: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Slope v·gᵢ and curvature v·Hᵢv of every sample's loss along v; each of shape ``(n,)``.

        By forward differentiation: a few evaluations of the losses, and no gradients.
        """
        self.verify(theta)
        v = self.objective._masked(v)
        with fit_for_vmap():

            def slope(x):
                return push(self.losses, x, v)

            return slope(theta), push(slope, theta, v)

    def verify(self, theta: Tensor) -> None:
        """Refuse a loss that is not the mean of its samples' losses; looked at once."""
        if self._verified:
            return
        E, eps = self.objective, torch.finfo(theta.dtype).eps
        before = dict(E._count)
        try:
            whole = E.value(theta)
            with fit_for_vmap():
                parts = self.losses(theta).detach()
        finally:
            E._count.update({k: before[k] - n for k, n in E._count.items()})
        mean, size = parts.mean(), parts.abs().mean()
        if not abs(whole - mean) <= 1e3 * eps * size:
            raise InputError(
                f"The loss is {float(whole):.6g}, the mean of its samples' losses {float(mean):.6g}"
                ": a loss that is a sum (take reduction='mean'), labels that are ignored, weights "
                "by class, or dropout (call model.eval())?"
            )
        self._verified = True


def map_samples(samples: Samples, theta: Tensor, chunk: int, what: Callable[[Tensor], None]):
    """Hand the gradients of all samples on, some at a time."""
    for begin in range(0, samples.size, chunk):
        what(samples.gradients(theta, slice(begin, begin + chunk)))


def _tensors(x) -> list[Tensor]:
    found: list[Tensor] = []
    _map(x, lambda t: found.append(t) or t)
    return found
