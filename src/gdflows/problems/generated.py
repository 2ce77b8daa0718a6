"""A data set that is made on the spot: no package, no file, no network."""

from __future__ import annotations

import math

import numpy as np
import torch

CLASSES = 10
SIDE = 8
TRAINING, TEST = 1000, 200
NOISE = 0.25  # standard deviation, in units of the grating's amplitude


def gratings() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    r"""Noisy gratings: the classes are their orientations, phase and period vary.

    Pixel (i, j) of an image of class c is :math:`\sin(2\pi(i\sin a + j\cos a)/p + \varphi)` with
    a = πc/10, a period p of 4 to 6 pixels, a phase φ, and Gaussian noise; in 256 levels, so that
    the bytes are the same on every machine.

    Returns
    -------
    tuple of numpy.ndarray
        Training images ``(1000, 1, 8, 8)``, uint8; their classes ``(1000,)``; those to test, 200.
    """
    n = TRAINING + TEST
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % CLASSES
    angle = math.pi * labels.double() / CLASSES
    phase = 2 * math.pi * torch.rand(n, generator=g, dtype=torch.float64)
    period = 4 + 2 * torch.rand(n, generator=g, dtype=torch.float64)
    noise = torch.randn(n, SIDE, SIDE, generator=g, dtype=torch.float64)
    i = torch.arange(SIDE, dtype=torch.float64)
    along = torch.sin(angle)[:, None, None] * i[:, None] + torch.cos(angle)[:, None, None] * i
    wave = torch.sin(2 * math.pi * along / period[:, None, None] + phase[:, None, None])
    x = (127.5 + 63.75 * (wave + NOISE * noise)).round().clamp(0, 255).to(torch.uint8)
    x, y = x[:, None].numpy(), labels.numpy()
    return x[:TRAINING], y[:TRAINING], x[TRAINING:], y[TRAINING:]
