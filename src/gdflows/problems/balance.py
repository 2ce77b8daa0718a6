"""What the gradient flow of a chain of layers conserves."""

from __future__ import annotations

from torch import Tensor

from gdflows.errors import InputError
from gdflows.objective import FlatModule


def balancedness(objective: FlatModule, vector: Tensor, *, units: bool = False) -> list[Tensor]:
    r"""The balancedness of each pair of neighbouring layers.

    For layers :math:`z_j = W_j x_{j-1} + b_j` it is

    .. math::

        Q_j = W_{j+1}^\top W_{j+1} - W_j W_j^\top - b_j b_j^\top .

    Where nothing stands between the layers, the gradient flow conserves it; where a ReLU stands
    between them, or another function with :math:`\varphi(cz) = c\,\varphi(z)` for c > 0, it
    conserves the diagonal, outgoing minus incoming squared norm of each hidden unit [1]_. A step
    of gradient descent adds :math:`h^2` times the same expression in the gradient: hand that in
    as the vector.

    Parameters
    ----------
    objective : FlatModule
        From :meth:`gdflows.Objective.from_module`, of a module that is a chain of
        ``torch.nn.Linear`` layers, in the order of their use, with what stands between them free
        of parameters.
    vector : Tensor
        Parameters or a gradient, shape ``(D,)``.
    units : bool
        The diagonals only.

    Returns
    -------
    list of Tensor
        For each of the N - 1 hidden layers, of width n: shape ``(n, n)``, or ``(n,)`` if
        ``units``. dtype and device are the vector's.

    Raises
    ------
    InputError
        If the objective has no layers, they are no chain of matrices, or there is but one.

    References
    ----------
    .. [1] S. Du, W. Hu and J. Lee, "Algorithmic regularization in learning deep homogeneous
       models: layers are automatically balanced", NeurIPS, 2018.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> net = gf.problems.deep_linear([4, 5, 3], init="balanced", dtype=torch.float64)
    >>> data = torch.eye(4, dtype=torch.float64), torch.ones(4, 3, dtype=torch.float64)
    >>> E = gf.Objective.from_module(net, gf.problems.squared_error, data)
    >>> bool(gf.problems.balancedness(E, E.theta0)[0].abs().max() < 1e-14)
    True
    """
    layers = _chain(objective, vector)
    found = []
    for (_, w, b), (_, out, _) in zip(layers, layers[1:], strict=False):
        if units:
            q = (out**2).sum(0) - (w**2).sum(1)
            q = q if b is None else q - b**2
        else:
            q = out.T @ out - w @ w.T
            q = q if b is None else q - b[:, None] * b
        found.append(q)
    return found


def _chain(objective, vector: Tensor) -> list[tuple[str, Tensor, Tensor | None]]:
    """(name, weight, bias or None) of each layer."""
    if not isinstance(objective, FlatModule):
        raise InputError("Only an objective made by Objective.from_module has layers.")
    parts = objective.unflatten(vector)
    layers, taken = [], set()
    for name, w in parts.items():
        stem = name.removesuffix("weight")
        if stem == name or w.ndim != 2:
            continue
        b = parts.get(stem + "bias")
        layers.append((stem.rstrip("."), w, b))
        taken |= {name, stem + "bias"}
    other = [name for name in parts if name not in taken]
    if other:
        raise InputError(
            f"{other[0]} belongs to no linear layer: balancedness is that of a chain of "
            "torch.nn.Linear layers."
        )
    if len(layers) < 2:
        raise InputError(f"A pair of layers needs two, the module has {len(layers)}.")
    for (name, w, _), (after, out, _) in zip(layers, layers[1:], strict=False):
        if w.shape[0] != out.shape[1]:
            raise InputError(
                f"{name} has {w.shape[0]} outputs and {after} takes {out.shape[1]}: "
                "the layers are no chain."
            )
    return layers


def layer_names(objective: FlatModule) -> list[str]:
    """The layers of a chain, in the order of their use."""
    return [name for name, _, _ in _chain(objective, objective.theta0)]
