"""A network that is linear in its parameters: the same one, by its tangent at a point."""

from __future__ import annotations

from torch import Tensor
from torch.func import functional_call, jvp

from gdflows.errors import InputError
from gdflows.objective import FlatModule, Objective


def linearised(objective: FlatModule, theta: Tensor | None = None) -> Objective:
    r"""The loss of a network whose output is replaced by its tangent at a point.

    .. math:: E_{\mathrm{lin}}(\theta) = L\bigl(f(\theta_0) + J(\theta - \theta_0)\bigr)

    for :math:`E = L \circ f` and J the Jacobian of the outputs f at :math:`\theta_0`. Value and
    gradient at :math:`\theta_0` are those of E; the Hessian there is the generalised
    *Gauss-Newton* matrix :math:`J\transpose(\nabla^2L)J`, positive semidefinite if L is convex in
    the outputs.

    Parameters
    ----------
    objective : FlatModule
        From :meth:`gdflows.Objective.from_module` with data ``(x, y)``, evaluated at once.
    theta : Tensor, optional
        :math:`\theta_0`, shape ``(D,)``; by default ``objective.theta0``.

    Returns
    -------
    Objective
        With ``theta0`` :math:`= \theta_0`. A gradient or product costs about two of E's.

    Raises
    ------
    InputError
        If the objective is not a module's loss on ``(x, y)``, or is evaluated in chunks or shared
        out over processes, or has second-order parts that are not of this form.

    References
    ----------
    Schraudolph (2002), "Fast curvature matrix-vector products for second-order gradient descent".

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> net = gf.problems.mlp([13, 4, 3], "tanh", seed=0, dtype=torch.float64)
    >>> E = gf.problems.classification("wine", net, n=20)
    >>> gauss_newton = gf.problems.linearised(E).hessian(E.theta0)
    >>> bool(torch.linalg.eigvalsh(gauss_newton)[0] > -1e-12)
    True
    """
    if not isinstance(objective, FlatModule):
        raise InputError(
            "linearised needs a module's loss, from gdflows.Objective.from_module, got "
            f"{type(objective).__name__}: of a formula it is not known what is the output."
        )
    data = objective.data
    plain = isinstance(data, tuple) and len(data) == 2 and all(isinstance(d, Tensor) for d in data)
    if not plain or objective.loss is None:
        raise InputError("linearised needs a loss of the model's output and data (x, y), tensors.")
    if len(objective.terms) > 1 or objective.shared:
        raise InputError(
            "linearised evaluates all samples at once, in one process: leave out chunk and shard."
        )
    start = objective.theta0 if theta is None else theta.detach().clone()
    objective._check(start)
    x, y = data

    def output(parameters: Tensor) -> Tensor:
        return functional_call(objective.model, objective.unflatten(parameters), (x,))

    def loss(parameters: Tensor) -> Tensor:
        there, moved = jvp(output, (start,), (parameters - start,))
        return objective.loss(there + moved, y)

    made = Objective(loss, start.numel(), theta0=start)
    before, after = float(objective.value(start)), float(made.value(start))
    if abs(after - before) > 1e-3 * (1e-6 + abs(before)):
        raise InputError(
            f"At the point of tangency the losses differ ({before:.6g}, {after:.6g}): the model or "
            "its data have state that a plain call does not give, such as masks or a penalty."
        )
    return made
