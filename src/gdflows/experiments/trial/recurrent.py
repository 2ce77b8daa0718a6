"""Two small networks for text that only the tuned trial uses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLASSES = 65


class Recurrent(nn.Module):
    """Characters ``(N, T)`` to logits of the next ones, ``(N, T, classes)``, by an LSTM."""

    def __init__(self, hidden: int, classes: int = CLASSES):
        super().__init__()
        self.embed = nn.Embedding(classes, hidden // 2)
        self.lstm = nn.LSTM(hidden // 2, hidden, batch_first=True)
        self.linear = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.lstm(self.embed(x))[0])


def lstm(hidden: int, *, seed: int = 0) -> nn.Module:
    """torch's own initialisation, from a seed; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Recurrent(hidden)


def last_character(length: int, *, seed: int = 0) -> nn.Sequential:
    """Characters ``(N, length)`` to logits of the one that follows: embedded, then three layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Embedding(CLASSES, 16), nn.Flatten(),
            nn.Linear(16 * length, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(),
            nn.Linear(128, CLASSES),
        )  # fmt: skip
