r"""How the covariance of a swing relaxes: a step's logarithm, pair by pair of eigenvectors.

Along an eigenvector of curvature λ a step multiplies the swing of SGD by :math:`m = 1 - h\lambda`,
and position ξ and velocity η = hv of heavy ball by

.. math:: M = \begin{pmatrix} 1 - h\lambda & -\beta \\ h\lambda & \beta \end{pmatrix},
          \qquad z_\pm^2 - (1 + \beta - h\lambda)\,z_\pm + \beta = 0 .

Noise of covariance Σ adds :math:`h^2\Sigma\,kk^\top` with k = 1, or k = (−1, 1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FASTEST = 2.5  # no mean square shrinks by more than this power of e in a step, or turns by more
# than this angle: what would is gone at once either way, and Runge-Kutta's method of order four is
# stable, in steps of h, on the half disc of this radius
NEAR = 1e-6  # of hλ: apart from where a pair of eigenvectors keeps its mean square, or roots meet


class Relaxation:
    """The rate of a swing's second moments in eigenvectors of the Hessian.

    Parameters
    ----------
    lr : float
        The learning rate h.
    beta : float
        β of heavy ball; 0 for SGD, whose swing has no velocity.
    """

    def __init__(self, lr: float, beta: float):
        self.lr, self.beta = lr, beta
        #: Numbers along each direction: the position, with momentum the velocity as well.
        self.parts = 2 if beta else 1

    def __call__(self, values: Tensor, second: Tensor, noise: Tensor) -> Tensor:
        """The second moments' time derivative.

        Parameters
        ----------
        values : Tensor
            Curvatures λ, shape ``(k,)``.
        second : Tensor
            Second moments, ``(parts · k, parts · k)``: positions first, then velocities.
        noise : Tensor
            Σ of the gradient's noise, ``(k, k)``.
        """
        if not self.beta:
            rates, settled = self._plain(1 - self.lr * values)
            return rates * (second - self.lr**2 * settled * noise)
        k = len(values)
        blocks = second.double().reshape(2, k, 2, k).permute(1, 3, 0, 2)
        x = self.lr * values.double()
        a = self.logarithm(x)
        moved = torch.einsum("iab,ijbc->ijac", a, blocks)
        moved = moved + torch.einsum("ijab,jcb->ijac", blocks, a)
        moved = moved + self.lr**2 * noise.double()[:, :, None, None] * self._source(x)
        return (moved / self.lr).permute(2, 0, 3, 1).reshape(2 * k, 2 * k).to(second)

    def _plain(self, m: Tensor) -> tuple[Tensor, Tensor]:
        """log|mᵢmⱼ|/h, and 1/(1 − mᵢmⱼ), by which noise is multiplied where it has settled.

        Where the product is 1 their product is −1/h all the same, and is taken so.
        """
        product = torch.outer(m, m)
        logs = torch.log(product.abs().clamp(min=math.exp(-FASTEST)))
        near = (product - 1).abs() < 1e-9
        logs = torch.where(near, -torch.full_like(logs, 1e-9), logs)
        return logs / self.lr, torch.where(near, 1e9, 1 / (1 - product))

    def step(self, x: Tensor) -> Tensor:
        """M at each hλ, shape ``(k, 2, 2)``."""
        beta = torch.full_like(x, self.beta)
        return torch.stack([torch.stack([1 - x, -beta], -1), torch.stack([x, beta], -1)], -2)

    def logarithm(self, x: Tensor) -> Tensor:
        """The logarithm of M, or of −M where a step turns by more than a right angle.

        With d half the distance of the roots and s their mean it is a + b(M − s), smooth where
        the roots meet and become complex.
        """
        most = FASTEST / 2
        half = (1 + self.beta - x) / 2
        sign = torch.where(half < 0, -1.0, 1.0).to(x)
        s = half.abs()
        square = s**2 - self.beta
        d = square.abs().sqrt().clamp(min=NEAR)
        larger = torch.log(s + d).clamp(min=-most)
        smaller = torch.log(self.beta / (s + d)).clamp(min=-most)
        decay = max(0.5 * math.log(self.beta), -most)
        angle = torch.atan2(d, s).clamp(max=(most**2 - decay**2) ** 0.5)
        real = square > 0
        a = torch.where(real, (larger + smaller) / 2, torch.full_like(x, decay))
        b = torch.where(real, (larger - smaller) / 2, angle) / d
        eye = torch.eye(2, dtype=x.dtype, device=x.device)
        turned = sign[:, None, None] * self.step(x) - s[:, None, None] * eye
        return a[:, None, None] * eye + b[:, None, None] * turned

    def _source(self, x: Tensor) -> Tensor:
        r"""What noise of variance 1/h² adds, ``(k, k, 2, 2)``: so that the step's own is settled.

        :math:`-\log L\,(1 - L)^{-1}kk^\top` with L what a step does to a pair's second moments.
        """
        k, eye4 = len(x), torch.eye(4, dtype=x.dtype, device=x.device)
        for _ in range(2):
            m, a = self.step(x), self.logarithm(x)
            left = torch.einsum("iab,jcd->ijacbd", m, m).reshape(k, k, 4, 4)
            kept = torch.linalg.svdvals(eye4 - left)[..., -1] < NEAR
            if not bool(kept.any()):
                break
            x = x * (1 + 10 * NEAR)  # its limit there, which is regular
        eye = torch.eye(2, dtype=x.dtype, device=x.device)
        logs = torch.einsum("iab,cd->iacbd", a, eye).reshape(k, 1, 4, 4)
        logs = logs + torch.einsum("ab,jcd->jacbd", eye, a).reshape(1, k, 4, 4)
        push = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=x.dtype, device=x.device)
        settled = torch.linalg.solve(eye4 - left, push.expand(k, k, 4))
        return -torch.einsum("ijab,ijb->ija", logs, settled).reshape(k, k, 2, 2)

    def growth(self, values: Tensor, gain: Tensor) -> float:
        r"""What a step multiplies a small swing's mean squares by in the long run.

        Parameters
        ----------
        values : Tensor
            Curvatures, ``(k,)``.
        gain : Tensor
            What the noise's variance along the i-th direction gains from a swing of mean square
            1 along the j-th, ``(k, k)``. Mixed moments are left out.
        """
        x, beta = (self.lr * values).double(), self.beta
        k, one = len(x), torch.ones(len(values), dtype=torch.float64, device=values.device)
        # of E ξ², E ξη, E η²
        rows = [
            [(1 - x) ** 2, -2 * beta * (1 - x), beta**2 * one],
            [x * (1 - x), beta * (1 - 2 * x), -(beta**2) * one],
            [x**2, 2 * beta * x, beta**2 * one],
        ]
        steps = torch.stack([torch.stack(row, -1) for row in rows], -2)
        whole = torch.einsum("iab,ij->iajb", steps, torch.diag(one))
        push = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64, device=values.device)
        whole[:, :, :, 0] += self.lr**2 * gain.double()[:, None, :] * push[None, :, None]
        return float(torch.linalg.eigvals(whole.reshape(3 * k, 3 * k)).abs().max())
