"""Several processes, each with its share of the data: what ``torchrun`` starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from gdflows.errors import InputError


def size() -> int:
    """How many processes work together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def first() -> bool:
    """Whether this process is the one that writes and prints."""
    return size() == 1 or dist.get_rank() == 0


def share(x: Tensor) -> Tensor:
    """This process's part of the samples: consecutive ones, about as many for each.

    Raises
    ------
    InputError
        If there are fewer samples than processes.
    """
    if len(x) < size():
        raise InputError(f"{len(x)} samples cannot be shared among {size()} processes.")
    return x.tensor_split(size())[dist.get_rank()] if size() > 1 else x


def total(x: Tensor) -> Tensor:
    """The sum of all processes' tensors, the same bits in each of them."""
    if size() > 1:
        x = x.contiguous()
        dist.all_reduce(torch.view_as_real(x) if x.is_complex() else x)
    return x


def of_first(make: Callable):
    """What ``make()`` gives in the first process, in all of them; it must be picklable."""
    box = [make() if first() else None]
    if size() > 1:
        dist.broadcast_object_list(box)
    return box[0]


@contextmanager
def group(device: str) -> Iterator[str]:
    """Join the processes that ``torchrun`` started, if it did; gives this one's device.

    Parameters
    ----------
    device : str
        ``"cpu"``, ``"cuda"`` or ``"auto"``; with several processes each takes the GPU of its own
        number on its machine.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized()
    if not several:
        yield device
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()
