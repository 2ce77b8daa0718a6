"""AdaEoS: a learning rate that keeps an optimiser a given way below its stability edge."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gdflows.errors import InputError
from gdflows.optim import power
from gdflows.optim.averaging import Averaging
from gdflows.optim.evaluation import Evaluation, check_range, dot, norm
from gdflows.optim.guards import Guarded
from gdflows.optim.moments import AVERAGED, BASES, Moments
from gdflows.optim.walk import Walk

BLIND = 3  # steps before curvature is asked for: Adam's preconditioner knows one gradient
BOLD = {False: 1.0, True: 0.2}  # their part of what would take the loss to zero; with minibatches
CLIMB = 10.0  # from there a refresh may raise η by that,
CLIMBED = 1.5  # until it is too small by no more than that,
CLIMB_GAP = 2  # with a refresh after so many steps,
CLIMB_PRODUCTS = {False: 1, True: 3}  # each of so many products; with minibatches
QUIET = 0.8  # ρ, and with the noise of minibatches:
NOISY = {"sgd": 0.4, "momentum": 0.15, "adam": 0.15}
GROW, SHRINK = 1.3, 0.1  # how much one refresh may change η after that
JUMP = 1.5  # a curvature that has grown by that asks for another look soon
FALL, RISE = 0.9, 2.0  # by how much one refresh may change λ̂ with minibatches
FOLLOW = 0.2  # how far η follows λ̂ down with averaging, as a power
LARGEST = 10.0  # η under Adam's preconditioner, where it is a length of the parameters


class AdaEoS(Guarded):
    r"""SGD, momentum, Adam or schedule-free Adam at a learning rate η that follows the curvature.

    The stability indicator :math:`\sigma = \eta\hat\lambda`, with λ̂ the largest eigenvalue of
    the Hessian as the base preconditions it, is held at ρ times the base's own edge
    (:mod:`gdflows.optim.thresholds`). λ̂ comes from a power iteration whose vector is kept
    from step to step, one product at a refresh, and refreshes are rare while all is quiet.

    Parameters
    ----------
    params : iterable
        Parameters or groups.
    base : {"adam", "schedule-free", "momentum", "sgd"}
        Momentum is Adam's average m ← βm + (1 − β)g, with its bias correction. Schedule-free is
        Adam with an average of the parameters in place of that of gradients, and the base for
        minibatches: call :meth:`eval` before the parameters are used, and :meth:`train` before
        steps go on. In full batch too it was the safer one in the book's trial: on Adam 16 of 30
        runs on three held-out networks were lost. With a warm-up over a tenth of the steps, by a
        scheduler on ``lr``, none was; but that was tried afterwards.
    lr : float
        Multiplies η: what schedulers change, and groups may differ in. η itself needs no value.
    rho : float, optional
        ρ, the target as a part of the edge. By default 0.8. With minibatches the noise is too much
        before the edge, except under averaging: 0.4 on SGD, 0.15 on momentum and Adam.
    gamma : float
        How fast η rises: each refresh multiplies it by :math:`r^\gamma`, at most 1.3, if it is too
        small by a factor r. If it is too large it falls at once; with averaging, which bears
        it, by :math:`r^{0.2}`.
    refresh_every : int
        N, the longest gap between refreshes. While η climbs at the start every second step
        refreshes; after that, and after a guard has tripped, a first gap is half as long.
    first_products : int
        Products for the first estimate. With minibatches each later one of the climb has three,
        others have one.
    start : float
        The first three steps know no curvature. They are no longer than this part of the
        parameters' norm, nor than what would bring the loss to zero if it went on falling as
        steeply (with minibatches a fifth of it). Less is better for a network that is trained.
    trust : float
        No later step is longer than this part of the parameters' norm: the edge of stability is a
        statement about a linearised step.
    stochastic : bool, optional
        For minibatches, and by default on schedule-free Adam only: average λ̂ over refreshes and
        let it change slowly. A batch that is fitted has no curvature, and η would run off.
    walk : float, optional
        C, on schedule-free Adam: after the climb η is no larger than what makes z come C times
        as far from where it began as a random walk of the same displacements. The noise sets this
        limit, and the edge knows nothing of it. 1 is a good value for long runs; by default there
        is no such limit.
    betas, eps, weight_decay
        As in ``torch.optim.AdamW``; the decay is decoupled. ``betas[0]`` is also the β of
        schedule-free averaging.
    largest : float, optional
        η grows to no more than that. By default 10 on Adam and schedule-free Adam. On SGD and
        momentum, where η has units (one over those of the curvature), without bound.
    lower_bound : float
        What the loss never falls below. Where a loss can be negative it must be said: the first
        steps and the guards measure the loss from there.
    hvp, max_norm, check
        See :class:`gdflows.optim.CurvatureOptimizer`.

    Attributes
    ----------
    eta, sharpness, sigma, edge : float
        η, λ̂, ηλ̂ and the base's edge, as of the last step.
    trips : int
        How often a guard has tripped.

    Notes
    -----
    **Guards.** In full batch a loss above its average keeps η from rising. One of more than twice
    its average, with minibatches twice the largest of late, halves η, asks for a refresh and ends
    the climb. One that is not finite, or fifty times the average, takes parameters and moments back
    to the last refresh and divides η by four; after twenty of these in a row a ``NonFiniteError``
    is raised. "Back" is to the parameters of that refresh, on momentum to its average too. On Adam
    that begins anew, as the average of parameters does on schedule-free Adam; the average of
    squared gradients stays.

    **Memory.** Beyond parameters and gradient it keeps, in numbers a parameter: a vector for the
    power iteration and the copy that a guard goes back to, which is two on SGD; the average and
    a copy of it more on momentum, two moments more on Adam and schedule-free Adam: four. With
    ``walk`` where z began and where it was a displacement ago: six.

    **Parameters that join later**, unfrozen or by ``add_param_group``: their averages of gradients
    begin at zero with their own first step, as in ``torch.optim.AdamW``. Under schedule-free
    averaging z and the average begin at the parameter's value, with the past of one that stood
    still. The next refresh comes after three steps, and starts its power iteration anew.

    **Clipping** with ``max_norm`` shortens steps. It does not lengthen the first ones, which look
    at the slope of the loss itself.

    **Cost.** A product at each refresh: every second step while η climbs at the start, then one
    in ``refresh_every``. ``cost`` counts; in runs of some tens of steps the climb is most of it.

    The power iteration finds the eigenvalue of largest *modulus*.

    References
    ----------
    The design follows the proposal of an "adaptive edge of stability" optimiser, with what it
    took to make it work: the base's own edge, a warm vector, bold first steps, unequal rises and
    falls, guards, and averaging where there is noise (Defazio et al. 2024).

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> optimizer = gf.optim.AdaEoS([w], base="sgd")
    >>> for _ in range(50):
    ...     loss = optimizer.step(lambda: (w**2 * torch.tensor([1.0, 10.0])).sum())
    >>> round(optimizer.sigma, 1)  # 0.8 of the edge, 2
    1.6

    With minibatches:

    >>> model = torch.nn.Linear(3, 1)
    >>> optimizer = gf.optim.AdaEoS(model.parameters(), base="schedule-free")
    >>> for _ in range(20):
    ...     x = torch.randn(16, 3)
    ...     loss = optimizer.step(lambda: (model(x) - x.sum(1, keepdim=True)).square().mean())
    >>> optimizer.eval()  # and train() before it goes on
    """

    def __init__(
        self,
        params,
        base: str = "adam",
        *,
        lr: float = 1.0,
        rho: float | None = None,
        gamma: float = 0.1,
        refresh_every: int = 20,
        first_products: int = 2,
        start: float = 0.3,
        trust: float = 0.4,
        stochastic: bool | None = None,
        walk: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        largest: float | None = None,
        lower_bound: float = 0.0,
        hvp: str = "auto",
        max_norm: float | None = None,
        check: bool = True,
    ):
        self.moments = Moments(base, betas, eps, (*BASES, AVERAGED))
        self.averaging = Averaging(betas[0]) if base == AVERAGED else None
        if stochastic is None:
            stochastic = base == AVERAGED
        if walk is not None:
            check_range("walk", walk, 0, math.inf)
            if base != AVERAGED:
                raise InputError(f"walk needs base={AVERAGED!r}, whose z it follows, got {base!r}.")
        if rho is None:
            rho = NOISY.get(base, QUIET) if stochastic else QUIET
        check_range("lr", lr, 0, math.inf)
        check_range("rho", rho, 0, 2, closed=False)
        check_range("gamma", gamma, 0, 1, closed=True)
        check_range("weight_decay", weight_decay, 0, math.inf, closed=True)
        if largest is None:
            largest = LARGEST if self.moments.second else math.inf
        if not largest > 0:
            raise InputError(f"largest must be positive, got {largest}.")
        if not math.isfinite(lower_bound):
            raise InputError(f"lower_bound must be finite, got {lower_bound}.")
        for name, value in (("start", start), ("trust", trust)):
            check_range(name, value, 0, math.inf)
        for name, count in (("refresh_every", refresh_every), ("first_products", first_products)):
            if not (isinstance(count, int) and count >= 1):
                raise InputError(f"{name} must be a whole number of at least 1, got {count!r}.")
        self.rho, self.gamma, self.refresh_every = rho, gamma, refresh_every
        self.start, self.trust = start, trust
        self.first_products, self.stochastic, self.largest = first_products, stochastic, largest
        self.lower_bound, self.walk = lower_bound, walk
        self._walk = None if walk is None else Walk(walk)
        defaults = {"lr": lr, "weight_decay": weight_decay}
        super().__init__(params, defaults, hvp=hvp, max_norm=max_norm, check=check)
        self.eta = self.sharpness = math.nan
        self.trips, self._held = 0, 1.0
        self._in_a_row, self._wait, self._gap = 0, 0, self._half
        self._average = self._peak = self._edge_before = self._size = math.nan
        self._climbing, self._training = True, True

    @property
    def count(self) -> int:
        """Steps taken."""
        return max((self.state[p].get("count", 0) for p in self._parameters()), default=0)

    @property
    def edge(self) -> float:
        """The base's stability edge at the present step."""
        return self.averaging.edge if self.averaging else self.moments.edge(self.count)

    @property
    def sigma(self) -> float:
        """ηλ̂, times the factor ``lr``."""
        return self.eta * self.sharpness * self._factors([])[1]

    @property
    def _half(self) -> int:
        return max(1, self.refresh_every // 2)

    def train(self) -> None:
        """Make the parameters those that steps are taken with. It matters with averages only."""
        self._show(training=True)

    def eval(self) -> None:
        """Make the parameters those to be used: with schedule-free averaging, the average."""
        self._show(training=False)

    def _show(self, training: bool) -> None:
        if self.averaging and training != self._training:
            parameters = self._parameters()
            change = self.averaging.hide if training else self.averaging.show
            change([self.state[p] for p in parameters], parameters)
            self._training = training

    def step(self, closure=None):
        """One step; as :meth:`gdflows.optim.DAL.step`."""
        if not self._training:
            raise InputError("The parameters are averages now: call train() before step().")
        blind = self.count < BLIND
        looking = self._wait <= 0 and not blind
        seen = self._evaluate(closure, products=looking)
        if self._blown_up(seen) or not seen.finite:
            self._go_back(seen)
            return seen.value
        self._require_above_bound(seen)
        if blind and not any(bool(g.any()) for g in seen.used):
            return seen.value  # nothing to learn from
        if self._spiked(seen):
            self.trips += 1
            # Of the rate that steps are taken with, and not of the rule's, if a limit holds it.
            self.eta, self._held = self.eta / 2, 1.0
            self._gap, self._wait, self._climbing = self._half, 0, False
        self._remember(self._above(seen))
        states = [self.state[p] for p in seen.parameters]
        if not blind and self._welcome(seen.parameters):
            looking = False
        self.moments.update(states, seen.used)
        with torch.no_grad():
            moves, common = self.moments.direction(states, seen.used)
            length = common * float(norm(moves))
            if not math.isfinite(length):
                self._go_back(seen)
                return seen.value
            if self.averaging and blind:
                self.averaging.begin(states, seen.parameters)
            if blind or looking:
                self._in_a_row = 0
                self._size = float(norm(seen.parameters))  # which hardly changes in between
                self._keep(seen.parameters)
            edge = self.edge
            self.eta /= self._held  # the rate that the edge asks for
            if blind:
                self._first_rate(seen, states)
            elif not (self._climbing and looking):
                # The base's edge rises for a known reason while it is young, and η with it.
                self.eta = min(self.eta * edge / self._edge_before, self.largest)
            self._edge_before = edge
            if looking:
                self._refresh(seen, edge)
            if self._walk and not blind:
                self._hold_back(self._walk.look(states, [state["z"] for state in states]))
            self._wait -= 1
            longest, length = self.trust * self._size, self.eta * length
            hold = longest / length if not blind and length > longest > 0 else 1.0
            self._move(seen.parameters, states, moves, common, hold * self.eta)
        return seen.value

    def _welcome(self, parameters: list[Tensor]) -> bool:
        """Whether some join only now; they stood still so far, and curvature is asked for soon."""
        new = [p for p in parameters if "kept" not in self.state[p]]
        if new:
            self._keep(new)
            if self.averaging:
                self.averaging.begin([self.state[p] for p in new], new)
            self._wait, self._gap = BLIND, self._half
        return bool(new)

    def _go_back(self, seen: Evaluation) -> None:
        super()._go_back(seen)
        self._held = 1.0
        if self._walk:  # the way back is no step
            states = [self.state[p] for p in seen.parameters if "z" in self.state[p]]
            self._walk.rest(states, [state["z"] for state in states])

    def _hold_back(self, limit: float) -> None:
        """η, no larger than a limit that the edge's rate does not remember."""
        if self._climbing or not self.eta > 0:
            self._held = 1.0
        else:
            self._held = min(1.0, limit / (self.eta * (self._factors([])[1] or 1.0)))
        self.eta *= self._held

    def _move(self, parameters, states, moves, common: float, eta: float) -> None:
        """θ ← θ − η · common · moves, or what averaging makes of that; and decay."""
        if self.averaging:
            self.averaging.weigh(eta * self._factors([])[1])
        if self._walk and self.count > BLIND:
            self._walk.count(eta * self._factors([])[1])
        parts = [(self.param_groups[0], parameters, states, moves)]
        if len(self.param_groups) > 1:
            groups = self._groups_of(parameters)
            each = zip(groups, parameters, states, moves, strict=True)
            parts = [(group, [p], [state], [move]) for group, p, state, move in each]
        for group, some, theirs, along in parts:
            rate, decay = eta * float(group["lr"]), float(group["weight_decay"])
            if self.averaging:
                if decay:
                    along = torch._foreach_add(along, some, alpha=decay / common)
                self.averaging.step(theirs, some, along, rate * common)
                continue
            if decay:
                torch._foreach_mul_(some, 1 - rate * decay)
            torch._foreach_add_(some, along, alpha=-rate * common)

    # -- the rate --------------------------------------------------------------------------------

    def _first_rate(self, seen: Evaluation, states: list[dict]) -> None:
        """A rate without curvature: of Polyak's step, and of the parameters' length."""
        scales = self.moments.precondition(states)
        along = seen.used if scales is None else torch._foreach_mul(seen.used, scales)
        length, slope = float(norm(along)), dot(seen.grads, along)
        self.eta = self.largest
        if length > 0 and self._size > 0:
            self.eta = min(self.eta, self.start * self._size / length)
        if slope > 0 and self._above(seen) > 0:
            self.eta = min(self.eta, BOLD[self.stochastic] * self._above(seen) / slope)
        if math.isinf(self.eta):
            self.eta = 0.0  # nothing says how far

    def _refresh(self, seen: Evaluation, edge: float) -> None:
        before, climbing = self.sharpness, self._climbing
        products = CLIMB_PRODUCTS[self.stochastic] if climbing else 1
        states = [self.state[p] for p in seen.parameters]
        roots = self._roots(seen.parameters, states)
        found = power.iterate(seen, states, roots, (products, self.first_products))
        if self.stochastic and not climbing and math.isfinite(before) and found > 0:
            found = min(max(math.sqrt(found * before), FALL * before), RISE * before)
        self.sharpness = found
        if self.eta == 0 and found > 0:  # the first steps knew nothing
            self.eta = min(self.rho * edge / found, self.largest)
        r = self.rho * edge / (found * self.eta) if found > 0 else math.inf
        if r < 1:
            self.eta *= max(r**FOLLOW if self.averaging and not climbing else r, SHRINK)
        elif self.stochastic or self._above(seen) <= self._average:
            rise = min(r, CLIMB) if climbing else min(r**self.gamma, GROW)
            self.eta = min(self.eta * rise, self.largest)
        self._climbing = climbing and r > CLIMBED and self.eta < self.largest
        if self._climbing:
            self._wait = CLIMB_GAP
            return
        if math.isfinite(before) and found > JUMP * before:
            self._gap = self._half
        self._wait, self._gap = self._gap, self.refresh_every

    def _roots(self, parameters: list[Tensor], states: list[dict]) -> list[Tensor] | None:
        """Diagonal of D^½, with the groups' relative rates; None for 1."""
        scales = self.moments.precondition(states, self.count)
        if len(self.param_groups) > 1:
            factors = self._factors(parameters)[0]
            scales = scales or [torch.ones_like(p) for p in parameters]
            scales = [factor * scale for factor, scale in zip(factors, scales, strict=True)]
        return None if scales is None else torch._foreach_sqrt(scales)

    # -- the linearised step ---------------------------------------------------------------------

    def _edges(self) -> list[float]:
        out = []
        for group in self.param_groups:
            rate = 0.0 if math.isnan(self.eta) else self.eta * float(group["lr"])
            decay = rate * float(group["weight_decay"])
            if self.averaging:
                out.append(self.averaging.edge - decay)
            else:
                out.append(self.moments.edge(self.count, weight_decay=decay))
        return out

    def _rates(self, p: Tensor, group: dict) -> Tensor | float | None:
        if not self.state[p].get("count"):
            return None
        rate = self.eta * float(group["lr"])
        scales = self.moments.precondition([self.state[p]], self.count)
        return rate if scales is None else rate * scales[0]

    # -- state -----------------------------------------------------------------------------------

    def _settings(self) -> dict:
        names = ("rho", "gamma", "refresh_every", "first_products", "start", "trust", "stochastic")
        names += ("largest", "lower_bound", "walk")
        own = {name: getattr(self, name) for name in names}
        return super()._settings() | self.moments.settings | own

    def _extra(self) -> dict:
        names = ("eta", "sharpness", "trips", "_in_a_row", "_gap", "_wait", "_average", "_peak")
        names += ("_climbing", "_edge_before", "_size", "_training", "_held")
        extra = {name: getattr(self, name) for name in names}
        parts = {"averaging": self.averaging, "walk": self._walk}
        return extra | {name: dict(vars(part)) for name, part in parts.items() if part}

    def _set_extra(self, extra: dict) -> None:
        if self.averaging:
            vars(self.averaging).update(extra.pop("averaging"))
        if self._walk:
            vars(self._walk).update(extra.pop("walk"))
        for name, value in extra.items():
            setattr(self, name, value)
