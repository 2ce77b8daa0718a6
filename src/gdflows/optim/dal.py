"""DAL: the learning rate at which drift and gradient are equally large."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gdflows.errors import InputError
from gdflows.optim import edges
from gdflows.optim.evaluation import CurvatureOptimizer, check_range, norm


class DAL(CurvatureOptimizer):
    r"""Gradient descent with the drift-adjusted learning rate.

    .. math:: h_p(\theta) = \frac{c}{\|\nabla^2E\,\hat g\|^p}, \qquad
              \hat g = \nabla E/\|\nabla E\|

    The drift of one step from the gradient flow is :math:`\tfrac{h^2}2\nabla^2E\,\nabla E` to
    leading order. With p = 1 and c = 2 its norm is that of the step itself.

    Parameters
    ----------
    params : iterable
        Parameters or groups.
    p : float
        How much the curvature counts. 1 is DAL; lower powers give larger steps where the
        curvature is above 1, and more drift.
    lr : float
        Multiplies the rate: what schedulers change.
    scale : float, optional
        c. By default 2, the paper's; with momentum ½ (its eq. 21), per parameter ½. The default
        follows a momentum that a scheduler changes, such as ``OneCycleLR``, which cycles it from
        0.95 to 0.85 and back unless ``cycle_momentum=False``.
    momentum : float
        m in v ← mv − h∇E, θ ← θ + v.
    cap : float
        Largest rate h. The authors' code has 5, which their paper does not mention. It has units:
        with the loss in other units it is another cap. ``math.inf`` for none.
    per_parameter : bool
        One rate for each parameter, :math:`c\,|\hat g_i|/|(\nabla^2E\,\hat g)_i|^p`, at most the
        cap.
    hvp, max_norm, check
        See :class:`gdflows.optim.CurvatureOptimizer`. The rate looks at the gradient's direction
        only, so clipping shortens the step and leaves the rate as it is.

    Notes
    -----
    Beyond parameters and gradient it keeps one number a parameter with momentum, one per
    parameter's rate with ``per_parameter``, and nothing else.

    One Hessian-vector product a step. A step costs two gradients with differences, and two to
    three and a half with exact products.

    On a quadratic p = 1, c = 2 never makes the gradient smaller, see the chapter on DAL: it is
    exactly marginal. c = 1 converges.

    The drift of a step, :math:`\tfrac{h^2}2\|\nabla^2E\,\nabla E\|`, and the rate are in
    ``drift`` and ``rate`` after each step.

    References
    ----------
    Rosca, Wu, Qin and Dherin (2023), "On a continuous time model of gradient descent dynamics and
    instability in deep learning", eqs. 18-21 and appendix A.10.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> optimizer = gf.optim.DAL([w], scale=1.0)
    >>> for _ in range(100):
    ...     loss = optimizer.step(lambda: (w**2 * torch.tensor([1.0, 10.0])).sum())
    >>> bool(loss < 1e-3)
    True
    """

    def __init__(
        self,
        params,
        p: float = 1.0,
        *,
        lr: float = 1.0,
        scale: float | None = None,
        momentum: float = 0.0,
        cap: float = 5.0,
        per_parameter: bool = False,
        hvp: str = "auto",
        max_norm: float | None = None,
        check: bool = True,
    ):
        check_range("p", p, 0, 10, closed=True)
        if not 0 <= momentum < 1:
            raise InputError(f"momentum must be in [0, 1), got {momentum}.")
        for name, value in (("lr", lr), ("scale", 1.0 if scale is None else scale)):
            check_range(name, value, 0, float("inf"))
        if not cap > 0:
            raise InputError(f"cap must be positive, got {cap}.")
        self.p, self._scale, self.cap, self.per_parameter = p, scale, cap, per_parameter
        defaults = {"lr": lr, "momentum": momentum}
        super().__init__(params, defaults, hvp=hvp, max_norm=max_norm, check=check)
        self.rate, self.drift = float("nan"), float("nan")

    @property
    def scale(self) -> float:
        """c: as given, or what suits the momentum of the groups now."""
        if self._scale is not None:
            return self._scale
        moving = any(group["momentum"] for group in self.param_groups)
        return 0.5 if moving or self.per_parameter else 2.0

    def step(self, closure=None):
        """One step.

        Parameters
        ----------
        closure : callable, or sequence of callables
            Returns the loss, and does not call backward. A sequence is one for each microbatch;
            the loss is their mean. One closure may also return such a list.

        Returns
        -------
        Tensor
            The loss before the step.

        Raises
        ------
        InputError
            For closures that cannot be used.
        NonFiniteError
            If the loss or its gradient is not finite.
        """
        seen = self._evaluate(closure, products=True)
        seen.require_finite()
        length = float(norm(seen.used))
        if length == 0:
            return seen.value
        unit = [g / length for g in seen.used]
        curved = seen.product(unit)
        curvature = float(norm(curved))
        if self.per_parameter:
            rates = [
                (self.scale * g.abs() / c.abs() ** self.p).nan_to_num(0.0, self.cap, 0.0)
                .clamp_(max=self.cap)
                for g, c in zip(unit, curved, strict=True)
            ]  # fmt: skip
            self.rate = float(norm([r * g for r, g in zip(rates, seen.used, strict=True)])) / length
        else:
            self.rate = min(self._rate(curvature), self.cap)
            rates = [self.rate] * len(unit)
        self.drift = 0.5 * self.rate**2 * length * curvature
        groups = self._groups_of(seen.parameters)
        with torch.no_grad():
            for p, g, rate, group in zip(seen.parameters, seen.used, rates, groups, strict=True):
                move = -(float(group["lr"]) * rate) * g
                state = self.state[p]
                if self.per_parameter:
                    state["rates"] = rate
                if group["momentum"]:
                    if "velocity" in state:
                        move = move + group["momentum"] * state["velocity"]
                    state["velocity"] = move
                p.add_(move)
        return seen.value

    def _rate(self, curvature: float) -> float:
        return self.scale / curvature**self.p if curvature > 0 else self.cap

    def _edges(self) -> list[float]:
        return [edges.heavy_ball(float(group["momentum"])) for group in self.param_groups]

    def _rates(self, p: Tensor, group: dict) -> Tensor | float | None:
        own = self.state[p].get("rates") if self.per_parameter else self.rate
        missing = own is None or (isinstance(own, float) and math.isnan(own))
        return None if missing else float(group["lr"]) * own

    def _settings(self) -> dict:
        own = {"p": self.p, "scale": self._scale, "cap": self.cap}
        return super()._settings() | own | {"per_parameter": self.per_parameter}

    def _extra(self) -> dict:
        return {"rate": self.rate, "drift": self.drift}

    def _set_extra(self, extra: dict) -> None:
        self.rate, self.drift = extra.get("rate", math.nan), extra.get("drift", math.nan)
