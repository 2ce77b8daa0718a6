"""What happened: a run and its models, followed, and the same errors measured."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gdflows import flows
from gdflows.errors import ConvergenceError, IntegrationError, NonFiniteError, SingularityError
from gdflows.objective import Objective
from gdflows.trajectory import Trajectory
from gdflows.verdict.modes import linear
from gdflows.walking import descend, integrate
from gdflows.walking.sgd import sgd

FINER = 2  # steps of a stochastic flow in each of SGD's, at least,
STIFF = 0.5  # and so many that its fastest decay in each is no more than this
MOST = 32  # beyond, an equation is too stiff to be followed
LOST = (IntegrationError, NonFiniteError, ConvergenceError, SingularityError)


def measure(
    objective: Objective,
    theta: Tensor,
    lr: float,
    models: list[str],
    at: list[int],
    *,
    batch_size: int | None,
    replacement: bool,
    momentum: float,
    sharpest: float,
    rank: int,
    paths: int,
    seed: int,
) -> pd.DataFrame:
    """The errors of models, measured; see :meth:`gdflows.verdict.Validity.measured`."""
    looks = [0, *at]
    times = [lr * k for k in looks]
    noise, parts = None, FINER
    if batch_size is None:
        run = descend(objective, theta, lr, at[-1], momentum=momentum)
        mean, spread = run.states[looks], torch.zeros(len(looks), dtype=theta.dtype)
    else:
        noise = flows.PerSampleNoise(objective, batch_size, replacement=replacement)
        rate, _ = linear(
            flows.StochasticModifiedEquation, np.array([sharpest]), lr,
            covariance=0.0, order=2, beta=momentum,
        )  # fmt: skip
        needed = math.ceil(lr * sharpest * float(rate[0]) / STIFF)
        parts = min(max(FINER, needed), MOST)
        run = sgd(
            objective, theta, lr, at[-1], covariance=noise, momentum=momentum, parts=parts,
            paths=paths, seed=seed, at=looks, antithetic=True, keep="moments",
        )  # fmt: skip
        mean, spread = run.mean[:, : theta.numel()], run.variance[:, : theta.numel()].sum(1).sqrt()
    travelled = ((mean - theta).square().sum(1) + spread.square()).sqrt()
    rows = []
    for name in models:
        flow, settings = _made(name, objective, lr, momentum, noise, rank, parts)
        off, lost = [math.nan] * len(at), ""
        if isinstance(flow, flows.StochasticFlow) and needed > MOST:
            lost = f"{needed} parts of a step would be needed: it is too stiff"
        else:
            if isinstance(flow, flows.StochasticFlow):
                settings |= {"paths": paths, "seed": seed, "antithetic": True, "keep": "moments"}
            try:
                path = integrate(flow, theta, times=times, **settings)
            except LOST as e:
                path, lost = getattr(e, "partial", None), str(e).partition(".")[0]
            if isinstance(path, Trajectory) and momentum and path.states.is_complex():
                lost = "complex: of its points only sums with their conjugates are real"
            elif path is not None:
                off = _off(flow, path, mean, spread)
        for i, k in enumerate(at):
            error = float(off[i] / travelled[i + 1]) if i < len(off) else math.inf
            rows.append({"model": name, "step": k, "error": error, "failure": lost})
    return pd.DataFrame(rows)


def _made(name: str, E: Objective, lr: float, beta: float, noise, rank: int, parts: int):
    """A flow, and how it is followed."""
    fine = {"rtol": 1e-7}
    if name in ("NGF", "IGR", "order 2"):
        order = {"NGF": 0, "IGR": 1, "order 2": 2}[name]
        if beta:
            return flows.HeavyBall(E, lr, beta=beta, order=order), fine
        return flows.Truncated(E, lr, order), fine
    if name == "PF":
        if beta:
            return flows.MomentumPrincipalFlow(E, lr, beta=beta, tol=1e-6), {"rtol": 1e-5}
        return flows.PrincipalFlow(E, lr, tol=1e-6), {"rtol": 1e-5}
    if name == "rod":  # the rates of the one are up to 2/h, of the other, of order 1, up to 4/h
        rod = flows.MomentumRodFlow(E, lr, beta=beta, order=1) if beta else None
        step = lr / 4 if beta else lr / 2
        return rod or flows.PrincipalRodFlow(E, lr), {
            "method": "rk4",
            "step": step,
            "max_evaluations": 10**6,
        }
    if name == "stochastic rod":
        flow = flows.StochasticRodFlow(
            E, lr, batch_size=noise.batch_size, replacement=noise.replacement, rank=rank, beta=beta
        )
        # a swing that turns by a right angle in each step asks for shorter ones
        return flow, {"method": "rk4", "step": lr / 2 if beta else lr, "max_evaluations": 10**6}
    order = int(name[-1])
    flow = flows.StochasticModifiedEquation(E, lr, covariance=noise, order=order, beta=beta)
    return flow, {"step": lr / parts}


def _off(flow, path, mean: Tensor, spread: Tensor) -> list[float]:
    """How far mean and spread are off at each look but the first."""
    if isinstance(flow, flows.StochasticFlow):
        own, width = path.mean, path.variance.sum(1).sqrt()
    elif isinstance(flow, flows.StochasticRodFlow):
        own, width = path.states, flow.oscillation(path)
    else:
        states = flow.iterates(path)
        own = states.real if states.is_complex() else states
        width = torch.zeros(len(own), dtype=mean.dtype)
    n = len(own)
    apart = (own - mean[:n]).square().sum(1) + (width.to(spread) - spread[:n]).square()
    return list(np.sqrt(apart[1:].detach().cpu().double().numpy()))
