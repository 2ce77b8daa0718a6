"""Random numbers of many paths: the same seed, the same numbers, wherever they are used."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gdflows.arguments import whole
from gdflows.errors import InputError

INCREMENTS = ("gaussian", "three-point")


class Draws:
    """The increments of a block of paths.

    Parameters
    ----------
    seed : int
        Nobody's global state is touched.
    block : int
        Which block of paths: each has numbers of its own.
    like : Tensor
        Whose dtype and device the numbers have.
    paths, channels : int
        How many.
    antithetic : bool
        The second half of the paths has the first half's increments with their sign changed.
    increments : {"gaussian", "three-point"}
        Three points, 0 and ±√3 with probabilities 2/3 and 1/6, have a normal variable's moments
        up to the fifth: all that weak order 2 asks for.
    """

    def __init__(
        self,
        seed: int,
        block: int,
        like: Tensor,
        paths: int,
        channels: int,
        *,
        antithetic: bool = False,
        increments: str = "gaussian",
    ):
        seed = whole(seed, "seed", 0)
        if increments not in INCREMENTS:
            raise InputError(f"increments must be one of {INCREMENTS}, got {increments!r}.")
        self.increments, self.antithetic = increments, antithetic
        self._own = paths // 2 if antithetic else paths
        self._shape = (self._own, channels)
        self._like = {"dtype": like.dtype, "device": like.device}
        # Two sources, so that a scheme that asks for signs sees the increments of one that
        # does not.
        seeds = np.random.SeedSequence([seed, block]).generate_state(2, np.uint64) >> np.uint64(1)
        self._main, self._side = (torch.Generator(like.device).manual_seed(int(s)) for s in seeds)
        self._order = None  # of an epoch's samples, what is left of it

    def normal(self, parts: int = 1) -> Tensor:
        """Of unit variance, ``(paths, channels)``; of several parts the sum, scaled."""
        z = sum(self._once() for _ in range(parts)) / parts**0.5
        return torch.cat([z, -z]) if self.antithetic else z

    def _once(self) -> Tensor:
        if self.increments == "gaussian":
            return torch.randn(self._shape, generator=self._main, **self._like)
        face = torch.empty(self._shape, dtype=torch.uint8, device=self._like["device"])
        face.random_(0, 6, generator=self._main)
        dtype = self._like["dtype"]
        return ((face == 1).to(dtype) - (face == 0).to(dtype)) * 3**0.5

    def signs(self) -> tuple[Tensor, Tensor]:
        """Two independent matrices of ±1; of antithetic pairs the first changes its sign too."""
        z, y = self._coins(), self._coins()
        return (torch.cat([z, -z]), torch.cat([y, y])) if self.antithetic else (z, y)

    def _coins(self) -> Tensor:
        face = torch.empty(self._shape, dtype=torch.uint8, device=self._like["device"])
        face.random_(0, 2, generator=self._side)
        return 2 * face.to(self._like["dtype"]) - 1

    def batches(self, size: int, batch_size: int, replacement: bool) -> Tensor:
        """Which samples the paths' batches hold, ``(paths, batch_size)``."""
        device = self._like["device"]
        if replacement:
            return torch.randint(size, (self._own, batch_size), generator=self._main, device=device)
        keys = torch.rand(self._own, size, generator=self._main, device=device)
        return keys.argsort(1)[:, :batch_size]

    def next_batches(self, size: int, batch_size: int) -> Tensor:
        """The next batches of the paths' epochs, ``(paths, batch_size)``; each in its own order."""
        if self._order is None or not self._order.shape[1]:
            keys = torch.rand(self._own, size, generator=self._main, device=self._like["device"])
            self._order = keys.argsort(1)
        taken, self._order = self._order[:, :batch_size], self._order[:, batch_size:]
        return taken
