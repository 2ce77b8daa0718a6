"""A data set and a text that are made on the spot: no package, no file, no network."""

from __future__ import annotations

import math

import numpy as np
import torch

CLASSES = 10
SIDE = 8
TRAINING, TEST = 1000, 200
NOISE = 0.25  # standard deviation, in units of the grating's amplitude
NUMERALS = 8000
UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


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


def numerals() -> str:
    """Numbers from 1 to 9,999, drawn at random, a line each: in digits, then in words.

    Returns
    -------
    str
        8,000 lines such as ``"347 three hundred and forty-seven"``, the same on every machine.
    """
    g = torch.Generator().manual_seed(0)
    drawn = torch.randint(1, 10_000, (NUMERALS,), generator=g).tolist()
    return "".join(f"{n} {in_words(n)}\n" for n in drawn)


def in_words(n: int) -> str:
    """A whole number from 0 to 9,999 in English words."""
    if n >= 1000:
        rest = n % 1000
        link = " and " if 0 < rest < 100 else " "
        return f"{UNITS[n // 1000]} thousand" + (link + in_words(rest) if rest else "")
    if n >= 100:
        return f"{UNITS[n // 100]} hundred" + (f" and {in_words(n % 100)}" if n % 100 else "")
    if n >= 20:
        return TENS[n // 10 - 2] + (f"-{UNITS[n % 10]}" if n % 10 else "")
    return UNITS[n]
