r"""One step of a stochastic flow dθ = b dt + σ dW, at many points at once.

**Weak order 2, at a cost that does not grow with the number of noises.** Over a step Δ, with
:math:`w \sim N(0, \Delta)` and iterated integrals :math:`I_{rj} = \int\!\int dW^r dW^j`, a scheme
of weak order 2 must have, in mean,

.. math:: \theta + b\Delta + \sigma w + \sum_{rj} I_{rj}\,(\sigma_r\cdot\nabla)\sigma_j
          + \tfrac\Delta2\bigl[(\sigma w\cdot\nabla)b + \mathcal L\sigma w\bigr]
          + \tfrac{\Delta^2}{2}\mathcal L b,
          \qquad \mathcal L = b\cdot\nabla + \tfrac12\sum_r(\sigma_r\cdot\nabla)^2 .

*The double integrals.* Only their moments up to order Δ² count. These fix the symmetric part,
:math:`\frac12(w_r w_j - \delta_{rj}\Delta)`, and of the antisymmetric one no more than that it
has mean zero and the covariance of Lévy's areas. :math:`\frac12(z_r w_j - w_r z_j)` has, with z
independent of w and of variance Δ/2. So the sum over all pairs of noises is

.. math:: \tfrac12(\sigma(w + z)\cdot\nabla)(\sigma w) - \tfrac12(\sigma w\cdot\nabla)(\sigma z)
          - \tfrac\Delta2\sum_j(\sigma_j\cdot\nabla)\sigma_j ,

two derivatives of a product σ·vector, and Itô's correction, for which a sum over the noises may
remain.

*The terms of size Δ^{3/2} and Δ²* count by their means alone, given w. So a sum over r may be
replaced by a single random direction σy, with random signs y: :math:`\mathbb E
(\sigma y\cdot\nabla)^2 = \sum_r(\sigma_r\cdot\nabla)^2`. With
:math:`\theta_\pm = \theta + \frac\Delta2 b \pm \sqrt{\Delta/2}\,\sigma y` the mean of
:math:`\sigma(\theta_+)w` and :math:`\sigma(\theta_-)w` holds σw and :math:`\frac\Delta2
\mathcal L\sigma w`; Heun's mean of two drifts holds the rest.

References
----------
Kloeden and Platen (1992), sections 14.2 and 15.1, for the moments that count, and the explicit
scheme whose cost grows with the square of the number of noises; Ninomiya and Ninomiya (2009), who
have the areas from two normal vectors.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gdflows.errors import InputError
from gdflows.flows.stochastic import StochasticFlow
from gdflows.walking.draws import Draws

Step = Callable[[StochasticFlow, Tensor, float, Draws], Tensor]


def euler_maruyama(flow: StochasticFlow, x: Tensor, dt: float, draws: Draws) -> Tensor:
    """Strong order ½, weak order 1."""
    return x + dt * flow.drift(x) + flow.noise(x, dt**0.5 * draws.normal())


def milstein(flow: StochasticFlow, x: Tensor, dt: float, draws: Draws) -> Tensor:
    """Strong order 1, where the noises commute."""
    w = dt**0.5 * draws.normal()
    moved = flow.noise(x, w)
    return x + dt * flow.drift(x) + moved + double_integrals(flow, x, dt, w, moved)


def double_integrals(flow: StochasticFlow, x: Tensor, dt: float, w: Tensor, moved: Tensor):
    """½ (σw·∇)(σw) less Itô's correction."""
    if flow.additive:
        return 0.0
    return (flow.noise_along(x, moved, w) - dt * flow.correction(x)) / 2


def weak_two(flow: StochasticFlow, x: Tensor, dt: float, draws: Draws) -> Tensor:
    """Weak order 2: see the module."""
    w = dt**0.5 * draws.normal()
    if flow.additive:
        return additive(flow, x, dt, w)
    return general(flow, x, dt, w, *draws.signs())


def additive(flow: StochasticFlow, x: Tensor, dt: float, w: Tensor) -> Tensor:
    """Heun's method: all that remains where σ is the same everywhere."""
    b, moved = flow.drift(x), flow.noise(x, w)
    return x + dt / 2 * (b + flow.drift(x + dt * b + moved)) + moved


def general(flow: StochasticFlow, x: Tensor, dt: float, w: Tensor, z: Tensor, y: Tensor) -> Tensor:
    """With increments w of variance Δ, and signs z and y; each ``(P, channels)``."""
    z = (dt / 2) ** 0.5 * z
    b, moved = flow.drift(x), flow.noise(x, w)
    drift = dt / 2 * (b + flow.drift(x + dt * b + moved))
    aside = (dt / 2) ** 0.5 * flow.noise(x, y)
    middle = x + dt / 2 * b
    mean = (flow.noise(middle + aside, w) + flow.noise(middle - aside, w)) / 2
    areas = (flow.noise_along(x, flow.noise(x, z), w) - flow.noise_along(x, moved, z)) / 2
    return x + drift + mean + double_integrals(flow, x, dt, w, moved) + areas


SCHEMES: dict[str, Step] = {
    "euler-maruyama": euler_maruyama,
    "milstein": milstein,
    "weak2": weak_two,
}


def require_commuting(flow: StochasticFlow, x: Tensor, draws: Draws) -> None:
    """Refuse Milstein's method where the noises do not commute, at the points ``(P, D)``.

    They do if (σu·∇)(σv) = (σv·∇)(σu) for all u and v; here for some random ones.

    Raises
    ------
    InputError
        If not.
    """
    if flow.additive or flow.channels == 1:
        return
    u, v = draws.normal(), draws.normal()
    one = flow.noise_along(x, flow.noise(x, u), v)
    other = flow.noise_along(x, flow.noise(x, v), u)
    gap, size = (float(torch.linalg.vector_norm(a)) for a in (one - other, one))
    if gap > 1e4 * torch.finfo(x.dtype).eps * size:
        raise InputError(
            f"Milstein's method needs noises that commute, and those of '{flow.label}' do not "
            f"(by {gap / size:.1e}): without Lévy's areas it would be of strong order ½ as "
            "Euler-Maruyama's. Use method='weak2'."
        )
