"""The objective: a loss E on one flat parameter vector, and its derivatives.

Everything else in gdflows (flows, curvature, optimisers) sees a model only through this
class. It knows nothing of time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from gdflows import parallel
from gdflows.errors import InputError, NonFiniteError
from gdflows.objective.derivatives import derivative, pull, pull_all, twice_differentiable

LARGEST_DENSE = 20_000  # a float64 Hessian of this size takes 3.2 GB


class Objective:
    r"""A scalar loss :math:`E(\theta)` on a flat vector :math:`\theta \in \mathbb{R}^D`.

    Parameters
    ----------
    function : callable
        Maps a tensor of shape ``(D,)`` to a zero-dimensional tensor, with torch operations.
    dim : int, optional
        The number D of parameters. Without it, any length is taken.
    theta0 : Tensor, optional
        A natural starting point, shape ``(D,)``; kept as ``theta0``.

    Notes
    -----
    The vector's dtype and device are the caller's and are never changed. Complex vectors are
    taken where the loss is holomorphic: then ``grad``, ``hvp``, ``third`` and ``hessian`` are
    the complex derivatives E', E'', E''' (no conjugates). The Cauchy-Riemann equations are
    checked at every complex gradient, because torch evaluates a loss that is not holomorphic
    without a word.

    :attr:`cost` counts the work done: ``values`` (losses alone), ``gradients``, ``hvps``
    (Hessian-vector products), ``thirds`` and ``higher`` (contractions of the third derivative and
    of higher ones). A product pulled at a new point needs that point's gradient too, and counts it.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.Objective(lambda theta: (theta**4).sum() / 4, dim=2)
    >>> E.grad(torch.tensor([1.0, 2.0]))
    tensor([1., 8.])
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        dim: int | None = None,
        *,
        theta0: Tensor | None = None,
    ):
        if not callable(function):
            raise InputError(
                "Objective needs a function from a vector to a scalar, "
                f"got {type(function).__name__}. "
                "For a torch module use Objective.from_module(model, loss, (x, y))."
            )
        if theta0 is not None:
            dim = theta0.numel() if dim is None else dim
        if dim is not None and dim < 1:
            raise InputError(f"dim must be at least 1, got {dim}.")
        self._setup([function], dim, theta0)

    def _setup(self, terms: Sequence[Callable], dim: int | None, theta0: Tensor | None) -> None:
        #: The loss as a list of callables whose sum it is: one, or one a chunk of the data.
        self.terms = list(terms)
        self.dim = dim
        self.theta0 = theta0
        #: Whether the terms of other processes are to be added, see ``shard`` of from_module.
        self.shared = False
        self._twice = False  # whether second derivatives have been seen to exist
        self._count = Counter(values=0, gradients=0, hvps=0, thirds=0, higher=0)
        if theta0 is not None:
            self._check(theta0, "theta0")

    @classmethod
    def from_module(
        cls,
        model: torch.nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        data: tuple[Tensor, Tensor],
        *,
        chunk: int | None = None,
        reduction: str | None = None,
        shard: bool = False,
    ) -> Objective:
        """The loss of a torch module on a fixed data set, as a function of all its parameters.

        Parameters
        ----------
        model : torch.nn.Module
            Parameters that require gradients become θ, in the order of
            ``model.named_parameters()``; shared parameters appear once. Buffers are used as they
            are, and never changed. The module itself is left alone until
            :meth:`~gdflows.objective.FlatModule.write`.
        loss : callable
            ``loss(model(x), y)``, a scalar.
        data : tuple of Tensor
            ``(x, y)``, N samples along the first axis of each.
        chunk : int, optional
            Evaluate this many samples at a time and add up, so that the full-batch derivatives
            of a large data set fit in memory. The result is the same up to rounding.
        reduction : {"mean", "sum"}, optional
            How ``loss`` joins its samples. By default ``loss.reduction`` where there is one,
            else ``"mean"``. Only chunks and shares need it.
        shard : bool
            In each process of a ``torch.distributed`` group evaluate a share of the samples
            only, and add up value and derivatives over the group. All processes must be given
            the same data and ask for the same derivatives in the same order; they get the same
            bits. Without a group nothing changes.

        Returns
        -------
        FlatModule
            An Objective with ``theta0`` (the module's present parameters, shape ``(D,)``),
            ``write`` and ``unflatten``.

        Raises
        ------
        InputError
            If the module has no trainable parameters, mixes dtypes or devices, or cannot be
            evaluated in chunks.
        """
        from gdflows.objective.module import FlatModule

        return FlatModule(model, loss, data, chunk=chunk, reduction=reduction, shard=shard)

    # -- derivatives ---------------------------------------------------------------------------

    def value(self, theta: Tensor) -> Tensor:
        """The loss E(θ).

        Parameters
        ----------
        theta : Tensor
            Shape ``(D,)``.

        Returns
        -------
        Tensor
            Zero-dimensional.
        """
        self._check(theta)
        self._count["values"] += 1
        with torch.no_grad():
            total = self._joined(sum(self._evaluate(term, theta) for term in self.terms))
        return self._finite(total, "loss", theta)

    def grad(self, theta: Tensor) -> Tensor:
        """The gradient ∇E(θ), shape ``(D,)``."""
        return self.value_and_grad(theta)[1]

    def value_and_grad(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and its gradient, for the price of the gradient."""
        self._check(theta)
        self._count["gradients"] += 1
        value, grad = 0.0, torch.zeros_like(theta)
        for term in self.terms:
            x = theta.detach().clone().requires_grad_()
            e = self._evaluate(term, x)
            value = value + e.detach()
            grad += derivative(e, x, graph=theta.is_complex()).detach()
        value, grad = self._joined(value), self._joined(grad)
        self._finite(value, "loss", theta)
        return value, self._finite(grad, "gradient", theta)

    def hvp(self, theta: Tensor, v: Tensor) -> Tensor:
        """Hessian-vector products ∇²E(θ) v, without the Hessian.

        Parameters
        ----------
        theta : Tensor
            Shape ``(D,)``.
        v : Tensor
            One vector ``(D,)``, or several as rows ``(k, D)``: they share one gradient.

        Returns
        -------
        Tensor
            Of v's shape.
        """
        vectors = self._vectors(theta, v, "v")
        out = torch.zeros_like(vectors)
        self._count["gradients"] += 1
        self._count["hvps"] += len(vectors)
        # term by term, so that only one chunk's graph is alive at a time
        for term in self.terms:
            x, g = self._gradient_graph(term, theta)
            for i, w in enumerate(vectors):
                out[i] += pull(g, w, x).detach()
        out = self._joined(out)
        self._finite(out, "Hessian-vector product", theta)
        return out.reshape(v.shape)

    def third(self, theta: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """The third derivative contracted with two vectors, ∇³E(θ)[u, v], shape ``(D,)``.

        In components, ``out[i] = Σ_jk ∂³E/∂θ_i∂θ_j∂θ_k u[j] v[k]``. Costs about eight gradients.
        """
        return self.contract(theta, u, v)

    def contract(self, theta: Tensor, *vectors: Tensor) -> Tensor:
        """A higher derivative contracted with vectors, ∇ᵐ⁺¹E(θ)[v₁, …, v_m], shape ``(D,)``.

        No tensor is formed: the gradient is differentiated along one vector after another, which
        about doubles the cost with each.

        Parameters
        ----------
        theta : Tensor
            Shape ``(D,)``.
        *vectors : Tensor
            v₁ … v_m, each of shape ``(D,)``; none gives the gradient.
        """
        vectors = [self._vectors(theta, v, f"vector {i + 1}")[0] for i, v in enumerate(vectors)]
        self._check(theta)
        self._count["gradients"] += 1
        self._count_contraction(len(vectors))
        out = torch.zeros_like(theta)
        for term in self.terms:
            x, g = self._gradient_graph(term, theta)
            out += pull_all(g, vectors, x)
        return self._finite(self._joined(out), f"derivative of order {len(vectors) + 1}", theta)

    def hessian(self, theta: Tensor) -> Tensor:
        """The full Hessian ∇²E(θ), shape ``(D, D)``, from D Hessian-vector products.

        Raises
        ------
        InputError
            If D is over 20,000: use ``hvp``, or ``gdflows.curvature``, instead.
        """
        self._check(theta)
        if theta.numel() > LARGEST_DENSE:
            raise InputError(
                f"A full Hessian of {theta.numel():,} parameters would take "
                f"{theta.numel() ** 2 * theta.element_size() / 1e9:,.0f} GB. "
                "Use Hessian-vector products (Objective.hvp)."
            )
        h = self.hvp(theta, torch.eye(theta.numel(), dtype=theta.dtype, device=theta.device))
        # Rounding leaves H and its transpose apart by an ulp; eigensolvers want them equal.
        return (h + h.T) / 2

    def at(self, theta: Tensor) -> Point:
        """One point, at which many derivatives are wanted: its gradient's graph is paid once."""
        self._check(theta)
        return Point(self, theta)

    # -- what it cost --------------------------------------------------------------------------

    @property
    def cost(self) -> Mapping[str, int]:
        """Work done since the objective was made: values, gradients, hvps, thirds, higher."""
        return MappingProxyType(self._count)

    def reset_cost(self) -> None:
        """Set all counts of :attr:`cost` back to zero."""
        self._count.update({k: -n for k, n in self._count.items()})

    # -- inside --------------------------------------------------------------------------------

    def _check(self, theta: Tensor, name: str = "theta") -> None:
        if not isinstance(theta, Tensor):
            raise InputError(f"{name} must be a torch tensor, got {type(theta).__name__}.")
        if theta.ndim != 1:
            raise InputError(
                f"{name} must be a flat vector of shape (D,), got shape {tuple(theta.shape)}. "
                "For a module's parameters use Objective.from_module."
            )
        if self.dim is not None and theta.numel() != self.dim:
            raise InputError(f"{name} has {theta.numel()} entries, the objective {self.dim}.")
        if not (theta.is_floating_point() or theta.is_complex()):
            raise InputError(
                f"{name} is {theta.dtype}; derivatives need a floating-point dtype, "
                "e.g. theta.double()."
            )

    def _count_contraction(self, m: int) -> None:
        if m > 0:
            self._count[{1: "hvps", 2: "thirds"}.get(m, "higher")] += 1

    def _vectors(self, theta: Tensor, v: Tensor, name: str) -> Tensor:
        self._check(theta)
        if not isinstance(v, Tensor) or v.ndim not in (1, 2) or v.shape[-1] != theta.numel():
            shape = tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__
            raise InputError(
                f"{name} must have shape ({theta.numel()},) or (k, {theta.numel()}), got {shape}."
            )
        if v.device != theta.device:
            raise InputError(f"{name} is on {v.device}, theta on {theta.device}: move one of them.")
        if v.dtype != theta.dtype:
            raise InputError(f"{name} is {v.dtype}, theta {theta.dtype}: convert one of them.")
        return v.reshape(-1, v.shape[-1])

    def _evaluate(self, term: Callable, theta: Tensor) -> Tensor:
        e = term(theta)
        if not isinstance(e, Tensor):
            raise InputError(
                f"The loss returned a {type(e).__name__}, not a torch tensor, "
                "so it has no derivative. Compute it with torch operations on theta."
            )
        if e.ndim != 0:
            if e.numel() != 1:
                raise InputError(
                    f"The loss returned shape {tuple(e.shape)}; it must return a scalar. "
                    "Did you forget .sum() or .mean()?"
                )
            e = e.reshape(())
        if theta.is_complex() and not e.is_complex():
            raise InputError(
                "The loss is real at a complex theta, so it is not holomorphic "
                "(abs, .real, |r|² or conj?). Write squares as r * r."
            )
        return e

    def _gradient_graph(self, term: Callable, theta: Tensor) -> tuple[Tensor, Tensor]:
        x = theta.detach().clone().requires_grad_()
        return x, self._second(derivative(self._evaluate(term, x), x, graph=True))

    def _second(self, g: Tensor) -> Tensor:
        """The gradient, once it is seen that torch can differentiate it."""
        if not self._twice:
            if not twice_differentiable([g]):
                raise InputError(
                    "Some part of the loss can be differentiated only once (an autograd Function "
                    "marked once_differentiable); torch would leave it out of second derivatives "
                    "without a word. Write that part with plain torch operations."
                )
            self._twice = True
        return g

    def _joined(self, part: Tensor) -> Tensor:
        return parallel.total(part) if self.shared else part

    def _finite(self, value: Tensor, what: str, theta: Tensor) -> Tensor:
        if not torch.isfinite(value).all():
            norm = torch.linalg.vector_norm(theta.detach()).item()
            raise NonFiniteError(
                f"The {what} is not finite at ‖θ‖ = {norm:.3g}. "
                "Either θ has run off (lower the learning rate), or the loss overflows in "
                f"{theta.dtype} (try float64)."
            )
        return value


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
    """

    def __init__(self, objective: Objective, theta: Tensor):
        self.objective = objective
        self.theta = theta.detach()
        self._graph = None
        if len(objective.terms) == 1:
            objective._count["gradients"] += 1
            x = self.theta.clone().requires_grad_()
            e = objective._evaluate(objective.terms[0], x)
            g = objective._second(derivative(e, x, graph=True))
            self._graph = x, g
            # Cloned, since a sum over processes is made in place and the graph needs its own.
            value, grad = (objective._joined(part.detach().clone()) for part in (e, g))
            self.value = objective._finite(value, "loss", theta)
            self.grad = objective._finite(grad, "gradient", theta)
        else:
            self.value, self.grad = objective.value_and_grad(theta)

    def hvp(self, v: Tensor) -> Tensor:
        """∇²E(θ) v for one vector ``(D,)`` or several rows ``(k, D)``."""
        if self._graph is None:
            return self.objective.hvp(self.theta, v)
        vectors = self.objective._vectors(self.theta, v, "v")
        x, g = self._graph
        self.objective._count["hvps"] += len(vectors)
        out = self.objective._joined(torch.stack([pull(g, w, x).detach() for w in vectors]))
        return self.objective._finite(out, "Hessian-vector product", self.theta).reshape(v.shape)

    def third(self, u: Tensor, v: Tensor) -> Tensor:
        """∇³E(θ)[u, v], shape ``(D,)``."""
        return self.contract(u, v)

    def contract(self, *vectors: Tensor) -> Tensor:
        """∇ᵐ⁺¹E(θ)[v₁, …, v_m], shape ``(D,)``: see :meth:`Objective.contract`."""
        if self._graph is None:
            return self.objective.contract(self.theta, *vectors)
        objective = self.objective
        vectors = [
            objective._vectors(self.theta, v, f"vector {i + 1}")[0] for i, v in enumerate(vectors)
        ]
        x, g = self._graph
        objective._count_contraction(len(vectors))
        out = objective._joined(pull_all(g, vectors, x))
        return objective._finite(out, f"derivative of order {len(vectors) + 1}", self.theta)
