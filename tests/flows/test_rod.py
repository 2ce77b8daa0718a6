"""Flows of a centre and a half-rod: one step of the map, the valley, the slow manifold."""

import math

import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError
from gdflows.flows import EdgeFlow, PrincipalRodFlow, RodFlow

f64 = torch.float64
H = 0.05


@pytest.fixture(scope="module")
def valley():
    E = gf.problems.valley()
    return E, gf.descend(E, E.theta0, H, 200)


def test_the_map_of_centre_and_rod_is_gradient_descent(valley):
    E, gd = valley
    flow = RodFlow(E, H)
    w = gd.states[100:103]
    c, rod = (w[0] + w[1]) / 2, (w[0] - w[1]) / 2  # w₀ = c + ε, w₁ = c − ε
    mean, half = flow._halves(c, rod)
    torch.testing.assert_close(c - H * mean, (w[1] + w[2]) / 2, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(-rod + H * half, (w[2] - w[1]) / 2, rtol=0, atol=1e-13)


ORDERS = [0, 1, 2, 3, "optimal"]


@pytest.mark.parametrize("n", ORDERS)
def test_each_term_brings_the_rod_closer_on_the_valley(valley, n):
    """Largest distance from gradient descent's iterates over 200 steps; measured, then doubled."""
    E, gd = valley
    flow = PrincipalRodFlow(E, H, order=n)
    path = gf.integrate(flow, E.theta0, times=gd.times)
    gap = float((flow.iterates(path) - gd.states).abs().max())
    assert gap < dict(zip(ORDERS, (1.9, 0.1, 0.02, 0.004, 0.02), strict=True))[n]
    if n == 3:
        rod = RodFlow(E, H)
        published = rod.iterates(gf.integrate(rod, E.theta0, times=gd.times))
        assert gap < float((published - gd.states).abs().max()) / 100


def missed(n, s):
    """One step's distance from the map where all that is slow is of size s: F ~ s², DF ~ s."""
    E = gf.problems.valley(kappa=s, y_star=2 + 3 * s)  # h = 1, the edge is at y = 2
    c, rod = torch.tensor([[0.0, 2 + 0.4 * s], [0.8 * s, 0.0]], dtype=f64)
    flow = PrincipalRodFlow(E, 1.0, order=n, noise=0)
    flow.start = lambda theta: (theta, flow._polar(rod))
    path = gf.integrate(flow, c, times=[0.0, 1.0], rtol=1e-12, atol=1e-15)
    mean, half = flow._halves(c, rod)
    gap = torch.cat([path.states[-1] - (c - mean), flow.rods(path)[-1] - (half - rod)])
    return float(torch.linalg.vector_norm(gap))


@pytest.mark.parametrize("n", ORDERS)
def test_order_of_the_local_error(n):
    sizes = np.array([0.01, 0.02, 0.04])
    errors = [missed(n, s) for s in sizes]
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert slope == pytest.approx((3 if n == "optimal" else n) + 3, abs=0.15)


@pytest.mark.parametrize("n", ORDERS)
def test_the_rod_s_rate_is_the_logarithm_of_its_multiplier(n):
    """Along an eigenvector of a quadratic all orders are exact, for any hλ in (1, 3)."""
    for x in (1.05, 1.5, 2.0, 2.9):
        E = gf.problems.quadratic(torch.tensor([x / H, 3.0], dtype=f64))
        flow = PrincipalRodFlow(E, H, order=n, noise=0)
        rod = torch.tensor([0.1, 0.0], dtype=f64)
        _, rates = flow.field(torch.zeros(2, dtype=f64), **flow._polar(rod))
        assert float(rates["log_length"]) == pytest.approx(math.log(x - 1) / H, abs=1e-11 / H)


def test_edge_and_rod_are_the_same_on_a_quadratic():
    E = gf.problems.quadratic(torch.tensor([39.0, 30.0, 3.0], dtype=f64))
    theta = torch.tensor([0.3, -0.2, 1.0], dtype=f64)
    paths = [gf.integrate(F(E, H), theta, t=40 * H, rtol=1e-9) for F in (RodFlow, EdgeFlow)]
    torch.testing.assert_close(paths[0].states[-1], paths[1].states[-1], rtol=0, atol=1e-8)
    for name in ("direction", "log_length"):
        a, b = (p.companions[name][-1] for p in paths)
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    # and solved in closed form: ε(t) = e^{(λ − 2/h)t} ½ h λ θ₀
    values = torch.tensor([39.0, 30.0, 3.0], dtype=f64)
    expected = torch.exp((values - 2 / H) * 40 * H) * H / 2 * values * theta
    torch.testing.assert_close(RodFlow(E, H).rods(paths[0])[-1], expected, rtol=1e-5, atol=1e-9)


def test_the_start_splits_what_swings_from_what_does_not():
    E = gf.problems.quadratic(torch.tensor([1.9 / H, 1.2 / H, 0.8 / H, 1.0], dtype=f64))
    theta = torch.tensor([0.3, -0.2, 1.0, 2.0], dtype=f64)
    centre, companions = PrincipalRodFlow(E, H).start(theta)
    rod = torch.exp(companions["log_length"]) * companions["direction"]
    expected = torch.tensor([0.3, -0.2, 0, 0], dtype=f64)
    torch.testing.assert_close(rod, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(centre + rod, theta, rtol=0, atol=1e-12)


@pytest.mark.parametrize("x", [0.3, 0.9])
def test_what_does_not_swing_at_all_is_centre(x):
    """Below hλ = 1 gradient descent alternates nowhere: the centre is θ₀, and stays on its path."""
    E = gf.problems.quadratic(torch.tensor([x / H, 0.1], dtype=f64))
    theta = torch.tensor([1.0, 1.0], dtype=f64)
    for flow in (PrincipalRodFlow(E, H, order=3), RodFlow(E, H, noise="measured", start="slow")):
        centre, companions = flow.start(theta)
        torch.testing.assert_close(centre, theta, rtol=0, atol=1e-13)
        assert float(companions["log_length"]) < math.log(1e-13)
    path = gf.integrate(flow, theta, times=[H * k for k in range(6)], rtol=1e-8)
    exact = torch.stack([torch.exp(-torch.tensor([x, 0.1 * H]) * k) for k in range(6)])
    torch.testing.assert_close(path.states, exact.to(f64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_noise_is_measured_also_at_zero(dtype):
    """There the format's spacing is that of the first step, and not that of 0."""
    E = gf.Objective(lambda w: ((w - 1.0) ** 2).sum() / 2, dim=3)
    unit = torch.tensor([1.0, 0.0, 0.0], dtype=dtype)
    found = gf.flows.rounding(E, torch.zeros(3, dtype=dtype), unit, H)
    assert 0.2 < found / (H * torch.finfo(dtype).eps / 12**0.5) < 10


@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_noise_holds_the_rod_at_rounding(dtype):
    """r ε² + σ²/(2h) = 0 gives ε² = σ²/(2h|r|), with r = log(m)/h."""
    x = 1.5
    E = gf.problems.quadratic(torch.tensor([x / H, 1.0], dtype=dtype))
    theta = torch.tensor([1e-3, 1.0], dtype=dtype)
    flow = PrincipalRodFlow(E, H, noise="float")
    path = gf.integrate(flow, theta, t=200 * H, rtol=1e-5)
    rms = float(torch.linalg.vector_norm(path.states[-1])) / 2**0.5
    sigma = torch.finfo(dtype).eps / 12**0.5 * rms
    expected = sigma / math.sqrt(2 * -math.log(x - 1))
    assert float(flow.oscillation(path)[-1]) == pytest.approx(expected, rel=0.05)
    silent = PrincipalRodFlow(E, H, noise=0)
    end = gf.integrate(silent, theta, t=200 * H, rtol=1e-5).companions["log_length"][-1]
    assert float(end) == pytest.approx(math.log(1e-3) + 200 * math.log(x - 1), rel=1e-3)


def test_what_a_rod_flow_says_of_gradient_descent(valley):
    E, gd = valley
    flow = PrincipalRodFlow(E, H, order=2)
    path = gf.integrate(flow, E.theta0, times=gd.times)
    assert path.states.shape == flow.rods(path).shape == gd.states.shape
    # on the cycle: x² = 2κ(y* − 2/h), y = 2/h
    assert float(flow.oscillation(path)[-1]) == pytest.approx(math.sqrt(1.6), rel=0.02)
    mean = flow.mean_loss(path)
    losses = torch.stack([E.value(w) for w in gd.states])
    around = (losses[:-2] + 2 * losses[1:-1] + losses[2:]) / 4
    np.testing.assert_allclose(mean[1:-1], around, rtol=0.03)
    with pytest.raises(InputError, match="t = kh"):
        flow.iterates(gf.integrate(flow, E.theta0, times=[0.0, 0.7 * H]))


def test_flows_without_an_oscillation_say_so(valley):
    E, _ = valley
    flow = gf.flows.NGF(E)
    path = gf.integrate(flow, E.theta0, t=H)
    assert flow.oscillation(path).eq(0).all()
    assert flow.mean_loss(path)[0] == E.value(E.theta0)
    assert flow.iterates(path) is path.states


@pytest.mark.parametrize("flow", [RodFlow, EdgeFlow, PrincipalRodFlow])
def test_every_rod_can_have_noise_and_the_slow_start(flow):
    """With both, a rod below the edge rests at the noise, whichever field it has."""
    x, sigma = 1.5, 1e-9
    E = gf.problems.quadratic(torch.tensor([x / H, 1.0], dtype=f64))
    theta = torch.tensor([1e-3, 1.0], dtype=f64)
    model = flow(E, H, noise=sigma, start="slow")
    centre, companions = model.start(theta)
    rod = torch.exp(companions["log_length"]) * companions["direction"]
    torch.testing.assert_close(rod, torch.tensor([1e-3, 0.0], dtype=f64), rtol=1e-9, atol=1e-15)
    path = gf.integrate(model, theta, t=200 * H, rtol=1e-6)
    rate = math.log(x - 1) if flow is PrincipalRodFlow else x - 2  # h times the decay of ε
    expected = sigma / math.sqrt(2 * -rate)
    assert float(model.oscillation(path)[-1]) == pytest.approx(expected, rel=1e-3)
    # and from θ₀ to θ₁, as published
    centre, companions = flow(E, H, start="pair").start(theta)
    rod = torch.exp(companions["log_length"]) * companions["direction"]
    torch.testing.assert_close(rod, H / 2 * E.grad(theta), rtol=1e-12, atol=0)
    torch.testing.assert_close(centre, theta - rod, rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_measured_noise_is_what_gradient_descent_rests_at(dtype):
    """Σ over 40 turned quadratics of what is left of the oscillation, against σ²/(1 − m²)."""
    x, dim = 1.7, 6
    generator = torch.Generator().manual_seed(0)
    seen, said = [], []
    for _ in range(40):
        turn, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=f64))
        values = torch.tensor([x / H, 4.0, 3.0, 2.0, 1.5, 1.0], dtype=f64)
        matrix = (turn * values) @ turn.T
        minimum = torch.randn(dim, generator=generator, dtype=f64)  # so that no θᵢ goes to 0
        A, b = matrix.to(dtype), minimum.to(dtype)
        E = gf.Objective(lambda w, A=A, b=b: (w - b) @ A @ (w - b) / 2, dim=dim)
        u, slow = turn[:, 0].to(dtype), turn[:, 5].to(dtype)
        theta = b + 2 * slow
        said.append(gf.flows.rounding(E, theta, u, H) ** 2 / (1 - (x - 1) ** 2))
        w = gf.descend(E, theta, H, 60).states[-20:].to(f64) - b.to(f64)
        swing = (w[2:] - 2 * w[1:-1] + w[:-2]) @ turn[:, 0] / 4
        seen.append(float((swing**2).mean()))
    # Rounding is no independent noise: in six dimensions it is repeated, and 0.4 of what was said,
    # or 0.2 on a processor that multiplies and adds at once.
    assert 0.1 < sum(seen) / sum(said) < 1.5


def test_the_slow_start_sees_an_oscillation_far_below_the_path_s_own_bend():
    """A valley floor that drifts: an oscillation of 1e-13 is told from the lag, which is 1e-5."""
    values = torch.tensor([2.02 / H, 3.0], dtype=f64)
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=f64)

    def loss(w):
        x, y = turn @ w
        return 0.5 * values[0] * (x - 0.01 * torch.sin(y)) ** 2 + 0.5 * values[1] * (y - 3) ** 2

    E = gf.Objective(loss, dim=2)
    start = turn.T @ torch.tensor([0.01 * math.sin(1.0), 1.0], dtype=f64)
    # On the slow manifold: found by the flow itself, and then moved off it.
    rod, u = gf.flows.slow.Slow(E, H).split(start)
    for size in (1e-8, 1e-12):
        again, _ = gf.flows.slow.Slow(E, H).split(start - rod + size * u)
        assert abs(float(torch.dot(again, u))) == pytest.approx(size, rel=0.02)


def test_the_push_of_a_rod_that_doubles_in_each_step():
    """Where the centre moves by the push alone, and r = m² = 4, log r/(r − 1) is exact."""
    x, q = 3.0 / H, 0.7  # m = 2; E = ½ λ x² + ½ q x² y: pushes y by q x² a time, and nothing else
    E = gf.Objective(lambda w: 0.5 * x * w[0] ** 2 + 1e-9 * q * w[0] ** 2 * w[1], dim=2)
    rod = torch.tensor([0.1, 0.0], dtype=f64)
    for n in ORDERS:
        flow = PrincipalRodFlow(E, H, order=n, noise=0)
        flow.start = lambda theta, flow=flow: (theta, flow._polar(rod))
        path = gf.integrate(flow, torch.zeros(2, dtype=f64), times=[0.0, H], rtol=1e-10)
        expected = -H * 1e-9 * q * 0.1**2
        assert float(path.states[-1, 1]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("terms", "total"),
    [((1, 0.9, -0.8, 0.7), 1.8), ((1, 0.5, -1, 0.1), 1.5), ((2, -3, 0.1), 0.5 + 0.05)],
    ids=["shrinking", "a term twice as large", "half left out"],
)
def test_a_series_ends_where_its_terms_grow(terms, total):
    """A term is left out by as much as it is larger than the one before it, and all after it."""
    E = gf.problems.valley()
    best = PrincipalRodFlow(E, H, order="optimal")
    assert best._sum(list(terms), abs) == pytest.approx(total)
    assert PrincipalRodFlow(E, H, order=3)._sum(list(terms), abs) == pytest.approx(sum(terms))


BAD = {
    "noise not yet measured": (
        lambda E: PrincipalRodFlow(E, H).field(
            E.theta0, direction=E.theta0, log_length=torch.zeros(1, dtype=f64)
        ),
        "measured where a path starts",
    ),
    "order": (lambda E: PrincipalRodFlow(E, H, order=4), "order must be"),
    "noise": (lambda E: PrincipalRodFlow(E, H, noise=-1.0), "noise must be"),
    "noise of a word": (lambda E: RodFlow(E, H, noise="much"), "noise must be"),
    "start": (lambda E: EdgeFlow(E, H, start="fast"), "start must be 'pair' or 'slow'"),
    "critical point": (
        lambda E: gf.integrate(RodFlow(E, H), torch.tensor([0.0, 44.0], dtype=f64), t=H),
        "critical point",
    ),
    "complex": (lambda E: gf.integrate(RodFlow(E, H), E.theta0 + 0j, t=H), "theta.real"),
    "vector field": (lambda E: RodFlow(E, H).vector_field(E.theta0), "use field"),
    "far over the edge": (
        lambda E: PrincipalRodFlow(
            gf.problems.quadratic(torch.full((300,), 100.0, dtype=f64)), H
        ).start(torch.ones(300, dtype=f64)),
        "far above the edge",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(what, valley):
    make, words = BAD[what]
    with pytest.raises(InputError, match=words):
        make(valley[0])
