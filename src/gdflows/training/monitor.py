"""A look at the sharpness from inside anybody's training loop."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass

import pandas as pd
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from gdflows.curvature.tracking import Tracker
from gdflows.errors import EdgeWarning, InputError
from gdflows.objective import Objective
from gdflows.optim.thresholds import preconditioner, stability_edge


@dataclass(frozen=True)
class Sharpness:
    """What a :class:`~gdflows.SharpnessMonitor` saw at one step.

    Attributes
    ----------
    step : int
        Steps of the optimiser so far.
    loss : float
        On the monitor's batch.
    sharpness : float
        hλ: the largest eigenvalue of the Hessian, preconditioned as the optimiser does it, times
        the learning rate.
    edge : float
        The value of hλ at which the optimiser's linearised step is marginal.
    ratio : float
        ``sharpness / edge``: above 1 the step overshoots.
    residual : float
        Of the eigenpair, in units of the edge.
    hvps : int
        Hessian-vector products spent.
    """

    step: int
    loss: float
    sharpness: float
    edge: float
    ratio: float
    residual: float
    hvps: int


class SharpnessMonitor:
    """The sharpness in units of the optimiser's own stability edge, every so many steps.

    Parameters
    ----------
    model : torch.nn.Module
        The model in training; it is read, never changed.
    loss : callable
        ``loss(model(x), y)``, a scalar.
    data : tuple of Tensor
        The batch ``(x, y)`` on which to measure. One fixed batch, as large as affordable: what
        is measured is the sharpness of the loss on it.
    optimizer : torch.optim.Optimizer
        The one in use: see :func:`gdflows.optim.stability_edge` for those that are known. Its
        learning rate and moments are read anew each time, so schedulers are followed.
    every : int
        Steps between two measurements.
    tol : float
        Relative accuracy of the sharpness.
    chunk : int, optional
        As in :meth:`gdflows.Objective.from_module`, where the batch does not fit in memory.

    Notes
    -----
    A measurement takes one gradient and three to five Hessian-vector products of the batch, some
    ten the first time, and again at every twentieth measurement, when the tracker checks from
    scratch that it has lost no larger eigenvalue. A product takes one to two gradients. On a
    batch of the training's size that was 6 to 8 % of the training at ``every=100`` (a tanh
    network of 656,810 parameters, SGD and Adam); :attr:`overhead` says what it is.

    Dropout is drawn once for each measurement, from a seed of its own; torch's random state is
    left alone, and so are gradients and the running statistics of batch normalisation.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> model = torch.nn.Linear(4, 1)
    >>> x, y = torch.randn(20, 4), torch.randn(20, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> monitor = gf.SharpnessMonitor(model, torch.nn.MSELoss(), (x, y), optimizer, every=10)
    >>> for _ in range(20):
    ...     loss = torch.nn.functional.mse_loss(model(x), y)
    ...     optimizer.zero_grad()
    ...     loss.backward()
    ...     optimizer.step()
    ...     seen = monitor.step()
    >>> list(monitor.history.step)
    [10, 20]
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        data: tuple[Tensor, Tensor],
        optimizer: torch.optim.Optimizer,
        *,
        every: int = 100,
        tol: float = 0.05,
        chunk: int | None = None,
    ):
        if every < 1:
            raise InputError(f"every must be at least 1, got {every}.")
        stability_edge(optimizer)  # an unknown optimiser is refused now, not after N steps
        coarse = [
            n
            for n, p in model.named_parameters()
            if p.requires_grad and torch.finfo(p.dtype).bits < 32
        ]
        if coarse:
            raise InputError(
                f"{coarse[0]} is in half precision, where curvature drowns in rounding. Keep the "
                "parameters in float32 and use autocast, or monitor a float32 copy."
            )
        self.model, self.optimizer, self.every, self.tol = model, optimizer, every, tol
        self._loss, self._data, self._chunk = loss, data, chunk
        self._steps, self._seen = 0, []
        self._busy, self._began = 0.0, None
        self._names: list[str] | None = None

    def step(self) -> Sharpness | None:
        """Count a step; measure at every N-th. Call it after each ``optimizer.step()``.

        Returns
        -------
        Sharpness or None
            None where nothing was measured.

        Warns
        -----
        EdgeWarning
            When the ratio has crossed 1 from below since the last measurement.
        """
        if self._began is None:
            self._began = time.perf_counter()
        self._steps += 1
        return self.measure() if self._steps % self.every == 0 else None

    def measure(self) -> Sharpness:
        """Measure now, and add it to the history."""
        start = time.perf_counter()
        trainable = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        if list(trainable) != self._names:  # at first, and when layers are frozen or freed
            self._names = list(trainable)
            self._tracker = self._fresh()
        parameters = list(trainable.values())
        theta = torch.cat([p.detach().reshape(-1) for p in parameters])
        scale = preconditioner(self.optimizer, parameters).sqrt()
        devices = {p.device for p in parameters if p.device.type == "cuda"}
        # Fused attention has no second derivative; its plain form has.
        with torch.random.fork_rng(devices=devices), sdpa_kernel(SDPBackend.MATH):
            torch.manual_seed(0)
            point = self._tracker.objective.at(theta)
            pair = self._tracker.update(point, scale=scale)
        edge = stability_edge(self.optimizer)
        sharpness = float(pair.values[0])
        seen = Sharpness(
            step=self._steps,
            loss=float(point.value),
            sharpness=sharpness,
            edge=edge,
            ratio=sharpness / edge,
            residual=float(pair.residuals[0]) / edge,
            hvps=pair.hvps,
        )
        if seen.ratio > 1 and self._seen and self._seen[-1].ratio <= 1:
            warnings.warn(
                f"Step {seen.step}: the sharpness has reached {seen.ratio:.2f} of this "
                f"optimiser's stability edge (hλ = {sharpness:.3g}, edge {edge:.3g}). The loss "
                "may now fall unsteadily; if it rises, lower the learning rate.",
                EdgeWarning,
                stacklevel=3,
            )
        self._seen.append(seen)
        self._busy += time.perf_counter() - start
        return seen

    @property
    def history(self) -> pd.DataFrame:
        """All measurements, a row each; columns as in :class:`gdflows.monitor.Sharpness`."""
        names = list(Sharpness.__dataclass_fields__)
        return pd.DataFrame([asdict(s) for s in self._seen], columns=names)

    @property
    def overhead(self) -> float:
        """Time spent in measurements, relative to the rest of the time since the first step."""
        if self._began is None:
            return 0.0
        return self._busy / (time.perf_counter() - self._began - self._busy)

    def plot(self, ax=None):
        """Draw the ratio against steps; returns matplotlib's axes."""
        import matplotlib.pyplot as plt  # a training script that never draws need not load it

        from gdflows.plotting import against_edge

        ax = ax if ax is not None else plt.figure().add_subplot()
        against_edge(ax, self.history.step, self.history.ratio, marker="o", markersize=3)
        ax.set(ylabel="sharpness / stability edge", ylim=(0, None))
        return ax

    def state_dict(self) -> dict:
        """For a checkpoint: with it, monitoring goes on as if never interrupted."""
        tracker = self._tracker.state_dict() if self._names else None
        seen = [asdict(s) for s in self._seen]
        return {"steps": self._steps, "seen": seen, "names": self._names, "tracker": tracker}

    def load_state_dict(self, state: dict) -> None:
        """Go on from :meth:`state_dict`."""
        self._steps, self._names = state["steps"], state["names"]
        self._seen = [Sharpness(**s) for s in state["seen"]]
        if self._names is not None:
            self._tracker = self._fresh()
            self._tracker.load_state_dict(state["tracker"])

    def _fresh(self) -> Tracker:
        objective = Objective.from_module(self.model, self._loss, self._data, chunk=self._chunk)
        return Tracker(objective, tol=self.tol, guards=1, check_every=20)
