"""Two points with noise, against closed forms, the rods and SGD itself."""

import math

import pytest
import torch

import gdflows as gf
from gdflows.errors import ConvergenceError, InputError
from gdflows.flows import CentralFlow, PrincipalRodFlow, StochasticRodFlow

F64 = torch.float64


def settled(flow, theta, steps):
    h = flow.lr
    path = gf.integrate(
        flow, theta, times=[0.0, steps * h], method="rk4", step=h, max_evaluations=10**6
    )
    axes = path.companions["directions"][-1]
    return path, axes.T @ flow.covariance_of(path)[-1] @ axes


def test_stationary_covariance_on_a_quadratic_is_that_of_sgd():
    """HC + CH − hHCH = hΣ in all entries, also where the multipliers have opposite signs."""
    h, turn = 0.5, torch.linalg.qr(torch.arange(9.0, dtype=F64).reshape(3, 3).cos())[0]
    H = turn @ torch.diag(torch.tensor([3.7, 2.6, 0.9], dtype=F64)) @ turn.T
    F = torch.tensor([[1.0, 0.2, 0.0], [0.5, 1.0, 0.3], [-0.4, 0.1, 0.8]], dtype=F64)
    E = gf.Objective(lambda x: 0.5 * x @ H @ x, dim=3)
    S = F @ F.T
    flow = StochasticRodFlow(E, h, covariance=S, rank=3)
    _, Q = settled(flow, torch.ones(3, dtype=F64), 80)
    step = torch.kron(torch.eye(3, dtype=F64) - h * H, torch.eye(3, dtype=F64) - h * H)
    exact = torch.linalg.solve(torch.eye(9, dtype=F64) - step, h**2 * S.reshape(9)).reshape(3, 3)
    assert torch.allclose(Q, exact, rtol=1e-8, atol=1e-10)


def test_one_step_is_that_of_the_recursion():
    E, h, s = gf.problems.quadratic(torch.tensor([1.8], dtype=F64)), 1.0, 0.3
    flow = StochasticRodFlow(E, h, covariance=s, rank=1)
    theta = torch.tensor([0.7], dtype=F64)
    path = gf.integrate(flow, theta, times=[0.0, h], rtol=1e-10, atol=1e-13)
    q = 0.7**2  # all of θ swings
    assert float(flow.covariance_of(path)[0]) == pytest.approx(q, rel=1e-6)
    assert float(flow.covariance_of(path)[1]) == pytest.approx(0.8**2 * q + h**2 * s, rel=1e-6)


def test_multiplicative_noise_has_its_own_stationary_covariance():
    """Of slope noise a and curvature noise b x: h²a/(1 − m² − h²b²)."""
    E, h, a, b = gf.problems.quadratic(torch.tensor([1.5], dtype=F64)), 1.0, 0.2, 0.5
    flow = StochasticRodFlow(E, h, covariance=lambda x: a + b**2 * x**2, rank=1)
    _, Q = settled(flow, torch.zeros(1, dtype=F64), 80)
    assert float(Q) == pytest.approx(h**2 * a / (1 - 0.25 - h**2 * b**2), rel=1e-6)
    assert flow.growth(torch.zeros(1, dtype=F64)) == pytest.approx(0.25 + b**2, rel=1e-6)


@pytest.mark.parametrize(
    ("swing", "size"), [("two-point", 0.0), ("gaussian", 4.0), ("gaussian", 8.0)]
)
def test_valley_is_met_where_the_balance_says(swing, size):
    """2κ(y* − y) = h s²/(y(2 − hy)), without noise 2/h and the central flow's covariance."""
    h, kappa, top = 0.05, 1.0, 44.0
    E = gf.problems.valley(kappa=kappa, y_star=top)
    noise = torch.tensor([size**2, 0.0], dtype=F64)
    flow = StochasticRodFlow(E, h, covariance=noise, rank=1, swing=swing)
    path, Q = settled(flow, torch.tensor([0.3, 39.5], dtype=F64), 700)
    y, q = float(path.states[-1, 1]), float(Q[0, 0])
    assert q == pytest.approx(2 * kappa * (top - y), rel=1e-4)
    if size:
        assert q * y * (2 - h * y) == pytest.approx(h * size**2, rel=1e-3)
    else:
        sigma = CentralFlow(E, h).covariance(torch.tensor([0.0, 2 / h], dtype=F64)).matrix
        assert y == pytest.approx(2 / h, rel=1e-4)
        assert q == pytest.approx(float(sigma.trace()), rel=1e-3)


def test_valley_of_sgd_itself():
    """The mean of many paths; the modified equation goes to y* instead, a tenth further.

    The centre must be slow: at κ = 1 that costs the model eight tenths of a per cent.
    """
    h, kappa, top, size = 0.05, 0.2, 44.0, 8.0
    E = gf.problems.valley(kappa=kappa, y_star=top)
    noise = torch.tensor([size**2, 0.0], dtype=F64)
    flow = StochasticRodFlow(E, h, covariance=noise, rank=1)
    theta = torch.tensor([1.4, 39.2], dtype=F64)
    path, Q = settled(flow, theta, 300)
    seen = gf.walking.sgd(
        E, theta, h, 1200, covariance=noise, paths=500, seed=0, at=list(range(0, 1201, 50))
    )
    mean = seen.mean[13:]
    square = seen.variance[13:, 0] + mean[:, 0] ** 2
    assert float(mean[:, 1].mean()) == pytest.approx(float(path.states[-1, 1]), rel=2.5e-3)
    assert float(square.mean()) == pytest.approx(float(Q[0, 0]), rel=0.03)


def test_without_noise_it_is_the_rod():
    """Of rank one, at two points: the principal rod flow's field of order 0, to rounding."""
    network = gf.problems.mlp([4, 5, 2], "tanh", seed=0, dtype=F64)
    data = gf.problems.load("wine").take(20)
    x = data.x_train[:, :4].to(F64)
    E = gf.Objective.from_module(network, gf.problems.squared_error, (x, data.y_train[:20] % 2))
    c = E.theta0
    u = gf.curvature.top_eigenpairs(E, c, 1, tol=1e-8).vectors[0]
    u = torch.nn.functional.normalize(u + 0.1 * torch.cos(torch.arange(E.dim, dtype=F64)), dim=0)
    rod = 0.2 * u
    half = (E.grad(c + rod) - E.grad(c - rod)) / 2
    h = 2.05 / float(torch.dot(u, half) / 0.2)  # a little above the edge along the rod
    flow = StochasticRodFlow(E, h, covariance=0.0, rank=1, swing="two-point")
    q = torch.full((1, 1), 0.04, dtype=F64)
    rate, others = flow.field(c, directions=u[None], covariance=q)
    wanted, rates = PrincipalRodFlow(E, h, order=0, noise=0.0).field(
        c, direction=u, log_length=torch.tensor([math.log(0.2)], dtype=F64)
    )
    assert torch.allclose(rate, wanted, rtol=1e-10, atol=1e-12)
    assert torch.allclose(others["directions"][0], rates["direction"], rtol=1e-9, atol=1e-10)
    growth = float(others["covariance"]) / (2 * 0.04)
    assert growth == pytest.approx(float(rates["log_length"]), rel=1e-8)


@pytest.fixture(scope="module")
def small():
    network = gf.problems.mlp([13, 4, 3], "tanh", seed=0, dtype=F64)
    return gf.problems.classification("wine", network, n=24)


def test_batch_noise_is_the_exact_covariance_and_the_gradient_comes_with_it(small):
    flow = StochasticRodFlow(small, 0.1, batch_size=6, rank=2)
    axes = torch.linalg.qr(torch.eye(small.dim, 2, dtype=F64) + 0.1)[0].T
    g, s = flow._seen(small.theta0, axes)
    exact = gf.flows.PerSampleNoise(small, 6).matrix(small.theta0)
    assert torch.allclose(g, small.grad(small.theta0), atol=1e-12)
    assert torch.allclose(s, axes @ exact @ axes.T, atol=1e-12)


def test_growth_counts_the_batches_curvatures():
    """Of a linear model, whose samples' losses are parabolas, against E(1 − hλ_B)² itself."""
    x = torch.cos(torch.arange(36.0, dtype=F64)).reshape(12, 3)
    model = torch.nn.Linear(3, 1, bias=False).double()
    E = gf.Objective.from_module(model, gf.problems.squared_error, (x, x[:, :1] ** 2))
    theta, h = torch.ones(3, dtype=F64), 1.5
    u = gf.curvature.top_eigenpairs(E, theta, 1, tol=1e-8).vectors
    along = (x @ u[0]) ** 2  # each sample's curvature along u
    pairs = torch.combinations(torch.arange(12), 3)
    exact = ((1 - h * along[pairs].mean(1)) ** 2).mean()
    flow = StochasticRodFlow(E, h, batch_size=3, rank=1)
    assert flow.growth(theta, u) == pytest.approx(float(exact), rel=1e-5)


def test_mean_loss_and_samples_agree_with_the_covariance():
    E, h = gf.problems.quadratic(torch.tensor([1.5, 0.4], dtype=F64)), 1.0
    flow = StochasticRodFlow(E, h, covariance=0.1, rank=2)
    path, Q = settled(flow, torch.zeros(2, dtype=F64), 60)
    H = torch.diag(torch.tensor([1.5, 0.4], dtype=F64))
    assert float(flow.mean_loss(path)[-1]) == pytest.approx(float((H @ Q).trace()) / 2, rel=1e-6)
    assert float(flow.oscillation(path)[-1]) == pytest.approx(float(Q.trace()) ** 0.5, rel=1e-9)
    drawn = flow.sample(path, 4000, seed=0)[-1]
    assert torch.allclose(drawn.mean(0), path.states[-1], atol=1e-12)
    assert torch.allclose(drawn.T @ drawn / 4000, Q, atol=0.03)
    with pytest.raises(InputError, match="sample"):
        flow.iterates(path)


def test_batch_of_all_the_data_has_no_noise(small):
    flow = StochasticRodFlow(small, 0.1, batch_size=24, rank=2)
    _, s = flow._seen(small.theta0, torch.eye(small.dim, dtype=F64)[:2])
    assert float(s.abs().max()) == 0


class TestRefusals:
    def test_past_mean_square_stability(self):
        E = gf.problems.quadratic(torch.tensor([1.5], dtype=F64))
        flow = StochasticRodFlow(E, 1.0, covariance=lambda x: 0.1 + 0.8 * x**2, rank=1)
        with pytest.raises(InputError, match="past mean-square stability"):
            flow.start(torch.zeros(1, dtype=F64))
        flow = StochasticRodFlow(E, 1.4, covariance=0.1, rank=1)
        with pytest.raises(InputError, match="past mean-square stability"):
            flow.start(torch.zeros(1, dtype=F64))

    def test_noise(self, small):
        with pytest.raises(InputError, match="either batch_size"):
            StochasticRodFlow(small, 0.1)
        with pytest.raises(InputError, match="either batch_size"):
            StochasticRodFlow(small, 0.1, batch_size=4, covariance=1.0)
        with pytest.raises(InputError, match="batch"):
            StochasticRodFlow(small, 0.1, batch_size=25)
        with pytest.raises(InputError, match="negative variance"):
            StochasticRodFlow(small, 0.1, covariance=-1.0)
        with pytest.raises(InputError, match="no samples"):
            StochasticRodFlow(gf.problems.quadratic([1.0]), 0.1, batch_size=1)
        with pytest.raises(InputError, match="replacement"):
            StochasticRodFlow(small, 0.1, covariance=1.0, replacement=True)

    def test_numbers(self, small):
        with pytest.raises(InputError, match="rank"):
            StochasticRodFlow(small, 0.1, batch_size=4, rank=0)
        with pytest.raises(InputError, match="rank must be at most"):
            StochasticRodFlow(
                gf.problems.quadratic([1.0]), 0.1, covariance=1.0, rank=2
            ).start(torch.ones(1, dtype=F64))  # fmt: skip
        with pytest.raises(InputError, match="swing"):
            StochasticRodFlow(small, 0.1, batch_size=4, swing="uniform")
        flow = StochasticRodFlow(small, 0.1, batch_size=4)
        with pytest.raises(InputError, match="use field"):
            flow.vector_field(small.theta0)
        with pytest.raises(InputError, match="real"):
            flow.start(small.theta0.to(torch.complex128))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_of_h_are_short_enough_where_a_mean_square_vanishes_in_one(dtype):
    """hλ = 1.0 and 0.8: no square is left after a step, and Runge-Kutta's must not overshoot."""
    E, h, s = gf.problems.quadratic(torch.tensor([1.0, 0.8], dtype=dtype)), 1.0, 0.3
    flow = StochasticRodFlow(E, h, covariance=s, rank=2)
    theta = torch.ones(2, dtype=dtype)
    path, Q = settled(flow, theta, 30)
    assert torch.allclose(Q.diagonal(), torch.tensor([0.3, 0.3 / (1 - 0.04)], dtype=dtype))
    times = torch.arange(31.0, dtype=F64)
    path = gf.integrate(flow, theta, times=times, method="rk4", step=h, max_evaluations=10**6)
    assert float(torch.linalg.eigvalsh(flow.covariance_of(path)).min()) >= 0


def test_a_negative_mean_square_is_refused():
    E = gf.problems.quadratic(torch.tensor([1.0], dtype=F64))
    flow = StochasticRodFlow(E, 1.0, covariance=0.3, rank=1)
    path = gf.integrate(flow, torch.ones(1, dtype=F64), times=[0.0, 1.0], method="rk4", step=1.0)
    path.companions["covariance"][-1] *= -1
    for look in (flow.covariance_of, flow.oscillation, flow.mean_loss):
        with pytest.raises(ConvergenceError, match="negative mean square.*shorter steps"):
            look(path)
    with pytest.raises(ConvergenceError, match="shorter steps"):
        flow.sample(path, 2, seed=0)
