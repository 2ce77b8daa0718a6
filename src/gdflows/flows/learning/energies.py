r"""Energies of activities and weights whose relaxation does what backpropagation does.

An energy F(θ, s, β) has the network's activities s among its arguments. They relax,
:math:`\dot s = -\partial F/\partial s`, to a rest point :math:`s_\beta`; a *nudge* β adds β times
the loss to the energy.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from gdflows.arguments import number, whole
from gdflows.errors import ConvergenceError, InputError
from gdflows.flows.learning.layers import Layers
from gdflows.objective import Objective


class LayeredEnergy(ABC):
    r"""An energy of the activities of a layered network, a mean over its samples.

    Parameters
    ----------
    objective : Objective
        Of a fully connected network, see :class:`gdflows.flows.learning.layers.Layers`: its
        parameters, samples and loss.

    Notes
    -----
    Activities are one matrix s of shape ``(n, S)``, a row a sample, the layers side by side, the
    output last. Time is in units of the activities' own time constant.

    Examples
    --------
    >>> from gdflows.flows.learning import HopfieldEnergy, LayeredEnergy, PredictiveCoding
    >>> all(issubclass(kind, LayeredEnergy) for kind in (HopfieldEnergy, PredictiveCoding))
    True
    """

    #: Short name, for legends.
    label = "energy"

    def __init__(self, objective: Objective):
        self.layers = Layers(objective)
        self.objective = objective
        net = self.layers
        output = net.forward(objective.theta0)[-1]
        apart = [net.loss(output[i : i + 1], net.y[i : i + 1]) for i in range(len(output))]
        mean, tol = torch.stack(apart).mean(), 1e3 * torch.finfo(output.dtype).eps
        if not torch.allclose(net.loss(output, net.y), mean, rtol=tol, atol=tol):
            raise InputError(
                "An energy needs a loss that is the mean of the samples' own losses: each sample "
                "relaxes by itself."
            )

    @abstractmethod
    def internal(self, theta: Tensor, parts: list[Tensor]) -> Tensor:
        """The energy without nudge, summed over the samples; ``parts`` are the layers' s."""

    def _total(self, theta: Tensor, s: Tensor, beta: float) -> Tensor:
        shape = (len(self.layers.x), sum(self.layers.widths))
        if tuple(s.shape) != shape:
            raise InputError(f"The activities must be of shape {shape}, got {tuple(s.shape)}.")
        parts = list(s.split(self.layers.widths, dim=1))
        energy = self.internal(theta, parts)
        return energy + beta * len(s) * self.layers.loss(parts[-1], self.layers.y)

    def value(self, theta: Tensor, s: Tensor, beta: float = 0.0) -> Tensor:
        """F(θ, s, β), a mean over the samples, zero-dimensional."""
        return self._total(theta, s, beta).detach() / len(s)

    def force(self, theta: Tensor, s: Tensor, beta: float = 0.0) -> Tensor:
        """−∂F/∂s of each sample's own energy, ``(n, S)``: the activities' velocity."""
        return -torch.func.grad(lambda z: self._total(theta, z, beta))(s)

    def pull(self, theta: Tensor, s: Tensor, beta: float = 0.0) -> Tensor:
        """∂F/∂θ at fixed activities, ``(D,)``: local, of what meets at a synapse."""
        return torch.func.grad(lambda v: self._total(v, s, beta))(theta) / len(s)

    def stiffness(self, theta: Tensor, s: Tensor, beta: float = 0.0) -> Tensor:
        """∂²F/∂s² of each sample, ``(n, S, S)``."""
        z = s.detach().requires_grad_()
        with torch.enable_grad():
            total = self._total(theta.detach(), z, beta)
            (slope,) = torch.autograd.grad(total, z, create_graph=True)
            # of all samples at once, since their energies do not know one another
            units = slope.sum(0).unbind()
            rows = [torch.autograd.grad(unit, z, retain_graph=True)[0] for unit in units]
        return torch.stack(rows, dim=1)

    def start(self, theta: Tensor) -> Tensor:
        """Activities to relax from: those of a pass forward, ``(n, S)``."""
        return torch.cat(self.layers.forward(theta), dim=1)

    def rest(
        self,
        theta: Tensor,
        beta: float = 0.0,
        start: Tensor | None = None,
        *,
        tol: float | None = None,
        iterations: int = 100,
    ) -> Tensor:
        """The activities at rest, by Newton's method, ``(n, S)``.

        Parameters
        ----------
        theta : Tensor
            The parameters, shape ``(D,)``.
        beta : float
            The nudge.
        start : Tensor, optional
            Where to begin; a pass forward by default.
        tol : float, optional
            Largest force left over; by default 1,000 times the dtype's precision.
        iterations : int
            At most.

        Raises
        ------
        ConvergenceError
            If no minimum of the energy is reached: there may be none, as with a large negative
            nudge.
        InputError
            If torch is asked to differentiate through it: the search is not differentiable.
        """
        self.objective._check(theta)
        if theta.requires_grad or torch.autograd.forward_ad.unpack_dual(theta).tangent is not None:
            raise InputError(
                f"{self.label}: torch cannot differentiate through a search for rest. Use "
                "sensitivity, gradient, or gdflows.flows.jacobian, which takes differences."
            )
        beta = number(beta, "beta")
        s = (self.start(theta) if start is None else start).detach()
        tol = 1e3 * torch.finfo(s.dtype).eps if tol is None else number(tol, "tol", positive=True)
        for _ in range(whole(iterations, "iterations")):
            force = self.force(theta, s, beta)
            largest = float(force.abs().max())
            if not math.isfinite(largest):
                break
            values, vectors = torch.linalg.eigh(self.stiffness(theta, s, beta))
            if largest <= tol:
                if float(values.min()) > 0:
                    return s
                break  # a saddle
            # downhill along every eigenvector; where the energy is flat, no further than the force
            along = (vectors.transpose(1, 2) @ force[:, :, None]) / values.abs().clamp_min(1e-3)[
                :, :, None
            ]
            move = (vectors @ along)[:, :, 0]
            before, share = self._total(theta, s, beta), 1.0
            slack = 5e3 * torch.finfo(s.dtype).eps * (1 + abs(float(before)))
            while share > 1e-4 and self._total(theta, s + share * move, beta) > before + slack:
                share /= 2
            s = s + share * move
        raise ConvergenceError(
            f"{self.label}: the activities found no minimum of the energy at β = {beta:g} (largest "
            f"force {largest:.2g}). Take a smaller nudge, or weights for which there is one."
        )

    def sensitivity(self, theta: Tensor, s: Tensor, beta: float = 0.0) -> Tensor:
        """How the activities at rest move with the parameters, ∂s/∂θ, ``(n, S, D)``.

        Parameters
        ----------
        theta, s, beta
            Parameters, activities at rest there (of :meth:`rest`), and the nudge.
        """
        mixed = torch.func.jacrev(lambda v: self.force(v, s, beta))(theta)
        return torch.linalg.solve(self.stiffness(theta, s, beta), mixed)

    def relax(self, theta: Tensor, s: Tensor, beta: float, *, steps: int, step: float) -> Tensor:
        """Euler steps of the activities' own flow, s ← s − η ∂F/∂s, ``(n, S)``."""
        step = number(step, "step", positive=True)
        for _ in range(whole(steps, "steps", 0)):
            s = s + step * self.force(theta, s, beta)
        if not torch.isfinite(s).all():
            raise ConvergenceError(
                f"{self.label}: the relaxation ran away in {steps} steps of {step:g}; edge tells "
                "how long a step may be."
            )
        return s

    def edge(self, theta: Tensor, s: Tensor, beta: float = 0.0) -> float:
        """The largest η of :meth:`relax` that is stable at rest: 2 over the largest stiffness."""
        values = torch.linalg.eigvalsh(self.stiffness(theta, s, beta))
        if not float(values.min()) > 0:
            raise InputError(f"{self.label}: no minimum of the energy here; no step is stable.")
        return 2 / float(values.max())

    def loss(self, theta: Tensor) -> Tensor:
        """The loss of the free network: at the output at rest, without nudge."""
        output = self.rest(theta).split(self.layers.widths, dim=1)[-1]
        return self.layers.loss(output, self.layers.y).detach()

    def surrogate(self, theta: Tensor, nudge: float, *, symmetric: bool = False) -> Tensor:
        r"""The loss of which a nudged rule is the gradient at this finite nudge.

        :math:`(F^*(\beta) - F^*(0))/\beta`, or :math:`(F^*(\beta) - F^*(-\beta))/2\beta`, with
        F* the energy at rest.
        """
        nudge = number(nudge, "nudge")
        if nudge == 0:
            raise InputError("nudge must not be 0; the limit is loss(theta).")
        other = -nudge if symmetric else 0.0
        ends = [self.value(theta, self.rest(theta, b), b) for b in (nudge, other)]
        return (ends[0] - ends[1]) / (nudge - other)

    def gradient(
        self, theta: Tensor, *, steps: int | None = None, step: float | None = None
    ) -> Tensor:
        r"""The gradient of :meth:`loss`, ``(D,)``: what a nudged rule gives as the nudge vanishes.

        :math:`-\partial_\theta\partial_sF\,p` with :math:`p = (\partial_s^2F)^{-1}\partial_sC`.
        With ``steps`` and ``step`` it is the limit for a nudged phase of K Euler steps η, in which
        p is cut off: :math:`\eta\sum_{k<K}(1 - \eta\,\partial_s^2F)^k\,\partial_sC`.
        """
        if (steps is None) != (step is None):
            raise InputError("Give steps and step together, or neither.")
        if step is not None:
            step = number(step, "step", positive=True)
        s = self.rest(theta)
        parts = s.split(self.layers.widths, dim=1)
        cost = torch.zeros_like(s)
        cost[:, -self.layers.widths[-1] :] = len(s) * self.layers.output_error(parts[-1])
        H = self.stiffness(theta, s)
        if step is not None and step >= self.edge(theta, s):
            raise InputError(
                f"step must be below the edge {self.edge(theta, s):.3g}, got {step:g}: "
                "the series diverges."
            )
        if steps is None:
            p = torch.linalg.solve(H, cost)
        else:
            p = torch.zeros_like(s)
            for _ in range(whole(steps, "steps", 0)):
                p = p + step * (cost - (H @ p[:, :, None])[:, :, 0])

        def product(v: Tensor) -> Tensor:
            return (self.force(v, s) * p).sum() / len(s)

        return torch.func.grad(product)(theta)


class PredictiveCoding(LayeredEnergy):
    r"""Each layer predicts the next, and the energy is the squared errors of prediction.

    .. math:: F = \Bigl\langle\tfrac12\sum_l\bigl\|s_l - W_l\varphi(s_{l-1}) - b_l\bigr\|^2
              + \beta\,\ell(s_L)\Bigr\rangle

    Without nudge it is at rest, and zero, at a pass forward.

    References
    ----------
    Whittington and Bogacz (2017), after Rao and Ballard (1999).

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> from gdflows.flows.learning import PredictiveCoding
    >>> model = gf.problems.mlp([3, 4, 2], "tanh", seed=0)
    >>> data = torch.linspace(-1, 1, 18).view(6, 3), torch.ones(6, 2)
    >>> E = gf.Objective.from_module(model, gf.problems.squared_error, data)
    >>> energy = PredictiveCoding(E)
    >>> energy.value(E.theta0, energy.start(E.theta0)).item()  # without a nudge all is predicted
    0.0
    """

    label = "predictive coding"

    def internal(self, theta: Tensor, parts: list[Tensor]) -> Tensor:
        net, below, total = self.layers, self.layers.x, 0.0
        for layer, s in zip(net.split(theta), parts, strict=True):
            total = total + (s - net.ahead(layer, below)).pow(2).sum() / 2
            below = net.activation(s)
        return total


class HopfieldEnergy(LayeredEnergy):
    r"""A layered network of Hopfield's: symmetric connections, the same up as down.

    .. math:: F = \Bigl\langle\tfrac12\sum_l\|s_l\|^2
              - \sum_l\rho(s_l)^\top(W_l\,\rho(s_{l-1}) + b_l) + \beta\,\ell(s_L)\Bigr\rangle

    ρ is the network's activation, and the identity at the inputs and the output.

    References
    ----------
    Scellier and Bengio (2017), section 2, in layers.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> from gdflows.flows.learning import HopfieldEnergy
    >>> model = gf.problems.mlp([3, 4, 2], "tanh", seed=0, dtype=torch.float64)
    >>> data = torch.linspace(-1, 1, 18).double().view(6, 3), torch.ones(6, 2).double()
    >>> E = gf.Objective.from_module(model, gf.problems.squared_error, data)
    >>> energy = HopfieldEnergy(E)
    >>> rest = energy.rest(E.theta0)
    >>> bool(energy.force(E.theta0, rest).abs().max() < 1e-6)
    True
    """

    label = "Hopfield"

    def internal(self, theta: Tensor, parts: list[Tensor]) -> Tensor:
        net, below, total = self.layers, self.layers.x, 0.0
        for i, (layer, s) in enumerate(zip(net.split(theta), parts, strict=True)):
            rate = s if i == len(parts) - 1 else net.activation(s)
            total = total + s.pow(2).sum() / 2 - (rate * net.ahead(layer, below)).sum()
            below = rate
        return total
