"""Files in the formats of the official ones, with random content."""

import gzip

import numpy as np

RNG = np.random.default_rng(0)


def pixels(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def labels(n):
    return RNG.integers(0, 10, n, dtype=np.uint8)


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return gzip.compress(header + array.tobytes(), compresslevel=1)


def save_cifar(folder, cifar):
    x, y = cifar
    np.savez(
        folder / "cifar10_5k.npz",
        x_train=x[:5000],
        y_train=y[:5000],
        x_test=x[5000:],
        y_test=y[5000:],
    )
