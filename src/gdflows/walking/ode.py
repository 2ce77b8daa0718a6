"""Along a flow with a solver for ordinary differential equations."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import numpy as np
import scipy.integrate
import torch
from torch import Tensor

from gdflows.arguments import number, whole
from gdflows.errors import InputError, IntegrationError
from gdflows.flows.base import Flow
from gdflows.flows.stochastic import StochasticFlow
from gdflows.lengths import length
from gdflows.trajectory import Trajectory
from gdflows.walking.ensemble import Ensemble
from gdflows.walking.exponential import Adams, Exponential
from gdflows.walking.paths import walk_paths
from gdflows.walking.progress import bar as progress_bar
from gdflows.walking.restarts import with_restarts
from gdflows.walking.solvers import FixedStep, fastest_rate, with_error
from gdflows.walking.start import check_times, starting_point
from gdflows.walking.state import LeavesTheReals, State

SCIPY = ("DOP853", "RK45", "RK23", "Radau", "BDF", "LSODA")
EXPONENTIAL = {"exponential": Exponential, "exponential-adams": Adams}
ADAPTIVE = (*SCIPY, *EXPONENTIAL)
REAL = ("Radau", "LSODA", *EXPONENTIAL)  # these cannot walk through complex numbers
FIXED = ("euler", "rk4")
METHODS = (*ADAPTIVE, *FIXED)
MANY = {"paths", "seed", "antithetic", "increments", "keep", "observe", "chunk"}
RUNAWAY = 1e12  # growth of the norm that is called a blow-up
# From a step of this many times the fastest rate's inverse on DOP853's interpolant leaves its
# tolerance: by thousands, where the fast part is at rest. Shorter steps do not.
STIFF = 5.0
MOST = 16  # shorter steps in place of one
TOO_STIFF = (
    "the step size fell to rounding level; the flow is too stiff here, or not smooth. Try "
    "method='Radau', or end before t = {:.6g}."
)


def integrate(
    flow: Flow,
    theta0: Tensor,
    t: float | None = None,
    *,
    times: Sequence[float] | Tensor | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    method: str | None = None,
    step: float | None = None,
    max_evaluations: int | None = None,
    real_every: float | None = None,
    progress: bool | None = None,
    **many: Any,
) -> Trajectory | Ensemble:
    """Follow a flow from θ₀, with an adaptive solver unless told otherwise.

    A flow that leaves the real numbers (the principal flow where hλ > 1) is followed there: the
    states are then complex.

    Parameters
    ----------
    flow : Flow
        What to follow.
    theta0 : Tensor
        Start, shape ``(D,)``; a numpy array or a list is converted. Its dtype and device are
        those of every evaluation and of the result; the solver itself adds up in float64.
    t : float, optional
        Flow time to stop at (t = k·h for k steps). The result then has the solver's own steps.
    times : sequence of float, optional
        Return the states at these times instead, increasing from 0.
    rtol, atol : float
        Tolerated local error, relative (by default 1e-6) and absolute. ``atol`` is by default a
        third of ``rtol`` times the root mean square of θ₀ (of 1, if θ₀ is zero), since parameters
        are measured against one another and not each against itself.
    method : str
        One of scipy's solvers: ``"DOP853"`` (the default; explicit, order 8), ``"RK45"``,
        ``"RK23"``, or for stiff flows with few parameters ``"Radau"``, ``"BDF"``, ``"LSODA"``.
        Two are for flows that tell their fast part (rods), which they integrate exactly, and
        several times cheaper there: ``"exponential"``, a Runge-Kutta method of order four with
        steps up to 1.25 h [1]_, and ``"exponential-adams"``, of order three with steps up to h
        and one evaluation in each, about half as dear and several times less accurate [2]_.
        Their estimates are those of order two, so ``rtol=1e-3`` is fine already. Or ``"euler"``
        or ``"rk4"`` with steps of a fixed length, cheap where little accuracy is wanted; they know
        neither tolerances nor their error.
    step : float, optional
        Length of the steps of a fixed-step method, in flow time; shortened only to land on
        ``times``.
    max_evaluations : int
        Give up after so many evaluations of the vector field; by default 20,000.
    real_every : float, optional
        Go on from the real part of the state each time that so much flow time has passed, for
        instance h. Gradient descent is real at every kh; an imaginary part that a model has
        gathered there is error, and is carried no further. The states kept are those before.
    progress : bool, optional
        Show a progress bar. By default only on a terminal, after two seconds.
    **many
        For a stochastic flow, which is followed on many paths at once: ``paths``, ``seed``,
        ``antithetic``, ``increments``, ``keep``, ``observe``, ``chunk`` as for
        :func:`gdflows.walking.walk_paths`. Then ``method`` is ``"weak2"`` (the default),
        ``"milstein"`` or ``"euler-maruyama"``, and ``step`` is by default h.

    Returns
    -------
    Trajectory
        With the error estimate (explicit methods) and the cost. Of a stochastic flow an
        :class:`~gdflows.walking.Ensemble`: moments of the paths, and the paths themselves.

    Raises
    ------
    InputError
        For arguments that cannot be used.
    IntegrationError
        If the flow blows up, meets a value that is not finite, is too stiff for the method, or
        needs more evaluations than allowed. It names the time, the state's norm and the cause,
        and its ``partial`` holds the trajectory up to there.

    References
    ----------
    Hairer, Nørsett and Wanner, Solving Ordinary Differential Equations I, sections II.5-6
    (DOP853); IV.2 of volume II (the stiffness estimate).

    .. [1] S. Krogstad, "Generalized integrating factor methods for stiff PDEs", Journal of
       Computational Physics 203, 2005, eq. 51; M. Hochbruck and A. Ostermann, "Exponential
       integrators", Acta Numerica 19, 2010, section 2.3.
    .. [2] Hochbruck and Ostermann, section 2.5; as predictor and corrector, with steps of any
       length.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> flow = gf.flows.NGF(gf.problems.quadratic([1.0, 3.0]))
    >>> path = gf.integrate(flow, torch.ones(2).double(), t=1.0)
    >>> [round(x, 4) for x in path.states[-1].tolist()]  # e^(−λt)
    [0.3679, 0.0498]
    """
    if isinstance(flow, StochasticFlow):
        errors = {"rtol": rtol, "atol": atol, "max_evaluations": max_evaluations}
        errors |= {"real_every": real_every}
        given = [name for name, value in errors.items() if value is not None]
        if given:
            raise InputError(f"{given[0]} does not go with a stochastic flow: its steps are fixed.")
        settings = {"times": times, "method": method, "step": step, "progress": progress}
        return walk_paths(flow, theta0, t, **settings, **many)
    if many:
        raise InputError(
            f"{next(iter(many))} is for stochastic flows; '{flow.label}' has no noise."
            if set(many) <= MANY
            else f"integrate has no argument {next(iter(set(many) - MANY))!r}."
        )
    rtol = 1e-6 if rtol is None else rtol
    method = "DOP853" if method is None else method
    max_evaluations = 20_000 if max_evaluations is None else max_evaluations
    if real_every is not None:
        settings = {"rtol": rtol, "atol": atol, "method": method, "progress": progress}
        settings |= {"step": step, "max_evaluations": max_evaluations}
        return with_restarts(integrate, flow, theta0, t, times, real_every, **settings)
    theta0 = starting_point(flow.objective, theta0)
    times, t = check_times(times, t)
    max_evaluations = whole(max_evaluations, "max_evaluations")
    if method not in METHODS:
        raise InputError(f"Unknown method {method!r}; choose one of {', '.join(METHODS)}.")
    fixed = method in FIXED
    if fixed != (step is not None):
        raise InputError("step belongs to the methods 'euler' and 'rk4', which need it.")
    if fixed:
        step = number(step, "step", positive=True)
    rtol = number(rtol, "rtol", positive=True)
    atol = None if atol is None else number(atol, "atol", positive=True)
    eps = torch.finfo(theta0.dtype).eps
    if not fixed and not rtol >= 10 * eps:
        raise InputError(
            f"rtol={rtol:g} is finer than {theta0.dtype} can hold ({10 * eps:.1e}); "
            "use float64 or a larger rtol."
        )

    counts0 = dict(flow.objective.cost)
    theta0, companions0 = flow.start(theta0)
    state = State(flow, theta0, companions0)
    if atol is None:
        rms = length(theta0) / theta0.numel() ** 0.5
        atol = rtol / 3 * (rms or 1.0)
    if method in SCIPY:
        solver_class = with_error(getattr(scipy.integrate, method))
    else:
        solver_class = FixedStep if fixed else EXPONENTIAL[method]
    start = state.pack(theta0, companions0)
    kinds = {"method": method, "step": step} if fixed else {"rtol": rtol, "atol": atol}
    state.strict = True  # at the start a non-finite value is the caller's mistake
    try:
        state(0.0, start)
    except LeavesTheReals:
        start = state.widen(start)
        state(0.0, start)
    state.strict = False

    def begin(at: float, y: np.ndarray):
        if method in REAL and np.iscomplexobj(y):
            raise InputError(
                f"{flow.label} leaves the real numbers at t = {at:.6g}, where {method} cannot "
                "follow: use another method, 'BDF' if it is stiff."
            )
        try:
            return solver_class(state, at, y, t, **kinds)
        except LeavesTheReals:  # on trying how long the first step may be
            return begin(at, state.widen(y))

    def between(at: float, y: np.ndarray) -> list[np.ndarray]:
        """The states at the wanted times inside the step that was just made from (at, y)."""
        inside = list(takewhile(lambda time: time < solver.t, wanted))
        rate = getattr(solver, "rate", 0.0)
        if rate * solver.step_size < STIFF:
            dense = solver.dense_output()
            return [dense(time) for time in inside]
        length = max(0.8 * STIFF / rate, solver.step_size / MOST)
        shorter = kinds | {"first_step": min(length, solver.t - at), "max_step": length}
        short, found = solver_class(state, at, y, solver.t, **shorter), []
        while len(found) < len(inside):
            short.step()
            if short.status == "failed":
                fail("stiffness", TOO_STIFF.format(short.t))
            if inside[len(found)] <= short.t:
                dense = short.dense_output()
                passed = takewhile(lambda time: time <= short.t, inside[len(found):])
                found += [dense(time) for time in passed]
        return found

    solver = begin(0.0, start)

    saved_t, saved_y, saved_error = [0.0], [start], [0.0]
    wanted = deque(times[1:]) if times is not None else None
    error = 0.0

    def partial() -> Trajectory:
        thetas, companions = state.unpack(np.stack(saved_y))
        counts = {k: n - counts0.get(k, 0) for k, n in flow.objective.cost.items()}
        errors = (
            None if error is None else torch.tensor(saved_error, dtype=torch.float64, device="cpu")
        )
        return Trajectory(
            times=torch.tensor(saved_t, dtype=torch.float64, device="cpu"),
            states=thetas,
            label=flow.label,
            companions=companions,
            cost={"evaluations": state.evaluations, **counts},
            error=errors,
        )

    def fail(cause: str, message: str) -> None:
        norm = float(np.linalg.norm(solver.y))
        raise IntegrationError(
            f"{flow.label} could not be followed beyond t = {solver.t:.6g} "
            f"(of {t:g}, ‖state‖ = {norm:.3g}): {message}",
            cause=cause,
            time=float(solver.t),
            norm=norm,
            partial=partial(),
        )

    scale0 = 1.0 + float(np.linalg.norm(start))
    longest, collapsed = 0.0, 0
    with progress_bar(t, progress, flow.label) as bar:
        while solver.status == "running":
            if wanted:  # land on a time asked for if it is no shorter than half a step away:
                near = not fixed and wanted[0] - solver.t < getattr(solver, "h_abs", 0.0) / 2
                solver.t_bound = t if near else wanted[0]  # interpolation has no error control
            before, found = (solver.t, solver.y), []
            try:
                solver.step()
                if wanted and wanted[0] < solver.t and solver.status != "failed":
                    found = between(*before)
            except LeavesTheReals:
                solver = begin(before[0], state.widen(before[1]))
                continue
            if solver.status == "finished" and solver.t < t:
                solver.status = "running"
            if solver.status == "failed":
                grown = np.linalg.norm(solver.y) > 1e3 * scale0
                if state.non_finite is not None and not grown:
                    fail("non-finite", state.non_finite)
                if grown:
                    fail("blow-up", "the solution runs to infinity in finite time.")
                fail("stiffness", TOO_STIFF.format(solver.t))
            if not np.linalg.norm(solver.y) < RUNAWAY * scale0:
                fail("blow-up", f"the norm has grown by more than {RUNAWAY:.0e}.")
            error = None if solver.local_error is None else error + solver.local_error
            longest = max(longest, solver.step_size)
            collapsed = collapsed + 1 if solver.step_size < 0.01 * longest else 0
            if collapsed and collapsed % 8 == 0:
                reason = flow.obstacle(state.unpack(solver.y)[0])
                if reason is not None:
                    fail("obstacle", reason)

            if wanted is None:
                saved_t.append(float(solver.t))
                saved_y.append(solver.y)
                saved_error.append(error)
            else:
                for y in (*found, solver.y):
                    if wanted and wanted[0] <= solver.t:
                        saved_t.append(wanted.popleft())
                        saved_y.append(y)
                        saved_error.append(error)
            bar.update(min(float(solver.t), t) - bar.n)

            if state.evaluations > max_evaluations and solver.status == "running":
                rate = fastest_rate(state, solver.t, solver.y)
                if rate * solver.step_size > 2:
                    fail(
                        "stiffness",
                        f"{max_evaluations:,} evaluations spent. Stability and not accuracy "
                        f"holds the step down to {solver.step_size:.2g}: the flow's fastest rate "
                        f"is about {rate:.3g}, so an explicit method needs at least "
                        f"{2 * rate * t:,.0f} evaluations. Raise max_evaluations, or use "
                        "method='Radau' or 'BDF' where there are few parameters.",
                    )
                fail(
                    "budget",
                    f"{max_evaluations:,} evaluations spent. Raise max_evaluations or rtol, or "
                    "ask for a shorter time.",
                )
    return partial()
