"""The objective: a loss E on one flat parameter vector, and its derivatives.

Everything else in gdflows (flows, curvature, optimisers) sees a model only through this
class. It knows nothing of time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gdflows.arguments import whole
from gdflows.errors import InputError
from gdflows.objective.derivatives import derivative, pull, pull_all
from gdflows.objective.evaluation import Evaluation
from gdflows.objective.graph import fused_norms
from gdflows.objective.norms import PlainNorms
from gdflows.objective.point import Point
from gdflows.objective.terms import Term

if TYPE_CHECKING:
    from gdflows.objective.module import FlatModule

LARGEST_DENSE = 20_000  # a float64 Hessian of this size takes 3.2 GB


class Objective(Evaluation):
    r"""A scalar loss :math:`E(\theta)` on a flat vector :math:`\theta \in \mathbb{R}^D`.

    Parameters
    ----------
    function : callable
        Maps a tensor of shape ``(D,)`` to a zero-dimensional tensor, with torch operations.
    dim : int, optional
        The number D of parameters. Without it, any length is taken.
    theta0 : Tensor, optional
        A natural starting point, shape ``(D,)``; kept as ``theta0``.
    constant : bool
        The loss may be constant. Without it a loss that has no graph is refused: it was detached.
    seed : int, optional
        Of the random numbers that the loss draws (dropout): the same ones at every evaluation, so
        that E is a function; 0 by default. Nobody else's random state is touched. With a seed one
        draw is meant; without, a loss that draws gives a warning.
    check : bool
        Check the loss and torch's derivatives of it once, see Notes. False for who knows.

    Raises
    ------
    InputError
        If the loss is no function of θ, or torch's derivatives of it are wrong.

    Warns
    -----
    UserWarning
        At the first evaluation, if the loss draws random numbers and no seed was given: what is
        seen is then one draw's loss, not the mean over draws, nor that of ``model.eval()``.

    Notes
    -----
    **Checks.** At the first evaluation: that two evaluations agree, and that the loss depends on no
    trained tensor besides θ (three evaluations). At the first Hessian-vector product: that second
    derivatives are symmetric, and that they and the gradient agree with differences (about four
    gradients, two products, three values). At the first third derivative: that it agrees with a
    difference of products (three gradients, three products). They are made once and are not
    counted in :attr:`cost`; ``E.checks`` says how well each held. Differences tell nothing
    about losses with kinks (ReLU) in single precision.

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
        constant: bool = False,
        seed: int | None = None,
        check: bool = True,
    ):
        if isinstance(function, torch.nn.Module):
            raise InputError(
                f"Objective needs a function of a flat vector, and {type(function).__name__} is a "
                "torch module: use Objective.from_module(model, loss, data)."
            )
        if not callable(function):
            raise InputError(
                "Objective needs a function from a vector to a scalar, "
                f"got {type(function).__name__}. "
                "For a torch module use Objective.from_module(model, loss, (x, y))."
            )
        if theta0 is not None:
            dim = theta0.numel() if dim is None else dim
        if dim is not None:
            dim = whole(dim, "dim")
        self._setup([Term(function)], dim, theta0, constant=constant, seed=seed, check=check)

    @classmethod
    def from_module(
        cls,
        model: torch.nn.Module,
        loss: Callable | None = None,
        data=None,
        *,
        chunk: int | None = None,
        reduction: str | None = None,
        count: Callable | None = None,
        axis: int | tuple[int, int] = 0,
        loss_parameters: bool = False,
        shard: bool = False,
        constant: bool = False,
        seed: int | None = None,
        check: bool = True,
    ) -> FlatModule:
        """The loss of a torch module on a fixed data set, as a function of all its parameters.

        Parameters
        ----------
        model : torch.nn.Module
            Parameters that require gradients become θ, in the order of
            ``model.named_parameters()``; shared parameters appear once. Buffers and other state
            are used as they are, and never changed. The module itself is left alone until
            :meth:`~gdflows.objective.FlatModule.write`.
        loss : callable, optional
            ``loss(model(x), y)``, a scalar; ``loss(model(x))`` where there is no target. Without
            it the model computes its own: ``model(**batch).loss``, or ``model(*batch)`` if that is
            a scalar.
        data
            ``(x, y)``, tensors or numpy arrays with the samples along the first axis;
            ``((a, b), y)`` or ``({"a": a}, y)`` for several inputs; ``(x, None)`` or ``x`` without
            a target; a dict, of which ``labels`` (or ``label``, ``target``, ``y``) is the target;
            a ``TensorDataset``; or a DataLoader or list of such batches. Batches are read once and
            kept; each is a term of its own, weighted by what its loss is a mean over.
        chunk : int, optional
            Evaluate this many samples at a time and add up, so that the full-batch derivatives
            of a large data set fit in memory. The result is the same up to rounding.
        reduction : {"mean", "sum"}, optional
            How ``loss`` joins its samples. By default ``loss.reduction`` where there is one, else
            what holds. Only chunks, batches and shares need it.
        count : callable, optional
            Over how many things the loss of a part is a mean, from its target: by default its
            samples, its labels that are not ignored, or the weights of their classes, whichever
            holds.
        axis : int or (int, int)
            The axis of the samples; of inputs and target, if they differ.
        loss_parameters : bool
            Take the trained parameters of a loss that is a module into θ, after the model's.
        shard : bool
            In each process of a ``torch.distributed`` group evaluate a share of the samples
            only, and add up value and derivatives over the group. All processes must be given
            the same data and ask for the same derivatives in the same order; they get the same
            bits. Without a group nothing changes.
        constant, seed, check
            As for :class:`Objective`. ``check=False`` also leaves out the comparison of chunks
            with the whole.

        Returns
        -------
        FlatModule
            An Objective with ``theta0`` (the module's present parameters, shape ``(D,)``),
            ``write`` and ``unflatten``.

        Raises
        ------
        InputError
            If the module has no trainable parameters, mixes dtypes or devices, cannot be called
            with the data, cannot be evaluated in parts, or if its loss is no function of θ.

        Notes
        -----
        Loss and derivatives are computed with θ in the module's place, so that penalties over
        ``model.parameters()`` and recomputed activations are differentiated too. Parameters kept
        in a list are found by their place in the loss's graph and taken in. Gradient hooks that
        are masks are applied; then E is the loss within the mask's range.

        Making it costs three evaluations of the loss (of one batch, where there are several), and
        three more on all data with chunks or batches.
        """
        from gdflows.objective.module import FlatModule

        return FlatModule(
            model, loss, data, chunk=chunk, reduction=reduction, count=count, axis=axis,
            loss_parameters=loss_parameters, shard=shard, constant=constant, seed=seed, check=check,
        )  # fmt: skip

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
        self._look(theta)
        self._count["values"] += 1
        total = 0.0
        for number in range(len(self.terms)):
            x = theta.detach().clone()
            x = x.requires_grad_() if self._value_needs_graph else x
            total = total + self._run(number, x, lambda evaluate: evaluate().detach(), False)
        return self._finite(self._joined(total), "loss", theta)

    def grad(self, theta: Tensor) -> Tensor:
        """The gradient ∇E(θ), shape ``(D,)``."""
        return self.value_and_grad(theta)[1]

    def value_and_grad(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and its gradient, for the price of the gradient."""
        self._check(theta)
        self._look(theta)
        self._count["gradients"] += 1
        value, grad = 0.0, torch.zeros_like(theta)
        for number in range(len(self.terms)):
            x = self._leaf(theta)

            def both(evaluate, x=x):
                e = evaluate()
                return e.detach(), derivative(e, x, graph=x.is_complex()).detach()

            e, g = self._run(number, x, both)
            value = value + e
            grad += g
        value, grad = self._joined(value), self._masked(self._joined(grad))
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
        self._look(theta)
        self._verify("second", theta)
        masked = self._masked(vectors)
        out = torch.zeros_like(vectors)
        self._count["gradients"] += 1
        self._count["hvps"] += len(vectors)
        # term by term, so that only one chunk's graph is alive at a time
        for number in range(len(self.terms)):
            x = self._leaf(theta)

            def products(evaluate, x=x):
                g = self._second(derivative(evaluate(), x, graph=True))
                for i, w in enumerate(masked):
                    out[i] += pull(g, w, x).detach()

            self._run(number, x, products)
        out = self._masked(self._joined(out))
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
        self._check(theta)
        vectors = [self._vectors(theta, v, f"vector {i + 1}")[0] for i, v in enumerate(vectors)]
        self._look(theta)
        if vectors:
            self._verify("second" if len(vectors) == 1 else "third", theta)
        vectors = [self._masked(v) for v in vectors]
        self._count["gradients"] += 1
        self._count_contraction(len(vectors))
        out = torch.zeros_like(theta)
        for number in range(len(self.terms)):
            x = self._leaf(theta)

            def contraction(evaluate, x=x):
                e = evaluate()
                if len(vectors) > 1 and fused_norms(e):
                    with PlainNorms():
                        e = evaluate()
                return pull_all(self._second(derivative(e, x, graph=True)), vectors, x)

            out += self._run(number, x, contraction)
        out = self._masked(self._joined(out))
        return self._finite(out, f"derivative of order {len(vectors) + 1}", theta)

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
        self._look(theta)
        return Point(self, theta)

    # -- what it cost --------------------------------------------------------------------------

    @property
    def cost(self) -> Mapping[str, int]:
        """Work done since the objective was made: values, gradients, hvps, thirds, higher."""
        return MappingProxyType(self._count)

    def reset_cost(self) -> None:
        """Set all counts of :attr:`cost` back to zero."""
        self._count.update({k: -n for k, n in self._count.items()})
