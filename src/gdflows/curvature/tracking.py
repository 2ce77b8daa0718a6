"""The top of the Hessian's spectrum along a path, for a few products a step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gdflows.arguments import number, whole
from gdflows.curvature.eigen import (
    Eigenpairs,
    cold,
    pairs_of,
    require_real,
    scaled_product,
    whole_spectrum,
)
from gdflows.curvature.history import History
from gdflows.curvature.lanczos import hidden
from gdflows.curvature.subspace import Solved, Space, improve
from gdflows.curvature.units import Operator, double
from gdflows.errors import InputError
from gdflows.lengths import largest_entry, length
from gdflows.objective import Objective, Point

FORGET = 0.7  # how slowly the size of the forecasts' errors is forgotten
SAFETY = 3.0  # the estimate of an error, made with old images, is asked to be that much smaller
LOOSER = 10.0  # accuracy of the first guard, which may overtake, beside that of the k wanted
NEAR = 0.05  # a guard foretold so close (relatively) below the k-th is computed at each point,
WRONG = 3.0  # and one within so many of the last forecasts' errors,
SELDOM = 5  # and any other one so often
DENSE = 4  # for so many parameters a vector kept, the whole Hessian is as cheap
EXTRA = 2  # vectors beyond the k whose exact images are kept of each point


@dataclass(frozen=True, eq=False)
class Tracked(Eigenpairs):
    """Eigenpairs along a path.

    Attributes
    ----------
    values, vectors, residuals, hvps
        As in :class:`Eigenpairs`; ``hvps`` were spent on this update, checks included.
    since_check : int
        Updates since the last check, which started from a random vector and would have found a
        larger eigenvalue; 0 if this one was checked.
    following : float
        An estimate, less accurate, of the eigenvalue after the k-th; −∞ if there is none. It is
        computed where it may be within 5 % of the k-th, and at every fifth update, and else
        foretold.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> tracker = gf.curvature.Tracker(gf.problems.quadratic([1.0, 3.0]), k=1)
    >>> seen = tracker.update(torch.ones(2).double())
    >>> round(float(seen.values[0]), 3), seen.since_check
    (3.0, 0)
    """

    since_check: int
    following: float


class Tracker:
    """Follow the k largest eigenvalues of the Hessian along a path.

    Consecutive Hessians are alike. The tracker keeps the eigenvectors of the last few points with
    their images under the Hessians of then. From them it forecasts the Hessian at the next
    point: θ is written as a combination of the points before, and what is known of their Hessians
    is combined alike (``gdflows.curvature.history``). That takes no product. The k
    products with the forecast eigenvectors then give eigenvalues whose errors are of second order
    in the forecast's, and residuals; where these are too large it corrects by Davidson's method:
    each product is spent on the direction in which, judged by the forecast, the eigenvalue has
    most to gain.

    Parameters
    ----------
    objective : Objective
        The loss.
    k : int
        How many eigenvalues.
    tol : float
        Relative accuracy asked of them.
    guards : int
        Further eigenvectors kept. If several eigenvalues lie close below the k-th, more guards
        keep them apart. With k = 1 and a single guard the first update is a quick one: it does
        not look a second time for an eigenvalue hidden from the first.
    check_every : int
        Updates between two checks: looks from a random vector at what lies beside the
        eigenvectors that are followed, which end when nothing larger can be hidden there (but
        with probability 0.04).
    points : int
        How many points of the path are kept for the forecast. Four are worth their memory where
        every step is looked at. Where the looks are far apart, or memory is scarce: one, whose
        eigenvectors and images are then taken as they were.

    Notes
    -----
    An eigenvalue that occurs more than once is followed as often. If more than one
    point is kept, an eigenvector keeps its sign from one update to the next. Where there are no
    more than four parameters to each vector kept, every update computes the whole Hessian.

    Memory: between two updates at most ``points (2 k + 5) + 2 (k + guards)`` vectors of the size
    of θ, with ``points=1`` at most ``2 (k + guards)``. An update makes one more copy of them.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.problems.quadratic(torch.arange(1.0, 301.0))
    >>> tracker = gf.curvature.Tracker(E)
    >>> round(float(tracker.update(torch.ones(300)).values[0]))
    300
    """

    def __init__(
        self,
        objective: Objective,
        k: int = 1,
        *,
        tol: float = 1e-3,
        guards: int = 3,
        check_every: int = 50,
        points: int = 4,
    ):
        k, tol = whole(k, "k"), number(tol, "tol", positive=True)
        guards, check_every = whole(guards, "guards"), whole(check_every, "check_every")
        self.objective, self.k, self.tol = objective, k, tol
        self.guards, self.check_every = guards, check_every
        self._history = History(points)
        self._wrong = 1.0  # relative errors of the last forecasts, the largest, slowly forgotten
        self._updates = 0
        self._guard = (0, -math.inf)  # k, and the eigenvalue after the k-th, when last computed

    def update(self, theta: Tensor | Point, *, scale: Tensor | None = None) -> Tracked:
        """The eigenpairs at the next point of the path.

        Parameters
        ----------
        theta : Tensor or Point
            Where, shape ``(D,)``; a Point if its gradient is wanted for other things too.
        scale : Tensor, optional
            As in :func:`top_eigenpairs`.

        Returns
        -------
        Tracked

        Raises
        ------
        InputError
            For a point of another objective, with fewer than k parameters, a complex one, or
            one in half precision.
        ConvergenceError, NonFiniteError
            As in :func:`top_eigenpairs`.
        """
        point = theta if isinstance(theta, Point) else self.objective.at(theta)
        if point.objective is not self.objective:
            raise InputError("This point belongs to another objective than the tracker.")
        theta, keep = require_real(point.theta), self.k + self.guards
        if theta.numel() < self.k:
            raise InputError(f"{self.k} eigenvalues of {theta.numel()} parameters are too many.")
        product = scaled_product(point, scale)
        if theta.numel() <= DENSE * keep:
            solved = whole_spectrum(product, theta)
            values = solved.values
            following = float(values[self.k]) if len(values) > self.k else -math.inf
            pairs = pairs_of(solved, self.k, 1, theta)
            return Tracked(**vars(pairs), since_check=0, following=following)
        since = self._updates % self.check_every
        self._updates += 1
        size = 1.0 if scale is None else length(scale) ** 2
        known = self._history.forecast(theta, size, keep) if self._history.rest else None
        if known is None or len(known.rows) < self.k or not largest_entry(known.images[0]):
            solved = cold(product, point, self.k, self.tol, keep=keep)
            since, below = 0, -math.inf
        else:
            foretold = double((known.rows * known.images).sum(1))
            last, below = float(foretold[self.k - 1]), -math.inf
            # One that overtakes by less than the accuracy asked for does no harm.
            doubt = max(NEAR, WRONG * self._wrong) - min(self.tol, NEAR)
            near = last - doubt * abs(last)
            watch = len(known.rows) > self.k
            if watch:
                guess = float(foretold[self.k])
                close = max(self._guard[1], guess) > near
                watch = self._guard[0] != self.k or close or since % SELDOM == 0
                below = -math.inf if watch else guess
            tol = torch.full(
                (self.k + watch,), self.tol / SAFETY, dtype=torch.float64, device="cpu"
            )
            tol[self.k :] *= LOOSER
            solved = improve(product, known, self.k + watch, tol)
            self._judge(foretold, solved)
            if since == 0:
                solved = self._checked(product, point, solved)
        if self._history.points:
            solved = replace(solved, kept=solved.kept.facing(self._history.points[-1][1]))
        self._history.add(theta, solved.kept, known, size, exact=self.k + EXTRA, keep=keep)
        pairs = pairs_of(solved, self.k, 1, theta)
        kept = solved.kept
        if len(kept.rows) > self.k:  # what a subspace shows is no more than the truth
            below = max(below, float(torch.dot(kept.rows[self.k], kept.images[self.k])))
        if below > -math.inf:
            self._guard = self.k, below
        following = self._guard[1] if self._guard[0] == self.k else -math.inf
        return Tracked(**vars(pairs), since_check=since, following=following)

    def state_dict(self) -> dict:
        """Everything that the next update depends on."""
        rest = {"guard": self._guard, "updates": self._updates, "wrong": self._wrong}
        return {"history": self._history.state_dict(), **rest}

    def load_state_dict(self, state: dict) -> None:
        """Go on from where :meth:`state_dict` was taken, to the same bits.

        A state of a former version, which kept two points and no θ, begins a new history.
        """
        if "history" in state:
            self._history.load_state_dict(state["history"])
        else:
            self._history = History(self._history.most)
            if state["past"]:
                self._history.rest = Space(*state["past"][-1])
            self._history.size = state.get("sizes", [math.nan])[-1]
        self._updates, self._guard = state["updates"], tuple(state["guard"])
        self._wrong = state.get("wrong", 1.0)

    def _judge(self, foretold: Tensor, solved: Solved) -> None:
        """How far off the forecast eigenvalues were; the guard's too, where it was computed."""
        if not solved.norm:
            return
        n = len(solved.values)  # k, or one more
        scale = solved.values.abs().clamp_min(1e-4 * solved.norm)
        scale[self.k :] = scale[self.k - 1]  # the guard matters to the k-th
        wrong = float(((foretold[:n] - solved.values).abs() / scale).max())
        self._wrong = max(FORGET * self._wrong, min(wrong, 1.0))

    def _checked(self, product: Operator, point: Point, solved: Solved) -> Solved:
        """The same, or the better of two once a random look has met something larger."""
        smallest = float(solved.values[self.k - 1])
        margin = self.tol * max(abs(smallest), 1e-4 * solved.norm)
        missed, spent = hidden(product, solved.kept.rows, smallest, margin, self._updates)
        spent += solved.products
        if missed:
            keep = self.k + self.guards
            fresh = cold(product, point, self.k, self.tol, keep=keep, seed=self._updates)
            spent += fresh.products
            values = solved.values[: self.k]
            if bool((fresh.values > values + self.tol * values.abs()).any()):
                solved = fresh
        return replace(solved, products=spent)
