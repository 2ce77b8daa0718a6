"""What the Hessians at earlier points tell of the one at the next."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from gdflows.arguments import whole
from gdflows.curvature.subspace import Space
from gdflows.curvature.units import alike, double
from gdflows.errors import NonFiniteError
from gdflows.lengths import largest_entry, power

RIDGE = 0.01  # on the weights, relative to the square of the distance to the nearest point
ALIKE = 2.0  # a scale that is larger or smaller by more has scaled the old images too
LEAST = 0.1  # of an old vector, what must lie outside the new ones for it to be kept


class History:
    r"""Products with the Hessian at the last few points, and a forecast of the next Hessian.

    To first order the Hessian is an affine function of θ. If the next point is nearly a
    combination of earlier ones, :math:`\theta \approx \sum_j w_j \theta_j` with
    :math:`\sum_j w_j = 1`, then H(θ) is nearly the same combination of their Hessians. That
    covers drift, for which the weights extrapolate, and the swing of an optimiser at its edge,
    whose weights prefer the point before the last.

    Of each :math:`H_j` only products with a few vectors are known. It is taken for the matrix
    nearest to a common one (Powell's symmetric update, in the span of all the vectors) that has
    these products, so that the weights act on what was seen and not on what was guessed: a
    forecast made of forecasts would not be stable.

    Parameters
    ----------
    most : int
        Points to keep, at least one. A plane of drift and oscillation takes three; one more is for
        a second oscillation. With one there is nothing to combine: the forecast is what was best
        known at the last point, and only that is kept.

    Attributes
    ----------
    points : list of (Tensor, Space, float)
        θ, vectors with exact images, and the size of the scale that belongs to them; latest last.
    rest : Space or None
        The best vectors of the last point; some of their images are older, or forecasts.
    size : float
        Of the last point's scale.
    """

    def __init__(self, most: int = 4):
        self.most = whole(most, "points")
        self.points: list[tuple[Tensor, Space, float]] = []
        self.rest: Space | None = None
        self.size = 1.0

    def weights(self, theta: Tensor) -> np.ndarray:
        """Of the points; they sum to 1."""
        steps = torch.stack([before - theta for before, _, _ in self.points])
        size = largest_entry(steps)
        if size > 0 and math.isfinite(size):
            steps = steps / power(size, steps.dtype)
        gram = double(steps @ steps.T).numpy()
        nearest = int(np.argmin(np.diag(gram)[::-1]))  # of equals the latest
        nearest = len(gram) - 1 - nearest
        least = gram[nearest, nearest]
        if not (least > 0 and np.isfinite(gram).all()):
            return np.eye(len(gram))[nearest]
        w = np.linalg.solve(gram + RIDGE * least * np.eye(len(gram)), np.ones(len(gram)))
        return w / w.sum()

    def forecast(self, theta: Tensor, size: float, keep: int) -> Space:
        """The largest eigenvectors, in descending order, and their images, foretold for θ.

        Parameters
        ----------
        theta : Tensor
            The next point, ``(D,)``.
        size : float
            Of the scale there.
        keep : int
            How many, if there are as many.
        """
        spaces = [space.times(grown(size, then)) for _, space, then in self.points]
        rest = self.rest.times(grown(size, self.size))
        if not spaces:
            return rest
        w, parts = self.weights(theta), [rest, *spaces]
        rows = torch.cat([space.rows for space in parts])
        images = torch.cat([space.images for space in parts])
        gram, products = double(rows @ rows.T), double(rows @ images.T)
        if not torch.isfinite(products).all():
            raise NonFiniteError(
                f"The Hessian in the space of the last point overflows {rows.dtype}: use "
                "float64, or rescale the loss."
            )
        # An orthonormal basis of all rows, as combinations of them, and everything in it.
        sizes, basis = torch.linalg.eigh(gram)
        kept = sizes > 1000 * torch.finfo(rows.dtype).eps * sizes[-1]
        basis = (basis[:, kept] / sizes[kept].sqrt()).T
        vectors, seen = gram @ basis.T, products.T @ basis.T
        cuts = [len(space.rows) for space in parts]
        vectors, seen = torch.split(vectors, cuts), torch.split(seen, cuts)
        # What all have in common: of each direction what the weightiest point knows.
        nothing = torch.zeros_like(basis @ basis.T)
        common = updated(nothing, vectors[0], seen[0])
        for j in np.argsort(w):
            common = updated(common, vectors[j + 1], seen[j + 1])
        matrix = common
        for weight, v, image in zip(w, vectors[1:], seen[1:], strict=True):
            matrix = matrix + float(weight) * (updated(common, v, image) - common)
        values, columns = torch.linalg.eigh(matrix)
        values, chosen = values.flip(0)[:keep], columns.T.flip(0)[:keep]
        inside, beyond = self._beyond(values, chosen, w, basis, vectors, seen)
        found = alike(chosen @ basis - inside, rows) @ rows
        found += alike(beyond, rows) @ images
        sizes, turn = torch.linalg.eigh(double(found @ found.T))
        found = alike((turn / sizes.sqrt()) @ turn.T, found) @ found
        return Space(found, alike(values, found)[:, None] * found)

    @staticmethod
    def _beyond(values, chosen, w, basis, vectors, seen) -> tuple[Tensor, Tensor]:
        """What the images have outside the span of all vectors corrects these to first order.

        As combinations of the rows, to be taken away, and of the images, to be added.
        """
        shares = [torch.zeros_like(chosen @ vectors[0].T)]
        shares += [float(x) * (chosen @ v.T) for x, v in zip(w, vectors[1:], strict=True)]
        shares = torch.cat(shares, 1)
        inside = shares @ torch.cat(seen) @ basis
        # The bulk of the operator is taken for zero, small beside its top.
        large = values > 1e-4 * values.abs().max()
        inverse = torch.where(large, 1 / torch.where(large, values, 1.0), 0.0)[:, None]
        return inverse * inside, inverse * shares

    def add(self, theta: Tensor, solved: Space, known: Space | None, size: float, *, exact: int,
            keep: int) -> None:  # fmt: skip
        """What was computed at θ: of it the first ``exact`` rows, and the best ``keep`` of all."""
        if self.most > 1:
            seen = Space(solved.rows[:exact], solved.images[:exact])
            self.points = [*self.points, (theta.detach().clone(), seen, size)][-self.most :]
        self.size, space = size, solved
        if known is not None:
            n = len(space.rows)
            space = space.join(known.without(space, LEAST))
            projected = double(space.rows @ space.images.T)
            # Between new and old vectors the new images know better.
            projected[n:, :n] = projected[:n, n:].T
            _, columns = torch.linalg.eigh((projected + projected.T) / 2)
            space = space.combine(columns.T.flip(0))
        self.rest = Space(space.rows[:keep], space.images[:keep])

    def state_dict(self) -> dict:
        points = [(theta, space.rows, space.images, size) for theta, space, size in self.points]
        rest = None if self.rest is None else (self.rest.rows, self.rest.images)
        return {"points": points, "rest": rest, "size": self.size}

    def load_state_dict(self, state: dict) -> None:
        points = [(p[0], Space(p[1], p[2]), p[3]) for p in state["points"]]
        self.points = points[-self.most :] if self.most > 1 else []
        self.rest = None if state["rest"] is None else Space(*state["rest"])
        self.size = state["size"]


def updated(matrix: Tensor, vectors: Tensor, images: Tensor) -> Tensor:
    """The symmetric matrix nearest to another one that maps orthonormal rows to these images.

    Powell's symmetric Broyden update, for several vectors at once; if the images' projections on
    the vectors are not symmetric, their symmetric part is met.
    """
    gap = images - vectors @ matrix
    inner = gap @ vectors.T
    inner = (inner + inner.T) / 2
    cross = vectors.T @ gap
    return matrix + cross + cross.T - vectors.T @ inner @ vectors


def grown(size: float, then: float) -> float:
    """By what old images are multiplied, the scale having had another size then."""
    ratio = size / then if then > 0 else 0.0
    return ratio if ratio > ALIKE or ratio < 1 / ALIKE else 1.0
