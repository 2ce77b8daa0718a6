"""One run of the tuned trial: steps, looks at the loss, the step of the target, the true edge."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from gdflows import curvature
from gdflows.errors import ConvergenceError, InputError, NonFiniteError
from gdflows.experiments.trial.rules import RULES
from gdflows.experiments.trial.scheduled import Scheduled
from gdflows.experiments.trial.suite import Judged
from gdflows.objective import Objective
from gdflows.optim import preconditioner, stability_edge

LOST = 1e3  # a run whose loss is that many times what it began with has diverged
EARLY = (0, 1, 5)  # rows that are always kept: what a record's check repeats
# At a hundredth Lanczos' method was seen to stop at the second eigenvalue, a third too low.
TOL = 1e-4
EDGE_AT = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of the budget, where the true edge is looked at


class _Kept(NamedTuple):
    """What a step leaves behind until the next look."""

    step: int
    state: Tensor
    spent: dict


class Course:
    """A run under way.

    Parameters
    ----------
    what : Judged
        The task.
    network : torch.nn.Module
        At its initialisation.
    optimizer : Scheduled
        Of its parameters.
    seed : int
        Of the batches.
    stop : int
        Most steps.
    looks : int
        How often the budget is looked at.
    to_target : bool
        Whether the run ends at the target.
    edges : bool
        Whether the true edge is looked at.
    before : dict, optional
        What was spent before the first step, by a finder.
    blind : bool
        Whether there is no target yet.

    Attributes
    ----------
    rows : list of dict
        Of the table; at 0, 1, 5, every second look, the target and the end.
    """

    def __init__(
        self,
        what: Judged,
        network: nn.Module,
        optimizer: Scheduled,
        seed: int,
        *,
        stop: int,
        looks: int = RULES.looks,
        to_target: bool = False,
        edges: bool = False,
        before: dict | None = None,
        blind: bool = False,
    ):
        self.blind = blind
        self.what, self.network, self.optimizer, self.stop = what, network, optimizer, stop
        self.batches, self.rows, self.to_target = what.batches(seed), [], to_target
        regular = [round(i * what.steps / looks) for i in range(looks + 1)]
        self.keep_at = {*EARLY, *regular[::2]}
        self.edge_at = {max(1, round(part * what.steps)) for part in EDGE_AT} if edges else set()
        self.keep_at |= self.edge_at
        self.look_at = {*self.keep_at, *regular, stop}
        self.before = {"gradients": 0, "hvps": 0, "microseconds": 0} | (before or {})
        self.microseconds, self.kept, self.edge = 0, [], None
        self.reached_at, self.first = math.inf, None

    @property
    def spent(self) -> dict:
        cost = self.optimizer.cost
        return {
            "gradients": self.before["gradients"] + cost["gradients"],
            "hvps": self.before["hvps"] + cost["hvps"],
            "microseconds": self.before["microseconds"] + self.microseconds,
        }

    def carry_out(self) -> list[dict]:
        """The rows."""
        for step in range(self.stop + 1):
            ended = self.optimizer.at_rest and step > 0
            if (step in self.look_at or ended) and self._look(step, last=ended):
                break
            if step == self.stop or ended:
                break
            x, y = next(self.batches)
            if not self._step(step, x, y):
                break
            self.edge = self._edge(x, y) if step + 1 in self.edge_at else None
        return self.rows

    def _step(self, step: int, x: Tensor, y: Tensor) -> bool:
        clock = time.process_time_ns()
        try:
            self.optimizer.step(lambda: self.what.loss(self.network(x), y))
        except (NonFiniteError, AssertionError) as error:
            # DoG's package asserts that gradients are finite. What else it asserts is a fault.
            grads = [p.grad for p in self.network.parameters() if p.grad is not None]
            if isinstance(error, AssertionError) and all(bool(g.isfinite().all()) for g in grads):
                raise
            self._row(step, math.inf, 0.0)
            return False
        finally:
            self.microseconds += (time.process_time_ns() - clock) // 1000
        if math.isinf(self.reached_at) and not self.blind and step + 1 not in self.look_at:
            with self.optimizer.handed_over():
                state = parameters_to_vector(self.network.parameters()).detach().clone()
            self.kept.append(_Kept(step + 1, state, self.spent))
        return True

    def _look(self, step: int, last: bool) -> bool:
        """A look at the loss; whether the run ends with it."""
        with self.optimizer.handed_over():
            judged, error = self.what.measure(self.network)
            whole = (last or step == self.stop) and not self.to_target
            accuracy = self.what.accuracy(self.network) if whole else math.nan
        self.first = judged if self.first is None else self.first
        if lost := not judged < LOST * self.first:
            judged = math.inf
        hit = not self.blind and judged <= self.what.target and math.isinf(self.reached_at)
        if hit:
            self._target(step, judged, error)
        self.kept = []
        end = lost or last or step == self.stop or (hit and self.to_target)
        if self.reached_at == step:  # the row is there
            self.rows[-1] |= {"accuracy": accuracy} | (self.edge or {})
        elif not (hit and self.to_target) and (end or step in self.keep_at):
            self._row(step, judged, error, accuracy=accuracy)
        return end

    def _target(self, step: int, judged: float, error: float) -> None:
        """The step at which the loss came to the target, by bisection among what was kept."""
        found = judged, error, self.spent, step
        above, below = -1, len(self.kept)
        own = [p.detach().clone() for p in self.network.parameters()]
        while below - above > 1:
            middle = (above + below) // 2
            one = self.kept[middle]
            _write(self.network, one.state.split([p.numel() for p in own]))
            loss, its = self.what.measure(self.network)
            if loss <= self.what.target:
                below, found = middle, (loss, its, one.spent, one.step)
            else:
                above = middle
        _write(self.network, own)
        judged, error, spent, self.reached_at = found
        self._row(self.reached_at, judged, error, reached=True, spent=spent)

    def _row(
        self, step: int, judged: float, error: float, *, reached: bool = False,
        spent: dict | None = None, accuracy: float = math.nan,
    ) -> None:  # fmt: skip
        inner = self.optimizer.inner
        own = {"eta": math.nan, "sigma": math.nan}
        if hasattr(inner, "eta") and step and not reached:
            sigma = inner.sigma / inner.edge
            own = {"eta": _short(inner.eta), "sigma": _short(sigma)}
        blank = {"true_sigma": math.nan, "batch_sigma": math.nan}
        self.rows.append(
            {"step": step, "judged": _short(judged), "error": _short(error), "reached": reached}
            | (spent or self.spent) | {"accuracy": accuracy} | own
            | (blank if reached else self.edge or blank)
        )  # fmt: skip

    def _edge(self, x: Tensor, y: Tensor) -> dict | None:
        """Largest eigenvalues of the preconditioned Hessian over the edge, at the steps' point."""
        inner, out = self.optimizer.inner, {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # entries that met no gradient are at rest
                edge = stability_edge(inner)
                scale = preconditioner(inner, self.network.parameters()).sqrt()
        except InputError:  # of optimisers whose edge nobody knows
            return None
        if len(self.optimizer.optimizers) > 1 or not bool((scale > 0).any()):
            return None  # a hybrid; or a rate of zero
        for name, data in (("true_sigma", self.what.for_edge()), ("batch_sigma", (x, y))):
            E = Objective.from_module(self.network, self.what.loss, data, check=False)
            try:
                top = curvature.top_eigenpairs(E, E.theta0, 1, scale=scale, tol=TOL).values[0]
                out[name] = _short(float(top) / edge)
            except (NonFiniteError, ConvergenceError):  # a run that has gone off is judged too
                out[name] = math.nan
        return out


@torch.no_grad()
def _write(network: nn.Module, values: Sequence[Tensor]) -> None:
    """In place: an optimiser may hold other names for the same memory."""
    for p, value in zip(network.parameters(), values, strict=True):
        p.copy_(value.view_as(p))


def _short(x: float) -> float:
    return float(f"{x:.5g}")  # records are kept by the thousand


def range_test(
    what: Judged, make, seed: int, *, least: float = 1e-5, most: float = 10.0, steps: int = 100
) -> tuple[float, dict]:
    """A learning rate by a range test, and its cost: a tenth of that with the least loss.

    The rate rises geometrically over the steps of a run that is thrown away; the loss is smoothed
    as in the libraries that offer it, and the test ends where it is four times its least.

    Parameters
    ----------
    what : Judged
        The task.
    make : callable
        ``make(network, lr)`` gives an optimiser.
    seed : int
        Of the network; the batches are in another order than in the run.
    least, most : float
        Rates.
    steps : int
        How many.

    References
    ----------
    Smith (2017), "Cyclical learning rates for training neural networks"; that a tenth of the
    minimum's is taken is the custom of fastai.
    """
    network, batches = what.network(seed), what.batches(seed + 10_000)
    optimizer = make(network, least)
    clock, smooth, lowest, chosen = time.process_time_ns(), 0.0, math.inf, least
    for k in range(steps):
        rate = least * (most / least) ** (k / (steps - 1))
        for inner in optimizer.optimizers:
            for group in inner.param_groups:
                group["lr"] = rate
        optimizer.schedules = []
        x, y = next(batches)
        loss = float(optimizer.step(lambda x=x, y=y: what.loss(network(x), y)))
        smooth = 0.9 * smooth + 0.1 * loss
        unbiased = smooth / (1 - 0.9 ** (k + 1))
        if not math.isfinite(loss) or (k > 10 and unbiased > 4 * lowest):
            break
        if unbiased < lowest:
            lowest, chosen = unbiased, rate
    microseconds = (time.process_time_ns() - clock) // 1000
    cost = optimizer.cost | {"microseconds": microseconds}
    return chosen / 10, dict(cost)
