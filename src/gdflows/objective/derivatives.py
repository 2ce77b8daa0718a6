"""Derivatives of a scalar by torch's graph: of real losses, and of holomorphic complex ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from gdflows.errors import GdflowsError, InputError

LIMITS = ("not implemented", "not supported", "double backward", "incompatible with .grad()")


@contextmanager
def explained() -> Iterator[None]:
    """Inside, torch's word that it cannot differentiate something is ours."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (NotImplementedError, RuntimeError) as error:
        said = str(error).strip().split("\n")[0]
        if isinstance(error, GdflowsError) or not any(limit in said for limit in LIMITS):
            raise
        remedy = "write that part with plain torch operations"
        if "sparse" in said.lower():
            remedy = "make the embedding with sparse=False"
        elif "attention" in said:
            remedy = "do not choose its kernel (sdpa_kernel) inside the model"
        raise InputError(
            f"torch cannot take this derivative of the loss ({said}): {remedy}."
        ) from error


def derivative(e: Tensor, x: Tensor, graph: bool) -> Tensor:
    """E'(x), with a graph to differentiate again if asked.

    For complex x, torch's gradient of the real function Re E is the conjugate of the complex
    derivative of a holomorphic E. Whether E is holomorphic is seen from Im E, whose torch
    gradient must be i times that of Re E (Cauchy-Riemann).
    """
    if not e.requires_grad:  # a constant
        return torch.zeros_like(x) + 0 * x
    if not x.is_complex():
        (g,) = torch.autograd.grad(e, x, create_graph=graph, materialize_grads=True)
        return g
    (g,) = torch.autograd.grad(
        e.real, x, create_graph=graph, retain_graph=True, materialize_grads=True
    )
    (other,) = torch.autograd.grad(e.imag, x, retain_graph=graph, materialize_grads=True)
    scale = g.detach().abs().max() + other.abs().max()
    gap = (other - 1j * g.detach()).abs().max()
    if gap > 1e3 * torch.finfo(x.dtype).eps ** 0.75 * scale:
        raise InputError(
            "The loss is not holomorphic, so its derivatives at a complex theta mean nothing: "
            f"the Cauchy-Riemann equations fail by {gap / scale:.1e} of the gradient. "
            "Look for abs, conj, .real or a kernel written for real numbers."
        )
    return g.conj().resolve_conj()


def pull(g: Tensor, v: Tensor, x: Tensor, graph: bool = False) -> Tensor:
    """d(g·v)/dx with v held fixed: from a gradient's graph a Hessian-vector product."""
    if not g.requires_grad:  # g does not depend on x: a linear function
        return torch.zeros_like(x) + 0 * x
    s = torch.sum(g * v)  # no conjugate: the complex derivative is C-linear
    if not x.is_complex():
        (out,) = torch.autograd.grad(
            s, x, retain_graph=True, create_graph=graph, materialize_grads=True
        )
        return out
    (out,) = torch.autograd.grad(
        s.real, x, retain_graph=True, create_graph=graph, materialize_grads=True
    )
    return out.conj().resolve_conj()


def pull_all(g: Tensor, vectors: Sequence[Tensor], x: Tensor) -> Tensor:
    """The gradient g differentiated along one vector after another."""
    for i, v in enumerate(vectors):
        g = pull(g, v, x, graph=i + 1 < len(vectors))
    return g.detach()
