"""Eigenvalues along a path, against solves from scratch."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh

import gdflows as gf
from gdflows.curvature import Tracker, top_eigenpairs
from gdflows.curvature.subspace import Solved, Space
from gdflows.errors import InputError

f64 = torch.float64


def arpack(E, theta, k, scale=None):
    """The k largest eigenvalues by an independent implementation, in descending order."""
    point, s = E.at(theta), torch.ones_like(theta) if scale is None else scale

    def product(v):
        return (s * point.hvp(s * torch.as_tensor(v.reshape(-1)))).numpy()

    H = LinearOperator((E.dim, E.dim), product, dtype=np.float64)
    return torch.as_tensor(eigsh(H, k, which="LA", return_eigenvectors=False, tol=1e-10)).flip(0)


@pytest.fixture(scope="module")
def edge():
    """Forty steps of gradient descent at the edge of stability, and the exact spectrum's top."""
    net = gf.problems.mlp([64, 32, 32, 10], "tanh", seed=0, dtype=f64)
    E = gf.problems.classification("digits", net, n=200)
    path = gf.descend(E, E.theta0, 0.18, 300).states[-40:]
    exact = torch.stack([arpack(E, theta, 3).clone() for theta in path])
    assert (0.18 * exact[:, 0] > 1.8).all()
    return E, path, exact


@pytest.mark.parametrize("k", [1, 3])
def test_follows_the_edge(edge, k):
    E, path, exact = edge
    tracker = Tracker(E, k, tol=1e-3, check_every=20)
    seen = [tracker.update(theta) for theta in path]
    values = torch.stack([s.values for s in seen])
    torch.testing.assert_close(values, exact[:, :k], rtol=1e-3, atol=0)
    cold = sum(top_eigenpairs(E, theta, k, tol=1e-3).hvps for theta in path)
    assert sum(s.hvps for s in seen) < 0.55 * cold
    assert sum(s.hvps for s in seen if s.since_check) <= {1: 4, 3: 8}[k] * len(seen)
    assert [s.since_check for s in seen[:21]] == [*range(20), 0]
    for before, after in pairwise(seen):
        assert float(before.vectors[0] @ after.vectors[0]) > 0
    for s, theta in zip(seen[-3:], path[-3:], strict=True):
        residuals = (E.hvp(theta, s.vectors) - s.values[:, None] * s.vectors).norm(dim=1)
        torch.testing.assert_close(s.residuals, residuals, rtol=1e-6, atol=1e-9)


def moving(dim=300):
    """A loss whose curvature along axis i depends on the coordinate t = θ₀ alone."""
    base = torch.linspace(0, 1, dim, dtype=f64)

    def loss(theta):
        curvature = base.clone()
        curvature[1] = 10 + theta[0]
        curvature[2] = 11 - theta[0]  # overtaken at t = ½
        curvature[3] = 20 * theta[0] - 9  # comes up from nowhere
        return 0.5 * (curvature * theta**2)[1:].sum()

    return gf.Objective(loss, dim=dim)


def test_an_overtaking_eigenvalue_is_noticed():
    E, tracker = moving(), None
    tracker = Tracker(E, tol=1e-4, check_every=10)
    late = 0
    for i in range(61):
        theta = torch.zeros(300, dtype=f64)
        theta[0] = i / 50
        truth = max(10 + i / 50, 11 - i / 50, 20 * i / 50 - 9)
        late += abs(float(tracker.update(theta).values[0]) - truth) > 2e-4 * truth
        if tracker._updates % 10 == 1:  # a check has just been made
            assert abs(float(tracker.update(theta).values[0]) - truth) <= 2e-4 * truth
    assert late <= 10


def test_cost_and_state(edge):
    E, path, _ = edge
    first, second = Tracker(E), Tracker(E)
    for theta in path[:7]:
        first.update(theta)
    second.load_state_dict(first.state_dict())
    before = E.cost["hvps"]
    a = first.update(path[7])
    assert a.hvps == E.cost["hvps"] - before
    b = second.update(E.at(path[7]))
    assert torch.equal(a.values, b.values) and torch.equal(a.vectors, b.vectors)
    third, state = Tracker(E), first.state_dict()
    third.load_state_dict(  # as states were before
        {"past": [state["history"]["rest"]] * 2, "sizes": [1.0, 1.0]}
        | {"guard": state["guard"], "updates": 8}
    )
    assert 0 < third.update(path[8]).hvps < 11  # not from scratch
    scale = torch.full_like(path[8], 0.1)
    torch.testing.assert_close(
        third.update(path[8], scale=scale).values,
        0.01 * first.update(path[8]).values,
        rtol=2e-3,
        atol=0,
    )


def test_a_guard_foretold_wrongly_makes_the_forecasts_doubtful():
    rows = torch.eye(2, 9, dtype=f64)
    values = torch.tensor([10.0, 8.0], dtype=f64)
    solved = Solved(values, 0 * values, Space(rows, values[:, None] * rows), 2, 10.0)
    tracker = Tracker(moving())
    tracker._wrong = 0.0
    tracker._judge(torch.tensor([10.0, 7.0], dtype=f64), solved)  # below the k-th, 10, by too much
    assert tracker._wrong == pytest.approx(0.1)
    tracker._judge(torch.tensor([10.0, 8.0], dtype=f64), solved)  # slowly forgotten
    assert 0.05 < tracker._wrong < 0.1


def test_memory(edge):
    """No more vectors than the docstring says."""
    E, path, _ = edge
    for k, guards, points in ((1, 1, 1), (1, 1, 4), (3, 3, 4)):
        tracker = Tracker(E, k, guards=guards, points=points)
        for theta in path[:8]:
            tracker.update(theta)
        state = tracker.state_dict()["history"]
        held = sum(t.numel() for p in state["points"] for t in p[:3])
        held += sum(t.numel() for t in state["rest"])
        allowed = 2 * (k + guards) + (points * (2 * k + 5) if points > 1 else 0)
        assert held <= allowed * E.dim


def test_preconditioned(edge):
    E, path, _ = edge
    g = torch.Generator().manual_seed(0)
    scale = torch.rand(E.dim, generator=g, dtype=f64) + 0.1
    tracker = Tracker(E, 2, tol=1e-4)
    for theta in path[:3]:
        seen = tracker.update(theta, scale=scale)
        exact = arpack(E, theta, 2, scale).clone()
        torch.testing.assert_close(seen.values, exact, rtol=1e-4, atol=0)
        cold = top_eigenpairs(E, theta, 2, scale=scale)
        torch.testing.assert_close(cold.values, exact, rtol=1e-4, atol=0)


def test_bad_input(edge):
    E, path, _ = edge
    for arguments in ({"k": 0}, {"tol": 0}, {"guards": 0}, {"check_every": 0}, {"points": 0}):
        with pytest.raises(InputError, match="must be"):
            Tracker(E, **arguments)
    with pytest.raises(InputError, match="another objective"):
        Tracker(E).update(moving().at(torch.zeros(300, dtype=f64)))
    with pytest.raises(InputError, match="θ's shape"):
        top_eigenpairs(E, path[0], scale=torch.ones(3))
