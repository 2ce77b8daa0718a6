"""Data as people have them: one description of what a model is called with and judged by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from gdflows.errors import InputError, warn

FORMS = (
    "(x, y), ((a, b), y), (x, None), one tensor, a dict, a DataLoader, or a list of such batches"
)
TARGETS = ("labels", "label", "targets", "target", "y")


@dataclass(frozen=True)
class Batch:
    """What one call of the model takes, and what its output is compared with.

    Attributes
    ----------
    args, kwargs
        Of ``model(*args, **kwargs)``.
    target
        Second argument of the loss; with ``judged`` False there is none.
    judged : bool
        Whether there is a target.
    axes : (int, int)
        Along which the samples lie: of the inputs, of the target.
    size : int
        How many samples.
    """

    args: tuple
    kwargs: Mapping
    target: object
    judged: bool
    axes: tuple[int, int]
    size: int

    def tensors(self) -> list[Tensor]:
        """All tensors in it."""
        found: list[Tensor] = []
        _map((self.args, dict(self.kwargs), self.target), lambda t: found.append(t) or t)
        return found

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same with every tensor changed."""
        args, kwargs, target = _map((self.args, dict(self.kwargs), self.target), change)
        return replace(self, args=args, kwargs=kwargs, target=target)

    def map_inputs(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same with every tensor of the inputs changed."""
        args, kwargs = _map((self.args, dict(self.kwargs)), change)
        return replace(self, args=args, kwargs=kwargs)

    def rows(self, index: slice | Tensor) -> Batch:
        """Some of the samples."""

        def cut(axis: int) -> Callable[[Tensor], Tensor]:
            def part(t: Tensor) -> Tensor:
                if t.ndim == 0:
                    return t
                if t.ndim <= axis or t.shape[axis] != self.size:
                    raise InputError(
                        f"A tensor of shape {tuple(t.shape)} does not hold {self.size} samples "
                        f"along axis {axis}, so the data cannot be cut into chunks or batches. "
                        "Give axis=, or leave chunk out."
                    )
                if isinstance(index, slice):
                    return t[(slice(None),) * axis + (index,)]
                return t.index_select(axis, index.to(t.device))

            return part

        args, kwargs = _map((self.args, dict(self.kwargs)), cut(self.axes[0]))
        target = _map(self.target, cut(self.axes[1]))
        size = len(range(*index.indices(self.size))) if isinstance(index, slice) else len(index)
        return replace(self, args=args, kwargs=kwargs, target=target, size=size)

    def split(self, chunk: int) -> list[Batch]:
        """Consecutive chunks."""
        return [self.rows(slice(i, i + chunk)) for i in range(0, self.size, chunk)]

    def join(self, other: Batch) -> Batch:
        """The samples of both; ValueError where shapes do not fit together."""
        args, kwargs = _zip(
            (self.args, dict(self.kwargs)), (other.args, dict(other.kwargs)), self.axes[0]
        )
        target = _zip(self.target, other.target, self.axes[1])
        size = self.size + other.size
        return replace(self, args=args, kwargs=kwargs, target=target, size=size)


def read(data, *, own_loss: bool, axis: int | tuple[int, int]) -> tuple[list[Batch], bool]:
    """Any of the usual forms as batches.

    Parameters
    ----------
    data
        Of one of the :data:`FORMS`.
    own_loss : bool
        The model computes its loss: everything is input.
    axis : int or (int, int)
        Along which the samples lie; of inputs and target, if they differ.

    Returns
    -------
    batches : list of Batch
    several : bool
        Whether the data came as batches, each of which is a term of its own.

    Raises
    ------
    InputError
        For other forms, or an empty one.
    """
    axes = (axis, axis) if isinstance(axis, int) else tuple(axis)
    if len(axes) != 2 or not all(isinstance(a, int) and a >= 0 for a in axes):
        raise InputError(f"axis must be a number of at least 0, or two, got {axis!r}.")
    if isinstance(data, TensorDataset):
        data = tuple(data.tensors)
    if _is_batch(data):
        return [_batch(data, own_loss, axes)], False
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        raise InputError(
            f"{type(data).__name__} gives samples, not batches: wrap it in "
            "torch.utils.data.DataLoader(dataset, batch_size=...)."
        )
    if isinstance(data, Iterator):
        raise InputError(
            f"A {type(data).__name__} can be read only once: pass a DataLoader or list(...) of it."
        )
    if not isinstance(data, Iterable) or isinstance(data, (str, bytes)):
        raise InputError(f"data must be {FORMS}; got {type(data).__name__}.")
    if data and isinstance(data, Sequence) and isinstance(data[0], (int, float)):
        raise InputError("data is a list of numbers: make it a tensor, torch.tensor(data).")
    _look_at_sampling(data)
    batches, versions = [], []
    for i, item in enumerate(data):
        if not _is_batch(item):
            raise InputError(
                f"Batch {i} of the data is a {type(item).__name__}; a batch must be a pair "
                "(x, y), a dict or a tensor."
            )
        item = item if isinstance(data, Sequence) else _copied(item)
        batches.append(_batch(item, own_loss, axes))
        versions.append(_versions(batches[-1]))
    if not batches:
        raise InputError("The data set is empty.")
    for i, (batch, before) in enumerate(zip(batches, versions, strict=True)):
        if _versions(batch) != before:
            raise InputError(
                f"Batch {i} of the data was changed while the next ones were read: the "
                f"{type(data).__name__} fills the same tensors anew. Let it give clones."
            )
    return batches, True


def _look_at_sampling(data) -> None:
    """Warn of a loader that does not give every sample once."""
    sampler, size = getattr(data, "sampler", None), getattr(data, "batch_size", None)
    if not isinstance(data, DataLoader) or not size or not isinstance(sampler, Sized):
        return
    if getattr(sampler, "replacement", False):
        warn(
            f"The DataLoader's {type(sampler).__name__} draws with replacement: some samples are "
            "in the loss more than once and others not at all. Give a loader without it, if the "
            "loss of the data set is meant."
        )
    if data.drop_last and len(sampler) % size:
        warn(
            f"The DataLoader leaves {len(sampler) % size} of {len(sampler)} samples out "
            "(drop_last=True): they are not in the loss. Give a loader with drop_last=False, if "
            "the loss of the data set is meant."
        )


def _is_batch(data) -> bool:
    """One batch, and not several: a tensor, a dict, a tuple, or a list [x, y] of tensors."""
    if isinstance(data, (Tensor, np.ndarray, Mapping, tuple)):
        return True
    return isinstance(data, list) and bool(data) and all(_is_array(d) for d in data)


def _is_array(x) -> bool:
    return isinstance(x, (Tensor, np.ndarray))


def _batch(data, own_loss: bool, axes: tuple[int, int]) -> Batch:
    args, kwargs, target, judged = (), {}, None, False
    if isinstance(data, Mapping):
        kwargs = {str(k): _tensors(v) for k, v in data.items()}
        keys = [k for k in TARGETS if k in kwargs]
        if not own_loss and len(keys) > 1:
            raise InputError(
                f"The dict holds {' and '.join(keys)}, and only one can be the target: pass "
                "(inputs, target), with a dict of inputs."
            )
        if not own_loss and keys:
            target, judged = kwargs.pop(keys[0]), True
    elif _is_array(data):
        args = (_tensors(data),)
    elif own_loss:
        args = tuple(_tensors(d) for d in data)
    else:
        if len(data) != 2:
            raise InputError(
                f"A batch of {len(data)} parts: which is the target? Pass (inputs, target), for "
                "instance ((a, b), y); (x, None) where there is no target."
            )
        inputs, target = data
        judged = target is not None
        target = _tensors(target)
        if isinstance(inputs, Mapping):
            kwargs = {str(k): _tensors(v) for k, v in inputs.items()}
        elif isinstance(inputs, (tuple, list)) and not _is_array(inputs):
            args = tuple(_tensors(i) for i in inputs)
        else:
            args = (_tensors(inputs),)
    batch = Batch(args, kwargs, target, judged, axes, 0)
    return replace(batch, size=_size(batch))


def _size(batch: Batch) -> int:
    """How many samples, and that inputs and target agree about it."""
    x: list[Tensor] = []
    y: list[Tensor] = []
    _map((batch.args, dict(batch.kwargs)), lambda t: x.append(t) or t)
    _map(batch.target, lambda t: y.append(t) or t)
    if not x:
        raise InputError(f"The data hold no tensor for the model; they may be {FORMS}.")
    sizes = []
    for tensors, axis in ((x, batch.axes[0]), (y, batch.axes[1])):
        here = [t for t in tensors if t.ndim]
        if here and here[0].ndim <= axis:
            raise InputError(f"Shape {tuple(here[0].shape)} has no axis {axis}.")
        sizes += [here[0].shape[axis]] if here else []
    if len(sizes) == 2 and sizes[0] != sizes[1]:
        raise InputError(
            f"x has {sizes[0]} samples, y {sizes[1]}. If they lie along another axis (sequences "
            "with time first), say so: axis=1, or axis=(1, 0) for inputs and target."
        )
    if sizes and sizes[0] == 0:
        raise InputError("The data set is empty.")
    return sizes[0] if sizes else 1


def _copied(x):
    """numpy's arrays copied, which a loader may fill anew; of tensors it is seen."""
    if isinstance(x, np.ndarray):
        return x.copy()
    if isinstance(x, Mapping):
        return {k: _copied(v) for k, v in x.items()}
    return type(x)(_copied(v) for v in x) if type(x) in (tuple, list) else x


def _versions(batch: Batch) -> list[int]:
    return [-1 if t.is_inference() else t._version for t in batch.tensors()]


def _tensors(x):
    """numpy's arrays as tensors; lists of numbers refused."""
    if isinstance(x, np.ndarray):
        try:  # not as_tensor: that goes to torch's default device
            shared = x.flags.writeable and x.dtype.isnative and min(x.strides, default=0) >= 0
            return torch.from_numpy(x if shared else np.array(x, dtype=x.dtype.newbyteorder("=")))
        except TypeError as e:
            raise InputError(f"An array of {x.dtype} cannot be made a tensor.") from e
    if isinstance(x, Mapping):
        return {k: _tensors(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        if x and isinstance(x[0], (int, float, list)) and not isinstance(x[0], bool):
            raise InputError("The data hold lists of numbers: make them tensors, torch.tensor(x).")
        return tuple(_tensors(v) for v in x)
    return x


def _map(x, change: Callable[[Tensor], Tensor]):
    """Change the tensors in tuples, lists and dicts; leave everything else."""
    if isinstance(x, Tensor):
        return change(x)
    if isinstance(x, Mapping):
        return {k: _map(v, change) for k, v in x.items()}
    if isinstance(x, (tuple, list)):
        return tuple(_map(v, change) for v in x)
    return x


def _zip(a, b, axis: int):
    if isinstance(a, Tensor):
        if a.ndim == 0:
            return a
        rest = [(s.shape[:axis], s.shape[axis + 1 :]) for s in (a, b)]
        if rest[0] != rest[1]:
            raise ValueError("shapes differ")
        return torch.cat([a, b], axis)
    if isinstance(a, Mapping):
        return {k: _zip(v, b[k], axis) for k, v in a.items()}
    if isinstance(a, tuple):
        return tuple(_zip(v, w, axis) for v, w in zip(a, b, strict=True))
    return a
