"""AdaEoS: a learning rate that keeps an optimiser a given way below its stability edge."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gdflows.errors import InputError, NonFiniteError
from gdflows.optim.averaging import Averaging
from gdflows.optim.evaluation import CurvatureOptimizer, Evaluation, check_range, dot, norm
from gdflows.optim.moments import AVERAGED, BASES, Moments

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
SPIKE, BLOW_UP = 2.0, 50.0  # losses, in units of what is usual, that trip the guards
MOST_TRIPS = 20  # restorations in a row before giving up
MEMORY, PEAK = 0.9, 0.98  # of the loss's average, of its largest value
FALL, RISE = 0.9, 2.0  # by how much one refresh may change λ̂ with minibatches
FOLLOW = 0.2  # how far η follows λ̂ down with averaging, as a power
KEPT = ("exp_avg", "exp_avg_sq", "z")  # what a guard restores, apart from the parameters


class AdaEoS(CurvatureOptimizer):
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
        steps go on.
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
    betas, eps, weight_decay
        As in ``torch.optim.AdamW``; the decay is decoupled. ``betas[0]`` is also the β of
        schedule-free averaging.
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
    **Guards.** In full batch a loss above its average keeps η from rising. One of more than twice
    its average, with minibatches twice the largest of late, halves η, asks for a refresh and ends
    the climb. One that is not finite, or fifty times the average, takes parameters and moments back
    to the last refresh and divides η by four; after twenty of these in a row a ``NonFiniteError``
    is raised. They presume a loss that is not negative.

    **Memory.** Beyond the base's: a vector for the power iteration, and the copy that a guard goes
    back to.

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
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        largest: float = 10.0,
        hvp: str = "auto",
    ):
        self.moments = Moments(base, betas, eps, (*BASES, AVERAGED))
        self.averaging = Averaging(betas[0]) if base == AVERAGED else None
        if stochastic is None:
            stochastic = base == AVERAGED
        if rho is None:
            rho = NOISY.get(base, QUIET) if stochastic else QUIET
        check_range("lr", lr, 0, math.inf)
        check_range("rho", rho, 0, 2, closed=False)
        check_range("gamma", gamma, 0, 1, closed=True)
        check_range("weight_decay", weight_decay, 0, math.inf, closed=True)
        for name, value in (("largest", largest), ("start", start), ("trust", trust)):
            check_range(name, value, 0, math.inf)
        for name, count in (("refresh_every", refresh_every), ("first_products", first_products)):
            if not (isinstance(count, int) and count >= 1):
                raise InputError(f"{name} must be a whole number of at least 1, got {count!r}.")
        self.rho, self.gamma, self.refresh_every = rho, gamma, refresh_every
        self.start, self.trust = start, trust
        self.first_products, self.stochastic, self.largest = first_products, stochastic, largest
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay}, hvp=hvp)
        self.eta = self.sharpness = math.nan
        self.trips = 0
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

    def step(self, closure):
        """One step; as :meth:`gdflows.optim.DAL.step`."""
        if not self._training:
            raise InputError("The parameters are averages now: call train() before step().")
        blind = self.count < BLIND
        looking = self._wait <= 0 and not blind
        seen = self._evaluate(closure, products=looking)
        if self._blown_up(seen):
            self._go_back(seen)
            return seen.value
        if self._spiked(seen):
            self.trips += 1
            self.eta /= 2
            self._gap, self._wait, self._climbing = self._half, 0, False
        self._remember(seen.loss)
        states = [self.state[p] for p in seen.parameters]
        self.moments.update(states, seen.grads)
        with torch.no_grad():
            moves, common = self.moments.direction(states, seen.grads)
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
            if blind:
                self._first_rate(seen, states)
            elif not (self._climbing and looking):
                # The base's edge rises for a known reason while it is young, and η with it.
                self.eta = min(self.eta * edge / self._edge_before, self.largest)
            self._edge_before = edge
            if looking:
                self._refresh(seen, edge)
            self._wait -= 1
            longest, length = self.trust * self._size, self.eta * length
            hold = longest / length if not blind and length > longest > 0 else 1.0
            self._move(seen.parameters, states, moves, common, hold * self.eta)
        return seen.value

    def _move(self, parameters, states, moves, common: float, eta: float) -> None:
        """θ ← θ − η · common · moves, or what averaging makes of that; and decay."""
        if self.averaging:
            self.averaging.weigh(eta * self._factors([])[1])
        parts = [(self.param_groups[0], parameters, states, moves)]
        if len(self.param_groups) > 1:
            groups = self._groups_of(parameters)
            each = zip(groups, parameters, states, moves, strict=True)
            parts = [(group, [p], [state], [move]) for group, p, state, move in each]
        for group, some, theirs, along in parts:
            rate, decay = eta * group["lr"], group["weight_decay"]
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
        along = seen.grads if scales is None else torch._foreach_mul(seen.grads, scales)
        length, slope = float(norm(along)), dot(seen.grads, along)
        self.eta = self.largest
        if length > 0:
            self.eta = min(self.eta, self.start * self._size / length)
        if slope > 0 and seen.loss > 0:
            self.eta = min(self.eta, BOLD[self.stochastic] * seen.loss / slope)

    def _refresh(self, seen: Evaluation, edge: float) -> None:
        before, climbing = self.sharpness, self._climbing
        products = CLIMB_PRODUCTS[self.stochastic] if climbing else 1
        found = self._power(seen, products if math.isfinite(before) else self.first_products)
        if self.stochastic and not climbing and math.isfinite(before) and found > 0:
            found = min(max(math.sqrt(found * before), FALL * before), RISE * before)
        self.sharpness = found
        r = self.rho * edge / (found * self.eta) if found > 0 else math.inf
        if r < 1:
            self.eta *= max(r**FOLLOW if self.averaging and not climbing else r, SHRINK)
        elif self.stochastic or seen.loss <= self._average:
            rise = min(r, CLIMB) if climbing else min(r**self.gamma, GROW)
            self.eta = min(self.eta * rise, self.largest)
        self._climbing = climbing and r > CLIMBED and self.eta < self.largest
        if self._climbing:
            self._wait = CLIMB_GAP
            return
        if math.isfinite(before) and found > JUMP * before:
            self._gap = self._half
        self._wait, self._gap = self._gap, self.refresh_every

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
        return seen.loss > SPIKE * (self._peak if self.stochastic else self._average)

    def _blown_up(self, seen: Evaluation) -> bool:
        return not math.isfinite(seen.loss) or seen.loss > BLOW_UP * self._average

    def _remember(self, loss: float) -> None:
        if math.isnan(self._average):
            self._average = self._peak = loss
        self._average = MEMORY * self._average + (1 - MEMORY) * loss
        self._peak = max(loss, PEAK * self._peak)

    def _keep(self, parameters: list[Tensor]) -> None:
        """What to go back to: parameters, and the moments as they are."""
        for p in parameters:
            state = self.state[p]
            state["kept"] = p.detach().clone()
            for name in KEPT:
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
                for name in KEPT:
                    if name in state:
                        state[name].copy_(state[f"kept_{name}"])
                state["count"] = state["kept_count"]
        self.eta /= 4
        # Not at once: the batch that is at hand has no sound curvature.
        self._gap, self._wait = self._half, CLIMB_GAP

    # -- state -----------------------------------------------------------------------------------

    def _extra(self) -> dict:
        names = ("eta", "sharpness", "trips", "_in_a_row", "_gap", "_wait", "_average", "_peak")
        names += ("_climbing", "_edge_before", "_size", "_training")
        extra = {name: getattr(self, name) for name in names}
        return extra | ({"averaging": dict(vars(self.averaging))} if self.averaging else {})

    def _set_extra(self, extra: dict) -> None:
        if self.averaging:
            vars(self.averaging).update(extra.pop("averaging"))
        for name, value in extra.items():
            setattr(self, name, value)


def _scaled(vector: list[Tensor], roots: list[Tensor] | None) -> list[Tensor]:
    return list(vector) if roots is None else torch._foreach_mul(vector, roots)
