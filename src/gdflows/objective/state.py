"""What modules keep between calls beside parameters and buffers: seen, and put back."""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

MISSING = object()
CONTAINERS = (list, dict, set, deque)


class Memory:
    """The attributes of some objects, so that an evaluation can be undone.

    Parameters
    ----------
    objects : iterable
        Modules, and a loss that is an object of its own.

    Attributes
    ----------
    places : list of (object, str) or None
        The attributes that evaluations are known to change; None while that is not known, and all
        are looked after.
    """

    def __init__(self, objects: Iterable):
        self.objects = [o for o in objects if hasattr(o, "__dict__")]
        self.places: list[tuple[object, str]] | None = None

    def take(self) -> list[tuple[object, str, object, object]]:
        """What is there now: (object, name, value, its content)."""
        places = self.places
        if places is None:
            places = [(o, n) for o in self.objects for n in vars(o) if not _torchs_own(o, n)]
        kept = []
        for o, name in places:
            value = vars(o).get(name, MISSING)
            kept.append((o, name, value, _content(value)))
        return kept

    def put_back(self, kept: list) -> list[tuple[object, str]]:
        """Undo what has changed since; returns where that was."""
        changed = []
        for o, name, value, content in kept:
            now = vars(o).get(name, MISSING)
            if now is value and _same(content, _content(value)):
                continue
            changed.append((o, name))
            _restore(value, content)
            if value is MISSING:
                vars(o).pop(name, None)
            else:
                vars(o)[name] = value
        if self.places is None:
            known = {(id(o), name) for o, name, *_ in kept}
            for o in self.objects:
                new = [n for n in vars(o) if not _torchs_own(o, n) and (id(o), n) not in known]
                for name in new:
                    del vars(o)[name]
                    changed.append((o, name))
        return changed


def _torchs_own(o, name: str) -> bool:
    return isinstance(o, torch.nn.Module) and name in ("_parameters", "_buffers", "_modules")


def _content(value):
    """What may change inside a value that stays the same object."""
    if isinstance(value, Tensor):
        return value._version, (value.detach().clone() if not value.requires_grad else None)
    if isinstance(value, CONTAINERS):
        return copy.copy(value)
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, np.random.Generator):
        return copy.deepcopy(value.bit_generator.state)
    if isinstance(value, (np.random.RandomState, random.Random)):
        return value.get_state() if hasattr(value, "get_state") else value.getstate()
    return None


def _same(a, b) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, tuple) and len(a) == 2 and isinstance(a[0], int):  # a tensor's content
        return a[0] == b[0]
    if isinstance(a, dict) and a.keys() == b.keys():
        return all(_alike(v, b[k]) for k, v in a.items())
    if isinstance(a, (list, deque, tuple)):
        return len(a) == len(b) and all(_alike(v, w) for v, w in zip(a, b, strict=True))
    return a == b


def _alike(v, w) -> bool:
    if v is w:
        return True
    if isinstance(v, np.ndarray):
        return np.array_equal(v, w)
    if isinstance(v, dict) and isinstance(w, dict):
        return _same(v, w)
    return isinstance(v, (int, float, str)) and type(v) is type(w) and v == w


def _restore(value, content) -> None:
    if isinstance(value, Tensor):
        if content[1] is not None and value._version != content[0]:
            with torch.no_grad():
                value.copy_(content[1])
    elif isinstance(value, list):
        value[:] = content
    elif isinstance(value, (dict, set)):
        value.clear()
        value.update(content)
    elif isinstance(value, deque):
        value.clear()
        value.extend(content)
    elif isinstance(value, torch.Generator):
        value.set_state(content)
    elif isinstance(value, np.random.Generator):
        value.bit_generator.state = content
    elif isinstance(value, np.random.RandomState):
        value.set_state(content)
    elif isinstance(value, random.Random):
        value.setstate(content)
