"""CDAT: the learning rate from the curvature along the step itself."""

from __future__ import annotations

import torch

from gdflows.optim.evaluation import CurvatureOptimizer, check_range, dot
from gdflows.optim.moments import Moments


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
    cap : float
        Largest rate.
    hvp : {"auto", "exact", "difference"}
        See :class:`gdflows.optim.CurvatureOptimizer`.

    Notes
    -----
    One Hessian-vector product a step.

    References
    ----------
    Roulet, Agarwala, Grill, Swirszcz, Blondel and Pedregosa (2024), "Stepping on the edge:
    curvature aware learning rate tuners".
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
        cap: float = 10.0,
        hvp: str = "auto",
    ):
        self.moments = Moments(base, betas, eps)
        for name, value in (("lr", lr), ("sigma", sigma), ("cap", cap)):
            check_range(name, value, 0, float("inf"))
        check_range("average", average, 0, 0.9999, closed=True)
        self.sigma, self.average, self.cap = sigma, average, cap
        super().__init__(params, {"lr": lr}, hvp=hvp)
        self.rate = 0.0
        self._means = [0.0, 0.0]

    def step(self, closure):
        """One step; as :meth:`gdflows.optim.DAL.step`."""
        seen = self._evaluate(closure, products=True)
        seen.require_finite()
        states = [self.state[p] for p in seen.parameters]
        self.moments.update(states, seen.grads)
        factors, top = self._factors(seen.parameters)
        moves, common = self.moments.direction(states, seen.grads)
        update = [common * factor * u for u, factor in zip(moves, factors, strict=True)]
        along, curved = dot(seen.grads, update), dot(update, seen.product(update))
        for i, value in enumerate((max(along, 0.0), abs(curved))):
            self._means[i] = self.average * self._means[i] + (1 - self.average) * value
        slope, bend = self._means
        self.rate = min(self.sigma * slope / bend, self.cap) if bend > 0 else self.rate
        with torch.no_grad():
            for p, u in zip(seen.parameters, update, strict=True):
                p.add_(u, alpha=-self.rate * top)
        return seen.value

    def _extra(self) -> dict:
        return {"rate": self.rate, "means": list(self._means)}

    def _set_extra(self, extra: dict) -> None:
        self.rate, self._means = extra["rate"], list(extra["means"])
