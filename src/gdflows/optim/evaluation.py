"""How an optimiser that needs curvature evaluates a closure: loss, gradient, products.

The closure returns the loss and does not call ``backward``; it may be called again on the same
batch.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_pre_hook

from gdflows import parallel
from gdflows.errors import InputError, NonFiniteError
from gdflows.objective import twice_differentiable

Closure = Callable[[], Tensor]
PRODUCTS = ("auto", "exact", "difference")


class CurvatureOptimizer(torch.optim.Optimizer):
    """A torch optimiser whose step takes a closure and may ask for Hessian-vector products.

    Parameters
    ----------
    params : iterable
        Parameters or parameter groups, in a real floating-point dtype of 32 bits or more.
    defaults : dict
        Of the parameter groups.
    hvp : {"auto", "exact", "difference"}
        ``"exact"``: differentiate the gradient; some two gradients on top of the step's own.
        ``"difference"``: a second gradient a little way along the vector; one gradient. It is
        good to a tenth of a percent where the network is smooth, and can be wrong by far where it
        has kinks (ReLU). ``"auto"``: exact, unless the network has no second derivative (a model
        under ``torch.compile``, some kernels); then differences, with a warning.

    Attributes
    ----------
    cost : dict
        ``gradients`` (evaluations of a gradient) and ``hvps`` (products of either kind) so far.

    Notes
    -----
    Products are taken at the same batch with the same random numbers (dropout), and leave the
    running statistics of batch normalisation alone. Where a ``torch.distributed`` group exists
    they are averaged over it, like the gradients that ``DistributedDataParallel`` averages, so
    that all processes take the same decisions.
    """

    def __init__(self, params, defaults: dict, *, hvp: str = "auto"):
        if hvp not in PRODUCTS:
            raise InputError(f"hvp must be one of {', '.join(PRODUCTS)}, got {hvp!r}.")
        super().__init__(params, defaults)
        for p in self._parameters():
            if p.is_complex() or not p.is_floating_point() or torch.finfo(p.dtype).bits < 32:
                raise InputError(
                    f"{type(self).__name__} needs parameters in float32 or float64, got {p.dtype}: "
                    "curvature drowns in coarser rounding. Keep the parameters in float32 and use "
                    "torch.autocast for the model."
                )
        self.hvp = hvp
        self._twice = False
        self.cost: Counter[str] = Counter(gradients=0, hvps=0)

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _groups_of(self, parameters: Sequence[Tensor]) -> list[dict]:
        groups = {id(p): group for group in self.param_groups for p in group["params"]}
        return [groups[id(p)] for p in parameters]

    def _factors(self, parameters: Sequence[Tensor]) -> tuple[list[float], float]:
        """The groups' ``lr`` relative to the largest, for each parameter, and the largest.

        What decides on a common rate sees the relative ones only: what a scheduler takes from all
        groups must not come back as a larger rate.
        """
        top = max(float(group["lr"]) for group in self.param_groups) or 1.0
        return [float(group["lr"]) / top for group in self._groups_of(parameters)], top

    # -- loss and gradient -----------------------------------------------------------------------

    def _evaluate(self, closure: Closure | Sequence[Closure], products: bool) -> Evaluation:
        """Loss and gradients at the present parameters; the gradients are in ``p.grad`` too."""
        if closure is None:
            raise InputError(
                f"{type(self).__name__}.step needs a closure that returns the loss, without "
                "calling backward: optimizer.step(lambda: loss_fn(model(x), y))."
            )
        closures = list(closure) if isinstance(closure, Sequence) else [closure]
        if not closures:
            raise InputError("step was given no closure.")
        return Evaluation(self, closures, products)

    # -- the state beyond torch's ----------------------------------------------------------------

    def _extra(self) -> dict:
        """What a resumed run needs besides moments and groups: plain numbers."""
        return {}

    def _set_extra(self, extra: dict) -> None:
        """Take it back."""

    def state_dict(self) -> dict:
        """Everything that the next step depends on, but for the parameters and the data."""
        return super().state_dict() | {"extra": self._extra() | {"cost": dict(self.cost)}}

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on from :meth:`state_dict`, to the same bits."""
        extra = dict(state_dict.get("extra", {}))
        super().load_state_dict(state_dict)
        self.cost = Counter(extra.pop("cost", {}))
        self._set_extra(extra)


class Evaluation:
    """One batch at one point: its loss, its gradient, and products with its Hessian.

    Attributes
    ----------
    loss : float
        The mean over the closures.
    value : Tensor
        The same, detached, as ``step`` returns it.
    grads : list of Tensor
        A tensor for each parameter; zeros for those that the loss does not depend on.
    """

    def __init__(self, optimizer: CurvatureOptimizer, closures: list[Closure], products: bool):
        self.optimizer, self.closures = optimizer, closures
        self.parameters = [p for p in optimizer._parameters() if p.requires_grad]
        self._graphs = None
        self._random = _random_state(self.parameters) if products else {}
        exact = products and optimizer.hvp != "difference"
        total = None
        for p in self.parameters:
            p.grad = None
        optimizer.cost["gradients"] += 1
        graphs = []
        for closure in closures:
            with torch.enable_grad(), _plain_attention(exact):
                loss = self._scalar(closure())
                share = loss if len(closures) == 1 else loss / len(closures)
                graph = self._graph(share) if exact else None
                graphs.append(graph)
                if graph is None or parallel.size() > 1:
                    # DistributedDataParallel averages gradients on the way back.
                    share.backward(retain_graph=graph is not None)
                else:
                    for p, g in zip(self.parameters, graph, strict=True):
                        p.grad = g.detach() if p.grad is None else p.grad + g.detach()
            part = share.detach()
            total = part if total is None else total + part
        if exact and all(graph is not None for graph in graphs):
            self._graphs = graphs
        self.value = _mean(total.clone())
        self.loss = float(self.value)
        for p in self.parameters:
            if p.grad is not None and p.grad.is_sparse:
                raise InputError(
                    "A parameter has a sparse gradient, of which there is no curvature: make the "
                    "embedding with sparse=False."
                )
        self.grads = [
            torch.zeros_like(p) if p.grad is None else p.grad.detach() for p in self.parameters
        ]

    @property
    def finite(self) -> bool:
        """Whether loss and gradients are."""
        return math.isfinite(self.loss) and math.isfinite(float(norm(self.grads)))

    def require_finite(self) -> None:
        if not self.finite:
            raise NonFiniteError(
                f"The loss is {self.loss} or its gradient is not finite; the parameters were left "
                "as they are. Is the data clean, and is the learning rate's cap low enough?"
            )

    def product(self, vectors: list[Tensor]) -> list[Tensor]:
        """The Hessian times a vector, given and returned as a tensor for each parameter."""
        self.optimizer.cost["hvps"] += 1
        if self._graphs is not None:
            return self._exact(vectors)
        return self._difference(vectors)

    # -- inside ----------------------------------------------------------------------------------

    def _scalar(self, loss) -> Tensor:
        if not isinstance(loss, Tensor):
            raise InputError(
                f"The closure returned {type(loss).__name__}, not the loss as a tensor. It should "
                "return loss_fn(model(x), y), and not call backward or item."
            )
        if loss.numel() != 1:
            raise InputError(f"The closure returned shape {tuple(loss.shape)}, not a scalar loss.")
        if not loss.requires_grad:
            raise InputError(
                "The closure's loss has no graph. Do not call backward, detach or no_grad in it."
            )
        return loss.reshape(())

    def _graph(self, share: Tensor):
        try:
            grads = torch.autograd.grad(
                share, self.parameters, create_graph=True, materialize_grads=True
            )
            if not self.optimizer._twice:
                if not twice_differentiable(grads):
                    raise RuntimeError("a function is marked once_differentiable")
                self.optimizer._twice = True
            return grads
        except RuntimeError as error:
            self._refuse(error)
            return None

    def _refuse(self, error: Exception) -> None:
        """The model has no second derivative: differences from now on, if that is allowed."""
        if isinstance(error, torch.OutOfMemoryError):
            raise error
        if self.optimizer.hvp == "exact":
            raise InputError(
                f"The model has no second derivative here ({error}). Use hvp='difference', or "
                "'auto'."
            ) from error
        self.optimizer.hvp = "difference"
        warnings.warn(
            "The model has no second derivative (torch.compile, or a kernel without one); "
            "Hessian-vector products are taken by differences of gradients from now on, which "
            f"is inexact where the network has kinks. torch said: {str(error).splitlines()[0]}",
            stacklevel=5,
        )

    def _exact(self, vectors: list[Tensor]) -> list[Tensor]:
        out = None
        for graph in self._graphs:
            pairs = [(g, v) for g, v in zip(graph, vectors, strict=True) if g.requires_grad]
            if not pairs:  # a linear loss
                continue
            try:
                part = torch.autograd.grad(
                    [g for g, _ in pairs], self.parameters, [v for _, v in pairs],
                    retain_graph=True, materialize_grads=True,
                )  # fmt: skip
            except RuntimeError as error:
                self._refuse(error)
                self._graphs = None
                return self._difference(vectors)
            out = part if out is None else [a + b for a, b in zip(out, part, strict=True)]
        if out is None:
            return [torch.zeros_like(v) for v in vectors]
        return [_mean(part.detach().contiguous()) for part in out]

    def _difference(self, vectors: list[Tensor]) -> list[Tensor]:
        size = float(norm(vectors))
        if size == 0:
            return [torch.zeros_like(v) for v in vectors]
        eps = torch.finfo(vectors[0].dtype).eps
        scale = float(norm(self.parameters)) + 1e-3 * len(self.parameters)
        step = eps**0.5 * scale / size
        # Adding and subtracting again would not restore the parameters to the bit.
        saved = [p.detach().clone() for p in self.parameters]
        kept = [p.grad for p in self.parameters]
        self.optimizer.cost["gradients"] += 1
        now = _random_state(self.parameters)
        try:
            with torch.no_grad():
                for p, v in zip(self.parameters, vectors, strict=True):
                    p.add_(v, alpha=step)
            for p in self.parameters:
                p.grad = None
            _set_random_state(self._random)
            with torch.enable_grad(), _frozen_statistics():
                for closure in self.closures:
                    (self._scalar(closure()) / len(self.closures)).backward()
            return [
                ((torch.zeros_like(g) if p.grad is None else p.grad.detach()) - g) / step
                for p, g in zip(self.parameters, self.grads, strict=True)
            ]
        finally:
            _set_random_state(now)
            with torch.no_grad():
                for p, old, grad in zip(self.parameters, saved, kept, strict=True):
                    p.copy_(old)
                    p.grad = grad


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all entries together."""
    parts = torch._foreach_norm([t.detach() for t in tensors])
    return torch.linalg.vector_norm(torch.stack([part.to(tensors[0]) for part in parts]))


def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """Inner product of all entries together."""
    return float(sum((a * b).sum().double() for a, b in zip(left, right, strict=True)))


def check_range(name: str, value: float, low: float, high: float, *, closed: bool = False) -> None:
    """Raise InputError unless low < value < high; with ``closed``, low ≤ value ≤ high."""
    inside = low <= value <= high if closed else low < value < high
    if not inside:
        brackets = "[]" if closed else "()"
        raise InputError(
            f"{name} must be in {brackets[0]}{low:g}, {high:g}{brackets[1]}, got {value}."
        )


def _mean(x: Tensor) -> Tensor:
    """The mean over all processes, the same bits in each."""
    return parallel.total(x) / parallel.size() if parallel.size() > 1 else x


def _random_state(parameters: Sequence[Tensor]) -> dict:
    devices = {p.device for p in parameters if p.device.type == "cuda"}
    return {None: torch.get_rng_state()} | {d: torch.cuda.get_rng_state(d) for d in devices}


def _set_random_state(states: dict) -> None:
    for device, state in states.items():
        if device is None:
            torch.set_rng_state(state)
        else:
            torch.cuda.set_rng_state(state, device)


@contextmanager
def _plain_attention(needed: bool) -> Iterator[None]:
    """Fused attention has no second derivative; its plain form has."""
    if not needed:
        yield
        return
    with sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def _frozen_statistics() -> Iterator[None]:
    """Undo what batch normalisation notes down on the way."""
    seen: dict[int, tuple] = {}

    def remember(module, _):
        if isinstance(module, _BatchNorm) and id(module) not in seen:
            seen[id(module)] = module, {n: b.clone() for n, b in module.named_buffers()}

    hook = register_module_forward_pre_hook(remember)
    try:
        yield
    finally:
        hook.remove()
        for module, buffers in seen.values():
            for name, buffer in buffers.items():
                getattr(module, name).copy_(buffer)
