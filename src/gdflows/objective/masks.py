"""Hooks on parameters: gradients that pass a mask before a step is taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from gdflows.errors import InputError


def masked(parameters: Iterable[Tensor], v: Tensor) -> Tensor:
    """What the parameters' gradient hooks make of vectors ``(…, D)``.

    Training moves θ along P∇E, where P is what the hooks do. P is a projection (see
    :func:`check_masks`), so this is gradient descent on E within the range of P, whose gradient is
    P∇E and whose Hessian is PHP.
    """
    parameters = list(parameters)
    if not any(p._backward_hooks for p in parameters):
        return v
    rows = []
    for row in v.reshape(-1, v.shape[-1]):
        parts = row.split([p.numel() for p in parameters])
        passed = [_hooked(p, g.view(p.shape)) for p, g in zip(parameters, parts, strict=True)]
        rows.append(torch.cat([g.reshape(-1) for g in passed]))
    return torch.stack(rows).reshape(v.shape)


def check_masks(parameters: Mapping[str, Tensor]) -> None:
    """Refuse hooks that are no masks: then θ does not descend on any loss.

    Raises
    ------
    InputError
        If what a parameter's hooks do is not linear, symmetric and the same when done twice, or if
        hooks wait for accumulated gradients.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    for name, p in parameters.items():
        if getattr(p, "_post_accumulate_grad_hooks", None):
            raise InputError(
                f"The parameter {name} has a hook that waits for its gradient to be accumulated, "
                "which never happens here: remove it (register_post_accumulate_grad_hook)."
            )
        if not p._backward_hooks:
            continue
        a, b = (
            torch.randn(p.shape, generator=generator, dtype=torch.float64, device="cpu").to(p)
            for _ in range(2)
        )
        pa, pb = _hooked(p, a), _hooked(p, b)
        # Far out and close in, or what clips would pass for a mask.
        both = 1e3 * _hooked(p, 1e-3 * a) + 1e-3 * _hooked(p, 1e3 * b)
        tolerance = 1e3 * torch.finfo(p.dtype).eps
        linear = torch.allclose(both, pa + pb, rtol=tolerance, atol=tolerance)
        projects = torch.allclose(_hooked(p, pa), pa, rtol=tolerance, atol=tolerance)
        symmetric = torch.allclose((a * pb).sum(), (pa * b).sum(), rtol=tolerance, atol=tolerance)
        if not (linear and projects and symmetric):
            raise InputError(
                f"The gradient hook of the parameter {name} is no mask (a linear projection), so "
                "what is trained does not descend on the loss. Remove the hook, or put what it "
                "does into the loss."
            )


def _hooked(p: Tensor, gradient: Tensor) -> Tensor:
    with torch.no_grad():
        for hook in (p._backward_hooks or {}).values():
            out = hook(gradient.clone())
            gradient = gradient if out is None else out
    return gradient
