"""DAL: the learning rate at which drift and gradient are equally large."""

from __future__ import annotations

import torch

from gdflows.errors import InputError
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
        c. By default 2, the paper's; with momentum ½ (its eq. 21), per parameter ½.
    momentum : float
        m in v ← mv − h∇E, θ ← θ + v.
    cap : float
        Largest rate h. The authors' code has 5, which their paper does not mention.
    per_parameter : bool
        One rate for each parameter, :math:`c\,|\hat g_i|/|(\nabla^2E\,\hat g)_i|^p`, at most the
        cap.
    hvp : {"auto", "exact", "difference"}
        See :class:`gdflows.optim.CurvatureOptimizer`.

    Notes
    -----
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
    ):
        check_range("p", p, 0, 10, closed=True)
        if not 0 <= momentum < 1:
            raise InputError(f"momentum must be in [0, 1), got {momentum}.")
        for name, value in (("lr", lr), ("scale", 1.0 if scale is None else scale)):
            check_range(name, value, 0, float("inf"))
        if not cap > 0:
            raise InputError(f"cap must be positive, got {cap}.")
        if scale is None:
            scale = 0.5 if momentum or per_parameter else 2.0
        self.p, self.scale, self.cap, self.per_parameter = p, scale, cap, per_parameter
        super().__init__(params, {"lr": lr, "momentum": momentum}, hvp=hvp)
        self.rate, self.drift = float("nan"), float("nan")

    def step(self, closure):
        """One step.

        Parameters
        ----------
        closure : callable, or sequence of callables
            Returns the loss, and does not call backward. A sequence is one for each microbatch;
            the loss is their mean.

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
        length = float(norm(seen.grads))
        if length == 0:
            return seen.value
        unit = [g / length for g in seen.grads]
        curved = seen.product(unit)
        curvature = float(norm(curved))
        if self.per_parameter:
            rates = [
                (self.scale * g.abs() / c.abs() ** self.p).nan_to_num(0.0, self.cap, 0.0)
                .clamp_(max=self.cap)
                for g, c in zip(unit, curved, strict=True)
            ]  # fmt: skip
            self.rate = (
                float(norm([r * g for r, g in zip(rates, seen.grads, strict=True)])) / length
            )
        else:
            self.rate = min(self._rate(curvature), self.cap)
            rates = [self.rate] * len(unit)
        self.drift = 0.5 * self.rate**2 * length * curvature
        groups = self._groups_of(seen.parameters)
        with torch.no_grad():
            for p, g, rate, group in zip(seen.parameters, seen.grads, rates, groups, strict=True):
                move = -(group["lr"] * rate) * g
                if group["momentum"]:
                    state = self.state[p]
                    if "velocity" in state:
                        move = move + group["momentum"] * state["velocity"]
                    state["velocity"] = move
                p.add_(move)
        return seen.value

    def _rate(self, curvature: float) -> float:
        return self.scale / curvature**self.p if curvature > 0 else self.cap
