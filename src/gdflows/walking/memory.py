"""Whether something fits in memory, before it is made."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from gdflows.errors import InputError


def free_memory(device: torch.device) -> float:
    """Bytes that are free on a device; infinite where that cannot be told."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return float("inf")
    found = [float("inf")]
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                found.append(1024.0 * int(line.split()[1]))
        limit = Path("/sys/fs/cgroup/memory.max")  # what a container may use
        if limit.exists() and (most := limit.read_text().strip()).isdigit():
            used = Path("/sys/fs/cgroup/memory.current").read_text()
            found.append(float(most) - float(used))
    except (OSError, ValueError):
        pass
    if len(found) == 1 and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        found.append(float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE"))
    return min(found)


def require_memory(needed: float, device: torch.device, what: str, remedy: str) -> None:
    """Refuse what would not fit.

    Raises
    ------
    InputError
        With what is needed, what there is, and the remedy.
    """
    free = free_memory(device)
    if needed > free:
        raise InputError(
            f"{what} need at least {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free on "
            f"{device}: {remedy}"
        )
