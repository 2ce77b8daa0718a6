"""A rule and its steps: is it a gradient, how long may a step be, what does a step follow?"""

from __future__ import annotations

import torch
from torch import Tensor

from gdflows.arguments import number, whole
from gdflows.bseries.modified import modified_equation
from gdflows.errors import InputError
from gdflows.flows.base import Flow


class ModifiedRule(Flow):
    r"""The flow that Euler's steps of another flow follow, to any order in the step.

    .. math:: \dot\theta = f - \tfrac h2 f'f + \tfrac{h^2}{12}f''(f, f) + \tfrac{h^2}3f'f'f + \dots

    Parameters
    ----------
    rule : Flow
        f, without companions, its field differentiable by ``torch.func``: a rule of this module.
        For gradient descent itself :class:`gdflows.flows.Truncated` is faster.
    lr : float
        The step h.
    order : int
        The highest power of h.

    Raises
    ------
    InputError
        If the flow carries companions.

    Examples
    --------
    >>> import torch
    >>> from gdflows.flows.learning import Hebb, ModifiedRule
    >>> rule = ModifiedRule(Hebb(torch.ones(1, 1).double()), lr=0.1, order=1)
    >>> round(float(rule.vector_field(torch.ones(1).double())), 6)  # log(1.1)/0.1, cut off
    0.95
    """

    def __init__(self, rule: Flow, lr: float, *, order: int = 1):
        if not isinstance(rule, Flow):
            raise InputError("ModifiedRule needs a flow, e.g. Oja(C).")
        super().__init__(rule.objective, number(lr, "lr", positive=True))
        self.rule = rule
        self._series = modified_equation("explicit-euler", whole(order, "order", 0))(
            rule.vector_field
        )
        self.label = f"{rule.label}, order {order}"

    def start(self, theta: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if self.rule.companions(theta):
            raise InputError(f"{self.rule.label} carries companions; ModifiedRule takes none.")
        return super().start(theta)

    def vector_field(self, theta: Tensor) -> Tensor:
        return self._series(theta, self.lr)


def rate_matrix(flow: Flow, theta: Tensor, **companions: Tensor) -> Tensor:
    """The Jacobian of a flow's whole field, companions included, by automatic differentiation.

    Parameters
    ----------
    flow : Flow
        Its field must be made of torch operations that can be differentiated, as those of
        Hebb, Oja, BCM, feedback alignment and two times are. For others, without companions,
        :func:`gdflows.flows.jacobian` takes differences.
    theta : Tensor
        Where, shape ``(D,)``.
    **companions : Tensor
        Where, by name; left out, the flow's own start.

    Returns
    -------
    Tensor
        Shape ``(S, S)``; θ first, then the companions, flat, in the order of
        ``flow.companions``. In 1/time.

    Raises
    ------
    InputError
        If a companion is missing, unknown or of another shape or dtype than the flow's, or the
        field is no differentiable function.

    Examples
    --------
    >>> import torch
    >>> from gdflows.flows.learning import Hebb, rate_matrix
    >>> rate_matrix(Hebb(torch.diag(torch.tensor([1.0, 3.0]))), torch.ones(2)).tolist()
    [[1.0, 0.0], [0.0, 3.0]]
    """
    start = flow.companions(theta)
    given = companions or start
    if set(given) != set(start):
        raise InputError(
            f"{flow.label} carries {sorted(start) or 'no companions'}, given: {sorted(given)}."
        )
    for name, own in start.items():
        there = given[name]
        if there.shape != own.shape or there.dtype != own.dtype:
            raise InputError(
                f"{flow.label}: the companion {name} is {own.dtype} of shape {tuple(own.shape)}, "
                f"given: {there.dtype}, {tuple(there.shape)}."
            )
    places = {name: given[name] for name in start}
    sizes = [theta.numel(), *(p.numel() for p in places.values())]

    def field(z: Tensor) -> Tensor:
        parts = z.split(sizes)
        named = {n: v.view(p.shape) for (n, p), v in zip(places.items(), parts[1:], strict=True)}
        rate, others = flow.field(parts[0], **named)
        return torch.cat([rate, *(others[n].reshape(-1) for n in places)])

    z = torch.cat([theta.detach(), *(p.detach().reshape(-1) for p in places.values())])
    x = z.clone().requires_grad_()
    out = field(x)
    if not out.requires_grad:
        raise InputError(
            f"The field of {flow.label} is not differentiable by torch here; use "
            "gdflows.flows.jacobian."
        )
    rows = [torch.autograd.grad(o, x, retain_graph=True)[0] for o in out]
    return torch.stack(rows)


def asymmetry(jacobian: Tensor) -> float:
    r"""How far a Jacobian is from a symmetric one: ‖J − Jᵀ‖/2‖J‖ in Frobenius' norm.

    0 for a gradient's (in the Euclidean metric), 1 for an antisymmetric matrix.

    Parameters
    ----------
    jacobian : Tensor
        Shape ``(D, D)``, real.

    Examples
    --------
    >>> import torch
    >>> from gdflows.flows.learning import asymmetry
    >>> asymmetry(torch.eye(2)), round(asymmetry(torch.tensor([[0.0, 1.0], [-1.0, 0.0]])), 6)
    (0.0, 1.0)
    """
    J = _square(jacobian)
    whole = torch.linalg.matrix_norm(J)
    if not whole > 0:
        raise InputError("The Jacobian is zero: it has no share that could be antisymmetric.")
    return float(torch.linalg.matrix_norm(J - J.T) / (2 * whole))


def euler_edge(jacobian: Tensor, *, neutral: float | None = None) -> float:
    r"""The step at which Euler's method loses a rest point of a flow.

    The multipliers are :math:`1 + h\mu`; a mode leaves the unit disc at
    :math:`h = -2\,\mathrm{Re}\,\mu/|\mu|^2`.

    Parameters
    ----------
    jacobian : Tensor
        Of the field at the rest point, shape ``(D, D)``.
    neutral : float, optional
        Eigenvalues smaller than so many times the largest are directions along which there are
        more points of rest; they are left out. By default the root of the dtype's precision, to
        which rounding knows a double eigenvalue: a mode that is slower by more is not seen.

    Returns
    -------
    float
        The smallest such h over the modes; 0 where the flow itself leaves the point.

    Raises
    ------
    InputError
        If all modes are neutral.

    Examples
    --------
    >>> import torch
    >>> from gdflows.flows.learning import euler_edge
    >>> euler_edge(torch.diag(torch.tensor([-1.0, -4.0])))  # 2/4
    0.5
    """
    J = _square(jacobian)
    neutral = torch.finfo(J.dtype).eps ** 0.5 if neutral is None else number(neutral, "neutral")
    if not 0 <= neutral < 1:
        raise InputError(f"neutral must be at least 0 and below 1, got {neutral:g}.")
    mu = torch.linalg.eigvals(J)
    size = mu.abs()
    kept = mu[size > neutral * size.max()]
    if not len(kept):
        raise InputError("The Jacobian is zero: every step is as good as every other.")
    return max(0.0, float((-2 * kept.real / kept.abs() ** 2).min()))


def turning_bias(jacobian: Tensor, field: Tensor) -> tuple[Tensor, Tensor]:
    r"""What Euler's method adds to a field to first order in h, in two parts.

    .. math:: -\tfrac12 Jf = -\nabla\tfrac14\|f\|^2 - \tfrac12(J - J^\top)f

    Parameters
    ----------
    jacobian : Tensor
        J, shape ``(D, D)``.
    field : Tensor
        f, shape ``(D,)``.

    Returns
    -------
    (Tensor, Tensor)
        The penalty on the speed and the part that turns; each ``(D,)``, to be multiplied by h.
        The second is orthogonal to f, and zero for a gradient flow.

    Examples
    --------
    >>> import torch
    >>> from gdflows.flows.learning import turning_bias
    >>> J, f = torch.tensor([[-1.0, 1.0], [-1.0, -1.0]]), torch.tensor([1.0, 0.0])
    >>> [part.tolist() for part in turning_bias(J, f)]
    [[0.5, -0.5], [0.0, 1.0]]
    """
    J = _square(jacobian)
    if field.shape != J.shape[:1]:
        raise InputError(f"The field has the shape {tuple(field.shape)}, J {tuple(J.shape)}.")
    return -J.T @ field / 2, -(J - J.T) @ field / 2


def _square(matrix: Tensor) -> Tensor:
    if not isinstance(matrix, Tensor) or matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError("A Jacobian is a square matrix, a tensor of shape (D, D).")
    if matrix.is_complex():
        raise InputError("The Jacobian of a learning rule is real; this one is complex.")
    if not matrix.is_floating_point():
        raise InputError(f"A Jacobian needs a floating-point dtype, got {matrix.dtype}.")
    if not torch.isfinite(matrix).all():
        raise InputError("The Jacobian holds values that are not finite.")
    return matrix
