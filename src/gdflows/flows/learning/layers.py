"""A network of layers read from its objective: weights, activation, samples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gdflows.errors import InputError
from gdflows.objective import Objective
from gdflows.problems.building import ACTIVATIONS


class Layers:
    """The layers of a fully connected network, as learning rules need them one by one.

    Parameters
    ----------
    objective : Objective
        Of a network made by :func:`gdflows.problems.mlp` or
        :func:`~gdflows.problems.deep_linear` on samples in one batch.

    Attributes
    ----------
    x, y : Tensor
        The samples, ``(n, width)``, and the targets.
    widths : list of int
        Of the layers, without the inputs.
    loss : callable
        ``loss(output, y)``, a mean over the samples.

    Raises
    ------
    InputError
        If the objective is no such network's.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> from gdflows.flows.learning.layers import Layers
    >>> model = gf.problems.mlp([3, 4, 2], "tanh", seed=0)
    >>> data = torch.linspace(-1, 1, 18).view(6, 3), torch.ones(6, 2)
    >>> E = gf.Objective.from_module(model, gf.problems.squared_error, data)
    >>> len(Layers(E)), [tuple(W.shape) for W, b in Layers(E).split(E.theta0)]
    (2, [(4, 3), (2, 4)])
    """

    def __init__(self, objective: Objective):
        model = getattr(objective, "model", None)
        if not isinstance(model, nn.Sequential) or objective.loss is None:
            raise InputError(
                "A learning rule of layers needs the objective of a gdflows.problems.mlp with a "
                "loss, e.g. gdflows.problems.classification('iris', mlp([4, 8, 3]))."
            )
        if len(objective.terms) != 1:
            raise InputError("A learning rule of layers needs its samples in one batch, no chunks.")
        self.objective, self.loss = objective, objective.loss
        kinds = (nn.Linear, nn.Flatten, *ACTIVATIONS.values())
        strange = [type(m).__name__ for m in model if not isinstance(m, kinds)]
        linear = [m for m in model if isinstance(m, nn.Linear)]
        between = [m for m in model if type(m) in ACTIVATIONS.values()]
        if strange or not linear or len({type(m) for m in between}) > 1:
            raise InputError(f"Only fully connected layers of one activation, not {strange}.")
        order = [isinstance(m, nn.Linear) for m in model if not isinstance(m, nn.Flatten)]
        if between and order != [True, *[False, True] * (len(linear) - 1)]:
            raise InputError("The activation must stand after every layer but the last.")
        if len({id(m) for m in linear}) < len(linear):
            raise InputError("A layer stands twice in the network: each needs its own weights.")
        if any(m.bias is None for m in linear) != all(m.bias is None for m in linear):
            raise InputError("Either all layers have biases or none.")
        self.activation: Callable[[Tensor], Tensor] = between[0] if between else (lambda u: u)
        self.biased = linear[0].bias is not None
        self.widths = [m.out_features for m in linear]
        batch = objective._whole[0]
        if not batch.judged or len(batch.args) != 1 or batch.kwargs or batch.axes != (0, 0):
            raise InputError("A learning rule of layers needs samples (x, y), one a row.")
        self.x, self.y = batch.args[0].flatten(1), batch.target
        # Whatever else a network may hold, frozen layers or activations with different
        # parameters: it must be the one that is read here.
        with torch.no_grad():
            expected = model(batch.args[0])
        read = self._output(objective.theta0)
        tol = 1e3 * torch.finfo(expected.dtype).eps
        if read is None or not torch.allclose(read, expected, rtol=tol, atol=tol):
            raise InputError(
                "The network computes something else than its layers as they are read: all "
                "activations must be alike, and all parameters trained."
            )

    def _output(self, theta: Tensor) -> Tensor | None:
        """The output, or None if θ does not hold a weight matrix, and a bias, of every layer."""
        each = 2 if self.biased else 1
        if len(self.objective.unflatten(theta)) != each * len(self):
            return None
        return self.forward(theta)[-1]

    def __len__(self) -> int:
        return len(self.widths)

    def split(self, theta: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        """θ as (weights, biases) of each layer; views."""
        parts = list(self.objective.unflatten(theta).values())
        if not self.biased:
            return [(w, None) for w in parts]
        return list(zip(parts[::2], parts[1::2], strict=True))

    def join(self, parts: list[tuple[Tensor, Tensor | None]]) -> Tensor:
        """What :meth:`split` splits, one vector ``(D,)``."""
        return torch.cat([p.reshape(-1) for pair in parts for p in pair if p is not None])

    def ahead(self, layer: tuple[Tensor, Tensor | None], below: Tensor) -> Tensor:
        """What a layer makes of the activities below: W a + b, rows being samples."""
        w, b = layer
        out = below @ w.T
        return out if b is None else out + b

    def forward(self, theta: Tensor) -> list[Tensor]:
        """The inputs u of all layers' units, ``(n, width)`` each; the last is the output."""
        found, below = [], self.x
        for layer in self.split(theta):
            found.append(self.ahead(layer, below))
            below = self.activation(found[-1])
        return found

    def slope(self, u: Tensor) -> Tensor:
        """The activation's derivative, entry by entry."""
        return torch.func.jvp(self.activation, (u,), (torch.ones_like(u),))[1]

    def output_error(self, output: Tensor) -> Tensor:
        """∂loss/∂output, the mean's 1/n included, ``(n, classes)``."""
        return torch.func.grad(lambda out: self.loss(out, self.y))(output)
