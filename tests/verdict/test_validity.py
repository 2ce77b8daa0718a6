"""Which model may be trusted, for how long: against quadratics, where all is known."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError, NonFiniteError
from gdflows.verdict.modes import Modes, edge, flowed, linear, principal, stepped
from gdflows.verdict.scaling import window

f64 = torch.float64


def alone(lam, g=1.0, a=0.0, c=0.0, b=0.0):
    return Modes(*(np.array([float(x)]) for x in (lam, g, a, c, b)), top=1)


# -- what a step does along an eigenvector ---------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 0.7])
@pytest.mark.parametrize("lam", [-0.3, 0.0, 0.8, 3.5])
def test_the_mean_is_that_of_descent(lam, beta):
    E = gf.Objective(lambda x: 2 * x[0] + lam / 2 * x[0] ** 2, 1)
    run = gf.descend(E, torch.zeros(1, dtype=f64), 0.5, 12, momentum=beta)
    seen = stepped(alone(lam, 2.0), 0.5, 12, beta)
    np.testing.assert_allclose(seen.mean[:, 0], run.states[:, 0], rtol=1e-12, atol=1e-14)
    assert not seen.variance.any()


@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_the_variance_is_the_exact_one(beta):
    lam, a = torch.tensor([0.2, 1.1], dtype=f64), 0.3
    problem = gf.noise.Quadratic(lam, torch.tensor(a, dtype=f64))
    start = torch.tensor([1.5, -0.5], dtype=f64)
    mean, covariance = gf.noise.moments(problem, 0.4, 9, start, momentum=beta)
    slope = (lam * start).numpy()
    modes = Modes(lam.numpy(), slope, np.full(2, a), np.zeros(2), np.zeros(2), top=2)
    seen = stepped(modes, 0.4, 9, beta)
    np.testing.assert_allclose(seen.mean[-1] + start.numpy(), mean, rtol=1e-12)
    np.testing.assert_allclose(seen.variance[-1], covariance.diagonal(), rtol=1e-12)


def test_noise_of_slope_and_curvature_by_all_batches():
    # Two samples, batches of one: 2⁵ equally likely runs, averaged one by one.
    slopes, curvatures, h, beta = np.array([1.0, 2.0]), np.array([0.4, 1.8]), 0.3, 0.6
    points = []
    for run in range(2**5):
        x = v = 0.0
        for k in range(5):
            i = run >> k & 1
            v = beta * v + slopes[i] + curvatures[i] * x
            x = x - h * v
        points.append(x)
    (a, c), (_, b) = np.cov(slopes, curvatures, bias=True)
    seen = stepped(alone(curvatures.mean(), slopes.mean(), a, c, b), h, 5, beta)
    # with momentum the noise of a step is correlated with the velocity through ξ only
    np.testing.assert_allclose(seen.mean[-1, 0], np.mean(points), rtol=1e-12)
    np.testing.assert_allclose(seen.variance[-1, 0], np.var(points), rtol=1e-12)


def test_the_edge_in_mean_square():
    # as derived in the chapter on the stochastic edge, and as sampled quadratics have it
    curvatures = torch.tensor([0.4, 1.8, 1.1], dtype=f64)
    for beta in (0.0, 0.5):
        bound = gf.noise.mean_square_edge(
            gf.noise.SampledQuadratics(curvatures), momentum=beta
        )
        b = float(curvatures.var(unbiased=False))
        modes = alone(float(curvatures.mean()), 0.0, 0.0, 0.0, b)
        assert edge(modes, bound, beta)[1][0] == pytest.approx(1, rel=1e-6)
        assert edge(modes, 0.9 * bound, beta)[1][0] < 1 < edge(modes, 1.1 * bound, beta)[1][0]


# -- errors that have a closed form ----------------------------------------------------------------


def test_errors_on_a_parabola_in_full_batch():
    lam, h = 1.6, 0.5
    x, k = h * lam, np.arange(1, 9)
    seen = gf.validity(
        gf.problems.quadratic([lam]), torch.tensor([3.0], dtype=f64), h, steps=8
    )
    curves = {name: own.error.to_numpy() for name, own in seen.curves.groupby("model")}
    run = (1 - x) ** k
    rates = {"NGF": x, "IGR": x + x**2 / 2, "order 2": x + x**2 / 2 + x**3 / 3}
    for name, rate in rates.items():
        wanted = np.abs(np.exp(-rate * k) - run) / (1 - run)
        np.testing.assert_allclose(curves[name], wanted, rtol=1e-9)
    np.testing.assert_allclose(curves["PF"], 0, atol=1e-12)
    np.testing.assert_allclose(curves["rod"], curves["IGR"], rtol=1e-12)  # x < 1: no swing
    assert seen.sharpness[0] == pytest.approx(x)
    assert math.isinf(seen.reach) and math.isinf(seen.to_edge)
    # and all horizons
    row = seen.table.set_index("model").loc["NGF"]
    within = np.flatnonzero(np.abs(np.exp(-x * k) - run) / (1 - run) <= 0.05) + 1
    assert (row["from"], row["until"]) == (within[0], 8)
    assert row["limit"] == "drift below hλ = 1"


def test_a_swing_is_known_to_two_points_only():
    E, theta = gf.problems.quadratic([3.0, 0.1]), torch.tensor([0.2, 4.0], dtype=f64)
    seen = gf.validity(E, theta, 0.6, steps=20)  # hλ = 1.8
    found = seen.rows.set_index("model")
    assert found.loc["rod", "from"] == 1 and found.loc["NGF", "from"] > 1
    assert found.loc["NGF", "limit"] == "swing beyond hλ = 1"
    assert "swing" in seen.verdict
    measured = seen.measured([1, 4, 9, 20])
    # flows are followed to 1e-5 of θ
    np.testing.assert_allclose(measured.error, measured.foreseen, rtol=0.02, atol=1e-4)


def test_beyond_the_edge_it_ends_when_the_swing_has_grown():
    lam, h, u = 2.2, 1.0, 1e-3
    E = gf.problems.quadratic([lam, 0.01])
    seen = gf.validity(E, torch.tensor([u, 10.0], dtype=f64), h, steps=80)
    row = seen.rows.set_index("model").loc["NGF"]
    # the swing u·1.2ᵏ, against what is travelled along the flat direction
    k = np.arange(1, 81)
    swing, flat = u * np.abs((1 - h * lam) ** k - np.exp(-lam * k)), 10 * (1 - 0.99**k)
    travelled = np.hypot(flat, u * np.abs((1 - h * lam) ** k - 1))
    off = np.hypot(swing, 10 * (np.exp(-0.01 * k) - 0.99**k)) / travelled
    assert row["until"] == np.flatnonzero(off <= 0.05)[-1] + 1 < 80
    assert row["ends"] == "error" and row["limit"] == "swing beyond hλ = 1"
    assert "past the edge" in seen.verdict


class Exact:
    """Moments of SGD, heavy ball and their equations on least squares with batches of B."""

    def __init__(self, size):
        self.E, _ = regression()
        x, y = (t.double().numpy() for t in (self.E._whole[0].args[0], self.E._whole[0].target))
        self.hessians, self.pulls = x[:, :, None] * x[:, None, :], x * y
        self.H, self.b = self.hessians.mean(0), self.pulls.mean(0)
        self.factor = (30 - size) / (size * 29)

    def noise(self, m, C):
        off = (self.hessians - self.H) @ m - (self.pulls - self.b)
        spread = self.hessians - self.H
        return self.factor * (off.T @ off + (spread @ C @ spread).sum(0)) / 30

    def run(self, theta, h, beta, steps):
        n, eye = len(theta), np.eye(len(theta))
        A = np.block([[eye - h * self.H, -h * beta * eye], [self.H, beta * eye]])
        G = np.concatenate([-h * eye, eye])
        z, C = np.concatenate([theta, 0 * theta]), np.zeros((2 * n, 2 * n))
        for _ in range(steps):
            N = self.noise(z[:n], C[:n, :n])
            z, C = A @ z + G @ -self.b, A @ C @ A.T + G @ N @ G.T
        return z[:n], C[:n, :n]

    def equation(self, theta, h, beta, steps, order):
        first, second, shift = 1 / (1 - beta), 0.0, 0.0
        if order == 2:
            second = h * (1 + beta) / (2 * (1 - beta) ** 3)
            shift = h * beta / (1 - beta) ** 2
        K = first * np.eye(len(theta)) + second * self.H
        m, C = theta + shift * (self.H @ theta - self.b), 0 * self.H

        def rates(m, C):
            A = K @ self.H
            N = h * first**2 * self.noise(m, C)
            return -K @ (self.H @ m - self.b), -A @ C - C @ A.T + N

        d = h / 20
        for _ in range(20 * steps):
            k1 = rates(m, C)
            k2 = rates(m + d / 2 * k1[0], C + d / 2 * k1[1])
            k3 = rates(m + d / 2 * k2[0], C + d / 2 * k2[1])
            k4 = rates(m + d * k3[0], C + d * k3[1])
            m, C = (
                x + d / 6 * (a + 2 * b + 2 * c + e)
                for x, a, b, c, e in zip((m, C), k1, k2, k3, k4, strict=True)
            )
        return m, C


@pytest.mark.parametrize("beta", [0.0, 0.6])
def test_what_is_foreseen_with_noise_is_exact_on_least_squares_near_the_minimum(beta):
    # The noise of a batch's Hessian *between* directions is left out: of the order of h/B.
    exact, h = Exact(15), 0.1
    start = np.linalg.solve(exact.H, exact.b) + np.array([0.02, -0.01, 0.01])
    seen = gf.validity(exact.E, torch.from_numpy(start), h, 15, beta, steps=8, top=3)
    said = seen.curves.set_index(["model", "step"]).error
    for k in (1, 3, 8):
        m, C = exact.run(start, h, beta, k)
        travelled = np.sqrt(((m - start) ** 2).sum() + np.trace(C))
        for order in (1, 2):
            own, cov = exact.equation(start, h, beta, k, order)
            spread = np.sqrt(np.trace(cov)) - np.sqrt(np.trace(C))
            error = np.sqrt(((own - m) ** 2).sum() + spread**2) / travelled
            assert said[f"SDE {order}", k] == pytest.approx(error, rel=0.02, abs=1e-3)


def test_what_is_measured_with_noise_is_what_happens():
    exact, h, k = Exact(5), 0.3, 6
    start = np.linalg.solve(exact.H, exact.b) + np.array([0.4, -0.2, 0.3])
    seen = gf.validity(exact.E, torch.from_numpy(start), h, 5, steps=k, top=3)
    found = seen.measured([k], models=["SDE 1", "NGF"], paths=1000).set_index("model").error
    m, C = exact.run(start, h, 0.0, k)
    own, cov = exact.equation(start, h, 0.0, k, 1)
    travelled = np.sqrt(((m - start) ** 2).sum() + np.trace(C))
    spread = np.sqrt(np.trace(cov)) - np.sqrt(np.trace(C))
    off = np.sqrt(((own - m) ** 2).sum() + spread**2) / travelled
    assert found["SDE 1"] == pytest.approx(off, rel=0.15)
    assert found["NGF"] == pytest.approx(
        np.sqrt(((own - m) ** 2).sum() + np.trace(C)) / travelled, rel=0.05
    )


def test_the_estimate_reaches_as_far_as_the_noise_is_what_it_is():
    # far from the minimum least squares' noise falls with the residuals: an independent slope
    E, theta = regression()
    seen = gf.validity(E, theta, 0.01, 5)
    g, e = E.grad(theta), 1e-4

    def total(t):
        return float(gf.noise.GradientNoise(E, theta - t * g).trace())

    pace = abs(total(e) - total(-e)) / (2 * e) / total(0.0)
    assert seen.reach == pytest.approx(1 / (0.01 * pace), rel=1e-4)
    assert math.isinf(gf.validity(E, theta, 0.01).reach)  # a quadratic in full batch


def regression():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(30, 3, generator=draw, dtype=f64)
    y = (x @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=f64)) + 0.5 * torch.randn(
        30, 1, generator=draw, dtype=f64
    )
    model = torch.nn.Linear(3, 1, bias=False).double()
    E = gf.Objective.from_module(model, lambda p, y: ((p - y) ** 2).mean() / 2, (x, y))
    return E, torch.zeros(3, dtype=f64)


def test_stationary_spread_of_the_equations():
    # at the minimum nothing drifts; hs/(λ(2 − hλ)) and what the equations make of it
    lam, h, a = 1.5, 0.6, 0.7
    x = h * lam
    from gdflows.verdict.models import Settings, error, predicted

    modes, settings = alone(lam, 0.0, a), Settings(h, 0.0, True, 1)
    truth = stepped(modes, h, 60)
    own = h * a / (lam * (2 - x))
    assert truth.variance[-1, 0] == pytest.approx(own)
    for name, variance in {"SDE 1": h * a / (2 * lam), "SDE 2": h * a / (lam * (2 + x))}.items():
        said = predicted(name, modes, settings, 60, truth)
        assert said.variance[-1, 0] == pytest.approx(variance, rel=1e-9)
        e = error(said.mean, said.variance, truth)
        assert e[-1] == pytest.approx(1 - (variance / own) ** 0.5, rel=1e-9)
    rod = predicted("stochastic rod", modes, settings, 60, truth)
    assert error(rod.mean, rod.variance, truth)[-1] == pytest.approx(0, abs=1e-12)


def test_the_third_derivative_is_what_the_principal_flow_leaves_out():
    # one step: h³/12 ∇³E[g, g]
    E = gf.problems.cosh()
    theta, h = torch.tensor([1.0], dtype=f64), 0.05
    seen = gf.validity(E, theta, h, steps=2)
    said = seen.curves.set_index(["model", "step"]).error["PF", 1]
    g = math.sinh(1.0)
    assert said == pytest.approx(h**2 / 12 * abs(math.sinh(1.0)) * g, rel=1e-6)
    measured = seen.measured([1, 2], models=["PF"])
    np.testing.assert_allclose(measured.error, measured.foreseen, rtol=0.15)


def test_steps_to_the_edge():
    # the valley ½yx² + ½κ(y − y*)²: the sharpness is y, and y goes to y* at the rate κ(y* − y)
    E = gf.problems.valley(kappa=0.2, y_star=44.0)
    theta, h = torch.tensor([1e-9, 30.0], dtype=f64), 0.05
    seen = gf.validity(E, theta, h)
    assert seen.to_edge == pytest.approx((40 - 30) / (h * 0.2 * 14), rel=1e-3)
    for name in ("NGF", "PF"):
        assert seen.table.set_index("model").loc[name, "until"] <= seen.to_edge


# -- the scaling rules -----------------------------------------------------------------------------


def test_the_linear_rule_keeps_rate_times_variance():
    E, theta = regression()
    seen = gf.validity(E, theta, 0.02, 4, steps=16, top=3)
    table = seen.scaling.set_index("batch")
    square = float(E.grad(theta).square().sum())
    total = gf.noise.GradientNoise(E, theta)
    for size in table.index:
        factor = gf.noise.batch_factor(30, size)
        assert table.linear[size] * factor == pytest.approx(0.02 * gf.noise.batch_factor(30, 4))
        assert table.root[size] ** 2 * factor == pytest.approx(
            0.02**2 * gf.noise.batch_factor(30, 4)
        )
        assert table.noise[size] == pytest.approx(float(total.trace(size)) / square)
    assert table.apart[4] == pytest.approx(0, abs=1e-12) and table.same[4]
    assert (table.dominates == (table.noise >= 1)).all()
    assert 30 not in table.index  # of all the data there is no noise to be kept


def test_how_far_apart_scaled_runs_are():
    E, theta = regression()
    h, steps = 0.02, 16
    seen = gf.validity(E, theta, h, 4, steps=steps, top=3)
    row = seen.scaling.set_index("batch").loc[8]
    rate = row.linear
    time = steps * h
    k = time / rate
    runs = []
    for size, lr, stop in ((4, h, steps), (8, rate, math.ceil(k))):
        noise = gf.flows.PerSampleNoise(E, size)
        runs.append(
            gf.walking.sgd(
                E, theta, lr, stop, covariance=noise, paths=2000, seed=0, antithetic=True,
                at=[0, stop - 1, stop],
            )  # fmt: skip
        )
    share = k - (math.ceil(k) - 1)
    mean = (1 - share) * runs[1].mean[1] + share * runs[1].mean[2]
    variance = ((1 - share) * runs[1].variance[1] + share * runs[1].variance[2]).sum()
    own, spread = runs[0].mean[2], runs[0].variance[2].sum()
    off = (mean - own).square().sum() + (variance.sqrt() - spread.sqrt()) ** 2
    measured = float((off / ((own - theta).square().sum() + spread)).sqrt())
    assert row.apart == pytest.approx(measured, rel=0.1)


def test_the_window_is_unbroken():
    table = pd.DataFrame({"batch": [1, 2, 4, 8, 16], "ok": [True, False, True, True, False]})
    assert window(table, "ok", 4) == (4, 8)
    assert window(table, "ok", 16) is None
    assert window(table, "ok", 3) is None


# -- how it is said --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net():
    model = gf.problems.mlp([13, 12, 6, 3], "tanh", seed=0, dtype=f64)
    return gf.problems.classification("wine", model, n=40)


def test_a_network(net):
    theta = gf.descend(net, net.theta0, 0.05, 20).states[-1]
    net.reset_cost()
    seen = gf.validity(net, theta, 0.05, 10)
    spent = dict(net.cost)
    # its own account of the cost is the objective's, and modest
    assert {k: n for k, n in seen.cost.items() if n} == {k: n for k, n in spent.items() if n}
    assert spent["hvps"] <= 130 and spent["gradients"] <= 6
    assert list(seen.table.columns) == [
        "model", "first", "last", "from", "until", "ends", "limit", "tightness", "source",
    ]  # fmt: skip
    assert seen.situation == "batches"
    for said in (repr(seen), seen._repr_html_()):
        assert "stochastic rod" in said and "batch" in said
    ax = seen.plot()
    assert len(ax.get_legend().get_texts()) == len(seen.table)
    measured = seen.measured([1, 4], models=["SDE 1"], paths=64)
    assert list(measured.columns) == ["model", "step", "foreseen", "error", "failure"]
    np.testing.assert_allclose(measured.error, measured.foreseen, rtol=0.5)


def test_the_rod_of_heavy_ball_is_foreseen_and_measured():
    E = gf.problems.quadratic(torch.tensor([3.1, 1.7, 0.4, 0.02], dtype=f64))
    theta, h, beta = torch.tensor([1.0, -0.5, 2.0, 3.0], dtype=f64), 1.0, 0.6
    seen = gf.validity(E, theta, h, momentum=beta, steps=20)
    found = seen.measured([1, 3, 8, 20], models=["rod", "NGF"]).set_index(["model", "step"])
    assert (found.failure == "").all()
    np.testing.assert_allclose(found.error, found.foreseen, rtol=2e-2)
    # what swings it has, and a velocity from rest
    assert (found.error["rod"] < 0.3 * found.error["NGF"]).all()


def test_the_stochastic_rod_of_heavy_ball_is_foreseen_and_measured():
    E, theta = regression()
    seen = gf.validity(E, theta, 0.4, 10, momentum=0.8, steps=30, top=3)
    assert seen.table.model.tolist()[-1] == "stochastic rod"
    found = seen.measured([2, 8, 30], models=["stochastic rod", "NGF"], paths=400)
    found = found.set_index(["model", "step"])
    assert (found.failure == "").all()
    rod = found.loc["stochastic rod"]
    np.testing.assert_allclose(rod.error, rod.foreseen, rtol=0.3, atol=0.02)
    assert (rod.error < 0.75 * found.loc["NGF"].error).all()


def test_all_of_the_data_is_no_batch(net):
    seen = gf.validity(net, net.theta0, 0.05, 40)
    assert seen.batch_size is None and seen.scaling is None and seen.situation == "full batch"


def test_past_the_mean_square_edge_it_says_so():
    E, theta = regression()
    # batches of one: the curvature varies, and the edge is below that of gradient descent
    lam = float(gf.curvature.top_eigenpairs(E, theta, 1).values[0])
    seen = gf.validity(E, theta, 1.7 / lam, 1, steps=5, top=3)
    assert seen.used > 1 and seen.sharpness[0] < 2
    assert "past the mean-square edge" in seen.verdict
    assert not seen.scaling.set_index("batch").same[1]


def test_random_sums_have_the_noise_for_their_covariance(net):
    noise = gf.noise.GradientNoise(net, net.theta0)
    v = torch.linspace(-1, 1, net.dim, dtype=f64)
    draws = torch.Generator().manual_seed(0)
    seen = [float(noise.draw(draws) @ v) for _ in range(4000)]
    assert np.mean(np.square(seen)) == pytest.approx(float(noise.along(v)), rel=0.1)
    again = gf.noise.GradientNoise(net, net.theta0, keep=False, chunk=7)
    one, two = (x.draw(torch.Generator().manual_seed(1)) for x in (noise, again))
    torch.testing.assert_close(one, two)


def test_tightness_is_read_from_the_records():
    from gdflows.verdict.tightness import FLOOR, tightness

    found = tightness("batches")
    assert set(found) == {"NGF", "SDE 1", "SDE 2", "stochastic rod"}
    names = [name for name in gf.runs.available() if name.startswith("validity-")]
    table = pd.concat([gf.runs.load(name).table for name in names])
    own = table[(table.situation == "batches") & (table.model == "SDE 1")]
    own = own[(own.step <= own.known) & (own.foreseen >= FLOOR)]
    middle = f"{(own.error / own.foreseen).median():.2g}"
    assert len(names) >= 2 and found["SDE 1"].startswith(middle + " (")
    assert tightness("on the moon") == {}


# -- what is refused -------------------------------------------------------------------------------


def test_an_equation_that_is_too_stiff_is_not_followed(net):
    # with momentum the second order's drift is h(1 + β)/(2(1 − β)³)H²: hundreds a step
    seen = gf.validity(net, net.theta0, 0.05, 10, 0.95, steps=2)
    found = seen.measured([2], models=["SDE 2"], paths=2).iloc[0]
    assert math.isnan(found.error) and "too stiff" in found.failure


def test_bad_input(net):
    E, theta = gf.problems.quadratic([1.0]), torch.ones(1, dtype=f64)
    with pytest.raises(InputError, match="only 40 samples"):
        gf.validity(net, net.theta0, 0.1, 41)
    with pytest.raises(InputError, match="this objective has none"):
        gf.validity(E, theta, 0.1, 4)
    with pytest.raises(InputError, match="needs an Objective"):
        gf.validity(lambda x: x.sum(), theta, 0.1)
    with pytest.raises(InputError, match="replacement is for minibatches"):
        gf.validity(E, theta, 0.1, replacement=True)
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(InputError, match="learning rate"):
            gf.validity(E, theta, bad)
    with pytest.raises(InputError, match="momentum"):
        gf.validity(E, theta, 0.1, momentum=1.0)
    with pytest.raises(InputError, match="tol"):
        gf.validity(E, theta, 0.1, tol=0.0)
    with pytest.raises(InputError, match="nothing moves"):
        gf.validity(E, 0 * theta, 0.1)
    with pytest.raises(InputError, match=r"theta\.real"):
        gf.validity(E, theta.to(torch.complex128), 0.1)
    with pytest.raises(InputError, match="half precision"):
        gf.validity(E, theta.half(), 0.1)
    broken = gf.Objective(lambda x: torch.log(x[0]), 1)
    with pytest.raises(NonFiniteError):
        gf.validity(broken, 0 * theta, 0.1)
    seen = gf.validity(E, theta, 0.1, steps=4)
    with pytest.raises(InputError, match="must increase"):
        seen.measured([3, 2])
    with pytest.raises(InputError, match="No model 'SDE 1'"):
        seen.measured([2], models=["SDE 1"])
    with pytest.raises(InputError, match="paths must be even"):
        seen.measured([2], paths=3)


# -- what a referee found --------------------------------------------------------------------------


def test_curvatures_of_rounding_s_size_are_flat_with_momentum():
    """Their error is that of exact zeros, not a difference of ones over 1e-16."""
    sharp = [1.0, 0.5, 0.2, 0.1, 0.05]  # all that is looked at one by one
    slope = np.full(7, 0.1)
    zero = np.zeros(7)
    found = []
    for flat in (0.0, 1e-17):
        modes = Modes(np.array([*sharp, flat, -flat]), slope, zero, zero, zero, 5)
        run = stepped(modes, 0.1, 400, 0.8)
        pf = principal(modes, 0.1, 400, 0.8)
        rate, start = linear(gf.flows.HeavyBall, modes.curvature, 0.1, beta=0.8, order=0)
        ngf = flowed(modes, 0.1, 400, rate, start)
        found.append([np.abs(m.mean - run.mean)[-1, 5:].max() for m in (pf, ngf)])
        assert found[-1][0] < 1e-9
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_the_batch_in_use_is_in_its_own_window():
    network = gf.problems.mlp([64, 4, 10], "tanh", seed=0, dtype=f64)
    E = gf.problems.classification("digits", network, n=16)
    seen = gf.validity(E, E.theta0, 0.01, batch_size=16, replacement=True, steps=5)
    row = seen.scaling.set_index("batch").loc[16]
    assert row.apart == 0 and row.same and "beyond" not in seen.verdict.partition("Noise")[2]
    assert "at least" in seen.verdict


def test_fewer_parameters_than_directions_looked_at():
    x = torch.linspace(-1, 1, 8, dtype=f64)[:, None]
    net = torch.nn.Linear(1, 1).double()
    E = gf.Objective.from_module(net, gf.problems.squared_error, (x, 3 * x**2))
    found = gf.validity(E, E.theta0 + 1, 0.1, batch_size=2, steps=4).measured([2], paths=8)
    assert np.isfinite(found[found.model == "stochastic rod"].error).all()


def test_where_the_gradient_meets_no_curvature():
    E = gf.Objective(lambda v: (v + v**3).sum(), dim=1)
    seen = gf.validity(E, torch.zeros(1, dtype=f64), 0.1)
    assert seen.reach == 0 and len(seen.table)
