"""Walks that go on from the real part of the state after each period."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch

from gdflows.arguments import number, whole
from gdflows.errors import InputError, IntegrationError
from gdflows.lengths import length
from gdflows.trajectory import Trajectory
from gdflows.walking.start import check_times, starting_point


def with_restarts(
    integrate, flow, theta0, t, times, period, *, max_evaluations, **settings
) -> Trajectory:
    """``integrate`` from cut to cut: see its ``real_every``."""
    times, t = check_times(times, t)
    period = number(period, "real_every", positive=True)
    most = whole(max_evaluations, "max_evaluations")
    theta0 = starting_point(flow.objective, theta0)
    if flow.companions(theta0):
        raise InputError(f"{flow.label} carries companions, which real_every does not know.")
    number_of = int(np.ceil(min(t / period, 1e18) - 1e-9))
    pieces, theta, spent = [], theta0, 0
    for i in range(number_of):
        begin, end = period * i, (period * (i + 1) if i + 1 < number_of else t)
        if spent > most:
            raise IntegrationError(
                f"{flow.label}, restarted from the real part {len(pieces)} times, has spent "
                f"{spent:,} evaluations by t = {begin:.6g} of {t:g}. Raise max_evaluations or "
                "rtol, or ask for a shorter time.",
                cause="budget",
                time=begin,
                norm=length(theta),
                partial=_join(pieces, times),
            )
        if times is None:
            when = {"t": end - begin}
        else:
            inside = [x - begin for x in times if begin + 1e-9 * period < x < end - 1e-9 * period]
            when = {"times": [0.0, *inside, end - begin]}
        try:
            piece = integrate(flow, theta, **when, max_evaluations=max(1, most - spent), **settings)
        except IntegrationError as e:
            raise IntegrationError(
                f"After a restart from the real part at t = {begin:.6g}: {e}",
                cause=e.cause,
                time=begin + e.time,
                norm=e.norm,
                partial=_join([*pieces, (begin, e.partial)], times),
            ) from e
        pieces.append((begin, piece))
        spent += piece.cost["evaluations"]
        theta = piece.states[-1]
        theta = theta.real.contiguous() if theta.is_complex() else theta
    return _join(pieces, times)


def _join(pieces: list[tuple[float, Trajectory]], times: list[float] | None) -> Trajectory:
    """Trajectories that follow on one another, each with its beginning; at given times only."""
    first = pieces[0][1]
    at = torch.cat([first.times[:1], *(begin + p.times[1:] for begin, p in pieces)])
    kept = torch.ones(len(at), dtype=torch.bool, device="cpu")
    if times is not None:
        wanted = torch.tensor(times, dtype=torch.float64, device="cpu")
        kept = ((at[:, None] - wanted).abs() <= 1e-9 * wanted[-1]).any(1)
    dtype = max((p.states.dtype for _, p in pieces), key=lambda d: d.is_complex)
    states = [first.states[:1], *(p.states[1:] for _, p in pieces)]
    error = None
    if all(p.error is not None for _, p in pieces):
        before = np.cumsum([0.0, *(float(p.error[-1]) for _, p in pieces)])
        parts = [b + p.error[1:] for b, (_, p) in zip(before, pieces, strict=False)]
        error = torch.cat([first.error[:1], *parts])[kept]
    return Trajectory(
        times=at[kept],
        states=torch.cat([s.to(dtype) for s in states])[kept],
        label=first.label,
        cost=dict(sum((Counter(p.cost) for _, p in pieces), Counter())),
        error=error,
    )
