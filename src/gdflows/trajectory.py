"""What walking a flow or an optimiser yields: states at times."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gdflows.errors import InputError
from gdflows.objective import Objective, Point


@dataclass(frozen=True, eq=False)
class Trajectory:
    """States θ at flow times t, in the caller's dtype and on the caller's device.

    Attributes
    ----------
    times : Tensor
        Flow times, shape ``(T,)``, float64, increasing. Step k of an optimiser at learning rate
        h is at k·h.
    states : Tensor
        θ at those times, shape ``(T, D)``.
    companions : mapping
        What the flow carries beside θ, by name; each tensor's first axis is time.
    label : str
        What was walked, for legends.
    cost : mapping
        Work done: ``evaluations`` of the vector field (or ``steps``), and the objective's
        ``gradients``, ``hvps`` and so on.
    error : Tensor or None
        Estimated error of each state, shape ``(T,)``: the sum of the solver's local error
        estimates up to that time, in the Euclidean norm. It neither shrinks nor grows with the
        flow's own contraction, so it is a scale and not a bound. None where there is none.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> path = gf.descend(gf.problems.quadratic([1.0]), torch.ones(1).double(), lr=0.5, steps=2)
    >>> path.times.tolist(), path.states.flatten().tolist()
    ([0.0, 0.5, 1.0], [1.0, 0.5, 0.25])
    """

    times: Tensor
    states: Tensor
    label: str = ""
    companions: Mapping[str, Tensor] = field(default_factory=dict)
    cost: Mapping[str, int] = field(default_factory=dict)
    error: Tensor | None = None

    def __len__(self) -> int:
        return len(self.times)

    def __repr__(self) -> str:
        work = ", ".join(f"{n:,} {k}" for k, n in self.cost.items() if n)
        error = "" if self.error is None else f"; error about {float(self.error[-1]):.1e}"
        return (
            f"Trajectory({self.label}: {len(self)} states of {self.states.shape[1]:,} "
            f"parameters, t = {float(self.times[0]):g} … {float(self.times[-1]):g}; {work}{error})"
        )

    def distance(self, other: Trajectory) -> Tensor:
        """Euclidean distance ‖θ(t) − θ'(t)‖ at each time, shape ``(T,)``.

        Raises
        ------
        InputError
            If the two are not at the same times: integrate one with ``times=other.times``.
        """
        if len(self) != len(other) or not torch.allclose(
            self.times, other.times.to(self.times.device), rtol=1e-12, atol=1e-12
        ):
            raise InputError(
                f"Trajectories '{self.label}' and '{other.label}' are at different times; "
                "integrate one with times=other.times."
            )
        return torch.linalg.vector_norm(self.states - other.states, dim=1)

    @property
    def travelled(self) -> Tensor:
        """Length of the polygon through the states, from the first to each, shape ``(T,)``."""
        steps = torch.linalg.vector_norm(self.states.diff(dim=0), dim=1)
        return torch.cat([steps.new_zeros(1), steps.cumsum(0)])

    def observe(
        self, objective: Objective, *probes: Callable[[Point], float | Mapping[str, float]]
    ) -> pd.DataFrame:
        """Look at every state with some probes.

        Parameters
        ----------
        objective : Objective
            The loss.
        *probes : callable
            Functions of a :class:`~gdflows.Point` that return a number, or several by
            name: see :mod:`gdflows.probes`. They share the point's gradient.

        Returns
        -------
        pandas.DataFrame
            One row a state, indexed by flow time ``t``; one column a number.
        """
        rows = []
        for theta in self.states:
            point = objective.at(theta)
            row = {}
            for probe in probes:
                seen = probe(point)
                row |= dict(seen) if isinstance(seen, Mapping) else {probe.__name__: seen}
            rows.append(row)
        index = pd.Index(np.asarray(self.times.cpu()), name="t")
        return pd.DataFrame(rows, index=index)
