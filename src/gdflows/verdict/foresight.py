"""Which model of a run may be trusted, and for how long."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from torch import Tensor

from gdflows.arguments import number, whole
from gdflows.curvature.eigen import require_real
from gdflows.errors import InputError
from gdflows.flows.base import check_lr
from gdflows.flows.modified import check_beta
from gdflows.noise import batch_factor
from gdflows.objective import FlatModule, Objective
from gdflows.objective.samples import Samples
from gdflows.verdict.models import NOISY, Settings, defect, error, names, predicted
from gdflows.verdict.modes import Moments, edge, stepped
from gdflows.verdict.report import Validity
from gdflows.verdict.scaling import scaling
from gdflows.verdict.spectrum import Seen, look
from gdflows.walking.start import starting_point

FARTHEST = 1000  # steps that are looked ahead unless told otherwise
LEAST = 10


def validity(
    objective: Objective,
    theta: Tensor,
    lr: float,
    batch_size: int | None = None,
    momentum: float = 0.0,
    *,
    replacement: bool = False,
    tol: float = 0.05,
    steps: int | None = None,
    top: int = 5,
    products: int = 25,
    probes: int = 3,
    seed: int = 0,
) -> Validity:
    r"""Which continuous-time model of a run may be trusted from here, for how long, and why.

    Parameters
    ----------
    objective : Objective
        The loss; with ``batch_size`` a module's, a mean over its samples.
    theta : Tensor
        Where the run is, shape ``(D,)``, real. With momentum it starts there from rest.
    lr : float
        The learning rate h.
    batch_size : int, optional
        B. Without it, or with all the data, gradients are full.
    momentum : float
        β of heavy ball in torch's form. Of its models those of two points have a velocity, and
        start from rest as the run does.
    replacement : bool
        Whether a batch may hold a sample more than once.
    tol : float
        The error that is still called none, as a share of the distance travelled.
    steps : int, optional
        How many steps to look ahead. By default as far as the estimate reaches, 10 to 1,000.
    top : int
        How many of the sharpest directions are looked at one by one, with the noise of slope and
        curvature along each; also the rank of the stochastic rod that is judged.
    products : int
        Hessian-vector products for the gradient's part along the others; half as many for each
        probe of the noise.
    probes : int
        Random vectors for the noise in all but the sharpest directions.
    seed : int
        Of those.

    Returns
    -------
    Validity
        ``table`` says it, ``curves`` holds the errors step by step, ``scaling`` the batch sizes
        over which the learning rate may be scaled, ``plot()`` draws, and ``measured()`` follows
        run and models and looks whether it is true.

    Raises
    ------
    InputError
        For a batch larger than the data, a loss that has no samples, a learning rate or momentum
        that is none, a complex or half-precision θ, a point where nothing moves.
    NonFiniteError
        Where the loss or its gradient is not finite.

    Notes
    -----
    **The error.** A model says a mean :math:`m_M` and a spread :math:`s_M`, the root of the
    total variance, of the point after k steps; the run has m and s. The error is

    .. math:: e_k = \sqrt{\frac{\|m_M - m\|^2 + (s_M - s)^2}{\|m - \theta_0\|^2 + s^2}} ,

    below which no root-mean-square distance of the two over that travelled can be, however they
    are coupled: a large one condemns a model, a small one is necessary. In full batch it is the
    distance of model and run over that of the run from θ₀.

    **The estimate** replaces the loss by its second-order Taylor polynomial, in which all that
    the Hessian does is known step by step, and adds what the third derivative does to one step.
    Along the ``top`` eigenvectors it is done exactly; all other directions are seen through the
    Gauss quadratures of Lanczos' method, from the gradient and from random sums of the samples'
    gradients. It reaches as far as curvature and noise along the path stay what they are: for
    :math:`(1 - \beta)/h` times the smaller of :math:`\|Hg\|/\|\nabla^3E[g, g]\|` and
    :math:`\operatorname{tr}\Sigma/|g\cdot\nabla\operatorname{tr}\Sigma|` steps, at which the
    one or the other has changed by its own size at the present pace. Beyond nothing is said. Left
    out are the noise of a batch's Hessian in all but the ``top`` directions, and *between* any
    two; the force of the spread, ½∇³E[Σ], on the mean; and third moments of the noise.

    **The edge.** Where hλ is to come to 2(1 + β) before that, at the rate
    :math:`-\nabla\lambda\cdot g` of the gradient flow, flows of one point are trusted up to there
    only: at the edge itself the modified equation has a pole.

    **Costs** one gradient, some 20 Hessian-vector products for the eigenvectors (more for more
    than five), ``products`` + 2, with batches half as many for each of ``probes``, five
    contractions of the third derivative, and with batches the gradients of all samples twice,
    products of them once, and their slopes along ``top`` directions: in all 50 to 110 products;
    up to 200 parameters the eigenvectors cost one for each. ``cost`` has the count.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.problems.quadratic([1.0, 0.01])
    >>> seen = gf.validity(E, torch.tensor([1.0, 10.0]).double(), lr=0.5)
    >>> table = seen.table.set_index("model")
    >>> int(table.loc["NGF", "from"]), int(table.loc["PF", "from"])
    (6, 1)
    """
    if not isinstance(objective, Objective):
        raise InputError(
            f"validity needs an Objective, got {type(objective).__name__}: for a torch module "
            "gdflows.Objective.from_module(model, loss, data)."
        )
    h, beta = check_lr(lr), check_beta(momentum, "momentum")
    tol = number(tol, "tol", positive=True)
    top, products, probes = whole(top, "top"), whole(products, "products"), whole(probes, "probes")
    theta = require_real(starting_point(objective, theta))
    noisy = _noisy(objective, batch_size, replacement)
    before = dict(objective.cost)
    seen = look(
        objective, theta, lr=h / (1 + beta), batch_size=batch_size if noisy else None,
        replacement=replacement, top=top, products=products, probes=probes, seed=seed,
    )  # fmt: skip
    cost = {k: n - before.get(k, 0) for k, n in objective.cost.items()}
    if not seen.gradient and not seen.noise:
        raise InputError("The gradient is zero here: nothing moves, and every model is right.")
    reach = _reach(seen) * (1 - beta) / h
    ahead = min(max(reach, LEAST), FARTHEST) if steps is None else whole(steps, "steps")
    settings = Settings(h, beta, noisy, top)
    truth = stepped(seen.modes, h, int(ahead), beta)
    to_edge = _to_edge(seen, h, beta)
    rows, curves = [], []
    for name in names(settings):
        said = predicted(name, seen.modes, settings, int(ahead), truth)
        off = defect(name, seen, settings, truth)
        e = error(said.mean, said.variance, truth, off)
        limits = _limits(said, truth, off, h * seen.modes.curvature)
        rows.append(_row(name, e, limits, tol, reach, to_edge))
        curves.append(pd.DataFrame({"model": name, "step": np.arange(1, len(e) + 1), "error": e}))
    edges, used = edge(seen.modes, h, beta)
    sharp = slice(0, seen.modes.top)
    table = None
    if noisy:
        known = int(rows[0]["known"])
        table = scaling(seen, h, beta, batch_size, replacement, known, tol)
    return Validity(
        rows=pd.DataFrame(rows),
        curves=pd.concat(curves, ignore_index=True),
        scaling=table,
        lr=h,
        momentum=beta,
        batch_size=batch_size if noisy else None,
        replacement=replacement,
        tol=tol,
        sharpness=h * seen.modes.curvature[sharp],
        edge=float(edges[0]),
        used=float(used[sharp].max()),
        to_edge=to_edge,
        reach=reach,
        noise=_ratio(seen, batch_size, replacement) if noisy else 0.0,
        noise_scale=seen.noise / seen.gradient**2 if seen.gradient else math.inf,
        cost=cost,
        objective=objective,
        theta=theta,
        rank=min(top, theta.numel()),
    )


def _reach(seen: Seen) -> float:
    """The time for which curvature and noise along the path stay what they are."""
    if seen.turning and not seen.moved:
        return 0.0
    pace = max(seen.turning / seen.moved if seen.turning else 0.0, seen.fading)
    return 1 / pace if pace else math.inf


def _noisy(objective: Objective, batch_size, replacement: bool) -> bool:
    """Whether batches are drawn; refuses those that cannot be."""
    if batch_size is None:
        if replacement:
            raise InputError("replacement is for minibatches: give batch_size.")
        return False
    size = whole(batch_size, "batch_size")
    if not isinstance(objective, FlatModule):
        raise InputError(
            "Batches are drawn from samples, and this objective has none: make it with "
            "gdflows.Objective.from_module, or leave batch_size out."
        )
    return batch_factor(Samples(objective).size, size, replacement=replacement) > 0


def _ratio(seen: Seen, batch_size: int, replacement: bool) -> float:
    factor = batch_factor(seen.samples, batch_size, replacement=replacement)
    return factor * seen.noise / seen.gradient**2 if seen.gradient else math.inf


def _to_edge(seen: Seen, h: float, beta: float) -> float:
    """In how many steps hλ comes to the edge at the present pace; 0 beyond it."""
    soonest = math.inf
    for lam, pace in zip(seen.modes.curvature, seen.sharpening, strict=False):
        gap = 2 * (1 + beta) - h * float(lam)
        if gap <= 0:
            return 0.0
        if pace > 0:
            soonest = min(soonest, gap * (1 - beta) / (h**2 * pace))
    return soonest


def _limits(said: Moments, truth: Moments, off: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Squares of what the error is made of at each step, ``(K, 4)``."""
    with np.errstate(over="ignore", invalid="ignore"):
        apart = (said.mean - truth.mean) ** 2
        spread = np.sqrt(np.clip(said.variance, 0, None).sum(1)) - np.sqrt(truth.variance.sum(1))
        parts = [apart[:, x <= 1].sum(1), apart[:, x > 1].sum(1), off**2, spread**2]
    return np.nan_to_num(np.stack(parts, 1)[1:], nan=np.inf)


LIMITS = ("drift below hλ = 1", "swing beyond hλ = 1", "third derivative", "spread")


def _row(name, e, limits, tol: float, reach: float, to_edge: float) -> dict:
    """From which step to which a model is trusted, and what ends it."""
    known = max(1, int(min(reach, len(e))))
    fine = np.concatenate([[False], e[:known] <= tol, [False]])
    starts = np.flatnonzero(~fine[:-1] & fine[1:]) + 1
    ends = np.flatnonzero(fine[:-1] & ~fine[1:])
    row = {"model": name, "first": e[0], "last": e[known - 1], "known": known}
    if not len(starts):
        row |= {"from": 0, "until": 0, "ends": "never within the tolerance"}
        return row | {"limit": LIMITS[int(limits[:known].sum(0).argmax())]}
    best = int((ends - starts).argmax())
    begin, end = int(starts[best]), int(ends[best])
    why = "not foreseen beyond" if end == known else "error"
    if 0 < to_edge < end and name not in ("rod", "stochastic rod"):
        end, why = max(int(to_edge), begin), "the edge"
    at = begin - 2 if begin > 1 else min(end, known - 1)
    return row | {
        "from": begin,
        "until": end,
        "ends": why,
        "limit": LIMITS[int(limits[at].argmax())],
    }


__all__ = ["NOISY", "validity"]
