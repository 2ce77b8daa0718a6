"""What of a module θ is made of, and what makes it no vector to differentiate by."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gdflows import parallel
from gdflows.errors import InputError
from gdflows.objective.data import Batch


def trainable(model: torch.nn.Module, loss) -> dict[str, Tensor]:
    """What θ is made of, by name, each once; or an error that says why not."""
    if not isinstance(model, torch.nn.Module):
        raise InputError(
            f"from_module needs a torch module, got {type(model).__name__}. For a function of a "
            "flat vector use Objective(function)."
        )
    kind = type(model).__name__
    named = list(model.named_parameters())
    if loss is not None:
        if not isinstance(loss, torch.nn.Module):
            raise InputError("loss_parameters=True needs a loss that is a torch module.")
        known = {id(p) for _, p in named}
        named += [(f"loss.{n}", p) for n, p in loss.named_parameters() if id(p) not in known]
    lazy = [n for n, p in named if torch.nn.parameter.is_lazy(p)]
    if lazy:
        raise InputError(
            f"The parameter {lazy[0]} of {kind} has no shape yet (a lazy module): call the model "
            "once on its data first."
        )
    found = {n: p for n, p in named if p.requires_grad}
    if not found:
        raise InputError(
            f"{kind} has no trainable parameters: nothing to differentiate. Check requires_grad."
        )
    spread = [n for n, p in found.items() if parallel.sharded(p)]
    if spread:
        raise InputError(
            f"{spread[0]} of {kind} is spread over processes (a {type(found[spread[0]]).__name__}, "
            "of fully_shard or tensor parallelism), and θ is one vector in one memory. Spread the "
            "samples (shard=True) and not the parameters; to train such a module there is "
            "gdflows.optim with hvp='difference'."
        )
    for attribute in ("dtype", "device"):
        values = {str(getattr(p, attribute)) for p in found.values()}
        if len(values) > 1:
            raise InputError(
                f"The parameters of {kind} mix {attribute}s "
                f"({', '.join(sorted(values))}): one flat vector needs one {attribute}."
            )
    name, first = next(iter(found.items()))
    if first.is_complex():
        raise InputError(
            f"{name} of {kind} is complex: make its real and imaginary parts two real parameters."
        )
    if torch.finfo(first.dtype).bits < 32:
        raise InputError(
            f"{name} of {kind} is in half precision ({first.dtype}), where curvature drowns in "
            "rounding. Keep the parameters in float32, or use a float32 copy."
        )
    return found


def all_parameters(model: torch.nn.Module, loss) -> list[Tensor]:
    return [*model.parameters(), *(loss.parameters() if loss is not None else ())]


def refuse_overlaps(own: dict[str, Tensor]) -> None:
    """Parameters that lie in the same memory are moved together, and are not independent."""
    by_memory: dict[int, list[tuple[str, Tensor]]] = {}
    for name, p in own.items():
        if p.layout != torch.strided or p.device.type == "meta" or not p.numel():
            continue
        if any(n > 1 and s == 0 for n, s in zip(p.shape, p.stride(), strict=True)):
            raise InputError(
                f"{name} was made by expand: its entries share their memory, so that they are "
                "not independent. Make it a parameter of its own size, and expand it in forward."
            )
        before = by_memory.setdefault(p.untyped_storage().data_ptr(), [])
        for other, q in before:
            if _overlap(p, q):
                raise InputError(
                    f"{other} and {name} are two parameters in one memory: a step moves both at "
                    "once, and derivatives would take them for independent. To tie them hand over "
                    f"the parameter itself, not its .data; else give {name} a clone."
                )
        before.append((name, p))


def _overlap(p: Tensor, q: Tensor) -> bool:
    """Whether two tensors of one storage have an entry in common."""
    ends = [t.storage_offset() + _reach(t) for t in (p, q)]
    if p.storage_offset() >= ends[1] or q.storage_offset() >= ends[0]:
        return False
    taken = torch.zeros(max(ends), dtype=torch.bool, device="cpu")
    taken.as_strided(p.shape, p.stride(), p.storage_offset()).fill_(True)
    return bool(taken.as_strided(q.shape, q.stride(), q.storage_offset()).any())


def _reach(t: Tensor) -> int:
    return 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))


def refuse_aliases(holder: torch.nn.Module, own: dict[str, Tensor]) -> None:
    """A tensor that shares a parameter's memory follows the training, but not θ."""
    shared = {p.untyped_storage().data_ptr(): name for name, p in own.items()}
    for prefix, module in holder.named_modules():
        for name, tensor in [*module._buffers.items(), *vars(module).items()]:
            if not isinstance(tensor, Tensor) or tensor.requires_grad or tensor.is_sparse:
                continue
            parameter = shared.get(tensor.untyped_storage().data_ptr()) if tensor.numel() else None
            if parameter is not None:
                where = f"{prefix}.{name}".removeprefix("model.")
                raise InputError(
                    f"{where} shares the memory of the parameter {parameter}: it changes with the "
                    "training, unseen by derivatives. Compute it in forward, or keep a clone."
                )


def padding(holder, slots: dict[str, str], own: dict[str, Tensor]) -> list[slice]:
    """Where in θ the rows of embeddings for padding are: torch never moves them."""
    begins = dict(zip(own, np.cumsum([0, *(p.numel() for p in own.values())]), strict=False))
    fixed = []
    for prefix, module in holder.named_modules():
        row, name = getattr(module, "padding_idx", None), slots.get(f"{prefix}.weight")
        kinds = (torch.nn.Embedding, torch.nn.EmbeddingBag)
        if row is None or name is None or not isinstance(module, kinds):
            continue
        if list(slots.values()).count(name) > 1:
            continue  # tied to another layer, which moves the row
        rows, width = module.weight.shape
        first = int(begins[name]) + row % rows * width
        fixed.append(slice(first, first + width))
    return fixed


def check_batch(batch: Batch, first: Tensor, *, moved: bool) -> None:
    """Devices and dtypes, before torch complains in its own words."""
    for name, parts in (("x", [*batch.args, *batch.kwargs.values()]), ("y", [batch.target])):
        for tensor in (t for t in parts if isinstance(t, Tensor)):
            if tensor.device != first.device and not moved:
                raise InputError(
                    f"The data's {name} is on {tensor.device}, the model on {first.device}: "
                    f"move one with .to({str(first.device)!r})."
                )
            wrong = tensor.is_floating_point() and tensor.dtype != first.dtype
            if name == "x" and wrong:
                raise InputError(
                    f"The data's x is {tensor.dtype}, the model's parameters are {first.dtype}: "
                    "convert one of them, e.g. model.to(x.dtype)."
                )
