"""How far gradient descent may be from the gradient flow: the Fundamental Theorem along a path."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gdflows.arguments import whole
from gdflows.curvature.eigen import extreme_eigenpairs
from gdflows.errors import InputError
from gdflows.lengths import length
from gdflows.objective import Objective
from gdflows.trajectory import Trajectory


def drift_bound(
    objective: Objective,
    descent: Trajectory,
    flow: Trajectory,
    *,
    every: int = 1,
    points: int = 3,
) -> pd.DataFrame:
    r"""The distance of gradient descent from the gradient flow, and three bounds on it.

    With :math:`-\lambda_{\min} \le \ell` on the segment between the two,
    :math:`\Lambda = \int \ell`, and a defect of at most
    :math:`\delta(s) = L_k \gamma_k (s - t_k)` in step k [1]_,

    .. math:: \|\theta_k - y(t)\| \le e^{\Lambda(t)} \int_0^t e^{-\Lambda(s)} \delta(s)\,ds .

    Parameters
    ----------
    objective : Objective
        The loss, real.
    descent : Trajectory
        Of :func:`descend`, with every step kept: T states at the times 0, h, ..., (T - 1) h.
    flow : Trajectory
        The gradient flow from the same start at the same times:
        ``integrate(NGF(E), start, times=descent.times)``.
    every : int
        Eigenvalues are computed at every so many steps, and interpolated linearly between.
    points : int
        How many points of each segment are looked at for the smallest eigenvalue, the two ends
        among them; at least 2.

    Returns
    -------
    pandas.DataFrame
        A row a step, indexed by flow time ``t``. Measured: ``gap``, the distance; ``rate``, the
        rate :math:`-\langle w, \bar H w\rangle/\|w\|^2` (a time) at which the gap w grows by
        itself, NaN while w = 0; ``concavity``, ℓ; ``smoothness``, L; ``gradient``, γ; and
        ``defect``, :math:`\|g(\theta_{k+1}) - g(\theta_k)\|/h`, which Lγ bounds. Bounds:
        ``crude``, :math:`e^{\int\max(\ell, 0)}L\gamma\,th/2` with the largest L and γ up to
        then; ``bound``, the theorem's; ``posterior``, the same with the defect as measured. And
        ``met``: the same once more with the rate in place of ℓ, which is no bound but shows what
        worst cases that do not meet have cost.

    Raises
    ------
    InputError
        If the two do not start together or are at different times, these are not 0, h, 2h, ...,
        ``descent`` is not plain gradient descent on this loss, ``flow`` not the gradient flow, or
        ``points`` is below 2.

    Notes
    -----
    A measurement, not a proof: ℓ and L are what was seen at some points. L is taken at the
    polygon's corners, the larger of a side's two. Up to 500 parameters the Hessian is
    diagonalised whole; beyond that each eigenvalue takes some tens of Hessian-vector products.

    References
    ----------
    .. [1] E. Hairer, S. P. Nørsett and G. Wanner, "Solving Ordinary Differential Equations I",
       2nd ed., Springer, 1993, theorem I.10.6.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.problems.quadratic([1.0, 3.0])
    >>> gd = gf.descend(E, E.theta0, lr=0.1, steps=20)
    >>> y = gf.integrate(gf.flows.NGF(E), E.theta0, times=gd.times, rtol=1e-10)
    >>> seen = gf.drift_bound(E, gd, y)
    >>> bool((seen["gap"] <= seen["bound"]).all()), round(float(seen["concavity"].max()), 6)
    (True, -1.0)
    """
    h = _step(descent, flow)
    every, points = whole(every, "every"), whole(points, "points", 2)
    steps = len(descent) - 1
    away = descent.states - flow.states
    gradients = torch.stack([objective.grad(theta) for theta in descent.states])
    _plain(descent, gradients, h)
    ahead = objective.grad(descent.states[-1] - h * gradients[-1])
    changes = torch.cat([gradients, ahead[None]]).diff(dim=0)
    of_flow = torch.stack([objective.grad(theta) for theta in flow.states])
    gap = _array(torch.linalg.vector_norm(away, dim=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = -_array((away * (gradients - of_flow)).sum(1)) / gap**2

    looked = np.unique([*range(0, steps + 1, every), steps])
    ends = np.array([_extremes(objective, descent, flow, k, points) for k in looked])
    everywhere = np.arange(steps + 1)
    concavity, smooth = (np.interp(everywhere, looked, column) for column in ends.T)
    smoothness = np.maximum(smooth, np.append(smooth[1:], smooth[-1]))
    gamma = _array(torch.linalg.vector_norm(gradients, dim=1))
    defect = _array(torch.linalg.vector_norm(changes, dim=1)) / h

    times = _array(descent.times)
    growth = np.exp(h * np.concatenate([[0], np.maximum(concavity, 0)[:-1].cumsum()]))
    worst = np.maximum.accumulate(smoothness) * np.maximum.accumulate(gamma)
    columns = {
        "gap": gap,
        "rate": np.where(gap > 0, rate, np.nan),
        "concavity": concavity,
        "smoothness": smoothness,
        "gradient": gamma,
        "defect": defect,
        "crude": growth * worst * times * h / 2,
        "bound": _carried(concavity, smoothness * gamma, h),
        "posterior": _carried(concavity, defect, h),
        "met": _carried(np.append(rate[1:], 0.0), defect, h),
    }
    return pd.DataFrame(columns, index=pd.Index(times, name="t"))


def _carried(rate: np.ndarray, growth: np.ndarray, h: float) -> np.ndarray:
    """The theorem's bound at each step: errors grow at a rate, defects by so much a time."""
    bound = [0.0]
    for r, d in zip(rate[:-1], growth[:-1], strict=True):
        bound.append(np.exp(r * h) * bound[-1] + np.exp(max(r, 0) * h) * d * h**2 / 2)
    return np.array(bound)


def _extremes(objective: Objective, descent: Trajectory, flow: Trajectory, k: int, points: int):
    """(ℓ on the segment at step k, L at gradient descent)."""
    weights = np.linspace(0.0, 1.0, points)
    lows = []
    for weight in weights:
        point = objective.at(torch.lerp(flow.states[k], descent.states[k], float(weight)))
        lows.append(float(extreme_eigenpairs(point, 1, "SA", 1e-4).values[0]))
    top = float(extreme_eigenpairs(point, 1, "LA", 1e-4).values[0])  # the last is descent's
    return -min(lows), max(top, -lows[-1])


def _step(descent: Trajectory, flow: Trajectory) -> float:
    """The learning rate, if the two belong together."""
    descent.distance(flow)  # refuses different times
    if flow.label != "NGF":
        raise InputError(
            f"drift_bound compares with the gradient flow, got a path of '{flow.label}': make it "
            "with integrate(NGF(objective), start, times=descent.times)."
        )
    times = descent.times
    if len(times) < 2 or not torch.allclose(
        times, torch.arange(len(times), dtype=times.dtype, device=times.device) * times[1]
    ):
        raise InputError(
            f"drift_bound wants gradient descent at the times 0, h, 2h, ...; '{descent.label}' is "
            "not: let descend keep every step (every=1)."
        )
    apart = float(torch.linalg.vector_norm(descent.states[0] - flow.states[0]))
    if apart > 0:
        raise InputError(f"The two trajectories start {apart:.2g} apart: start them together.")
    return float(times[1])


def _plain(descent: Trajectory, gradients: Tensor, h: float) -> None:
    """Refuses a path with momentum, noise or of another loss: the theorem is not about it."""
    moved = descent.states.diff(dim=0)
    missed = length(moved + h * gradients[:-1])
    rounding = 1e3 * torch.finfo(moved.dtype).eps * length(descent.states)
    if missed > rounding:
        raise InputError(
            f"'{descent.label}' is not plain gradient descent on this loss: its steps differ from "
            f"-h grad E by {missed:.1e} in all. Make it with descend(objective, start, lr, steps)."
        )


def _array(values: Tensor) -> np.ndarray:
    return values.detach().cpu().double().numpy()
