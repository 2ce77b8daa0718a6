"""What earlier Hessians tell of the next, against dense matrices."""

import numpy as np
import pytest
import torch

from gdflows.curvature.history import History, updated
from gdflows.curvature.subspace import Space
from gdflows.errors import NonFiniteError

f64 = torch.float64


def symmetric(n, seed):
    a = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=f64)
    return (a + a.T) / 2


def test_the_nearest_matrix_with_these_products():
    truth, guess = symmetric(7, 0), symmetric(7, 1)
    rows = torch.linalg.qr(symmetric(7, 2))[0][:3]
    found = updated(guess, rows, rows @ truth)
    torch.testing.assert_close(found, found.T)
    torch.testing.assert_close(rows @ found, rows @ truth)
    torch.testing.assert_close(updated(truth, rows, rows @ truth), truth)
    # Nearest: what it changes is orthogonal to all symmetric changes that keep the products.
    rest = torch.eye(7, dtype=f64) - rows.T @ rows
    free = rest @ symmetric(7, 3) @ rest
    assert abs(float(((found - guess) * free).sum())) < 1e-12


def history(points, hessian, rows_at, exact=3, keep=4):
    past = History()
    for theta in points:
        rows = rows_at(theta)
        past.add(theta, Space(rows, rows @ hessian(theta)), None, 1.0, exact=exact, keep=keep)
    return past


@pytest.mark.parametrize("unit", [1.0, 1e-30, 1e30])
def test_weights_extrapolate_and_prefer_the_point_itself(unit):
    eye = torch.eye(3, 40, dtype=f64)
    line = [unit * t * torch.ones(40, dtype=f64) for t in (0.0, 1.0, 2.0)]
    past = history(line, lambda theta: torch.eye(40, dtype=f64), lambda theta: eye)
    w = past.weights(unit * 3 * torch.ones(40, dtype=f64))
    assert abs(w.sum() - 1) < 1e-12
    assert abs(w @ [0.0, 1.0, 2.0] - 3) < 0.02  # the ridge pulls it back a little
    np.testing.assert_array_equal(past.weights(line[1]), [0, 1, 0])
    swing = [unit * torch.tensor([x, 0.0], dtype=f64) for x in (1.0, -1.0, 1.0)]
    past = history(swing, lambda theta: torch.eye(2, dtype=f64), lambda theta: eye[:2, :2], 2, 2)
    assert past.weights(-swing[0]).argmax() == 1  # two steps ago


def test_a_hessian_that_is_affine_is_foretold_to_second_order():
    """The top of A + tB, at four values of t; a forecast for the fifth beside the last one."""
    top = torch.zeros(60, 60, dtype=f64)
    top[:3, :3] = torch.diag(torch.tensor([10.0, 9.0, 7.0], dtype=f64))
    a, b = top + 0.05 * symmetric(60, 0), symmetric(60, 1)
    direction = torch.ones(60, dtype=f64) / 60**0.5

    def hessian(theta):
        return a + float(theta @ direction) * b

    def eigenvectors(theta):
        return torch.linalg.eigh(hessian(theta))[1].T.flip(0)[:5]

    def off(rows, theta):
        _, vectors = torch.linalg.eigh(hessian(theta))
        inside = rows[:3] @ vectors[:, -3:]
        return float((1 - (inside**2).sum(1)).clamp_min(0).max().sqrt())

    past = history([0.03 * i * direction for i in range(4)], hessian, eigenvectors, 5, 6)
    now = 0.12 * direction
    found = past.forecast(now, 1.0, 6)
    torch.testing.assert_close(found.rows @ found.rows.T, torch.eye(len(found.rows), dtype=f64))
    assert off(found.rows, now) < 0.2 * off(past.points[-1][1].rows, now)
    truth = torch.linalg.eigvalsh(hessian(now)).flip(0)[:3]
    before = torch.linalg.eigvalsh(hessian(0.09 * direction)).flip(0)[:3]
    foretold = (found.rows * found.images).sum(1)[:3]
    assert (foretold - truth).abs().max() < 0.2 * (before - truth).abs().max()
    # A scale that is ten times as large has scaled the images by a hundred.
    torch.testing.assert_close(
        past.forecast(now, 100.0, 6).images, 100 * past.forecast(now, 1.0, 6).images
    )


def test_what_overflows_is_refused():
    past = history([torch.zeros(5)], lambda theta: 3e38 * torch.ones(5, 5), lambda theta: (
        torch.ones(1, 5) / 5**0.5), 1, 1)  # fmt: skip
    with pytest.raises(NonFiniteError, match="float64, or rescale"):
        past.forecast(torch.ones(5), 1.0, 1)


def test_state():
    points = [torch.full((6,), float(i), dtype=f64) for i in range(3)]
    rows = torch.linalg.qr(symmetric(6, 0))[0][:4]
    past, again = history(points, lambda theta: symmetric(6, 1), lambda theta: rows), History()
    again.load_state_dict(past.state_dict())
    a, b = (h.forecast(points[0] + 5, 1.0, 4) for h in (past, again))
    assert torch.equal(a.rows, b.rows) and torch.equal(a.images, b.images)
