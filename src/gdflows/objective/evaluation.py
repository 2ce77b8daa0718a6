"""What every derivative of an objective goes through: its terms, checks, counts and errors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from gdflows import parallel
from gdflows.errors import InputError, NonFiniteError
from gdflows.lengths import largest_entry
from gdflows.objective import checks
from gdflows.objective.derivatives import explained
from gdflows.objective.graph import twice_differentiable
from gdflows.objective.norms import PlainNorms
from gdflows.objective.randomness import Draw
from gdflows.objective.terms import CHANGED, Term, scalar


class Evaluation:
    """The inside of :class:`gdflows.Objective`, which adds the derivatives themselves."""

    def _setup(
        self,
        terms: Sequence[Term],
        dim: int | None,
        theta0: Tensor | None,
        *,
        constant: bool,
        seed: int | None,
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

    def _look(self, theta: Tensor) -> None:
        """At the first evaluation: is the loss a function of θ, and one that torch sees?"""
        self._once("function", checks.function, theta)

    def _verify(self, which: str, theta: Tensor) -> None:
        """At the first product and the first third derivative: are torch's derivatives right?"""
        try:
            self._once(which, lambda E, at: checks.derivatives(E, which, at), theta)
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

    def _random(self, theta: Tensor) -> list[str]:
        """What draws random numbers, as the first evaluation has seen; empty if nothing does."""
        names = {"torch": "torch's", "cuda": "the GPU's", "numpy": "numpy's", "python": "Python's"}
        return [f"from {names[kind]} global state" for kind in self._draw.used]

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
        if not math.isfinite(largest_entry(value.detach())):
            norm = torch.linalg.vector_norm(theta.detach()).item()
            raise NonFiniteError(
                f"The {what} is not finite at ‖θ‖ = {norm:.3g}. "
                "Either θ has run off (lower the learning rate), or the loss overflows in "
                f"{theta.dtype} (try float64)."
            )
        return value
