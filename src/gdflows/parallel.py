"""Several processes, each with its share of the data: what ``torchrun`` starts.

A process waits for the others a minute at most (the environment variable ``GDFLOWS_TIMEOUT``, in
seconds, says otherwise): one that has died or was stopped would else be waited for without end.
Each gives a sign of life every second, so that the others can say which one is lost.
"""

from __future__ import annotations

import math
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from gdflows.errors import InputError, ProcessLostError

# Starting takes processes differently long, the more so on a busy machine.
JOINING = timedelta(minutes=10)

EVERY, LISTENING = 1.0, 4.0  # seconds between two signs of life; to listen for those of others

# The group whose members wait for one another that long, and their signs of life; None for the
# group that the user made.
_group: dist.ProcessGroup | None = None
_pulse: _Pulse | None = None


def size() -> int:
    """How many processes work together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def first() -> bool:
    """Whether this process is the one that writes and prints."""
    return size() == 1 or dist.get_rank() == 0


def sharded(x: Tensor) -> bool:
    """Whether a tensor's entries themselves are spread over processes (FSDP, tensor parallel)."""
    return hasattr(x, "full_tensor")


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
    """The sum of all processes' tensors, the same bits in each of them.

    Raises
    ------
    ProcessLostError
        If another process ends or does not answer in time.
    """
    if size() > 1:
        x = x.contiguous()
        if x.is_cuda:
            # What this GPU has still to do is no waiting for the others.
            torch.cuda.synchronize(x.device)
        with _answered():
            dist.all_reduce(torch.view_as_real(x) if x.is_complex() else x, group=_group)
    return x


def of_first(make: Callable):
    """What ``make()`` gives in the first process, in all of them; it must be picklable.

    Raises
    ------
    ProcessLostError
        If another process ends or does not answer in time.
    """
    box = [make() if first() else None]
    if size() > 1:
        with _answered():
            dist.broadcast_object_list(box, group=_group)
    return box[0]


@contextmanager
def group(device: str) -> Iterator[str]:
    """Join the processes that ``torchrun`` started, if it did; gives this one's device.

    Parameters
    ----------
    device : str
        ``"cpu"``, ``"cuda"`` or ``"auto"``; with several processes each takes the GPU of its own
        number on its machine.

    Raises
    ------
    InputError
        If an environment variable cannot be read, or there are fewer GPUs than processes.
    ProcessLostError
        If not all processes join.
    """
    global _group, _pulse
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    several = _whole("WORLD_SIZE", 1) > 1 and not dist.is_initialized()
    if not several:
        yield device
        return
    wait = _patience()
    if device == "cuda":
        device = f"cuda:{_gpu()}"
        torch.cuda.set_device(device)
        # NCCL would else wait in the background, and end the process without an error.
        os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    with _answered(JOINING):
        dist.init_process_group(
            "nccl" if device.startswith("cuda") else "gloo", timeout=max(JOINING, wait)
        )
    try:
        with _answered():
            _pulse = _Pulse()
            _group = dist.new_group(timeout=wait)
        yield device
    finally:
        if _pulse is not None:
            _pulse.end.set()
        _group = _pulse = None
        dist.destroy_process_group()


# -- inside --------------------------------------------------------------------------------------


@contextmanager
def _answered(wait: timedelta | None = None) -> Iterator[None]:
    """Tell in a sentence that another process is lost."""
    try:
        yield
    except RuntimeError as error:
        # gloo's errors have no type of their own, but its source's path in them.
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        seconds = (wait or _patience()).total_seconds()
        raise ProcessLostError(
            f"Process {os.environ.get('RANK', '?')} of {os.environ.get('WORLD_SIZE', '?')} ends: "
            f"another one has ended, or has not answered for {seconds:g} s because it hangs, was "
            "stopped or is much slower. Look for its message, then start all of them again with "
            f"the same command (GDFLOWS_TIMEOUT sets the seconds to wait).{_silent()}"
        ) from error


class _Pulse:
    """Signs of life of all processes, by way of the store over which they have found each other."""

    def __init__(self):
        # A store of its own kind of connection: waiting in one must not keep the other waiting.
        self._store = dist.distributed_c10d._get_default_store().clone()
        self._rank, self._size, self.end = dist.get_rank(), dist.get_world_size(), threading.Event()
        self._beat(0)
        threading.Thread(target=self._go_on, daemon=True).start()

    def _beat(self, number: int) -> None:
        name = f"pid {os.getpid()} on {platform.node()}"
        self._store.set(f"gdflows/alive/{self._rank}", f"{number} {name}")

    def _go_on(self) -> None:
        number = 0
        while not self.end.wait(EVERY):
            number += 1
            try:
                self._beat(number)
            except RuntimeError:
                return  # the store is gone, and with it the process that kept it

    def silent(self) -> list[str] | None:
        """Those of whom nothing is heard for a while; None if the store itself does not answer."""
        heard: list[list[str]] = []

        def listen() -> None:
            store = dist.distributed_c10d._get_default_store().clone()
            for again in (False, True):
                if again:
                    time.sleep(LISTENING)
                heard.append([store.get(f"gdflows/alive/{r}").decode() for r in range(self._size)])

        def attempt() -> None:
            try:
                listen()
            except RuntimeError:
                pass

        listener = threading.Thread(target=attempt, daemon=True)
        listener.start()
        listener.join(2 * LISTENING)
        if len(heard) < 2:
            return None
        return [
            f"process {r} ({after.partition(' ')[2]})"
            for r, (before, after) in enumerate(zip(*heard, strict=True))
            if before == after and r != self._rank
        ]


def _silent() -> str:
    """A sentence on who is lost, where that is known."""
    lost = _pulse.silent() if _pulse is not None else []
    if lost is None:
        return " No sign of life from the process that keeps the others together, mostly process 0."
    if lost:
        return f" No sign of life from {', '.join(lost)}."
    return " All give signs of life: one is slower or asks for something else." if _pulse else ""


def _patience() -> timedelta:
    given = os.environ.get("GDFLOWS_TIMEOUT") or "60"
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < 1e7:
        raise InputError(
            f"The environment variable GDFLOWS_TIMEOUT must be a number of seconds, got {given!r}."
        )
    return timedelta(seconds=seconds)


def _whole(variable: str, default: int | None = None) -> int:
    given = os.environ.get(variable, default)
    try:
        return int(given)
    except (TypeError, ValueError):
        raise InputError(
            f"The environment variable {variable} must be a whole number, got {given!r}: start "
            "several processes with torchrun, which sets it."
        ) from None


def _gpu() -> int:
    number, there = _whole("LOCAL_RANK"), torch.cuda.device_count()
    if number >= there:
        raise InputError(
            f"Process {number} of this machine has no GPU of its own: there are {there}. Start "
            "as many processes as there are GPUs."
        )
    return number
