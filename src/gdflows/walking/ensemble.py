"""What many paths of a random walk yield: moments at times, and paths if asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gdflows.errors import InputError

FULL = 1000  # up to so many parameters the whole covariance is kept
KEEP = ("last", "paths", "moments")
Observe = Mapping[str, Callable[[Tensor], Tensor]]


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Many paths of a stochastic flow, or of SGD, by their moments.

    Attributes
    ----------
    times : Tensor
        Flow times, shape ``(T,)``, float64.
    mean, mean_error : Tensor
        Mean of θ over the paths and its standard error, shape ``(T, D)``. Of antithetic pairs
        the error is that of the pairs' means.
    variance : Tensor
        Of each entry of θ, unbiased, shape ``(T, D)``.
    covariance : Tensor or None
        Shape ``(T, D, D)``; None with more than 1,000 parameters.
    observed, observed_error : mapping
        Mean and standard error of each function in ``observe``, by name; shape ``(T,)``.
    states : Tensor or None
        All paths at all times, shape ``(T, P, D)``, if ``keep="paths"``.
    last : Tensor or None
        All paths at the last time, shape ``(P, D)``, unless ``keep="moments"``.
    memory : Tensor or None
        What a method remembers beside θ at the last time, ``(P, S)``, unless ``keep="moments"``:
        of momentum the velocity, of RMSProp and Adam m, ν and the steps taken.
    paths : int
        How many, P.
    label : str
        What was walked.
    cost : mapping
        Work done, of all paths together: ``steps``, and the objective's ``gradients``, ``hvps`` …

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.problems.quadratic([1.0])
    >>> seen = gf.walking.sgd(E, torch.ones(1).double(), 0.1, 10, covariance=1.0, paths=1000)
    >>> seen.paths, abs(float(seen.mean[-1]) - 0.9**10) < 5 * float(seen.mean_error[-1])
    (1000, True)
    """

    times: Tensor
    mean: Tensor = field(repr=False)
    mean_error: Tensor = field(repr=False)
    variance: Tensor = field(repr=False)
    covariance: Tensor | None = field(repr=False)
    paths: int
    observed: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    observed_error: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    states: Tensor | None = field(default=None, repr=False)
    last: Tensor | None = field(default=None, repr=False)
    memory: Tensor | None = field(default=None, repr=False)
    label: str = ""
    cost: Mapping[str, int] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.times)

    def __repr__(self) -> str:
        work = ", ".join(f"{n:,} {k}" for k, n in self.cost.items() if n)
        return (
            f"Ensemble({self.label}: {self.paths:,} paths of {self.mean.shape[1]:,} parameters, "
            f"{len(self)} times to t = {float(self.times[-1]):g}; {work})"
        )


class Moments:
    """Mean and covariance of rows that come in blocks (Chan, Golub and LeVeque 1979)."""

    def __init__(self, full: bool):
        self.full, self.n = full, 0
        self.mean = self.squares = None

    def add(self, rows: Tensor) -> None:
        """Take more rows ``(P, D)`` in."""
        rows = rows.double() if rows.device.type != "mps" else rows
        n, mean = len(rows), rows.mean(0)
        off = rows - mean
        squares = off.T @ off if self.full else (off * off).sum(0)
        if self.n == 0:
            self.n, self.mean, self.squares = n, mean, squares
            return
        gap, whole = mean - self.mean, self.n + n
        cross = torch.outer(gap, gap) if self.full else gap * gap
        self.squares = self.squares + squares + self.n * n / whole * cross
        self.mean, self.n = self.mean + n / whole * gap, whole

    @property
    def covariance(self) -> Tensor:
        """Unbiased; ``(D, D)``, or the variances alone."""
        return (
            self.squares / (self.n - 1) if self.n > 1 else torch.full_like(self.squares, torch.nan)
        )

    @property
    def variance(self) -> Tensor:
        return self.covariance.diagonal() if self.full else self.covariance

    @property
    def error(self) -> Tensor:
        """Standard error of the mean."""
        return (self.variance / self.n) ** 0.5


class Collector:
    """Looks at blocks of paths at given times, and makes the ensemble of them.

    Parameters
    ----------
    times : int
        How many.
    dim : int
        D.
    keep : {"last", "paths", "moments"}
        Beside the moments: the last states, all states, or nothing.
    observe : mapping of str to callable, optional
        Functions from ``(P, D)`` to ``(P,)``.
    antithetic : bool
        Whether the second half of a block is paired with the first.
    """

    def __init__(self, times: int, dim: int, keep: str, observe: Observe | None, antithetic: bool):
        if keep not in KEEP:
            raise InputError(f"keep must be one of {KEEP}, got {keep!r}.")
        self.keep, self.antithetic = keep, antithetic
        self.functions = dict(observe or {})
        full = dim <= FULL
        self.all = [Moments(full) for _ in range(times)]
        self.pairs = [Moments(False) for _ in range(times)]
        self.seen = {name: [Moments(False) for _ in range(times)] for name in self.functions}
        self.kept: list[list[Tensor]] = [[] for _ in range(times)]

    def look(self, i: int, x: Tensor) -> None:
        """Take a block's states ``(P, D)`` at the i-th time in."""
        self.all[i].add(x)
        if self.antithetic:
            self.pairs[i].add(paired(x))
        for name, function in self.functions.items():
            value = function(x)
            if not isinstance(value, Tensor) or value.shape != (len(x),):
                shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise InputError(
                    f"observe[{name!r}] must map (P, D) to (P,): it returned {shape} for "
                    f"{len(x)} paths."
                )
            value = value.detach()[:, None]
            self.seen[name][i].add(paired(value) if self.antithetic else value)
        if self.keep == "paths" or (self.keep == "last" and i == len(self.all) - 1):
            self.kept[i].append(x)

    def ensemble(
        self, times: Tensor, like: Tensor, *, paths: int, label: str, cost
    ) -> Ensemble | None:
        """Everything seen at the first so many times, in the dtype of the paths."""

        def stack(parts) -> Tensor:
            return torch.stack(list(parts)).to(like.dtype)

        many = len(times)
        if not many:
            return None
        means = (self.pairs if self.antithetic else self.all)[:many]
        every = self.all[:many]
        seen = {name: found[:many] for name, found in self.seen.items()}
        states = [torch.cat(k) for k in self.kept[:many] if k]
        return Ensemble(
            times=times,
            mean=stack(m.mean for m in every),
            mean_error=stack(m.error for m in means),
            variance=stack(m.variance for m in every),
            covariance=stack(m.covariance for m in every) if every[0].full else None,
            paths=paths,
            observed={n: stack(m.mean[0] for m in found) for n, found in seen.items()},
            observed_error={n: stack(m.error[0] for m in found) for n, found in seen.items()},
            states=torch.stack(states) if self.keep == "paths" else None,
            last=states[-1] if states else None,
            label=label,
            cost=cost,
        )


def paired(x: Tensor) -> Tensor:
    """The means of antithetic pairs."""
    half = len(x) // 2
    return (x[:half] + x[half:]) / 2
