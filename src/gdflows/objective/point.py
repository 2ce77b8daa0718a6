"""An objective at one point."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gdflows.objective.derivatives import derivative, pull, pull_all
from gdflows.objective.graph import fused_norms
from gdflows.objective.norms import PlainNorms

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

    from gdflows.objective.base import Objective


class Point:
    """An objective at one point: value and gradient computed once, products pulled at will.

    Made by :meth:`Objective.at`. Keeps the graph of the gradient, so that each further product
    costs about one gradient instead of two. With several chunks the graphs of all chunks would
    fill the memory that chunks were to save; they are then rebuilt for every call.

    Attributes
    ----------
    theta : Tensor
        Where, shape ``(D,)``.
    value : Tensor
        E(θ), zero-dimensional.
    grad : Tensor
        ∇E(θ), shape ``(D,)``.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> here = gf.problems.quadratic([1.0, 3.0]).at(torch.ones(2).double())
    >>> here.value, here.grad.tolist(), here.hvp(here.grad).tolist()
    (tensor(2., dtype=torch.float64), [1.0, 3.0], [1.0, 9.0])
    """

    def __init__(self, objective: Objective, theta: Tensor):
        self.objective = objective
        self.theta = theta.detach()
        self._graph = None
        self._plain = None  # the graph for third derivatives, where it must be another
        if len(objective.terms) == 1:
            objective._count["gradients"] += 1
            x = objective._leaf(self.theta)
            e, g = objective._run(0, x, lambda evaluate: self._keep(evaluate(), x))
            # Cloned, since a sum over processes is made in place and the graph needs its own.
            value, grad = (objective._joined(part.detach().clone()) for part in (e, g))
            self.value = objective._finite(value, "loss", theta)
            self.grad = objective._finite(objective._masked(grad), "gradient", theta)
        else:
            self.value, self.grad = objective.value_and_grad(theta)

    def _keep(self, e: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        g = self.objective._second(derivative(e, x, graph=True))
        self._loss, self._graph = e, (x, g)
        return e, g

    def linear_operator(self) -> LinearOperator:
        """The Hessian as a ``scipy.sparse.linalg.LinearOperator``, for scipy's solvers.

        ``eigsh``, ``cg``, ``minres``, … take it for a matrix, of θ's dtype; a product costs one
        Hessian-vector product. For torch the method :meth:`hvp` is that function already.

        Examples
        --------
        >>> import torch, gdflows as gf
        >>> from scipy.sparse.linalg import eigsh
        >>> E = gf.problems.quadratic(torch.arange(1.0, 101.0))
        >>> H = E.at(torch.ones(100)).linear_operator()
        >>> round(float(eigsh(H, 1, which="LA", return_eigenvectors=False)[0]))
        100
        """
        from gdflows.objective.operator import HessianOperator  # scipy.sparse takes its time

        return HessianOperator(self)

    def hvp(self, v: Tensor) -> Tensor:
        """∇²E(θ) v for one vector ``(D,)`` or several rows ``(k, D)``."""
        objective = self.objective
        if self._graph is None:
            return objective.hvp(self.theta, v)
        vectors = objective._vectors(self.theta, v, "v")
        objective._verify("second", self.theta)
        x, g = self._graph
        objective._count["hvps"] += len(vectors)

        vectors = objective._masked(vectors)

        def products() -> Tensor:
            return torch.stack([pull(g, w, x).detach() for w in vectors])

        out = objective._masked(objective._joined(objective.terms[0].again(x, products)))
        return objective._finite(out, "Hessian-vector product", self.theta).reshape(v.shape)

    def third(self, u: Tensor, v: Tensor) -> Tensor:
        """∇³E(θ)[u, v], shape ``(D,)``."""
        return self.contract(u, v)

    def contract(self, *vectors: Tensor) -> Tensor:
        """∇ᵐ⁺¹E(θ)[v₁, …, v_m], shape ``(D,)``: see :meth:`Objective.contract`."""
        objective = self.objective
        if self._graph is None:
            return objective.contract(self.theta, *vectors)
        vectors = [
            objective._vectors(self.theta, v, f"vector {i + 1}")[0] for i, v in enumerate(vectors)
        ]
        if vectors:
            objective._verify("second" if len(vectors) == 1 else "third", self.theta)
        vectors = [objective._masked(v) for v in vectors]
        x, g = self._graph_for(len(vectors))
        objective._count_contraction(len(vectors))
        out = objective.terms[0].again(x, lambda: pull_all(g, vectors, x))
        out = objective._masked(objective._joined(out))
        return objective._finite(out, f"derivative of order {len(vectors) + 1}", self.theta)

    def _graph_for(self, m: int) -> tuple[Tensor, Tensor]:
        """The gradient's graph for m contractions: without fused normalisations from two on."""
        if m < 2 or not fused_norms(self._loss):
            return self._graph
        if self._plain is None:
            objective = self.objective
            objective._count["gradients"] += 1
            x = objective._leaf(self.theta)

            def plain(evaluate):
                with PlainNorms():
                    return derivative(evaluate(), x, graph=True)

            self._plain = x, objective._run(0, x, plain)
        return self._plain
