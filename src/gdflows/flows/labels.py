"""The noise of labels that are drawn anew in every step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call, grad, jacrev, vmap

from gdflows.arguments import number, whole
from gdflows.errors import ConvergenceError, InputError
from gdflows.flows.covariance import Covariance
from gdflows.objective import FlatModule
from gdflows.objective.batched import fit_for_vmap
from gdflows.objective.samples import Samples
from gdflows.problems.losses import squared_error


class LabelNoise(Covariance):
    r"""The gradient's noise when each label of a squared error gets a fresh error in every step.

    .. math:: \Sigma(\theta) = \frac{s^2}{n^2}\sum_i J_i\transpose J_i, \qquad
              J_i = \frac{\partial f(x_i)}{\partial\theta},

    with the variance :math:`s^2` in each output of each of the n samples, all of which are in the
    batch. Where the labels are fitted exactly it is :math:`\frac{s^2}{n}\nabla^2E`.

    A channel an output of a sample. :math:`\sigma(\theta)z` costs one gradient.

    Parameters
    ----------
    objective : FlatModule
        From :meth:`gdflows.Objective.from_module`, with
        :func:`gdflows.problems.squared_error` for its loss.
    variance : float
        s² of each entry of a label.

    Raises
    ------
    InputError
        If the variance is negative. At its first use, if the loss is not that squared error.

    References
    ----------
    Blanc, Gupta, Valiant and Valiant (2020); Damian, Ma and Lee (2021).

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> x, theta = torch.tensor([[1.0], [3.0]]).double(), torch.ones(1).double()
    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> E = gf.Objective.from_module(model, gf.problems.squared_error, (x, 0 * x))
    >>> noise = gf.flows.LabelNoise(E, variance=0.5)
    >>> round(noise.matrix(theta).item(), 6)  # 0.5 · (1² + 3²)/2²
    1.25
    """

    def __init__(self, objective: FlatModule, variance: float):
        self.samples = Samples(objective)
        self.objective = objective
        self.variance = number(variance, "variance")
        if self.variance < 0:
            raise InputError(f"variance must not be negative, got {self.variance:.3g}.")
        with torch.no_grad():
            self.channels = self.outputs(objective.theta0).numel()

    def outputs(self, theta: Tensor) -> Tensor:
        """What the model says of all samples, ``(n, ...)``, as a function for transforms."""
        batch, E = self.samples.batch, self.objective
        return functional_call(E.model, E.unflatten(theta), batch.args, dict(batch.kwargs))

    def fitted(self, thetas: Tensor, *, steps: int = 50) -> Tensor:
        r"""Points near the rows of ``(P, D)``, or near a point ``(D,)``, that fit all labels.

        By the method of Gauss and Newton, :math:`\theta \leftarrow \theta - J^+(f - y)`: each step
        goes straight across the valley. Where a network has more parameters than there are
        labels these are minima, to rounding, which descent would take long to reach.

        Raises
        ------
        ConvergenceError
            If after so many steps some label is still off.
        """
        points = thetas if thetas.ndim == 2 else thetas[None]
        self.check(points[0])
        target, eps = self.samples.batch.target, torch.finfo(points.dtype).eps
        for _ in range(whole(steps, "steps")):
            with fit_for_vmap(), torch.no_grad():
                outputs = vmap(self.outputs)(points)
                jacobians = vmap(jacrev(self.outputs))(points)
            off = (outputs - _as_outputs(target, outputs)).reshape(len(points), -1)
            if float(off.abs().max()) < 1e3 * eps * (1 + float(outputs.abs().max())):
                return points.reshape(thetas.shape)
            rows = jacobians.reshape(len(points), off.shape[1], -1)
            points = points - (torch.linalg.pinv(rows) @ off[..., None])[..., 0]
        raise ConvergenceError(
            f"After {steps} steps of Gauss and Newton a label is still off by "
            f"{float(off.abs().max()):.3g}: start nearer, after some descent."
        )

    def check(self, theta: Tensor) -> None:
        E = self.objective
        with torch.no_grad():
            expected = squared_error(self.outputs(theta), self.samples.batch.target)
        seen = E.value(theta)
        eps = torch.finfo(theta.dtype).eps
        if not abs(seen - expected) <= 1e3 * eps * (abs(expected) + eps):
            raise InputError(
                f"The loss is {float(seen):.6g}, and half the mean squared distance of outputs and "
                f"labels {float(expected):.6g}: noise of labels is known for the loss "
                "gdflows.problems.squared_error."
            )

    def apply(self, thetas: Tensor, z: Tensor) -> Tensor:
        scale = self.variance**0.5 / self.samples.size
        self.objective._count["gradients"] += len(thetas)

        def weighted(theta: Tensor, z: Tensor) -> Tensor:
            outputs = self.outputs(theta)
            return (z.reshape(outputs.shape) * outputs).sum()

        with fit_for_vmap():
            return scale * self.objective._masked(vmap(grad(weighted))(thetas, z))


def _as_outputs(target: Tensor, outputs: Tensor) -> Tensor:
    """Labels in the form of the outputs ``(P, n, C)``: of classes one-hot."""
    if target.is_floating_point():
        return target
    return torch.nn.functional.one_hot(target.long(), outputs.shape[-1]).to(outputs)
