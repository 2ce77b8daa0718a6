"""Many paths at once: against exact moments, against one another; what is kept and refused."""

import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError, IntegrationError
from gdflows.flows import NoiseFactor, StochasticFlow, StochasticModifiedEquation
from gdflows.walking import memory, sgd

f64 = torch.float64
SME = StochasticModifiedEquation
ONE = torch.ones(1, dtype=f64)


def cubic():
    return gf.Objective(lambda x: (x**2 / 2 + x**3 / 6).sum(), 1)


def bent():
    return gf.Objective(lambda x: (x**2).sum() / 2 + x[0] * x[1] ** 2 / 4 + x[0] ** 3 / 6, 2)


def crossed(x):
    """The columns of two noises that do not commute."""
    return torch.stack(
        [torch.stack([1 + x[1], x[0] / 2]), torch.stack([0.5 * x[0] - 0.2, 0.5 + x[0]])]
    ) / 2


# -- weak orders over a fixed time -----------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    ("make", "covariance", "functions"),
    [
        (cubic, 1.0, {"x": lambda x: x[:, 0]}),
        (bent, NoiseFactor(crossed, 2), {"x": lambda x: x[:, 0], "y": lambda x: x[:, 1]}),
    ],
    ids=["cubic", "non-commuting"],
)
def test_weak_order_over_a_fixed_time(order, make, covariance, functions):
    """SGD and its equation with the same noise, so that most of the error of sampling cancels.

    Of the means: those of squares have two errors of opposite sign, which at these rates nearly
    cancel at order 1. For them the local order is exact, in test_stochastic.
    """
    E, t, parts, n = make(), 0.8, 2, 20_000
    sizes = (0.1, 0.05) if order == 1 else (0.2, 0.1)
    start = torch.full((E.dim,), 0.5, dtype=f64)
    gaps = []
    for h in sizes:
        same = {"paths": n, "seed": 1, "antithetic": True, "keep": "last"}
        flow = SME(E, h, covariance=covariance, order=order)
        model = gf.integrate(flow, start, t=t, step=h / parts, **same).last
        real = sgd(E, start, h, round(t / h), covariance=covariance, parts=parts, **same).last
        row = []
        for f in functions.values():
            gap = f(model) - f(real)
            pairs = (gap[: n // 2] + gap[n // 2 :]) / 2
            error = pairs.std() / (n // 2) ** 0.5
            assert error < 0.05 * abs(pairs.mean())  # it is seen above the error of sampling
            row.append(float(pairs.mean().abs()))
        gaps.append(row)
    slopes = [np.polyfit(np.log(sizes), np.log(g), 1)[0] for g in np.array(gaps).T]
    assert np.allclose(slopes, order, atol=0.2), slopes


# -- against what is known exactly -----------------------------------------------------------------


def test_euler_maruyama_at_the_step_h_is_sgd():
    """Path by path, with the same noise."""
    E, h = bent(), 0.1
    flow = SME(E, h, covariance=NoiseFactor(crossed, 2), order=1)
    start = torch.tensor([0.5, -0.2], dtype=f64)
    same = {"paths": 6, "seed": 3, "antithetic": True}
    model = gf.integrate(flow, start, t=2.0, method="euler-maruyama", **same)
    real = sgd(E, start, h, 20, covariance=NoiseFactor(crossed, 2), **same)
    torch.testing.assert_close(model.last, real.last, rtol=1e-12, atol=1e-12)
    assert model.last.std() > 0.01


def test_moments_of_an_ornstein_uhlenbeck_process():
    A = torch.tensor([[2.0, 0.6], [0.6, 1.0]], dtype=f64)
    S = torch.tensor([[1.0, -0.5], [-0.5, 2.0]], dtype=f64)
    E = gf.Objective(lambda x: 0.5 * x @ (A.to(x) @ x), 2)
    h, times = 0.1, [0.0, 0.5, 3.0]
    flow = SME(E, h, covariance=S, order=1)
    start = torch.tensor([1.0, -1.0], dtype=f64)
    seen = gf.integrate(flow, start, times=times, paths=20_000, seed=0, step=0.05)
    assert seen.covariance.shape == (3, 2, 2)
    assert len(seen) == 3
    assert torch.equal(seen.mean[0], start)
    for i, t in enumerate(times):
        mean = torch.linalg.matrix_exp(-A * t) @ start
        # the integral of e^{-As} hS e^{-As} from 0 to t, by Kronecker products
        k = torch.kron(A, torch.eye(2, dtype=f64)) + torch.kron(torch.eye(2, dtype=f64), A)
        decay = torch.eye(4, dtype=f64) - torch.linalg.matrix_exp(-k * t)
        cov = torch.linalg.solve(k, decay @ (h * S).reshape(4)).reshape(2, 2)
        assert ((seen.mean[i] - mean).abs() <= 4 * seen.mean_error[i] + 1e-12).all()
        size = cov.diagonal().max() * (2 / 20_000) ** 0.5
        assert (seen.covariance[i] - cov).abs().max() <= 4 * size + 2e-4 * h
        torch.testing.assert_close(seen.variance[i], seen.covariance[i].diagonal())


class Geometric(StochasticFlow):
    """dx = x dW/2 for each entry by itself: solved exactly."""

    label, channels = "geometric", 2

    def __init__(self):
        super().__init__(gf.problems.quadratic([1.0, 1.0]), 0.1)

    def drift(self, thetas):
        return 0 * thetas

    def noise(self, thetas, z):
        return thetas * z / 2


def strong_error(method, step):
    from gdflows.walking.draws import Draws

    n, start, t = round(1 / step), torch.ones(2, dtype=f64), 1.0
    seen = gf.integrate(Geometric(), start, t=t, paths=4000, seed=5, method=method, step=step)
    draws = Draws(5, 0, start, 4000, 2)
    w = sum(draws.normal() for _ in range(n)) * step**0.5
    return float((seen.last - torch.exp(w / 2 - t / 8)).norm(dim=1).mean())


def test_strong_orders():
    """Against the exact solution on the same increments: 1 for Milstein, ½ for Euler-Maruyama."""
    for method, order in (("milstein", 1.0), ("euler-maruyama", 0.5)):
        errors = [strong_error(method, step) for step in (0.1, 0.025)]
        assert np.log(errors[0] / errors[1]) / np.log(4) == pytest.approx(order, abs=0.1)


def test_milstein_refuses_noises_that_do_not_commute():
    flow = SME(bent(), 0.1, covariance=NoiseFactor(crossed, 2))
    with pytest.raises(InputError, match="commute"):
        gf.integrate(flow, torch.zeros(2, dtype=f64), t=0.1, paths=2, method="milstein")
    # a variance of each entry that depends on the other does not commute either
    flow = SME(bent(), 0.1, covariance=lambda x: 1 + x.flip(0) ** 2)
    with pytest.raises(InputError, match="commute"):
        gf.integrate(flow, torch.zeros(2, dtype=f64), t=0.1, paths=2, method="milstein")


# -- what is kept ----------------------------------------------------------------------------------


def test_what_is_kept():
    flow = SME(gf.problems.quadratic([1.0, 2.0]), 0.1, covariance=1.0)
    start, settings = torch.ones(2, dtype=f64), {"paths": 10, "seed": 0, "times": [0, 0.3, 1.0]}
    whole = gf.integrate(flow, start, keep="paths", **settings)
    assert whole.states.shape == (3, 10, 2)
    torch.testing.assert_close(whole.mean, whole.states.mean(1))
    torch.testing.assert_close(whole.variance, whole.states.var(1))
    expected = torch.stack([torch.cov(x.T) for x in whole.states])
    torch.testing.assert_close(whole.covariance, expected)
    last = gf.integrate(flow, start, **settings)
    assert last.states is None
    assert torch.equal(last.last, whole.states[-1])
    none = gf.integrate(flow, start, keep="moments", **settings)
    assert none.last is None
    assert torch.equal(none.mean, whole.mean)
    assert whole.cost["steps"] == 10 * (3 + 7)
    assert "10 paths of 2 parameters" in repr(whole)


def test_observed_means_and_errors_of_pairs():
    flow = SME(gf.problems.quadratic([1.0]), 0.1, covariance=1.0)
    seen = gf.integrate(
        flow, ONE, t=1.0, paths=400, seed=0, antithetic=True,
        observe={"x": lambda x: x[:, 0], "x²": lambda x: x[:, 0] ** 2},
    )  # fmt: skip
    assert seen.observed_error["x"][-1] < 1e-12  # a linear function of the noise: pairs cancel
    assert float(seen.observed["x"][-1]) == pytest.approx(float(seen.mean[-1, 0]))
    square = (seen.last[:200, 0] ** 2 + seen.last[200:, 0] ** 2) / 2
    assert float(seen.observed["x²"][-1]) == pytest.approx(float(square.mean()))
    assert float(seen.observed_error["x²"][-1]) == pytest.approx(float(square.std()) / 200**0.5)


def test_blocks_add_up():
    flow = SME(gf.problems.quadratic([1.0, 3.0]), 0.1, covariance=[1.0, 2.0])
    start = torch.ones(2, dtype=f64)
    seen = gf.integrate(flow, start, t=0.5, paths=100, chunk=32, seed=0, keep="paths")
    assert seen.states.shape == (2, 100, 2)
    torch.testing.assert_close(seen.covariance[-1], torch.cov(seen.states[-1].T))
    assert len(seen.states[-1].unique(dim=0)) == 100  # every block has numbers of its own


def test_seeds_starts_and_dtypes():
    flow = SME(gf.problems.quadratic([1.0, 3.0]), 0.1, covariance=1.0)
    start = torch.ones(2, dtype=torch.float32)
    state = torch.get_rng_state()
    a, b, c = (gf.integrate(flow, start, t=0.5, paths=8, seed=s).last for s in (0, 0, 1))
    assert a.dtype == torch.float32
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), state)
    rows = torch.arange(16, dtype=f64).reshape(8, 2)
    seen = gf.integrate(flow, rows, t=0.5, paths=8, seed=0, keep="paths")
    assert torch.equal(seen.states[0], rows)
    with pytest.raises(InputError, match="8 starts for 9 paths"):
        gf.integrate(flow, rows, t=0.5, paths=9)


def test_three_points_have_the_moments_of_a_normal_variable():
    from gdflows.walking.draws import Draws

    draws = Draws(0, 0, ONE, 200_000, 1, increments="three-point")
    z = draws.normal()[:, 0]
    assert sorted(z.unique().tolist()) == pytest.approx([-(3**0.5), 0, 3**0.5])
    for power, exact in ((1, 0), (2, 1), (3, 0), (4, 3), (5, 0)):
        error = float((z**power).std()) / 200_000**0.5
        assert abs(float((z**power).mean()) - exact) < 4 * error


# -- what is refused -------------------------------------------------------------------------------


def flow():
    return SME(gf.problems.quadratic([1.0]), 0.1, covariance=1.0)


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"paths": 0}, "paths"),
        ({"paths": 3, "antithetic": True}, "even"),
        ({"seed": -1}, "seed"),
        ({"method": "DOP853"}, "Unknown method"),
        ({"keep": "all"}, "keep"),
        ({"increments": "uniform"}, "increments"),
        ({"observe": {"x": lambda x: x}}, r"\(P, D\) to \(P,\)"),
        ({"rtol": 1e-6}, "rtol does not go"),
        ({"real_every": 0.1}, "real_every does not go"),
        ({"step": 0}, "step"),
        ({"chunk": 0}, "chunk"),
    ],
)
def test_bad_arguments(kwargs, said):
    with pytest.raises(InputError, match=said):
        gf.integrate(flow(), ONE, t=0.2, **{"paths": 4, **kwargs})


def test_other_flows_have_no_paths():
    with pytest.raises(InputError, match="paths is for stochastic flows"):
        gf.integrate(gf.flows.NGF(gf.problems.quadratic([1.0])), ONE, t=1.0, paths=10)
    with pytest.raises(InputError, match="no argument 'pathes'"):
        gf.integrate(gf.flows.NGF(gf.problems.quadratic([1.0])), ONE, t=1.0, pathes=10)


def test_paths_beyond_memory_are_refused_before_they_are_made(monkeypatch):
    with pytest.raises(InputError, match="GB are free"):
        gf.integrate(flow(), ONE, t=1.0, paths=10**13)
    monkeypatch.setattr(memory, "free_memory", lambda device: 1e6)
    with pytest.raises(InputError, match="chunk="):
        gf.integrate(flow(), ONE, t=1.0, paths=100_000)
    seen = gf.integrate(flow(), ONE, t=0.2, paths=100_000, keep="moments", chunk=5000)
    assert seen.paths == 100_000
    with pytest.raises(InputError, match="GB are free"):
        sgd(gf.problems.quadratic([1.0]), ONE, 0.1, 2, covariance=1.0, paths=100_000)


def test_free_memory_is_some():
    assert 1e6 < memory.free_memory(torch.device("cpu")) < 1e15


def test_paths_that_run_away_stop_the_walk():
    E = gf.Objective(lambda x: -(x**4).sum(), 1)
    with pytest.raises(IntegrationError, match="of 10 paths") as caught:
        gf.integrate(
            SME(E, 0.1, covariance=1.0, order=1), ONE, times=[0, 0.1, 50.0], paths=10
        )
    assert len(caught.value.partial) == 2
    assert caught.value.time > 0.1


def test_a_loss_that_is_not_fit_for_vmap_says_so():
    E = gf.Objective(lambda x: (x**2).sum() if float(x[0]) > 0 else (x**2).sum() * 2, 1)
    with pytest.raises(InputError, match="many points at once"):
        gf.integrate(SME(E, 0.1, covariance=1.0), ONE, t=1.0, paths=10)
