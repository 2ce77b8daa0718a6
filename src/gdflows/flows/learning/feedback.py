"""Backpropagation with feedback weights of its own: fixed at random, or learnt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gdflows.arguments import number
from gdflows.errors import InputError
from gdflows.flows.base import Flow
from gdflows.flows.learning.layers import Layers
from gdflows.objective import Objective


class FeedbackAlignment(Flow):
    r"""Gradient descent whose errors come back through other weights than they went forth.

    .. math:: \delta_l = (B_l\,\delta_{l+1}) \circ \varphi'(u_l), \qquad
              \dot W_l = -\langle\delta_l\,\varphi(u_{l-1})^\top\rangle

    Backpropagation is :math:`B_l = W_{l+1}^\top`.

    Parameters
    ----------
    objective : Objective
        Of a fully connected network, see :class:`gdflows.flows.learning.layers.Layers`.
    feedback : sequence of Tensor, optional
        :math:`B_l` for all hidden layers, upwards, each of the shape of :math:`W_{l+1}^\top`. By
        default random, uniform on ±1/√fan-in of :math:`W_{l+1}` as torch's layers begin.
    seed : int
        Of the random feedback.
    lr : float, optional
        Not used; taken so that all flows can be made alike.

    Raises
    ------
    InputError
        If the objective is no such network's or the feedback does not fit.

    References
    ----------
    Lillicrap, Cownden, Tweed and Akerman (2016).

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> from gdflows.flows.learning import FeedbackAlignment
    >>> model = gf.problems.mlp([3, 4, 2], "tanh", seed=0)
    >>> data = torch.linspace(-1, 1, 18).view(6, 3), torch.ones(6, 2)
    >>> E = gf.Objective.from_module(model, gf.problems.squared_error, data)
    >>> change, last = FeedbackAlignment(E).vector_field(E.theta0), slice(-10, None)
    >>> bool(torch.allclose(change[last], -E.grad(E.theta0)[last], atol=1e-6))  # of the last layer
    True
    """

    label = "feedback alignment"

    def __init__(
        self,
        objective: Objective,
        feedback: Sequence[Tensor] | None = None,
        *,
        seed: int = 0,
        lr: float | None = None,
    ):
        super().__init__(objective, lr)
        self.layers = Layers(objective)
        shapes = [w.T.shape for w, _ in self.layers.split(objective.theta0)[1:]]
        if feedback is None:
            generator = torch.Generator().manual_seed(seed)
            draws = [torch.rand(s, generator=generator, dtype=torch.float64) for s in shapes]
            feedback = [((2 * d - 1) / d.shape[0] ** 0.5).to(objective.theta0) for d in draws]
        feedback = list(feedback) if isinstance(feedback, Sequence) else [feedback]
        if not all(isinstance(b, Tensor) for b in feedback):
            raise InputError("feedback must be a list of tensors, one for each hidden layer.")
        own = objective.theta0
        for b in feedback:
            if b.dtype != own.dtype or b.device != own.device or not torch.isfinite(b).all():
                raise InputError(
                    f"feedback must be finite, and {own.dtype} on {own.device} as the network is."
                )
        if [tuple(b.shape) for b in feedback] != [tuple(s) for s in shapes]:
            raise InputError(
                f"feedback needs matrices of the shapes {[tuple(s) for s in shapes]}, got "
                f"{[tuple(b.shape) for b in feedback]}."
            )
        self.feedback = feedback

    def vector_field(self, theta: Tensor) -> Tensor:
        return self._learn(theta, self.feedback)

    def _learn(self, theta: Tensor, feedback: Sequence[Tensor]) -> Tensor:
        net = self.layers
        u = net.forward(theta)
        delta, rates = net.output_error(u[-1]), []
        for i in reversed(range(len(net))):
            below = net.x if i == 0 else net.activation(u[i - 1])
            bias = delta.sum(0) if net.biased else None
            rates.append((-delta.T @ below, None if bias is None else -bias))
            if i:
                delta = (delta @ feedback[i - 1].T) * net.slope(u[i - 1])
        return net.join(rates[::-1])

    def transposed(self, theta: Tensor) -> list[Tensor]:
        """The forward weights transposed, which would make this backpropagation."""
        return [w.T for w, _ in self.layers.split(theta)[1:]]


class WeightMirror(FeedbackAlignment):
    r"""Feedback weights that follow the forward ones.

    .. math:: \dot B_l = \lambda(W_{l+1}^\top - B_l)

    The average of Hebb's rule between noise that a layer sends up and what arrives there, against
    a decay, in units in which the two are equally strong.

    Parameters
    ----------
    objective, feedback, seed, lr
        As for :class:`FeedbackAlignment`; ``feedback`` is where the feedback begins.
    decay : float
        λ, in 1/flow time.

    Notes
    -----
    Companion: ``feedback``, all :math:`B_l` as one vector.

    References
    ----------
    Akrout, Wilson, Humphreys, Lillicrap and Tweed (2019).

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> from gdflows.flows.learning import WeightMirror
    >>> model = gf.problems.mlp([3, 4, 2], "tanh", seed=0)
    >>> data = torch.linspace(-1, 1, 18).view(6, 3), torch.ones(6, 2)
    >>> E = gf.Objective.from_module(model, gf.problems.squared_error, data)
    >>> mirror = WeightMirror(E, decay=0.1)
    >>> mirror.companions(E.theta0)["feedback"].shape  # of the layer of 4 × 2 weights
    torch.Size([8])
    """

    label = "weight mirror"

    def __init__(
        self,
        objective: Objective,
        feedback: Sequence[Tensor] | None = None,
        *,
        decay: float,
        seed: int = 0,
        lr: float | None = None,
    ):
        super().__init__(objective, feedback, seed=seed, lr=lr)
        self.decay = number(decay, "decay", positive=True)

    def vector_field(self, theta: Tensor) -> Tensor:
        raise InputError(f"{self.label}: the field needs the feedback weights too; use field.")

    def companions(self, theta: Tensor) -> dict[str, Tensor]:
        return {"feedback": torch.cat([b.reshape(-1) for b in self.feedback])}

    def matrices(self, feedback: Tensor) -> list[Tensor]:
        """The companion as the matrices :math:`B_l`."""
        parts = feedback.split([b.numel() for b in self.feedback])
        return [p.view(b.shape) for p, b in zip(parts, self.feedback, strict=True)]

    def field(self, theta: Tensor, *, feedback: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        rate = self._learn(theta, self.matrices(feedback))
        mirror = torch.cat([w.reshape(-1) for w in self.transposed(theta)])
        return rate, {"feedback": self.decay * (mirror - feedback)}


class KolenPollack(WeightMirror):
    r"""Forward and feedback weights that change by the same amounts, and both decay.

    Then :math:`B_l - W_{l+1}^\top` falls as :math:`e^{-\lambda t}`, whatever is learnt.

    Parameters
    ----------
    objective, feedback, decay, seed, lr
        As for :class:`WeightMirror`. The weights of the layers above the first decay too.

    References
    ----------
    Kolen and Pollack (1994); Akrout et al. (2019).

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> from gdflows.flows.learning import KolenPollack
    >>> model = gf.problems.mlp([3, 4, 2], "tanh", seed=0)
    >>> data = torch.linspace(-1, 1, 18).view(6, 3), torch.ones(6, 2)
    >>> E = gf.Objective.from_module(model, gf.problems.squared_error, data)
    >>> flow = KolenPollack(E, decay=0.1)
    >>> [tuple(B.shape) for B in flow.matrices(flow.companions(E.theta0)["feedback"])]
    [(4, 2)]
    """

    label = "Kolen-Pollack"

    def field(self, theta: Tensor, *, feedback: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        net = self.layers
        rates = net.split(self._learn(theta, self.matrices(feedback)))
        parts = net.split(theta)
        changed = [rates[0]]
        for (w, _), (rate, bias) in zip(parts[1:], rates[1:], strict=True):
            changed.append((rate - self.decay * w, bias))
        own = torch.cat([rate.T.reshape(-1) for rate, _ in rates[1:]])
        return net.join(changed), {"feedback": own - self.decay * feedback}
