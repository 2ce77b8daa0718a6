"""A look at the sharpness from inside anybody's training loop."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass

import pandas as pd
import torch

from gdflows.arguments import whole
from gdflows.curvature.tracking import Tracker
from gdflows.errors import EdgeWarning, InputError, warn
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
    h_lambda : float
        hλ: the largest eigenvalue of the Hessian, preconditioned as the optimiser does it, times
        the learning rate.
    eigenvalue : float
        λ itself; not a number at a learning rate of 0.
    edge : float
        The value of hλ at which the optimiser's linearised step is marginal.
    ratio : float
        ``h_lambda / edge``: above 1 the step overshoots.
    residual : float
        Of the eigenpair, in units of the edge.
    hvps : int
        Hessian-vector products spent.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> model, x = torch.nn.Linear(1, 1, bias=False), torch.ones(4, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> loss_fn = torch.nn.functional.mse_loss
    >>> monitor = gf.SharpnessMonitor(model, loss_fn, (x, x), optimizer, every=1)
    >>> seen = monitor.step()
    >>> round(seen.ratio, 4)  # of hλ = 0.1 · 2 to the edge, 2
    0.1
    """

    step: int
    loss: float
    h_lambda: float
    eigenvalue: float
    edge: float
    ratio: float
    residual: float
    hvps: int

    @property
    def sharpness(self) -> float:
        """The former name of ``h_lambda``."""
        warnings.warn(
            "Sharpness.sharpness is hλ and is now called h_lambda; λ is eigenvalue.",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.h_lambda


class SharpnessMonitor:
    """The sharpness in units of the optimiser's own stability edge, every so many steps.

    Parameters
    ----------
    model : torch.nn.Module
        The model in training; it is read, never changed.
    loss : callable or None
        ``loss(model(x), y)``, a scalar; None for a model that computes its own.
    data
        On what to measure: a batch ``(x, y)``, a DataLoader, or any form that
        :meth:`gdflows.Objective.from_module` takes. It is read once and kept, and as much of it as
        is affordable: what is measured is the sharpness of the loss on it.
    optimizer : torch.optim.Optimizer
        The one in use: see :func:`gdflows.optim.stability_edge` for those that are known. Its
        learning rate and moments are read anew each time, so schedulers are followed.
    every : int
        Steps between two measurements.
    tol : float
        Relative accuracy of the sharpness.
    **settings
        Of :meth:`gdflows.Objective.from_module`: ``chunk=``, where the data do not fit in memory,
        ``reduction=``, ``count=``, ``axis=``, ``loss_parameters=``, ``seed=``, ``check=``.

    Notes
    -----
    A measurement takes one gradient and some three Hessian-vector products of the batch, about ten
    the first time, and again at every twentieth measurement, when the tracker checks that it has
    lost no larger eigenvalue. A product takes one to two gradients. Between measurements it keeps
    four vectors of the parameters' size. On a batch of the training's size it was 8 % of the
    training at ``every=100`` (a tanh network of 656,810 parameters, 1,000 images, SGD and Adam;
    ``benchmarks/bench_monitor.py``); :attr:`overhead` says what it is.

    Making it evaluates the loss a few times, so that data which do not fit the model are refused
    at once. The loss is that of the mode in which the model is when it is measured. In training
    mode dropout is drawn from a seed of its own, the same at every measurement: a warning says so,
    unless ``seed=`` says that it is known. torch's random state is left alone, and so are gradients
    and the running statistics of batch normalisation.
    The first measurement checks torch's second derivatives, as every objective does.

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
        loss: Callable | None,
        data,
        optimizer: torch.optim.Optimizer,
        *,
        every: int = 100,
        tol: float = 0.05,
        **settings,
    ):
        every = whole(every, "every")
        # What cannot be measured is refused now, not after N steps.
        stability_edge(optimizer)
        self.model, self.optimizer, self.every, self.tol = model, optimizer, every, tol
        self._loss, self._data, self._settings = loss, data, settings
        self._steps, self._seen = 0, []
        self._busy, self._began = 0.0, None
        self._tracker = self._fresh()

    def step(self) -> Sharpness | None:
        """Count a step; measure at every N-th. Call it after each ``optimizer.step()``.

        Returns
        -------
        Sharpness or None
            None where nothing was measured.

        Warns
        -----
        EdgeWarning
            When the ratio is above 1 and was not at the last measurement, or there was none: see
            :meth:`measure`.
        """
        if self._began is None:
            self._began = time.perf_counter()
        self._steps += 1
        return self.measure() if self._steps % self.every == 0 else None

    def measure(self) -> Sharpness:
        """Measure now, and add it to the history.

        Returns
        -------
        Sharpness

        Warns
        -----
        EdgeWarning
            When the ratio is above 1 and was at most 1 at the last measurement; or at the first
            one, which may be far beyond the edge (a rate that is too high from the start) or just
            there (a training that has been at its edge for long). While it stays above, nothing
            more is said.
        """
        start = time.perf_counter()
        if self._tracker.objective.outdated():  # layers were frozen or freed
            self._tracker = self._fresh()
        objective = self._tracker.objective
        scale = preconditioner(self.optimizer, list(objective.parameters.values())).sqrt()
        point = objective.at(objective.read())
        pair = self._tracker.update(point, scale=scale)
        edge, h_lambda = stability_edge(self.optimizer), float(pair.values[0])
        lr = max(float(group["lr"]) for group in self.optimizer.param_groups)
        seen = Sharpness(
            step=self._steps,
            loss=float(point.value),
            h_lambda=h_lambda,
            eigenvalue=h_lambda / lr if lr > 0 else math.nan,
            edge=edge,
            ratio=h_lambda / edge,
            residual=float(pair.residuals[0]) / edge,
            hvps=pair.hvps,
        )
        if seen.ratio > 1 and not (self._seen and self._seen[-1].ratio > 1):
            self._warn(seen)
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
        return {
            "steps": self._steps,
            "seen": [asdict(s) for s in self._seen],
            "names": self._tracker.objective.names,
            "tracker": self._tracker.state_dict() if self._seen else None,
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on from :meth:`state_dict`."""
        names = self._tracker.objective.names
        if state["tracker"] is not None and state["names"] != names:
            raise InputError(
                "The checkpoint's monitor watched other parameters: freeze or free the same layers "
                f"before loading ({len(state['names'])} then, {len(names)} now)."
            )
        self._steps = state["steps"]
        self._seen = [Sharpness(**s) for s in state["seen"]]
        self._tracker = self._fresh()
        if state["tracker"] is not None:
            self._tracker.load_state_dict(state["tracker"])

    def _warn(self, seen: Sharpness) -> None:
        measured = f"(hλ = {seen.h_lambda:.3g}, edge {seen.edge:.3g})"
        if self._seen:
            said = (
                f"Step {seen.step}: the sharpness has reached {seen.ratio:.2f} of this "
                f"optimiser's stability edge {measured}. The loss may now fall unsteadily; if it "
                "rises, lower the learning rate."
            )
        else:
            said = (
                f"Step {seen.step}: at the first look the sharpness is {seen.ratio:.2f} of this "
                f"optimiser's stability edge {measured}: there, or beyond, already. Either the "
                "training has come to its edge before, and the ratio stays near 1; or the learning "
                "rate is too high here: then the loss rises until the sharpness falls, or for "
                "ever. Look again soon, warm up, or see suggest_lr."
            )
        warn(said, EdgeWarning)

    def _fresh(self) -> Tracker:
        objective = Objective.from_module(self.model, self._loss, self._data, **self._settings)
        # The looks are far apart: a forecast from more points is no better, and costs memory.
        return Tracker(objective, tol=self.tol, guards=1, check_every=20, points=1)
