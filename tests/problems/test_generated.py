"""The data set that is made on the spot."""

import hashlib

import numpy as np
import torch

import gdflows as gf
from gdflows.problems.generated import gratings


def test_the_same_bytes_on_every_machine():
    total = hashlib.sha256(b"".join(a.tobytes() for a in gratings())).hexdigest()
    assert total == "39c5fe93426bbccf901d3d1043d4cb2e4386537f445db1489dd745966ba6512a"


def test_images_are_gratings_at_the_angle_of_their_class():
    """Of each image the largest Fourier coefficient points across its bars."""
    x, y, _, _ = gratings()
    assert x.shape == (1000, 1, 8, 8) and x.dtype == np.uint8
    assert np.bincount(y).tolist() == [100] * 10
    power = np.abs(np.fft.fft2(x[:, 0] - x[:, 0].mean((1, 2), keepdims=True), (32, 32)))
    frequency = np.fft.fftfreq(32)
    i, j = np.unravel_index(power.reshape(1000, -1).argmax(1), (32, 32))
    angle = np.degrees(np.arctan2(frequency[i], frequency[j])) % 180
    off = np.abs((angle - 18 * y + 90) % 180 - 90)
    assert np.median(off) < 6 and (off < 25).mean() > 0.95
    period = 1 / np.hypot(frequency[i], frequency[j])
    assert np.median(np.abs(period - 5)) < 1


def test_loads_without_any_other_package():
    data = gf.problems.load("gratings")
    assert (len(data.x_train), len(data.x_test), len(data.classes)) == (1000, 200, 10)
    assert data.classes[:2] == ("0°", "18°")
    assert abs(float(data.x_train.mean())) < 1e-5 and data.y_train.dtype == torch.int64
