"""The stable set and the predicted swing: on the valley, where both are exact; on a network."""

import pytest
import torch

import gdflows as gf
from gdflows.errors import ConvergenceError, InputError
from gdflows.flows import StableSet, predicted_swing

H, f64 = 0.05, torch.float64
VALLEY = gf.problems.valley(kappa=0.2, y_star=44.0)


def at(*numbers):
    return torch.tensor(numbers, dtype=f64)


@pytest.mark.parametrize("start", [(0.3, 43.0), (0.0, 41.0), (-0.5, 41.0)])
def test_the_valley_s_stable_set_is_its_floor_up_to_the_edge(start):
    found = StableSet(VALLEY, H).project(at(*start))
    torch.testing.assert_close(found.theta, at(0.0, 2 / H), rtol=0, atol=1e-4)
    assert found.on_edge and abs(H * found.sharpness - 2) < 1e-6
    torch.testing.assert_close(found.slope.abs(), at(0.0, 1.0), rtol=0, atol=1e-4)
    assert found.sharpening == pytest.approx(0.2 * 4, rel=1e-4)
    assert found.stabilisation == pytest.approx(1, rel=1e-4)
    assert found.rest == pytest.approx(1.6, rel=1e-4)


def test_below_the_edge_only_the_swing_is_taken_away():
    found = StableSet(VALLEY, H).project(at(0.01, 30.0))
    assert not found.on_edge and found.rest == 0
    torch.testing.assert_close(found.theta, at(0.0, 30.0), rtol=0, atol=1e-4)


def test_the_trajectory_is_gradient_descent_until_the_edge_and_stays_there():
    path = StableSet(VALLEY, H).descend(at(0.0, 39.9), 20)
    free = gf.descend(VALLEY, at(0.0, 39.9), H, 20).states[:, 1]
    for here, y in zip(path, free, strict=True):
        assert float(here.theta[1]) == pytest.approx(min(float(y), 2 / H), abs=1e-4)
    assert path[-1].on_edge and not path[0].on_edge


@pytest.mark.parametrize("start", [(0.3, 41.0), (-0.8, 40.5)])
def test_in_the_valley_the_prediction_is_gradient_descent(start):
    """There the loss has no terms that the cubic model leaves out."""
    path = StableSet(VALLEY, H, tol=1e-9).descend(at(*start), 100)
    true = gf.descend(VALLEY, at(*start), H, 100).states
    centres = torch.stack([here.theta for here in path])
    said = centres + predicted_swing(path, at(*start) - path[0].theta, H)
    torch.testing.assert_close(said, true, rtol=0, atol=2e-4)
    assert (true[:, 0].abs().max() / true[0, 0].abs()) > 1.5  # it swings


def test_on_a_network_against_dense_matrices():
    network = gf.problems.mlp([64, 6, 10], "tanh", seed=0, dtype=f64)
    E = gf.problems.classification("digits", network, n=60)
    theta = gf.descend(E, E.theta0, 0.05, 100, every=100).states[-1]
    lr = 1.95 / float(torch.linalg.eigvalsh(E.hessian(theta))[-1])  # so that it lies above 1.9
    stable = StableSet(E, 1.05 * lr)
    found = stable.project(theta)
    values, vectors = torch.linalg.eigh(E.hessian(found.theta))
    assert float(values[-1]) == pytest.approx(2 / (1.05 * lr), rel=1e-5)
    assert float(values[-2]) == pytest.approx(found.second, rel=1e-4)
    assert abs(float(vectors[:, -1] @ E.grad(found.theta))) < 1e-3
    assert (found.theta - theta).norm() < 0.3
    step = 1e-4 * found.slope / found.slope.norm()
    up, down = (torch.linalg.eigvalsh(E.hessian(found.theta + s * step))[-1] for s in (1, -1))
    assert float(up - down) / 2e-4 == pytest.approx(found.stabilisation**0.5, rel=1e-3)


def test_vectors_do_not_flip_along_a_path():
    network = gf.problems.mlp([64, 6, 10], "tanh", seed=0, dtype=f64)
    E = gf.problems.classification("digits", network, n=60)
    path = StableSet(E, 0.02).descend(E.theta0, 5)
    assert all(a.vector @ b.vector > 0.9 for a, b in zip(path, path[1:], strict=False))


def test_what_is_refused():
    parabola = gf.problems.quadratic(torch.tensor([3.0, 1.0], dtype=f64))
    with pytest.raises(ConvergenceError, match="far beyond the edge"):
        StableSet(parabola, 1.0).project(at(1.0, 1.0))  # its sharpness cannot be lowered
    with pytest.raises(InputError, match="two parameters"):
        StableSet(gf.problems.quadratic([1.0]), 1.0)
    with pytest.raises(InputError, match="real"):
        StableSet(VALLEY, H).project(at(0.0, 1.0).to(torch.complex128))
    with pytest.raises(InputError, match="tol"):
        StableSet(VALLEY, H, tol=0)
    path = StableSet(VALLEY, H).descend(at(0.0, 30.0), 1)
    for points, displacement in (([], at(0.0, 0.0)), (path, at(0.0))):
        with pytest.raises(InputError, match="same shape"):
            predicted_swing(points, displacement, H)
