"""CDAT: the learning rate from the curvature along the step itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gdflows.errors import InputError
from gdflows.optim.evaluation import CurvatureOptimizer, check_range, dot
from gdflows.optim.moments import Moments

CAP = 10.0  # of the rate under Adam's preconditioner, where it is a length of the parameters


class CDAT(CurvatureOptimizer):
    r"""The curvature-dynamics aware tuner, on SGD, momentum or Adam.

    .. math:: h = \sigma\,\frac{|\langle \nabla E, u\rangle|}{|\langle u, \nabla^2E\,u\rangle|}

    along the base's update θ ← θ − hu; numerator and denominator are averaged over steps. On a
    quadratic σ = 1 minimises along the line, and σ = 2 keeps the loss: "on edge".

    Parameters
    ----------
    params : iterable
        Parameters or groups.
    base : {"sgd", "momentum", "adam"}
        Whose direction u.
    lr : float
        Multiplies the rate: what schedulers change.
    sigma : float
        σ.
    average : float
        Of the averages, 0 for none.
    betas, eps
        As in Adam.
    cap : float, optional
        Largest rate. By default 10 on Adam. On SGD and momentum, where it has units (one over
        those of the curvature), none.
    hvp, max_norm, check
        See :class:`gdflows.optim.CurvatureOptimizer`.

    Notes
    -----
    One Hessian-vector product a step. Beyond parameters and gradient it keeps no number a
    parameter on SGD, one on momentum, two on Adam. A parameter that joins later, unfrozen or by
    ``add_param_group``, has averages that begin with its own first step.

    References
    ----------
    Roulet, Agarwala, Grill, Swirszcz, Blondel and Pedregosa (2024), "Stepping on the edge:
    curvature aware learning rate tuners".

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> optimizer = gf.optim.CDAT([w], base="sgd")
    >>> for _ in range(50):
    ...     loss = optimizer.step(lambda: (w**2 * torch.tensor([1.0, 10.0])).sum())
    >>> bool(loss < 1.0)
    True
    """

    def __init__(
        self,
        params,
        base: str = "adam",
        *,
        lr: float = 1.0,
        sigma: float = 1.0,
        average: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        cap: float | None = None,
        hvp: str = "auto",
        max_norm: float | None = None,
        check: bool = True,
    ):
        self.moments = Moments(base, betas, eps)
        for name, value in (("lr", lr), ("sigma", sigma)):
            check_range(name, value, 0, float("inf"))
        if cap is None:
            cap = CAP if self.moments.second else math.inf
        if not cap > 0:
            raise InputError(f"cap must be positive, got {cap}.")
        check_range("average", average, 0, 0.9999, closed=True)
        self.sigma, self.average, self.cap = sigma, average, cap
        super().__init__(params, {"lr": lr}, hvp=hvp, max_norm=max_norm, check=check)
        self.rate = 0.0
        self._means = [0.0, 0.0]

    def step(self, closure=None):
        """One step; as :meth:`gdflows.optim.DAL.step`."""
        seen = self._evaluate(closure, products=True)
        seen.require_finite()
        states = [self.state[p] for p in seen.parameters]
        self.moments.update(states, seen.used)
        factors, top = self._factors(seen.parameters)
        moves, common = self.moments.direction(states, seen.used)
        update = [common * factor * u for u, factor in zip(moves, factors, strict=True)]
        along, curved = dot(seen.used, update), dot(update, seen.product(update))
        for i, value in enumerate((max(along, 0.0), abs(curved))):
            self._means[i] = self.average * self._means[i] + (1 - self.average) * value
        slope, bend = self._means
        if bend > 0:
            self.rate = min(self.sigma * slope / bend, self.cap)
        elif slope > 0 and math.isfinite(self.cap):
            self.rate = self.cap
        with torch.no_grad():
            for p, u in zip(seen.parameters, update, strict=True):
                p.add_(u, alpha=-self.rate * top)
        return seen.value

    @property
    def _count(self) -> int:
        return max((self.state[p].get("count", 0) for p in self._parameters()), default=0)

    def _edges(self) -> list[float]:
        return [self.moments.edge(self._count)]

    def _rates(self, p: Tensor, group: dict) -> Tensor | float | None:
        if not self.state[p].get("count"):
            return None
        rate = self.rate * float(group["lr"])
        scales = self.moments.precondition([self.state[p]], self._count)
        return rate if scales is None else rate * scales[0]

    def _settings(self) -> dict:
        own = {"sigma": self.sigma, "average": self.average, "cap": self.cap}
        return super()._settings() | self.moments.settings | own

    def _extra(self) -> dict:
        return {"rate": self.rate, "means": list(self._means)}

    def _set_extra(self, extra: dict) -> None:
        self.rate, self._means = extra["rate"], list(extra["means"])
