"""The noise of labels that are drawn anew in every step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from gdflows.arguments import number
from gdflows.errors import InputError
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
