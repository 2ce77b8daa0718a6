"""AdaEoS as it was proposed, and AdaEoS that stops adapting."""

from __future__ import annotations

import math

import torch

from gdflows.errors import InputError
from gdflows.optim import AdaEoS, edges
from gdflows.optim.evaluation import CurvatureOptimizer, Evaluation, check_range, dot, norm

_NEVER = 10**9  # steps


class Proposed(CurvatureOptimizer):
    r"""The proposal's algorithm, with nothing added to it.

    At each step: the gradient g of the batch; m ← βm + (1 − β)g; at every N-th step
    :math:`\hat\lambda = v^\top Hv` after J steps of power iteration with the batch's H from a
    random v, and :math:`\eta \leftarrow \eta\,(\sigma/(\eta\hat\lambda))^\gamma`; θ ← θ − ηm.

    Parameters
    ----------
    params : iterable
        Parameters or groups.
    eta : float
        η at the beginning, of which the proposal does not speak.
    sigma : float
        The target σ, 2 in the proposal.
    gamma : float
        γ, in (0, 1].
    products : int
        J, steps of power iteration; an estimate costs J + 1 products.
    every : int
        N.
    beta : float
        β of the average of gradients.
    noise : float
        Of noise injection, which is proposed without a formula ("more when stable, less when near
        instability"). Here each step is displaced by a Gaussian vector of the length
        ``noise`` · (1 − ηλ̂/σ)₊ times that of the step, in root mean square.
    seed : int
        Of random vectors.

    Notes
    -----
    An estimate that is not positive leaves η as it is: the formula says nothing of it. There is no
    guard, no clipping and no bias correction, as there is none in the proposal.
    """

    def __init__(
        self,
        params,
        *,
        eta: float = 0.1,
        sigma: float = 2.0,
        gamma: float = 0.1,
        products: int = 1,
        every: int = 1,
        beta: float = 0.9,
        noise: float = 0.0,
        seed: int = 0,
    ):
        for name, value in (("eta", eta), ("sigma", sigma)):
            check_range(name, value, 0, math.inf)
        check_range("gamma", gamma, 0, 1, closed=True)
        check_range("noise", noise, 0, math.inf, closed=True)
        if not 0 <= beta < 1:
            raise InputError(f"beta must be in [0, 1), got {beta}.")
        if min(products, every) < 1:
            raise InputError("products and every must be at least 1.")
        super().__init__(params, {"lr": 1.0})
        self.eta, self.target, self.gamma = eta, sigma, gamma
        self.products, self.every, self.beta, self.noise = products, every, beta, noise
        self.sharpness, self.count = math.nan, 0
        self._random = torch.Generator().manual_seed(seed)

    @property
    def sigma(self) -> float:
        """ηλ̂."""
        return self.eta * self.sharpness

    @property
    def edge(self) -> float:
        """The edge of the average of gradients, 2(1 + β)/(1 − β)."""
        return edges.heavy_ball(self.beta, dampening=self.beta)

    def step(self, closure=None):
        """One step; as :meth:`gdflows.optim.DAL.step`."""
        looking = self.count % self.every == 0
        seen = self._evaluate(closure, products=looking)
        seen.require_finite()
        for p, g in zip(seen.parameters, seen.used, strict=True):
            mean = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
            mean.lerp_(g, 1 - self.beta)
        if looking:
            self.sharpness = self._curvature(seen)
            if self.sharpness > 0:
                self.eta *= (self.target / (self.eta * self.sharpness)) ** self.gamma
        rate = self.eta * float(self.param_groups[0]["lr"])
        moves = [rate * self.state[p]["exp_avg"] for p in seen.parameters]
        room = 1 - max(self.sigma, 0.0) / self.target
        if self.noise and room > 0:
            size = self.noise * room * float(norm(moves))
            drawn = self._drawn(seen)
            root = math.sqrt(sum(p.numel() for p in seen.parameters))
            moves = [a + size / root * b for a, b in zip(moves, drawn, strict=True)]
        with torch.no_grad():
            for p, move in zip(seen.parameters, moves, strict=True):
                p.sub_(move)
        self.count += 1
        return seen.value

    def _drawn(self, seen: Evaluation) -> list[torch.Tensor]:
        return [
            torch.randn(p.shape, generator=self._random, dtype=p.dtype).to(p.device)
            for p in seen.parameters
        ]

    def _curvature(self, seen: Evaluation) -> float:
        v = self._drawn(seen)
        v = torch._foreach_div(v, norm(v))
        for _ in range(self.products):
            v = seen.product(v)
            size = float(norm(v))
            if not size > 0:
                return 0.0
            v = torch._foreach_div(v, size)
        return float(dot(v, seen.product(v)))

    def _edges(self) -> list[float]:
        return [self.edge]

    def _rates(self, p, group):
        return self.eta * float(group["lr"]) if self.count else None

    def _settings(self) -> dict:
        names = ("target", "gamma", "products", "every", "beta", "noise")
        return super()._settings() | {name: getattr(self, name) for name in names}

    def _extra(self) -> dict:
        return {
            "eta": self.eta, "sharpness": self.sharpness, "count": self.count,
            "random": self._random.get_state(),
        }  # fmt: skip

    def _set_extra(self, extra: dict) -> None:
        self._random.set_state(extra.pop("random"))
        for name, value in extra.items():
            setattr(self, name, value)


class Frozen(AdaEoS):
    """AdaEoS that never looks at the curvature again once η has climbed.

    From then on η follows the base's own edge, a known function of the step, and nothing else:
    no refresh, no guard against spikes. A loss that has blown up still goes back and divides η.
    """

    frozen = False

    def _refresh(self, seen: Evaluation, edge: float) -> None:
        super()._refresh(seen, edge)
        if not self._climbing:
            self.frozen, self._wait = True, _NEVER

    def _spiked(self, seen: Evaluation) -> bool:
        return not self.frozen and super()._spiked(seen)

    def _go_back(self, seen: Evaluation) -> None:
        super()._go_back(seen)
        if self.frozen:
            self._wait = _NEVER
