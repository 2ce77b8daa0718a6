"""Learning from two rests of an energy, and learning while the activities still relax."""

from __future__ import annotations

import torch
from torch import Tensor

from gdflows.arguments import number, whole
from gdflows.errors import InputError
from gdflows.flows.base import Flow
from gdflows.flows.learning.energies import LayeredEnergy, PredictiveCoding
from gdflows.trajectory import Trajectory


class NudgedLearning(Flow):
    r"""Equilibrium propagation: what a synapse sees at rest with a nudge, less without.

    .. math:: \dot\theta = -\frac1\beta\Bigl(\frac{\partial F}{\partial\theta}(s_\beta)
              - \frac{\partial F}{\partial\theta}(s_0)\Bigr), \qquad\text{or}\qquad
              -\frac1{2\beta}\Bigl(\frac{\partial F}{\partial\theta}(s_\beta)
              - \frac{\partial F}{\partial\theta}(s_{-\beta})\Bigr)

    With :class:`PredictiveCoding`, whose free rest contributes nothing, it is predictive coding
    with a soft target.

    Parameters
    ----------
    energy : LayeredEnergy
        Whose activities relax.
    nudge : float
        β, not zero; negative ones lean away from the target.
    symmetric : bool
        The second form: off by :math:`O(\beta^2)` and not :math:`O(\beta)`.
    steps, step : int, float, optional
        Length of the nudged phase, in Euler steps of the activities from their free rest; left
        out, until rest.
    lr : float, optional
        Not used; taken so that all flows can be made alike.

    Raises
    ------
    InputError
        If the nudge is zero or so small that what the rests leave over would drown it (below
        100,000 times the dtype's precision), or one of ``steps`` and ``step`` is missing.

    References
    ----------
    Scellier and Bengio (2017); Laborieux et al. (2021) for the symmetric form.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> from gdflows.flows.learning import NudgedLearning, PredictiveCoding
    >>> model = gf.problems.mlp([3, 4, 2], "tanh", seed=0, dtype=torch.float64)
    >>> data = torch.linspace(-1, 1, 18).double().view(6, 3), torch.ones(6, 2).double()
    >>> E = gf.Objective.from_module(model, gf.problems.squared_error, data)
    >>> change = NudgedLearning(PredictiveCoding(E), nudge=1e-4).vector_field(E.theta0)
    >>> bool((change + E.grad(E.theta0)).norm() < 1e-2 * change.norm())  # the gradient, nearly
    True
    """

    def __init__(
        self,
        energy: LayeredEnergy,
        nudge: float,
        *,
        symmetric: bool = False,
        steps: int | None = None,
        step: float | None = None,
        lr: float | None = None,
    ):
        if not isinstance(energy, LayeredEnergy):
            raise InputError("NudgedLearning needs an energy, e.g. PredictiveCoding(objective).")
        super().__init__(energy.objective, lr)
        self.energy, self.nudge, self.symmetric = energy, number(nudge, "nudge"), bool(symmetric)
        if self.nudge == 0:
            raise InputError("nudge must not be 0; the limit is energy.gradient(theta).")
        least = 1e5 * torch.finfo(energy.objective.theta0.dtype).eps
        if abs(self.nudge) < least:
            raise InputError(
                f"nudge must be at least {least:.1g} in {energy.objective.theta0.dtype}, got "
                f"{self.nudge:g}: a smaller one drowns in rounding. The limit is energy.gradient."
            )
        if (steps is None) != (step is None):
            raise InputError("Give steps and step together, or neither.")
        self.steps = None if steps is None else whole(steps, "steps")
        self.step = None if step is None else number(step, "step", positive=True)
        self.label = f"{energy.label}, {'±' if symmetric else ''}{self.nudge:g}"

    def vector_field(self, theta: Tensor) -> Tensor:
        free = self.energy.rest(theta)

        def seen(beta: float) -> Tensor:
            if beta == 0:
                s = free
            elif self.steps is None:
                s = self.energy.rest(theta, beta, free)
            else:
                s = self.energy.relax(theta, free, beta, steps=self.steps, step=self.step)
            return self.energy.pull(theta, s, 0.0)

        other = -self.nudge if self.symmetric else 0.0
        return -(seen(self.nudge) - seen(other)) / (self.nudge - other)

    def mean_loss(self, path: Trajectory) -> Tensor:
        """The loss of the free network, at rest, at each state."""
        return torch.stack([self.energy.loss(theta) for theta in path.states])


class TwoTimes(Flow):
    r"""Predictive coding in which weights and activities move at once.

    .. math:: \dot\theta = -\frac1\beta\frac{\partial F}{\partial\theta}, \qquad
              \varepsilon\,\dot s = -\frac{\partial F}{\partial s}

    Both go down the same energy, so it never rises.

    Parameters
    ----------
    energy : PredictiveCoding
        Other energies learn from a difference of two rests, for which one motion is not enough.
    nudge : float
        β > 0.
    ratio : float
        ε, the activities' time constant over the unit of flow time.
    lr : float, optional
        Not used; taken so that all flows can be made alike.

    Notes
    -----
    Companion: ``activity``, shape ``(n, S)``; it starts at rest.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> from gdflows.flows.learning import PredictiveCoding, TwoTimes
    >>> model = gf.problems.mlp([3, 4, 2], "tanh", seed=0)
    >>> data = torch.linspace(-1, 1, 18).view(6, 3), torch.ones(6, 2)
    >>> E = gf.Objective.from_module(model, gf.problems.squared_error, data)
    >>> flow = TwoTimes(PredictiveCoding(E), nudge=0.1, ratio=10.0)
    >>> flow.companions(E.theta0)["activity"].shape  # of 6 samples, in layers of 4 and 2
    torch.Size([6, 6])
    """

    def __init__(
        self, energy: PredictiveCoding, nudge: float, *, ratio: float, lr: float | None = None
    ):
        if not isinstance(energy, PredictiveCoding):
            raise InputError("TwoTimes needs a PredictiveCoding energy, whose free rest is zero.")
        super().__init__(energy.objective, lr)
        self.energy = energy
        self.nudge = number(nudge, "nudge", positive=True)
        self.ratio = number(ratio, "ratio", positive=True)
        self.label = f"two times, ε = {self.ratio:g}"

    def vector_field(self, theta: Tensor) -> Tensor:
        raise InputError(f"{self.label}: the field needs the activities too; use field.")

    def companions(self, theta: Tensor) -> dict[str, Tensor]:
        return {"activity": self.energy.rest(theta, self.nudge)}

    def field(self, theta: Tensor, *, activity: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        rate = -self.energy.pull(theta, activity, self.nudge) / self.nudge
        force = self.energy.force(theta, activity, self.nudge)
        return rate, {"activity": force / self.ratio}
