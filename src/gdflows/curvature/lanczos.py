"""The largest eigenvalues of an operator of which nothing is known."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gdflows.curvature.krylov import Krylov
from gdflows.curvature.subspace import Solved, Space, lengths, relative_to
from gdflows.curvature.units import Operator, alike
from gdflows.errors import ConvergenceError

NARROW = 0.02  # relative gap between neighbouring eigenvalues that a first search reckons with
SEEDS = 10**6  # of further starts; those of first ones are below
UNLIKELY = 0.01  # a random vector holds so little of a given direction in one of 125 cases
REPEATED = 0.05  # and so little in one of 25: for a look that is repeated from time to time


def largest(
    product: Operator,
    start: Tensor,
    k: int,
    tol: float,
    *,
    keep: int | None = None,
    share: float = 1.0,
    most: int = 1000,
) -> Solved:
    """The k largest eigenvalues of a symmetric operator, from one vector.

    Parameters
    ----------
    product : Operator
        On one vector ``(D,)``.
    start : Tensor
        Shape ``(D,)``, not zero.
    k : int
        How many, k ≤ D.
    tol : float
        Accuracy asked of each eigenvalue, relative to itself or, if that is larger, to a
        ten-thousandth of the operator's norm.
    keep : int, optional
        Ritz vectors to return; default k.
    share : float
        How much of the start's square is a random vector's.
    most : int
        Products to spend.

    Raises
    ------
    ConvergenceError
        If ``most`` products do not suffice.

    Notes
    -----
    A residual that is small tells that an eigenvalue is near, not that it is the largest. For k = 1
    the search goes on until the start's spectral measure has no room for as much of an eigenvector
    above as a random vector holds: see ``krylov.largest_mass``.

    One vector's Krylov space holds one eigenvector of each eigenvalue, and for a time one between
    two eigenvectors whose eigenvalues are closer together than the square root of
    ``tol * NARROW``. So for k > 1 there is a second look, from a random vector orthogonal to all
    that was found, until something larger turns up (then from another one), or there is no room
    for it in that vector's measure.
    """
    space, keep = Krylov(product, start), keep or k
    probe, seen = None, k == 1  # the second look, and whether it is over
    which = -1
    while True:
        space.grow(which)
        values, columns = np.linalg.eigh(space.small)
        values, columns = values[::-1], columns[:, ::-1]
        wanted = values[:k]
        norms, shares = space.outside(columns[:, :k])
        scale = relative_to(wanted, np.abs(values).max())
        # How near the next eigenvalue is, the first Ritz values do not tell: a narrow gap is
        # assumed until it turns out narrower still.
        lowest = values[k] if len(values) > k else -np.abs(values).max()
        gaps = np.minimum(wanted - lowest, NARROW * np.abs(wanted))
        errors = norms**2 / np.maximum(gaps, tol * scale) / scale
        done = len(wanted) == k and (errors < tol).all()
        which = -1
        if probe is not None and (wanted[-1] > probe.level or probe.found(space)):
            probe, seen = None, False
        elif probe is not None:
            seen = seen or probe.nothing(space)
        if done and k == 1 and space.leads:
            level = wanted[0] + max(tol, (NARROW * tol) ** 0.5) * scale[0]
            done = space.room(level) < share * UNLIKELY**2 / start.numel()
        if done and (seen or space.full):
            break
        if done and probe is None:
            probe = _Probe(space, wanted[-1], tol * scale[-1])
            space.start(_random(space, start))
        elif not done and (probe is None or seen) and len(wanted) == k and len(space.leads) > 1:
            which = int(np.abs(shares[:, errors.argmax()]).argmax())
        if not space.leads and not space.start(_random(space, start)):
            break
        if space.m >= most:
            raise ConvergenceError(
                f"{space.m} Hessian-vector products reached a relative accuracy of "
                f"{errors.max():.1g}, not {tol:g}. Ask for less, or for fewer eigenpairs."
            )
    while space.m < keep and not space.leads and space.start(_random(space, start)):
        space.grow()
    if len(columns) < space.m:
        values, columns = np.linalg.eigh(space.small)
        values, columns = values[::-1], columns[:, ::-1]
        norms, _ = space.outside(columns[:, :k])
    n = min(keep, space.m)
    rows = space.combine(alike(torch.from_numpy(columns[:, :n].T.copy()), start))
    kept = Space(rows, space.images(columns[:, :n]))
    found = torch.from_numpy(values[:k].copy())
    norm = float(np.abs(values).max())
    return Solved(found, lengths(kept.residuals(found)), kept, space.m, norm).times(product.unit)


class _Probe:
    """A second look, from a random vector, for what the first did not see.

    Parameters
    ----------
    space : Krylov
        The next dimension will be the first of the look.
    smallest, margin : float
        The k-th eigenvalue found, and how far above it another one would matter; in units of the
        operator.
    """

    def __init__(self, space: Krylov, smallest: float, margin: float, unlikely: float = UNLIKELY):
        self.first, self.level, self.margin = space.m, smallest + margin, margin
        self.unlikely = unlikely

    def found(self, space: Krylov) -> bool:
        """Whether something larger than the k-th eigenvalue has turned up."""
        return self._top(space)[0] > self.level

    def nothing(self, space: Krylov) -> bool:
        """Whether nothing larger can be there any more, but by a rare accident."""
        if space.m == self.first:
            return False
        if not space.leads or (space.leads[-1].origin or 0) < self.first:
            return True  # the look has seen all that there is
        top, norm = self._top(space)
        if top > self.level - 2 * self.margin and norm < self.margin:
            return True  # it has met another copy of the k-th
        room = space.room(self.level, self.first)
        return room < self.unlikely**2 / (space.dim - self.first)

    def _top(self, space: Krylov) -> tuple[float, float]:
        if space.m == self.first:
            return -np.inf, 0.0
        values, vectors = np.linalg.eigh(space.small[self.first :, self.first :])
        last = space.leads[-1].length if space.leads else 0.0
        return values[-1], last * abs(vectors[-1, -1])


def hidden(
    product: Operator, known: Tensor, smallest: float, margin: float, seed: int, most: int = 1000
) -> tuple[bool, int]:
    """Whether a symmetric operator has a large eigenvalue beside known eigenvectors.

    Parameters
    ----------
    product : Operator
        On one vector ``(D,)``.
    known : Tensor
        Orthonormal rows, ``(n, D)``.
    smallest, margin : float
        What is looked for: an eigenvalue above ``smallest + margin``.
    seed : int
        Of the random vector that is looked from.
    most : int
        Products to spend.

    Returns
    -------
    bool, int
        The answer, a wrong "no" with probability 0.04 at most, and the products spent.
    """

    def beside(v: Tensor) -> Tensor:
        w = product(v)
        return w - (known @ w) @ known

    generator = torch.Generator(device="cpu").manual_seed(SEEDS + seed)
    start = torch.randn(known.shape[1], generator=generator, dtype=torch.float64, device="cpu")
    start = alike(start, known)
    if len(known) == known.shape[1]:
        return False, 0
    for _ in range(2):
        start = start - (known @ start) @ known
    space = Krylov(Operator(beside), start)
    space.grow()
    unit = product.unit * space.product.unit
    probe = _Probe(space, smallest / unit, margin / unit, REPEATED)
    probe.first = 0
    while space.m < most and not probe.found(space):
        if probe.nothing(space):
            return False, space.m
        space.grow()
    return True, space.m


def _random(space: Krylov, like: Tensor) -> Tensor:
    generator = torch.Generator(device="cpu").manual_seed(SEEDS + space.m)
    noise = torch.randn(like.numel(), generator=generator, dtype=torch.float64, device="cpu")
    return alike(noise, like)
