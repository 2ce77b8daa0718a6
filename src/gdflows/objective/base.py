"""The objective: a loss E on one flat parameter vector, and its derivatives.

Everything else in gdflows (flows, curvature, optimisers) sees a model only through this
class. It knows nothing of time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gdflows import parallel
from gdflows.errors import InputError, NonFiniteError
from gdflows.objective import checks
from gdflows.objective.derivatives import derivative, explained, pull, pull_all
from gdflows.objective.graph import fused_norms, twice_differentiable
from gdflows.objective.norms import PlainNorms
from gdflows.objective.point import Point
from gdflows.objective.randomness import Draw
from gdflows.objective.terms import CHANGED, Term, scalar

if TYPE_CHECKING:
    from gdflows.objective.module import FlatModule

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
    constant : bool
        The loss may be constant. Without it a loss that has no graph is refused: it was detached.
    seed : int
        Of the random numbers that the loss draws (dropout): the same ones at every evaluation, so
        that E is a function. Nobody else's random state is touched.
    check : bool
        Check the loss and torch's derivatives of it once, see Notes. False for who knows.

    Raises
    ------
    InputError
        If the loss is no function of θ, or torch's derivatives of it are wrong.

    Notes
    -----
    **Checks.** At the first evaluation: that two evaluations agree, and that the loss depends on no
    trained tensor besides θ (three evaluations). At the first Hessian-vector product: that second
    derivatives are symmetric, and that they and the gradient agree with differences (about four
    gradients, two products, three values). At the first third derivative: that it agrees with a
    difference of products (three gradients, three products). They are made once and are not
    counted in :attr:`cost`; :attr:`checks` says how well each held. Differences tell nothing
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
        seed: int = 0,
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
        if dim is not None and dim < 1:
            raise InputError(f"dim must be at least 1, got {dim}.")
        self._setup([Term(function)], dim, theta0, constant=constant, seed=seed, check=check)

    def _setup(
        self,
        terms: Sequence[Term],
        dim: int | None,
        theta0: Tensor | None,
        *,
        constant: bool,
        seed: int,
        check: bool,
    ) -> None:
        #: The loss as a list of callables whose sum it is: one, or one a chunk of the data.
        self.terms = list(terms)
        self.dim = dim
        self.theta0 = theta0
        #: Whether the terms of other processes are to be added, see ``shard`` of from_module.
        self.shared = False
        #: What has been checked, by name, and how well it held: see Notes.
        self.checks: dict[str, float | None] = {}
        self._constant, self._draw = constant, Draw(seed)
        # Each check is made once, where it is first needed; with check=False never.
        self._due = {"function", "second", "third"} if check else set()
        self._value_needs_graph = False  # a loss that differentiates by its inputs
        self._kinked = False
        self._plain = False  # whether normalisations must be plain already in second derivatives
        self._twice = False  # whether second derivatives have been seen to exist
        self._count = Counter(values=0, gradients=0, hvps=0, thirds=0, higher=0)
        if theta0 is not None:
            self._check(theta0, "theta0")

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
        seed: int = 0,
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

    # -- inside --------------------------------------------------------------------------------

    def _look(self, theta: Tensor) -> None:
        """At the first evaluation: is the loss a function of θ, and one that torch sees?"""
        self._once("function", checks.function, theta)

    def _verify(self, which: str, theta: Tensor) -> None:
        """At the first product and the first third derivative: are torch's derivatives right?"""
        try:
            self._once(which, checks.DERIVATIVES[which], theta)
        except NonFiniteError:
            self._due.add(which)  # what is asked for may be finite all the same

    def _once(self, which: str, check: Callable, theta: Tensor) -> None:
        if which not in self._due or theta.is_complex():
            return
        self._due.discard(which)
        before = dict(self._count)
        try:
            check(self, theta)
        except InputError:
            self._due.add(which)  # refused again next time
            raise
        finally:
            self._count.update({k: before[k] - n for k, n in self._count.items()})

    def _leaf(self, theta: Tensor) -> Tensor:
        if torch.is_inference_mode_enabled() or theta.is_inference():
            raise InputError(
                "Under torch.inference_mode there are no derivatives: leave it, or use "
                "torch.no_grad (in which gdflows turns gradients on for itself)."
            )
        with torch.enable_grad():
            return theta.detach().clone().requires_grad_()

    def _run(self, number: int, x: Tensor, action: Callable, graph: bool = True):
        """``action(evaluate)`` with a term in place at x, its random numbers fixed.

        Without a graph, ``evaluate`` builds one only where the loss itself differentiates.
        """
        term = self.terms[number]

        def guarded(evaluate):
            def once() -> Tensor:
                with self._draw.fixed(number, x.device):
                    e = scalar(evaluate(), x)
                if x._version:
                    raise InputError(CHANGED)
                if graph and not e.requires_grad and not self._constant:
                    raise InputError(
                        "The loss has no graph: it was detached, computed under no_grad, or does "
                        "not depend on the parameters. If it is meant to be constant, say "
                        "constant=True."
                    )
                return e

            return action(once)

        if torch.is_autocast_enabled(x.device.type):
            raise InputError(
                "Inside torch.autocast curvature drowns in rounding: leave the autocast region "
                "before you ask for E or its derivatives."
            )
        grad = torch.enable_grad if graph or self._value_needs_graph else torch.no_grad
        with grad(), PlainNorms() if self._plain else nullcontext(), explained():
            return term.run(x, guarded)

    def _known(self, leaf: Tensor) -> bool:
        """Whether a tensor behind the loss may be one that requires gradients: of the data."""
        return False

    def _take_in(self, leaves: Sequence[Tensor]) -> bool:
        """Make tensors that are parts of θ, but were reached past it, parts of it."""
        return False

    def _named(self, leaf: Tensor) -> str:
        return f"a tensor of shape {tuple(leaf.shape)}"

    def _masked(self, v: Tensor) -> Tensor:
        """Of vectors ``(…, D)``, what is left by the masks that a module's gradients pass."""
        return v

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
        if torch.finfo(theta.dtype).bits < 32:
            raise InputError(
                f"{name} is in half precision ({theta.dtype}), where curvature drowns in rounding: "
                "use float32 or float64."
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
