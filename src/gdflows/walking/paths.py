"""Many paths at once: what a stochastic flow and SGD have in common, and the flow's own walk."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from gdflows.arguments import number, whole
from gdflows.errors import InputError, IntegrationError
from gdflows.flows.stochastic import StochasticFlow
from gdflows.lengths import largest_entry
from gdflows.objective import Objective
from gdflows.walking.draws import Draws
from gdflows.walking.ensemble import FULL, Collector, Ensemble, Observe
from gdflows.walking.memory import require_memory
from gdflows.walking.progress import bar as progress_bar
from gdflows.walking.schemes import SCHEMES, require_commuting
from gdflows.walking.start import check_times, starting_point

COPIES = 10  # of the states, that a step holds at once

# step(x=..., draws=...): the states of a block after one step.
Step = Callable[..., Tensor]


def walk_paths(
    flow: StochasticFlow,
    theta0: Tensor,
    t: float | None = None,
    *,
    times: Sequence[float] | Tensor | None = None,
    paths: int = 1000,
    seed: int = 0,
    method: str | None = None,
    step: float | None = None,
    antithetic: bool = False,
    increments: str = "gaussian",
    keep: str = "last",
    observe: Observe | None = None,
    chunk: int | None = None,
    progress: bool | None = None,
) -> Ensemble:
    """Follow many paths of a stochastic flow at once: see :func:`gdflows.integrate`.

    Parameters
    ----------
    flow : StochasticFlow
        What to follow.
    theta0 : Tensor
        Start of all paths, shape ``(D,)``, or of each, ``(paths, D)``.
    t : float, optional
        Flow time to stop at; the moments are then those at 0 and t.
    times : sequence of float, optional
        Look at these times instead, increasing from 0.
    paths : int
        How many, P.
    seed : int
        Of the increments. With the same step, :func:`gdflows.walking.sgd` sees the same noise.
    method : {"weak2", "euler-maruyama", "milstein"}
        ``"weak2"`` (the default) is of weak order 2, also where the noises do not commute;
        ``"milstein"`` of strong order 1, where they do.
    step : float, optional
        Length of the steps in flow time; by default the flow's h. Made a little shorter so that
        whole steps lead to each of ``times``.
    antithetic : bool
        Take each increment for two paths, once with its sign changed: less variance of what is
        nearly linear in the noise. Of a block, the second half is paired with the first.
    increments : {"gaussian", "three-point"}
        Three points suffice for weak order 2 and are drawn in a tenth of the time.
    keep : {"last", "paths", "moments"}
        What is kept beside the moments: the last states, all states at ``times``, or nothing.
    observe : mapping of str to callable, optional
        Functions from states ``(P, D)`` to numbers ``(P,)``, whose means over the paths are
        wanted, by name.
    chunk : int, optional
        Walk so many paths at a time; moments are added up. Other chunks are other random numbers.
    progress : bool, optional
        Show a progress bar. By default only on a terminal, after two seconds.

    Returns
    -------
    Ensemble

    Raises
    ------
    InputError
        For arguments that cannot be used, noises that do not commute under Milstein's method, or
        paths that would not fit in memory.
    IntegrationError
        If a path runs away until it is no longer finite.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E, start = gf.problems.quadratic([1.0]), torch.ones(1).double()
    >>> flow = gf.flows.StochasticModifiedEquation(E, 0.1, covariance=1.0)
    >>> seen = gf.walking.walk_paths(flow, start, t=1.0, paths=200)
    >>> abs(float(seen.mean[-1]) - 0.37) < 0.1  # 1/e, but for the noise
    True
    """
    if not isinstance(flow, StochasticFlow):
        raise InputError(f"walk_paths walks a StochasticFlow, got {type(flow).__name__}.")
    method = "weak2" if method is None else method
    if method not in SCHEMES:
        raise InputError(f"Unknown method {method!r}; choose one of {', '.join(SCHEMES)}.")
    times, t = check_times(times, t)
    step = flow.lr if step is None else step
    if step is None:
        raise InputError(f"'{flow.label}' has no learning rate: say step=.")
    step = number(step, "step", positive=True)
    start = starts(flow.objective, theta0, whole(paths, "paths"))
    flow.check(start[0])
    scheme = SCHEMES[method]
    if method == "milstein":
        # beside the start, where symmetry may hide that they do not
        beside = start[:1] + 0.1 * (1 + start[0].abs().max()) * torch.linspace(
            -1, 1, 4 * start.shape[1], dtype=torch.float64, device="cpu"
        ).reshape(4, -1).to(start)
        require_commuting(flow, flow.rows(beside), Draws(0, 0, start, 4, flow.channels))
    when = [0.0, t] if times is None else times
    legs = []
    for a, b in zip(when, when[1:], strict=False):
        n = max(1, math.ceil((b - a) / step - 1e-9))
        legs.append((n, partial(scheme, flow, dt=(b - a) / n)))
    many = Many(paths, seed, antithetic, increments, keep, observe, chunk, progress)
    rows = flow.rows(start)
    return many.walk(
        flow.objective, rows, when, legs, channels=flow.channels, label=flow.label,
        companions=rows.shape[1] - start.shape[1],
    )  # fmt: skip


def starts(objective: Objective, theta0, paths: int) -> Tensor:
    """The start of all paths as ``(1, D)``, or of each as ``(P, D)``."""
    if isinstance(theta0, Tensor) and theta0.ndim == 2:
        if len(theta0) != paths:
            raise InputError(f"theta0 holds {len(theta0)} starts for {paths} paths.")
        objective._check(theta0[0], "A row of theta0")
        start = theta0.detach()
    else:
        start = starting_point(objective, theta0)[None]
    if start.is_complex():
        raise InputError("Paths are real; start at theta0.real.")
    return start


@dataclass
class Many:
    """The settings that many paths of a flow, and of SGD, share: see :func:`walk_paths`."""

    paths: int
    seed: int = 0
    antithetic: bool = False
    increments: str = "gaussian"
    keep: str = "last"
    observe: Observe | None = None
    chunk: int | None = None
    progress: bool | None = None

    def __post_init__(self):
        self.paths = whole(self.paths, "paths")
        self.chunk = self.paths if self.chunk is None else whole(self.chunk, "chunk")
        self.chunk = min(self.chunk, self.paths)
        if self.antithetic and (self.paths % 2 or self.chunk % 2):
            raise InputError("Antithetic paths come in pairs: paths and chunk must be even.")

    def walk(
        self,
        objective: Objective,
        start: Tensor,
        times: Sequence[float],
        legs: Sequence[tuple[int, Step]],
        *,
        channels: int,
        label: str,
        companions: int = 0,
    ) -> Ensemble:
        """Block by block, from one time to the next, step by step.

        Parameters
        ----------
        start : Tensor
            θ and its companions in a row, ``(1, S)`` or ``(P, S)``.
        legs : sequence of (int, callable)
            Between two times: how many steps, and what one of them does,
            ``step(x=..., draws=...)``.
        channels : int
            Random numbers a step.
        companions : int
            Entries of a row that are not θ, at its end.
        """
        dim = start.shape[1] - companions
        self._require_memory(start, len(times), dim, channels)
        counts0 = dict(objective.cost)
        seen = Collector(len(times), dim, self.keep, self.observe, self.antithetic)
        when = torch.tensor(times, dtype=torch.float64, device="cpu")
        taken, remembered = 0, []

        def ensemble(many: int) -> Ensemble:
            cost = {k: n - counts0.get(k, 0) for k, n in objective.cost.items()}
            return seen.ensemble(
                when[:many], start, paths=self.paths, label=label, cost={"steps": taken, **cost}
            )

        total = sum(n for n, _ in legs) * math.ceil(self.paths / self.chunk)
        with progress_bar(total, self.progress, label, unit="step") as bar, torch.no_grad():
            for block, begin in enumerate(range(0, self.paths, self.chunk)):
                size = min(self.chunk, self.paths - begin)
                x = start[begin : begin + size] if len(start) > 1 else start.expand(size, -1)
                x = x.clone()
                draws = Draws(
                    self.seed, block, x, size, channels,
                    antithetic=self.antithetic, increments=self.increments,
                )  # fmt: skip
                seen.look(0, x[:, :dim])
                for i, (n, step) in enumerate(legs):
                    for k in range(n):
                        after = step(x=x, draws=draws)
                        if not math.isfinite(largest_entry(after)):
                            at = times[i] + (times[i + 1] - times[i]) * k / n
                            self._lost(label, at, x, after, ensemble(i + 1 if block == 0 else 0))
                        x = after
                        taken += size
                        bar.update()
                    seen.look(i + 1, x[:, :dim])
                if companions and self.keep != "moments":
                    remembered.append(x[:, dim:])
        memory = torch.cat(remembered) if remembered else None
        return replace(ensemble(len(times)), memory=memory)

    def _lost(self, label: str, at: float, x: Tensor, after: Tensor, partial) -> None:
        """Paths have run away."""
        lost = ~torch.isfinite(after).all(1)
        norm = float(torch.linalg.vector_norm(x[lost], dim=1).max())
        raise IntegrationError(
            f"{int(lost.sum()):,} of {len(x):,} paths of {label} could not be followed beyond "
            f"t = {at:.6g} (‖state‖ up to {norm:.3g}): they are no longer finite. Means over the "
            "others would not be those of the equation. Lower the learning rate or the step, or "
            "end before.",
            cause="blow-up" if norm > 1e6 else "non-finite",
            time=at,
            norm=norm,
            partial=partial,
        )

    def _require_memory(self, start: Tensor, times: int, dim: int, channels: int) -> None:
        size, kept = start.element_size(), {"paths": times, "last": 1, "moments": 0}
        block = self.chunk * (COPIES * start.shape[1] + 4 * channels)
        states = self.paths * dim * kept.get(self.keep, 0)
        moments = 8 * times * dim * (dim if dim <= FULL else 1)
        remedy = "give fewer paths"
        if self.keep != "moments":
            remedy += ", keep='moments' with chunk= (so many paths at a time)"
        elif self.chunk == self.paths:
            remedy += ", or chunk= (so many paths at a time)"
        require_memory(
            size * (block + states) + moments, start.device,
            f"{self.paths:,} paths of {dim:,} parameters", f"{remedy}.",
        )  # fmt: skip
