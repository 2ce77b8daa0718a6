"""Filter-normalised directions, and slices along them."""

import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError

F64 = torch.float64


def test_every_filter_keeps_its_norm():
    net = gf.problems.conv(
        (3, 4), "relu", in_channels=1, image_size=8, classes=10, seed=0, dtype=F64
    )
    E = gf.problems.classification("digits", net, n=20)
    one, two = gf.landscape.filter_normalised(E, E.theta0, seed=3)
    for name, weight in E.unflatten(E.theta0).items():
        for direction in (one, two):
            part = E.unflatten(direction)[name]
            if weight.ndim < 2:
                assert not part.any()
            else:
                torch.testing.assert_close(
                    part.flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1)
                )
    assert abs(float(torch.dot(one, two))) < 0.5 * float(one.norm() * two.norm())
    again = gf.landscape.filter_normalised(E, E.theta0, seed=3, count=1)
    assert torch.equal(again[0], one)


def test_rescaled_networks_look_alike():
    """Twice the first layer and half the second is the same function, and the same picture."""
    net = gf.problems.mlp([64, 8, 10], "relu", bias=False, seed=0, dtype=F64)
    E = gf.problems.classification("digits", net, n=50)
    factor = torch.cat([torch.full((8 * 64,), 2.0), torch.full((10 * 8,), 0.5)]).to(F64)
    at = np.linspace(-1, 1, 5)
    pictures = [
        gf.landscape.slice_of(E, t, gf.landscape.filter_normalised(E, t, seed=0), at)
        for t in (E.theta0, factor * E.theta0)
    ]
    np.testing.assert_allclose(*pictures, rtol=1e-10)


def test_slices_are_the_loss():
    E = gf.problems.quadratic([1.0, 4.0], dtype=F64)
    theta, x, y = torch.tensor([[1.0, 2.0], [1.0, 0.0], [0.0, 1.0]], dtype=F64)
    at = [-1.0, 0.0, 0.5]
    np.testing.assert_allclose(
        gf.landscape.slice_of(E, theta, [x], at), [(1 + a) ** 2 / 2 + 8 for a in at]
    )
    np.testing.assert_allclose(
        gf.landscape.slice_of(E, theta, [x, y], at),
        [[(1 + a) ** 2 / 2 + 2 * (2 + b) ** 2 for a in at] for b in at],
    )
    with pytest.raises(InputError, match="One or two"):
        gf.landscape.slice_of(E, theta, [x, y, x], at)
    with pytest.raises(InputError, match="has layers"):
        gf.landscape.filter_normalised(E, theta, seed=0)
