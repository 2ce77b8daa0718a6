"""The study of where SGD holds its sharpness, in small."""

import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError
from gdflows.experiments.stochastic_edge import _Seen, run
from gdflows.experiments.training_loss import training_loss

SMALL = {"n": 30, "wait": 5, "steps": 2, "every": 1}


def test_the_table():
    table = run(**SMALL, batches="10,30")
    shown = table.set_index(["batch", "model", "step"])
    assert set(table.model) >= {"SGD", "stochastic rod", "centre", "SDE", "rod"}
    assert (table.failure == "").all()
    # at the start SGD and what takes its place are at one point
    E = training_loss("mlp", "6", "tanh", 1.0, "gratings", 30, 0, "cpu")
    theta = gf.descend(E, E.theta0, 0.3, 5).states[-1]
    top = 0.3 * float(gf.curvature.top_eigenpairs(E, theta, 1).values[0])
    for name in ("SGD", "SDE"):
        assert shown.sharpness[10, name, 0] == pytest.approx(top, rel=3e-3)
        assert shown.loss[10, name, 0] == pytest.approx(float(E.value(theta)), rel=1e-6)
    # a batch of all the data is gradient descent, and knows no noise
    after = gf.descend(E, theta, 0.3, 2).states[-1]
    assert shown.loss[30, "SGD", 2] == pytest.approx(float(E.value(after)), rel=1e-6)
    point = E.at(theta)
    own = 0.3 * float(point.grad @ point.hvp(point.grad) / (point.grad @ point.grad))
    assert shown.batch_sharpness[30, "SGD", 0] == pytest.approx(own, rel=1e-4)
    # what knows of no batches is the same for both
    assert shown.sharpness[10, "rod", 2] == shown.sharpness[30, "rod", 2]


def test_the_published_gap():
    table = run(**SMALL, batches="10", models="rod,gap")
    gap = table[table.model == "gap"]
    E = training_loss("mlp", "6", "tanh", 1.0, "gratings", 30, 0, "cpu")
    theta = gf.descend(E, E.theta0, 0.3, 5).states[-1]
    path = gf.integrate(
        gf.flows.PrincipalRodFlow(E, 0.3, order=0, noise=0), theta, times=[0, 0.3, 0.6],
        method="rk4", step=0.3,
    )  # fmt: skip
    rows = gap.set_index("step").sharpness
    for k, c in enumerate(path.states):
        c = c.contiguous()
        u = gf.curvature.top_eigenpairs(E, c, 1, tol=1e-3).vectors[0]  # as the study takes it

        def curvature(x, u=u):
            return float(u @ E.hvp(x, u))

        eye, g, e = torch.eye(E.dim, dtype=c.dtype), E.grad(c), 1e-4
        alpha = -(curvature(c + e * g) - curvature(c - e * g)) / (2 * e)
        if alpha <= 0:
            assert k not in rows.index
            continue
        turn = torch.tensor([(curvature(c + e * v) - curvature(c - e * v)) / (2 * e) for v in eye])
        along = gf.noise.GradientNoise(E, c).along(u, 10)
        said = 2 - 0.3**2 * float(turn @ turn) * float(along) / (4 * alpha)
        assert rows[k] == pytest.approx(said, rel=1e-3)
    assert 0 < len(rows) < 3


def test_with_momentum_all_are_of_heavy_ball():
    models = "SGD,stochastic rod,centre,SDE,rod"
    table = run(**SMALL | {"wait": 4}, batches="30", momentum=0.3, models=models)
    assert (table.failure == "").all()
    shown = table.set_index(["model", "step"])
    E = training_loss("mlp", "6", "tanh", 1.0, "gratings", 30, 0, "cpu")
    theta = gf.descend(E, E.theta0, 0.3, 4, momentum=0.3).states[-1]
    after = gf.descend(E, theta, 0.3, 2, momentum=0.3).states[-1]
    assert shown.loss["SGD", 2] == pytest.approx(float(E.value(after)), rel=1e-6)
    start = float(E.value(theta))
    for name in ("SDE", "rod", "centre"):
        if name != "rod":  # whose centre is half a step away
            assert shown.loss[name, 0] == pytest.approx(start, rel=2e-2)
        assert shown.loss[name, 2] < start
    # the first order of the gap is 1/(1 − β) times as wide
    path = gf.integrate(gf.flows.NGF(E), theta, t=1e-3)
    gaps = []
    for beta in (0.0, 0.3):
        rows = _Seen(E, theta, 0.3, beta, 10, [0, 1], 0, 1).full_batch(path, "")
        said = next(row["sharpness"] for row in rows if row["model"] == "gap")
        gaps.append(2 * (1 + beta) - said)
    assert gaps[0] > 0 and gaps[1] * (1 - 0.3) == pytest.approx(gaps[0])
    with pytest.raises(InputError, match=r"momentum must be in \[0, 1\)"):
        run(**SMALL, momentum=1.0)


def test_bad_input():
    with pytest.raises(InputError, match="Unknown model 'x'"):
        run(models="x")
    with pytest.raises(InputError, match="at most steps"):
        run(steps=5, every=6)
    with pytest.raises(InputError, match="batch"):
        run(n=20, batches="21")
