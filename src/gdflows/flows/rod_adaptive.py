"""The rod flows of RMSProp and Adam."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gdflows.curvature import top_eigenpairs
from gdflows.errors import InputError
from gdflows.flows.adaptive import OPTIMIZERS, AdaptiveRule, Averages
from gdflows.flows.rod import RodFlow, visible_length
from gdflows.lengths import unit_vector
from gdflows.objective import Objective
from gdflows.trajectory import Trajectory


class AdaptiveRodFlow(RodFlow, optimizers=OPTIMIZERS):
    r"""The rod flow of RMSProp or Adam; ``RodFlow(E, lr, optimizer="adam")`` makes it.

    Positions and first averages, z = (θ, m), are a centre and a half-rod,
    :math:`z_k = c_k + (-1)^k\varepsilon_k`; the second average ν is the same at both ends, and
    takes in the mean of the squares there. With :math:`g_\pm` the gradients at the ends,
    :math:`\bar g` their mean and d half their difference,

    .. math:: \nu \to \beta_2\nu + (1 - \beta_2)(\bar g^2 + d^2), \quad
              c \to \tfrac12[\Phi_\nu(c + \varepsilon) + \Phi_\nu(c - \varepsilon)], \quad
              \varepsilon \to -\tfrac12[\Phi_\nu(c + \varepsilon) - \Phi_\nu(c - \varepsilon)]

    where :math:`\Phi_\nu` is the optimiser's step with that ν. The flow follows what this map adds
    (order 0), or its backward error analysis to the next term (order 1), as
    :class:`gdflows.flows.MomentumRodFlow` does.

    Parameters
    ----------
    objective : Objective
        The loss.
    lr : float
        The learning rate h.
    optimizer : {"rmsprop", "rmsprop-scalar", "adam"}
        As in :class:`gdflows.flows.AdaptiveRule`.
    beta, betas, eps
        As in :class:`gdflows.flows.AdaptiveRule`.
    averages : Averages, optional
        What the optimiser remembers at the start; by default nothing, as at its first step.
    order : {0, 1}
        The first costs two gradients an evaluation, the second four.
    noise : float or "float"
        Standard deviation of one step's rounding along a direction, as in
        :class:`gdflows.flows.RodFlow`.
    start : {"pair", "quiet"} or Tensor
        "pair": the rod joins the first two points of the optimiser. "quiet": θ₀ is the centre, and
        the oscillation as long as the noise, along the sharpest preconditioned direction. A
        tensor: the half-rod itself, shape ``(D,)``, about θ₀ and the averages given.

    Notes
    -----
    Companions: ``second`` (ν, before the step), ``step`` (steps taken, shape ``(1,)``), for Adam
    ``first`` (m, of the centre), ``direction`` of the half-rod in the space of z, and
    ``log_length``, shape ``(1,)``.

    ν alternates a little too. Its half-rod κ follows
    :math:`\kappa \to -\beta_2\kappa - 2(1 - \beta_2)\,\bar g d`, and is left out, as in the paper:
    it stays near :math:`-2\,\bar g d\,(1 - \beta_2)/(1 + \beta_2)`.

    References
    ----------
    Regis and Chewi (2026), "A rod flow model for Adam at the edge of stability", for (θ, m) and a
    smooth ν. The form of the map, the second order and the quiet start are derived here.

    Examples
    --------
    >>> import gdflows as gf
    >>> E = gf.problems.quadratic([1.0, 3.0])
    >>> type(gf.flows.RodFlow(E, 0.01, optimizer="rmsprop")).__name__
    'AdaptiveRodFlow'
    """

    def __init__(
        self,
        objective: Objective,
        lr: float,
        *,
        optimizer: str,
        beta: float | None = None,
        betas: tuple[float, float] | None = None,
        eps: float = 1e-8,
        averages: Averages | None = None,
        order: int = 0,
        noise: float | Literal["float"] = 0.0,
        start: Literal["pair", "quiet"] | Tensor = "pair",
    ):
        given = isinstance(start, Tensor)
        if not given and start not in ("pair", "quiet"):
            raise InputError(f"start must be 'pair', 'quiet' or a half-rod, got {start!r}.")
        if order not in (0, 1):
            raise InputError(f"order must be 0 or 1, got {order!r}.")
        if noise == "measured":
            raise InputError("The rounding of an adaptive method is not measured: noise='float'.")
        super().__init__(objective, lr, noise=noise)
        if not given and start == "quiet" and self.noise == 0:
            raise InputError("A quiet start needs a noise: the rod is as long as that.")
        self.rule = AdaptiveRule(optimizer, lr, beta=beta, betas=betas, eps=eps)
        self.averages, self.order, self.begins = averages, order, start
        self.label = f"{self.rule.name} rod"

    def step(self, centre: Tensor, rod: Tensor, second: Tensor, taken: float):
        """The map of centre and half-rod of z, of ν and of the number of steps."""
        rule, ends = self.rule, (centre + rod, centre - rod)
        halves = [self._parts(z) for z in ends]
        grads = [self.objective.grad(theta) for theta, _ in halves]
        square = rule.fold((grads[0] ** 2 + grads[1] ** 2) / 2)
        second = rule.beta2 * second + (1 - rule.beta2) * square
        after = []
        for (theta, first), grad in zip(halves, grads, strict=True):
            first = rule.beta1 * first + (1 - rule.beta1) * grad
            moved = theta + rule.move(Averages(first, second, taken + 1))
            after.append(self._joined(moved, first))
        return (after[0] + after[1]) / 2, (after[1] - after[0]) / 2, second, taken + 1

    def start(self, theta: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if theta.is_complex():
            raise InputError(f"The flow '{self.label}' is real; start it at theta.real.")
        rule, known = self.rule, self.rule.checked(self.averages, theta)
        here, noise = self._joined(theta, known.first), self._sigma(theta)
        pair = isinstance(self.begins, str) and self.begins == "pair"
        if pair:
            ahead, now = rule.step(self.objective, theta, known)
            rod = (here - self._joined(ahead, now.first)) / 2
        else:
            rod = self._swinging(theta, known, noise)
        direction, size = unit_vector(rod)
        if not size > 0:
            raise InputError(f"'{self.label}' cannot start at a critical point: nothing moves.")
        position, first = self._parts(here - rod if pair else here)
        companions = {
            "second": known.second.clone(),
            "step": theta.new_tensor([known.step]),
            "direction": direction,
            "log_length": torch.log(rod.new_tensor([max(size, noise)])),
        }
        if rule.beta1:
            companions["first"] = first
        return position, companions

    def fast(self, theta, companions, rates, *, slowest: float) -> None:
        return None  # that of gradient descent's map is another

    def _swinging(self, theta: Tensor, known: Averages, noise: float) -> Tensor:
        """The half-rod of z, from that of θ, or as long as the noise."""
        rule, now = self.rule, self.rule.update(known, self.objective.grad(theta))
        rates = rule.rates(now.second, now.step).expand_as(theta)
        if isinstance(self.begins, Tensor):
            rod = self.begins.to(theta)
            if rod.shape != theta.shape:
                raise InputError(
                    f"start must have shape {tuple(theta.shape)}, got {tuple(rod.shape)}."
                )
        else:
            root = rates.sqrt()
            sharpest = root * top_eigenpairs(self.objective, theta, scale=root).vectors[0]
            rod = noise / torch.linalg.vector_norm(sharpest) * sharpest
        # A θ that turns round at each step has m opposite before it
        opposite = torch.where(rates > 0, -2 * rule.corrections(now.step)[0] * rod / rates, 0.0)
        return self._joined(rod, opposite)

    def field(self, theta: Tensor, *, direction: Tensor, log_length: Tensor, **companions: Tensor):
        unit = direction / torch.linalg.vector_norm(direction)
        length = visible_length(theta, log_length)
        centre = self._joined(theta, companions.get("first", theta))
        second = companions["second"].clamp(min=0)
        points = [(centre, length * unit, second, float(companions["step"]))]
        for _ in range(self.order + 1):
            points.append(self.step(*points[-1]))
        centre_rate, rod_rate, second_rate = (
            (b - a if self.order == 0 else 2 * b - 1.5 * a - 0.5 * c) / self.lr
            for a, b, c in ((p[0], p[1], p[-1]) for p in list(zip(*points, strict=True))[:3])
        )
        stretch = rod_rate / length
        growth = torch.dot(unit, stretch)
        position_rate, first_rate = self._parts(centre_rate)
        moved = {
            "second": second_rate,
            "step": torch.full_like(companions["step"], 1 / self.lr),
            "direction": stretch - growth * unit,
            "log_length": self._growth(growth, theta, log_length).reshape(1),
        }
        if self.rule.beta1:
            moved["first"] = first_rate
        return position_rate, moved

    def preconditioner(self, second: Tensor, step: Tensor) -> Tensor:
        """D at companions of the path, as one number a coordinate, shape ``(D,)``."""
        return self.rule.rates(second, max(float(step), 1.0)).expand(self.objective.dim)

    def rods(self, path: Trajectory) -> Tensor:
        """The half-rod's positions at the path's times, shape ``(T, D)``."""
        directions = path.companions["direction"]
        unit = directions / torch.linalg.vector_norm(directions, dim=1, keepdim=True)
        at = path.states.shape[1]
        return torch.exp(path.companions["log_length"]) * unit[:, :at]

    def oscillation(self, path: Trajectory) -> Tensor:
        return torch.linalg.vector_norm(self.rods(path), dim=1)

    def _joined(self, theta: Tensor, first: Tensor) -> Tensor:
        return torch.cat([theta, first]) if self.rule.beta1 else theta

    def _parts(self, z: Tensor) -> tuple[Tensor, Tensor]:
        if self.rule.beta1:
            return z.chunk(2)
        return z, torch.zeros_like(z)

    def _field(self, centre: Tensor, rod: Tensor) -> tuple[Tensor, Tensor]:
        raise InputError(f"The field of '{self.label}' needs its averages too: use field.")
