"""Whitened inputs, against what they must satisfy and what determines them."""

import pytest
import torch

from gdflows import problems
from gdflows.errors import InputError

f64 = torch.float64


def correlated(n=200, d=5):
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=g, dtype=f64) @ torch.randn(d, d, generator=g, dtype=f64) + 3


@pytest.mark.parametrize("centre", [True, False])
def test_the_covariance_is_the_identity_and_the_map_symmetric(centre):
    x = correlated()
    white = problems.whiten(x, centre=centre)
    raw = x - x.mean(0) if centre else x
    identity = torch.eye(5, dtype=f64)
    torch.testing.assert_close(white.T @ white / len(x), identity, atol=1e-10, rtol=0)
    values, vectors = torch.linalg.eigh(raw.T @ raw / len(x))
    torch.testing.assert_close(white, raw @ (vectors / values.sqrt()) @ vectors.T)


def test_a_linear_networks_loss_is_a_distance_of_matrices():
    x, g = problems.whiten(correlated()), torch.Generator().manual_seed(1)
    y = torch.randn(len(x), 2, generator=g, dtype=f64)
    target = y.T @ x / len(x)
    apart = [
        float(problems.squared_error(x @ w.T, y) - 0.5 * ((w - target) ** 2).sum())
        for w in torch.randn(3, 2, 5, generator=g, dtype=f64)
    ]
    assert max(apart) - min(apart) < 1e-12


def test_white_data_stay_as_they_are():
    once = problems.whiten(correlated())
    torch.testing.assert_close(problems.whiten(once), once)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.ones(5, dtype=f64), "real tensor"),
        (torch.ones(5, 2, dtype=torch.int64), "real tensor"),
        (torch.full((5, 2), float("nan"), dtype=f64), "NaN"),
        (correlated(4, 5), "4 samples"),
        (torch.cat([correlated(), correlated()[:, :1]], 1), "6 features span only 5"),
        (torch.zeros(0, 3, dtype=f64), "0 samples"),
    ],
)
def test_what_cannot_be_whitened_is_named(x, words):
    with pytest.raises(InputError, match=words):
        problems.whiten(x)
