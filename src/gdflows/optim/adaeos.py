"""AdaEoS: a learning rate that keeps an optimiser a given way below its stability edge."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gdflows.errors import InputError, NonFiniteError
from gdflows.optim.evaluation import CurvatureOptimizer, Evaluation, check_range, norm
from gdflows.optim.moments import Moments

CLIMB = 10.0  # at the start a refresh may raise η by that,
CLIMBED = 1.5  # until it is too small by no more than that
GROW, SHRINK = 1.3, 0.1  # how much one refresh may change the learning rate after that
LEAST_GAP = 2  # steps between refreshes while much happens
LAG = 1.5  # where η lags by more than that gaps are halved, else doubled
JUMP = 1.5  # a curvature that has grown by that asks for another look soon
SPIKE, BLOW_UP = 2.0, 50.0  # losses, in units of their average, that trip the guards
MOST_TRIPS = 20  # restorations in a row before giving up
MEMORY = 0.9  # of the loss's average
FADE, CLIMB_FADE = 0.9, 0.8  # what a refresh leaves of a curvature's peak, with minibatches


class AdaEoS(CurvatureOptimizer):
    r"""SGD, momentum or Adam at a learning rate η that follows the curvature.

    The stability indicator :math:`\sigma = \eta\hat\lambda`, with λ̂ the largest eigenvalue of
    the Hessian as the base preconditions it, is held at ρ times the base's own edge
    (:func:`gdflows.optim.thresholds.adam`). λ̂ comes from a power iteration whose vector is kept
    from step to step, one product at a refresh, and refreshes are rare while all is quiet.

    Parameters
    ----------
    params : iterable
        Parameters or groups.
    base : {"adam", "momentum", "sgd"}
        Momentum is Adam's average m ← βm + (1 − β)g, with its bias correction.
    lr : float
        Multiplies η: what schedulers change, and groups may differ in. η itself needs no value.
    rho : float
        ρ, the target as a part of the edge. At 1 the guards trip again and again.
    gamma : float
        How fast η rises: each refresh multiplies it by :math:`r^\gamma`, at most 1.3, if it is too
        small by a factor r. If it is too large it falls at once.
    refresh_every : int
        N, the longest gap between refreshes. At the start every second step refreshes, until η
        has climbed to where it belongs; from there, and after a guard has tripped, gaps double up
        to N, and are halved while η lags behind.
    first_products : int
        Products for the first estimate.
    trust : float
        No step is longer than this part of the parameters' norm: the edge of stability is a
        statement about a linearised step.
    stochastic : bool
        For minibatches: average λ̂ over refreshes and let it fall slowly only. A batch that is
        fitted has no curvature, and η would run off.
    betas, eps, weight_decay
        As in ``torch.optim.AdamW``; the decay is decoupled.
    largest : float
        η grows to no more than that.
    hvp : {"auto", "exact", "difference"}
        See :class:`gdflows.optim.CurvatureOptimizer`.

    Attributes
    ----------
    eta, sharpness, sigma, edge : float
        η, λ̂, ηλ̂ and the base's edge, as of the last step.
    trips : int
        How often a guard has tripped.

    Notes
    -----
    **Guards.** A loss above its average keeps η from rising. One of more than twice its average
    halves η, asks for a refresh and ends the climb. One that is not finite, or fifty times the
    average, takes parameters and moments back to the last refresh and divides η by four; after
    twenty of these in a row a ``NonFiniteError`` is raised. They presume a loss that is not
    negative.

    **Memory.** Beyond the base's: a vector for the power iteration, and the copy that a guard goes
    back to.

    **Cost.** A product at each refresh: every second step while η climbs at the start, then one
    in ``refresh_every`` where all is quiet. ``cost`` counts; in runs of a hundred steps the climb
    is most of it.

    The power iteration finds the eigenvalue of largest *modulus*.

    References
    ----------
    The design follows the proposal of an "adaptive edge of stability" optimiser, with what it
    took to make it work: the base's own edge, a warm vector, unequal rises and falls, guards.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> optimizer = gf.optim.AdaEoS([w], base="sgd")
    >>> for _ in range(50):
    ...     loss = optimizer.step(lambda: (w**2 * torch.tensor([1.0, 10.0])).sum())
    >>> round(optimizer.sigma, 1)  # 0.8 of the edge, 2
    1.6
    """

    def __init__(
        self,
        params,
        base: str = "adam",
        *,
        lr: float = 1.0,
        rho: float = 0.8,
        gamma: float = 0.1,
        refresh_every: int = 20,
        first_products: int = 3,
        trust: float = 0.2,
        stochastic: bool = False,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        largest: float = 10.0,
        hvp: str = "auto",
    ):
        self.moments = Moments(base, betas, eps)
        check_range("lr", lr, 0, math.inf)
        check_range("rho", rho, 0, 2, closed=False)
        check_range("gamma", gamma, 0, 1, closed=True)
        check_range("weight_decay", weight_decay, 0, math.inf, closed=True)
        check_range("largest", largest, 0, math.inf)
        check_range("trust", trust, 0, math.inf)
        for name, count in (("refresh_every", refresh_every), ("first_products", first_products)):
            if not (isinstance(count, int) and count >= 1):
                raise InputError(f"{name} must be a whole number of at least 1, got {count!r}.")
        self.rho, self.gamma, self.refresh_every = rho, gamma, refresh_every
        self.trust = trust
        self.first_products, self.stochastic, self.largest = first_products, stochastic, largest
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay}, hvp=hvp)
        self.eta = self.sharpness = math.nan
        self.trips = 0
        self._in_a_row, self._gap, self._wait, self._average = 0, LEAST_GAP, 0, math.nan
        self._climbing, self._edge_before, self._size = True, math.nan, math.nan

    @property
    def count(self) -> int:
        """Steps taken."""
        return max((self.state[p].get("count", 0) for p in self._parameters()), default=0)

    @property
    def edge(self) -> float:
        """The base's stability edge at the present step."""
        return self.moments.edge(self.count)

    @property
    def sigma(self) -> float:
        """ηλ̂, times the factor ``lr``."""
        return self.eta * self.sharpness * self._factors([])[1]

    def step(self, closure):
        """One step; as :meth:`gdflows.optim.DAL.step`."""
        looking = self._wait <= 0 or math.isnan(self.eta)
        seen = self._evaluate(closure, products=looking)
        if self._blown_up(seen):
            self._go_back(seen)
            return seen.value
        if self._spiked(seen):
            self.trips += 1
            self.eta /= 2
            self._gap, self._wait, self._climbing = LEAST_GAP, 0, False
        first = math.isnan(self._average)
        self._average = seen.loss if first else MEMORY * self._average + (1 - MEMORY) * seen.loss
        states = [self.state[p] for p in seen.parameters]
        self.moments.update(states, seen.grads)
        # With its bias correction the base's edge rises for a known reason, and η with it.
        if not (self._climbing and looking):
            self.eta = min(self.eta * self.edge / self._edge_before, self.largest)
        self._edge_before = self.edge
        if looking:
            self._in_a_row = 0
            self._keep(seen.parameters)
            self._refresh(seen)
        self._wait -= 1
        with torch.no_grad():
            moves, common = self.moments.direction(states, seen.grads)
            if looking:  # their norm hardly changes from one refresh to the next
                self._size = float(norm(seen.parameters))
            longest, length = self.trust * self._size, self.eta * common * float(norm(moves))
            hold = longest / length if length > longest > 0 else 1.0
            if len(self.param_groups) == 1:
                parts = [(self.param_groups[0], seen.parameters, moves)]
            else:
                groups = self._groups_of(seen.parameters)
                parts = [
                    (group, [p], [move])
                    for group, p, move in zip(groups, seen.parameters, moves, strict=True)
                ]
            for group, parameters, along in parts:
                rate = hold * self.eta * group["lr"]
                if group["weight_decay"]:
                    torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
                torch._foreach_add_(parameters, along, alpha=-rate * common)
        return seen.value

    # -- the curvature ---------------------------------------------------------------------------

    def _refresh(self, seen: Evaluation) -> None:
        before = self.sharpness
        found = self._power(seen, 1 if math.isfinite(before) else self.first_products)
        if self.stochastic and math.isfinite(before) and found > 0:
            kept = CLIMB_FADE if self._climbing else FADE
            found = max(math.sqrt(found * before), kept * before)
        self.sharpness = found
        target = self.rho * self.edge
        if math.isnan(self.eta):
            self.eta = min(target / found, self.largest) if found > 0 else self.largest
        else:
            r = target / (found * self.eta) if found > 0 else math.inf
            rise = min(r, CLIMB) if self._climbing else min(r**self.gamma, GROW)
            if seen.loss > self._average:
                rise = 1.0
            factor = rise if r > 1 else max(r, SHRINK)
            self.eta = min(self.eta * factor, self.largest)
            self._climbing = self._climbing and r > CLIMBED and self.eta < self.largest
        lags = target > LAG * found * self.eta
        if self._climbing:
            self._wait = self._gap = LEAST_GAP
            return
        if math.isfinite(before) and found > JUMP * before:
            self._gap = LEAST_GAP
        elif lags and not self.stochastic:
            self._gap = max(LEAST_GAP, self._gap // 2)
        self._wait = self._gap
        if self.stochastic or not lags:
            self._gap = min(2 * self._gap, self.refresh_every)

    def _power(self, seen: Evaluation, products: int) -> float:
        """Norm of D^½ H D^½ q, for the q kept from before."""
        roots = self._roots(seen.parameters)
        q = [self.state[p].get("power_vector") for p in seen.parameters]
        if any(part is None for part in q):  # the gradient leans towards the top
            q = _scaled(seen.grads, roots)
            q = torch._foreach_div(q, norm(q))
        found = 0.0
        for _ in range(products):
            q = _scaled(seen.product(_scaled(q, roots)), roots)
            found = float(norm(q))
            if not (found > 0 and math.isfinite(found)):
                return 0.0
            q = torch._foreach_div(q, found)
        for p, part in zip(seen.parameters, q, strict=True):
            self.state[p]["power_vector"] = part
        return found

    def _roots(self, parameters: list[Tensor]) -> list[Tensor] | None:
        """Diagonal of D^½, with the groups' relative rates; None for 1."""
        scales = self.moments.precondition([self.state[p] for p in parameters])
        if len(self.param_groups) > 1:
            factors = self._factors(parameters)[0]
            scales = scales or [torch.ones_like(p) for p in parameters]
            scales = [factor * scale for factor, scale in zip(factors, scales, strict=True)]
        return None if scales is None else torch._foreach_sqrt(scales)

    # -- guards ----------------------------------------------------------------------------------

    def _spiked(self, seen: Evaluation) -> bool:
        return seen.loss > SPIKE * self._average

    def _blown_up(self, seen: Evaluation) -> bool:
        return not seen.finite or seen.loss > BLOW_UP * self._average

    def _keep(self, parameters: list[Tensor]) -> None:
        """What to go back to: parameters, and the moments as they are."""
        for p in parameters:
            state = self.state[p]
            state["kept"] = p.detach().clone()
            for name in ("exp_avg", "exp_avg_sq"):
                if name in state:
                    state[f"kept_{name}"] = state[name].clone()
            state["kept_count"] = state["count"]

    def _go_back(self, seen: Evaluation) -> None:
        self.trips += 1
        self._in_a_row += 1
        if self._in_a_row > MOST_TRIPS or math.isnan(self.eta):
            raise NonFiniteError(
                f"The loss is {seen.loss}, or its gradient is not finite"
                + (
                    " at the first step. Are the data clean, and is the initialisation sane?"
                    if math.isnan(self.eta)
                    else f"; going back {MOST_TRIPS} times to smaller learning rates did not help "
                    f"(η is {self.eta:.1e} now). The parameters are those of the last refresh."
                )
            )
        with torch.no_grad():
            for p in seen.parameters:
                state = self.state[p]
                p.copy_(state["kept"])
                for name in ("exp_avg", "exp_avg_sq"):
                    if name in state:
                        state[name].copy_(state[f"kept_{name}"])
                state["count"] = state["kept_count"]
        self.eta /= 4
        # Not at once: the batch that is at hand has no sound curvature.
        self._gap = self._wait = LEAST_GAP

    # -- state -----------------------------------------------------------------------------------

    def _extra(self) -> dict:
        names = ("eta", "sharpness", "trips", "_in_a_row", "_gap", "_wait")
        names += ("_average", "_climbing", "_edge_before", "_size")
        return {name: getattr(self, name) for name in names}

    def _set_extra(self, extra: dict) -> None:
        for name, value in extra.items():
            setattr(self, name, value)


def _scaled(vector: list[Tensor], roots: list[Tensor] | None) -> list[Tensor]:
    return list(vector) if roots is None else torch._foreach_mul(vector, roots)
