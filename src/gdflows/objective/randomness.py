"""The random numbers that a loss draws: always the same ones, and nobody else's."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

KINDS = ("torch", "cuda", "numpy", "python")
GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


class Draw:
    """Random states set to fixed ones for a while, and put back.

    Parameters
    ----------
    seed : int, optional
        Of all the sources; by default 0.

    Attributes
    ----------
    meant : bool
        Whether a seed was given: who gives one knows that one draw is taken.
    kinds : tuple of str
        The sources that are looked after. All of them, until it is known which the loss uses:
        setting numpy's costs more than a small gradient.
    used : tuple of str
        From which something was drawn in the last evaluation that looked after all.
    """

    def __init__(self, seed: int | None):
        self.seed, self.meant = seed or 0, seed is not None
        self.kinds = KINDS
        self.used: tuple[str, ...] = ()
        self._states: dict = {}

    @contextmanager
    def fixed(self, number: int = 0, device: torch.device | None = None) -> Iterator[None]:
        """Inside, the sources begin where they always do; afterwards they are as before.

        Parameters
        ----------
        number : int
            Of the term: each draws its own.
        device : torch.device, optional
            Whose source is looked after beside the CPU's.
        """
        kinds = [k for k in self.kinds if k != "cuda" or (device and device.type == "cuda")]
        before = {k: _get(k, device) for k in kinds}
        for k in kinds:
            _set(k, self._state(k, number, device), device)
        try:
            yield
            if len(self.kinds) == len(KINDS):  # until it is known
                self.used = tuple(
                    k for k in kinds if not _same(_get(k, device), self._state(k, number, device))
                )
        finally:
            for k, state in before.items():
                _set(k, state, device)

    def _state(self, kind: str, number: int, device):
        key = kind, number, device if kind == "cuda" else None
        if key not in self._states:
            seed = self.seed + number
            if kind in ("torch", "cuda"):
                place = "cpu" if kind == "torch" else device
                self._states[key] = torch.Generator(place).manual_seed(seed).get_state()
            elif kind == "numpy":
                self._states[key] = np.random.RandomState(seed).get_state()
            else:
                self._states[key] = random.Random(seed).getstate()
        return self._states[key]


def drawing(evaluate: Callable[[], object], device: torch.device) -> list[torch.nn.Module]:
    """The innermost modules in whose forward pass random numbers are drawn."""
    kinds = [k for k in KINDS if k != "cuda" or device.type == "cuda"]
    open_calls: list[list] = []  # [module, states before, whether a module inside has drawn]
    found: list[torch.nn.Module] = []

    def enter(module, args):
        open_calls.append([module, {k: _get(k, device) for k in kinds}, False])

    def leave(module, args, output):
        _, before, inside = open_calls.pop()
        drawn = not all(_same(_get(k, device), state) for k, state in before.items())
        if drawn and not inside and not any(module is m for m in found):
            found.append(module)
        if drawn and open_calls:
            open_calls[-1][2] = True

    hooks = register_module_forward_pre_hook(enter), register_module_forward_hook(leave)
    try:
        evaluate()
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _get(kind: str, device):
    if kind == "torch":
        return torch.get_rng_state()
    if kind == "cuda":
        return torch.cuda.get_rng_state(device)
    # numpy's global state is what losses that use np.random draw from
    return np.random.get_state() if kind == "numpy" else random.getstate()  # noqa: NPY002


def _set(kind: str, state, device) -> None:
    if kind == "torch":
        torch.set_rng_state(state)
    elif kind == "cuda":
        torch.cuda.set_rng_state(state, device)
    elif kind == "numpy":
        np.random.set_state(state)  # noqa: NPY002
    else:
        random.setstate(state)


def _same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a[1], np.ndarray):
        return np.array_equal(a[1], b[1]) and a[2:] == b[2:]
    return a == b
