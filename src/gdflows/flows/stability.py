"""What a flow does along each eigenvector of the Hessian, and near a critical point."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gdflows.arguments import number
from gdflows.curvature.eigen import top_eigenpairs
from gdflows.errors import InputError
from gdflows.flows.base import Flow, check_lr
from gdflows.flows.principal import alpha
from gdflows.objective import Objective

CASES = ("real unstable", "real stable", "complex stable", "complex unstable")


@dataclass(frozen=True, eq=False)
class StabilityCoefficients:
    """The principal flow along the sharpest eigenvectors of the Hessian.

    Attributes
    ----------
    eigenvalues : Tensor
        λᵢ, descending, shape ``(k,)``.
    eigenvectors : Tensor
        uᵢ as rows, shape ``(k, D)``, signed so that ∇E·uᵢ ≥ 0.
    products : Tensor
        ∇E·uᵢ, shape ``(k,)``.
    coefficients : Tensor
        scᵢ = log(1 − hλᵢ)/(hλᵢ) ∇E·uᵢ, complex, shape ``(k,)``.
    cases : list of str
        See :func:`classify`.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E, theta = gf.problems.quadratic([1.0, 3.0]), torch.ones(2).double()
    >>> seen = gf.stability_coefficients(E, theta, lr=0.1, k=2)
    >>> [round(x, 3) for x in seen.eigenvalues.tolist()]
    [3.0, 1.0]
    """

    eigenvalues: Tensor
    eigenvectors: Tensor = field(repr=False)
    products: Tensor
    coefficients: Tensor
    cases: list[str]


def stability_coefficients(
    objective: Objective, theta: Tensor, lr: float, k: int = 1, *, tol: float = 1e-4
) -> StabilityCoefficients:
    """The stability coefficients of the k sharpest directions.

    Where the real part of one is positive, the principal flow goes uphill along that direction:
    there gradient descent overshoots by more than it came with.

    Parameters
    ----------
    objective : Objective
        The loss.
    theta : Tensor
        Where, shape ``(D,)``, real.
    lr : float
        The learning rate h.
    k : int
        How many directions.
    tol : float
        Relative accuracy asked of the eigenvalues.

    Returns
    -------
    StabilityCoefficients

    References
    ----------
    Rosca et al. (2023), definition 3.4 and section 3.1.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E, theta = gf.problems.quadratic([1.0, 3.0]), torch.ones(2).double()
    >>> seen = gf.stability_coefficients(E, theta, lr=0.5)
    >>> seen.cases  # hλ = 1.5
    ['complex stable']
    """
    lr = check_lr(lr)
    top = top_eigenpairs(objective, theta, k, tol=tol)
    products = top.vectors @ objective.grad(theta)
    signs = torch.where(products < 0, -1.0, 1.0).to(products.dtype)
    products = products * signs
    x = lr * top.values.detach().cpu().double().numpy()
    coefficients = torch.from_numpy(alpha(x).astype(np.complex128))
    coefficients = coefficients.to(theta.dtype.to_complex()).to(theta.device)
    return StabilityCoefficients(
        eigenvalues=top.values,
        eigenvectors=top.vectors * signs[:, None],
        products=products,
        coefficients=coefficients * products,
        cases=[classify(value) for value in x],
    )


def classify(x: float) -> str:
    """What gradient descent does along a direction of curvature λ, from x = hλ.

    Parameters
    ----------
    x : float
        hλ.

    Returns
    -------
    str
        Of the multiplier 1 − x: ``"real unstable"`` (x < 0, it grows), ``"real stable"``
        (0 ≤ x < 1), ``"complex stable"`` (1 ≤ x < 2: it jumps from side to side, inwards),
        ``"complex unstable"`` (x ≥ 2: outwards, or without end).

    Notes
    -----
    Rosca et al. (2023), section 3.1, count x < 0 with the real stable case, by the sign of α
    and not by what happens.

    Examples
    --------
    >>> from gdflows.flows import classify
    >>> [classify(x) for x in (-0.5, 0.5, 1.5, 2.5)]
    ['real unstable', 'real stable', 'complex stable', 'complex unstable']
    """
    return CASES[int(np.searchsorted([0.0, 1.0, 2.0], x, side="right"))]


def jacobian_eigenvalue(x, lr: float, model: str | int = "PF") -> np.ndarray:
    r"""Eigenvalue of a flow's Jacobian at a critical point, λ α(hλ), from x = hλ.

    Its real part is the rate at which a small distance from the critical point grows. NGF: −λ.
    IGR: :math:`-\lambda - \tfrac h2\lambda^2`. PF: :math:`\log(1 - h\lambda)/h`.

    Parameters
    ----------
    x : array_like
        hλ.
    lr : float
        The learning rate h.
    model : {"NGF", "IGR", "PF"} or int
        As in :func:`gdflows.flows.alpha`.

    Returns
    -------
    ndarray
        Real or complex.

    References
    ----------
    Rosca et al. (2023), eq. 16 and appendix A.4, where IGR's is misprinted with h².

    Examples
    --------
    >>> from gdflows.flows import jacobian_eigenvalue
    >>> float(jacobian_eigenvalue(0.5, lr=0.1, model="NGF"))  # −λ
    -5.0
    """
    return np.asarray(x) / check_lr(lr) * alpha(x, model)


def jacobian(flow: Flow, theta: Tensor, eps: float = 1e-5) -> Tensor:
    """A vector field's Jacobian by central differences, for a look at few parameters.

    Parameters
    ----------
    flow : Flow
        Without companions.
    theta : Tensor
        Where, shape ``(D,)``.
    eps : float
        Half the distance of the two points, times the larger of 1 and ‖θ‖∞.

    Returns
    -------
    Tensor
        Shape ``(D, D)``, complex if the field is; costs 2D evaluations.

    Raises
    ------
    InputError
        If the flow carries companions.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> flow = gf.flows.NGF(gf.problems.quadratic([1.0, 3.0]))
    >>> gf.flows.jacobian(flow, torch.ones(2).double()).round(decimals=6).tolist()
    [[-1.0, 0.0], [0.0, -3.0]]
    """
    if flow.companions(theta):
        raise InputError(f"{flow.label} carries companions; its field is not a function of θ.")
    eps = number(eps, "eps", positive=True) * max(1.0, float(theta.abs().max()))
    columns = [
        (flow.vector_field(theta + eps * e) - flow.vector_field(theta - eps * e)) / (2 * eps)
        for e in torch.eye(theta.numel(), dtype=theta.dtype, device=theta.device)
    ]
    wide = torch.promote_types(columns[0].dtype, columns[-1].dtype)
    return torch.stack([c.to(wide) for c in columns], dim=1)
