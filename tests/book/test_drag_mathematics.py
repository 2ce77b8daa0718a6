"""The mathematics of the figures to drag, run by a JavaScript engine, is that of the package."""

import json

import numpy as np
import pytest
import torch
from bookkit import drag
from py_mini_racer import MiniRacer

import gdflows as gf
from gdflows.flows import IGR, NGF, PrincipalFlow, Truncated

f64 = torch.float64
CLOSE = 1e-9


@pytest.fixture(scope="module")
def js(request):
    """The value of an expression in which `m` are the modules."""
    engine = MiniRacer()
    request.addfinalizer(engine.close)
    for path in sorted((drag.FOLDER / "math").glob("*.js")):
        engine.eval(path.read_text())
    engine.eval("const m = globalThis.gdflows.math;")
    return lambda text: json.loads(engine.eval(f"JSON.stringify({text})"))


def pairs(values) -> np.ndarray:
    """[re, im] at the end of each row, as complex numbers."""
    values = np.asarray(values, float)
    return values[..., -2] + 1j * values[..., -1]


def states(rows) -> np.ndarray:
    """States [Re x, Im x, Re y, Im y] as complex points of the plane."""
    rows = np.asarray(rows, float)
    return rows[:, 0::2] + 1j * rows[:, 1::2]


# ---- one eigenvector


@pytest.mark.parametrize("model", ["NGF", "IGR", 2, 3, 7, "PF"])
def test_alpha(js, model):
    x = [-3.0, -0.4, 0.0, 1e-9, 0.3, 0.999, 1.001, 1.5, 2.0, 3.7]
    got = pairs(js(f"{json.dumps(x)}.map(x => m.linear.alpha(x, {json.dumps(model)}))"))
    assert np.abs(got - gf.flows.alpha(x, model)).max() < CLOSE


@pytest.mark.parametrize("x", [0.4, 0.97, 1.3, 1.8, 2.0, 2.25])
def test_paths_on_a_parabola(js, x):
    h = x / 3
    bowl = gf.problems.quadratic([3.0])
    start = torch.ones(1, dtype=f64)
    gd = gf.descend(bowl, start, lr=h, steps=6).states[:, 0].numpy()
    got = js(f"m.linear.path({x}, 'GD', 6, 1)")
    assert np.abs(np.asarray(got)[:, 1] - gd).max() < CLOSE
    times = torch.linspace(0, 6 * h, 25, dtype=f64)
    closed = PrincipalFlow(bowl, h)
    want = {"PF": np.array([complex(closed.frozen(start, float(t))[0]) for t in times])}
    for flow in (NGF(bowl), IGR(bowl, h)):
        want[flow.label] = gf.integrate(flow, start, times=times, rtol=1e-12).states[:, 0].numpy()
    for name, values in want.items():
        assert np.abs(pairs(js(f"m.linear.path({x}, '{name}', 6, 4)")) - values).max() < CLOSE, name


# ---- the plane

BANANA = gf.problems.banana()
POINTS = [(0.9, 0.75), (-1.2, 1.0), (0.3, -0.2), (1.0, 1.0)]


def plane_flows(h):
    return [NGF(BANANA), IGR(BANANA, h), Truncated(BANANA, h, 2),
            PrincipalFlow(BANANA, h, method="dense"),
            PrincipalFlow(BANANA, h, method="dense", nonprincipal=True)]


@pytest.mark.parametrize("h", [0.0004, 0.0019, 0.003])
@pytest.mark.parametrize("bend", [0.0, 0.05], ids=["real", "complex"])
def test_fields_on_the_banana(js, h, bend):
    for flow in plane_flows(h):
        for x, y in POINTS:
            at = torch.tensor([x + 1j * bend, y - 0.5j * bend], dtype=torch.complex128)
            if not bend:
                at = at.real.clone()
            want = flow.vector_field(at).numpy()
            got = states([js(f"m.plane.field(m.plane.banana(100), {h}, '{flow.label}')"
                             f"([{x}, {bend}, {y}, {-0.5 * bend}])")])[0]
            size = 1 + np.abs(want).max()
            assert np.abs(got - want).max() < CLOSE * size, (flow.label, x, y)


@pytest.mark.parametrize("h", [0.0008, 0.0025])
def test_paths_on_the_banana(js, h):
    start = torch.tensor(POINTS[0], dtype=f64)
    gd = gf.descend(BANANA, start, lr=h, steps=3).states.numpy()
    assert np.abs(np.asarray(js(f"m.plane.descend(m.plane.banana(100), {h}, 0.9, 0.75, 3)"))
                  - gd).max() < CLOSE
    times = torch.linspace(0, 3 * h, 7, dtype=f64)
    for flow in plane_flows(h):
        want = gf.integrate(flow, start, times=times, rtol=1e-11, atol=1e-12).states.numpy()
        got = js(f"m.plane.follow(m.plane.banana(100), {h}, '{flow.label}', 0.9, 0.75, 3, 2, "
                 "{rtol: 1e-12, atol: 1e-13, most: 1e6})")
        assert got["ended"] is None
        assert np.abs(states(got["states"]) - want).max() < CLOSE, flow.label


def test_the_principal_flow_ends_on_the_cut_where_the_package_says(js):
    """Both stop near one time, and the figure's own test says why."""
    h, start = 0.003, torch.tensor(POINTS[0], dtype=f64)
    with pytest.raises(gf.errors.IntegrationError) as stopped:
        gf.integrate(PrincipalFlow(BANANA, h, method="dense"), start, t=12 * h, rtol=1e-5)
    got = js(f"m.plane.follow(m.plane.banana(100), {h}, 'PF', 0.9, 0.75, 12, 30, {{rtol: 1e-6}})")
    assert abs(got["ended"]["time"] - stopped.value.time) < 0.1 * h
    state = json.dumps(got["ended"]["state"])
    assert js(f"m.plane.onCut(m.plane.banana(100), {h}, {state})")
    assert not js(f"m.plane.onCut(m.plane.banana(100), {h}, [0.9, 0, 0.75, 0])")


@pytest.mark.parametrize("point", POINTS)
def test_sharpness_on_the_banana(js, point):
    want = float(torch.linalg.eigvalsh(BANANA.hessian(torch.tensor(point, dtype=f64)))[-1])
    assert js(f"m.plane.sharpness(m.plane.banana(100), {point[0]}, {point[1]})") == (
        pytest.approx(want, rel=1e-12))


# ---- one dimension, to high order

COSH = gf.problems.cosh()


@pytest.mark.parametrize("order", range(8))
def test_truncated_fields_in_one_dimension(js, order):
    h = 0.17
    flow = Truncated(COSH, h, order)
    points = [-1.6, -0.7, 0.2, 1.0, 1.45]
    want = [float(flow.vector_field(torch.tensor([x], dtype=f64))) for x in points]
    got = js(f"(terms => {points}.map(x => m.scalar.field(terms, m.scalar.cosh, {h}, {order})"
             f"([x])[0]))(m.scalar.equation(7))")
    assert np.abs(np.subtract(got, want)).max() < CLOSE


@pytest.mark.parametrize("order", [0, 1, 4])
def test_truncated_paths_in_one_dimension(js, order):
    h, start = 0.2, torch.tensor([1.4], dtype=f64)
    times = torch.arange(9, dtype=f64) * h
    want = gf.integrate(Truncated(COSH, h, order), start, times=times, rtol=1e-12, atol=1e-13)
    got = js(f"m.ode.solve(m.scalar.field(m.scalar.equation(7), m.scalar.cosh, {h}, {order}), "
             f"[1.4], {times.tolist()}, {{rtol: 1e-12, atol: 1e-13}}).states")
    assert np.abs(np.asarray(got) - want.states.numpy()).max() < CLOSE
    gd = gf.descend(COSH, start, lr=h, steps=8).states[:, 0].numpy()
    assert np.abs(np.subtract(js(f"m.scalar.descend(m.scalar.cosh, {h}, 1.4, 8)"), gd)).max() < CLOSE


# ---- rates that look at the curvature


def rated(make, unit, steps=40, start=(-0.9, 1.2)):
    """Points of one of the package's optimisers in the valley of the figure."""
    loss = lambda w: (1 - w[0]) ** 2 + 5 * (w[1] - w[0] ** 2) ** 2  # noqa: E731
    w = torch.nn.Parameter(torch.tensor(start, dtype=f64))
    optimizer, seen = make([w]), [list(start)]
    for _ in range(steps):
        optimizer.step(lambda: unit * loss(w))
        seen.append(w.detach().tolist())
    return np.asarray(seen)


@pytest.mark.parametrize("unit", [0.01, 1.0])
@pytest.mark.parametrize("p", [1.0, 0.6])
def test_dal(js, unit, p):
    make = lambda w: gf.optim.DAL(w, p, cap=float("inf"), hvp="exact")  # noqa: E731
    steps = 40 if p == 1 or unit < 1 else 3  # then it runs away
    want = rated(make, unit, steps)
    got = js(f"m.rates.dal(m.rates.real(m.plane.banana(5), {unit}), [-0.9, 1.2], {steps}, {p}, 2)")
    same = np.abs(np.asarray(got["points"]) - want) / (1 + np.abs(want))
    assert same.max() < CLOSE and not got["lost"]


@pytest.mark.parametrize("unit", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("start", [(-0.9, 1.2), (1.5, -0.4)])
def test_adaeos(js, unit, start):
    make = lambda w: gf.optim.AdaEoS(w, "sgd", hvp="exact")  # noqa: E731
    want = rated(make, unit, 60, start)
    got = js(f"m.rates.adaeos(m.rates.real(m.plane.banana(5), {unit}), {list(start)}, 60, 0.8)")
    assert np.abs(np.asarray(got["points"]) - want).max() < CLOSE and not got["lost"]


def test_fixed_rates(js):
    want = gf.descend(gf.problems.banana(1.0, 5.0), torch.tensor([-0.9, 1.2], dtype=f64), 0.02, 40)
    got = js("m.rates.fixed(m.rates.real(m.plane.banana(5), 2), [-0.9, 1.2], 40, 0.01).points")
    assert np.abs(np.asarray(got) - want.states.numpy()).max() < CLOSE


def test_dal_is_lost_where_the_package_refuses_to_go_on(js):
    with pytest.raises(gf.errors.NonFiniteError):
        rated(lambda w: gf.optim.DAL(w, 0.6, cap=float("inf"), hvp="exact"), 1.0)
    assert js("m.rates.dal(m.rates.real(m.plane.banana(5), 1), [-0.9, 1.2], 40, 0.6, 2).lost")


# ---- SGD and its equations

SAMPLES = torch.tensor([-1.0] * 7 + [7.0], dtype=f64) / 7**0.5


def variance(B):
    return SAMPLES.var(correction=0).reshape(1, 1) / B


@pytest.mark.parametrize("h", [0.1, 0.7, 1.0, 1.6])
@pytest.mark.parametrize("B", [1, 8])
def test_moments_of_sgd(js, h, B):
    assert np.abs(np.subtract(js("m.noise.SAMPLES"), SAMPLES.numpy())).max() < CLOSE
    bowl = gf.noise.Quadratic(torch.ones(1, dtype=f64), variance(B))
    mean, covariance = gf.noise.moments(bowl, h, 11, torch.tensor([2.0], dtype=f64))
    got = js(f"m.noise.moments({h}, {B}, 2, 11)")
    assert np.abs(np.subtract(got, [float(mean[0]), float(covariance[0, 0])])).max() < CLOSE


@pytest.mark.parametrize("h", [0.1, 0.7, 1.6])
@pytest.mark.parametrize("order", [1, 2])
def test_laws_of_the_equations(js, h, order):
    """Drift −Aθ and noise R from the package; then the law of Ornstein and Uhlenbeck."""
    B, steps = 4, 11
    E = gf.problems.quadratic([1.0])
    flow = gf.flows.StochasticModifiedEquation(E, h, covariance=variance(B), order=order)
    one = torch.ones(1, 1, dtype=f64)
    A, R = -float(flow.drift(one)[0, 0]), float(flow.noise(0 * one, one)[0, 0])
    t = steps * h
    want = [2 * np.exp(-A * t), R**2 / (2 * A) * (1 - np.exp(-2 * A * t))]
    got = js(f"m.noise.equation({h}, {B}, 2, {steps}, {order})")
    assert np.abs(np.subtract(got, want)).max() < CLOSE


def test_random_numbers_are_those_of_the_seed(js):
    def mulberry(state):
        while True:
            state = (state + 0x6D2B79F5) & 0xFFFFFFFF
            z = state
            z = ((z ^ (z >> 15)) * (z | 1)) & 0xFFFFFFFF
            z ^= (z + (((z ^ (z >> 7)) * (z | 61)) & 0xFFFFFFFF)) & 0xFFFFFFFF
            yield ((z ^ (z >> 14)) & 0xFFFFFFFF) / 2**32

    want = mulberry(7)
    got = js("(u => [...Array(50)].map(() => u()))(m.noise.generator(7))")
    assert got == [next(want) for _ in range(50)]


def test_runs_have_the_exact_moments_of_the_package(js):
    h, B, steps, n = 0.6, 2, 9, 20_000
    bowl = gf.noise.Quadratic(torch.ones(1, dtype=f64), variance(B))
    mean, covariance = gf.noise.moments(bowl, h, steps, torch.tensor([2.0], dtype=f64))
    runs = np.asarray(js(f"(u => [...Array({n})].map(() => m.noise.run({h}, {B}, 2, {steps}, u)))"
                         "(m.noise.generator(3))"))
    deviation = float(covariance[0, 0]) ** 0.5
    assert abs(runs.mean() - float(mean[0])) < 4 * deviation / n**0.5
    fourth = ((runs - runs.mean()) ** 4).mean()
    assert abs(runs.var() - deviation**2) < 4 * ((fourth - deviation**4) / n) ** 0.5
    normal = np.asarray(js(f"(g => [...Array({n})].map(() => g()))"
                           "(m.noise.normals(m.noise.generator(3)))"))
    assert abs(normal.mean()) < 4 / n**0.5 and abs(normal.var() - 1) < 4 * (2 / n) ** 0.5


# ---- the valley

H = 0.05


@pytest.mark.parametrize("s", [0.0, 3.0, 8.0])
@pytest.mark.parametrize("kappa", [0.2, 0.7])
def test_the_stochastic_rod_on_the_valley(js, s, kappa):
    E = gf.problems.valley(kappa, 44.0)
    noise = torch.tensor([s**2, 0.0], dtype=f64)
    flow = gf.flows.StochasticRodFlow(E, H, covariance=noise, rank=1)
    v = f"{{kappa: {kappa}, top: 44}}"
    for y, q in ((38.0, 0.4), (39.9, 1.7), (41.0, 0.01), (21.0, 0.3)):
        centre, companions = flow.field(
            torch.tensor([0.0, y], dtype=f64), directions=torch.eye(2, dtype=f64)[:1],
            covariance=torch.full((1, 1), q, dtype=f64))
        want = [float(centre[1]), float(companions["covariance"][0, 0])]
        got = js(f"m.valley.rod({v}, {H}, {s}, [{y}, {q}])")
        assert np.abs(np.subtract(got, want)).max() < CLOSE
    if s:
        start = torch.tensor([0.0, 38.0], dtype=f64)
        times = torch.arange(0, 41, 10, dtype=f64) * H
        path = gf.integrate(flow, start, times=times, method="rk4", step=H)
        got = np.asarray(js(f"m.valley.follow({v}, {H}, {s}, 38, 0, 40)"))[::10]
        assert np.abs(got[:, 0] - path.states[:, 1].numpy()).max() < CLOSE
        assert np.abs(got[:, 1] - flow.covariance_of(path)[:, 0, 0].numpy()).max() < CLOSE


@pytest.mark.parametrize("s", [1.0, 4.0, 8.0])
def test_where_the_rod_rests_the_package_says_it_stands_still(js, s):
    E = gf.problems.valley(0.2, 44.0)
    flow = gf.flows.StochasticRodFlow(
        E, H, covariance=torch.tensor([s**2, 0.0], dtype=f64), rank=1)
    y = js(f"m.valley.rest({{kappa: 0.2, top: 44}}, {H}, {s})")
    rate, companions = flow.field(
        torch.tensor([0.0, y], dtype=f64), directions=torch.eye(2, dtype=f64)[:1],
        covariance=torch.full((1, 1), 0.4 * (44 - y), dtype=f64))
    assert abs(float(rate[1])) < CLOSE and abs(float(companions["covariance"])) < CLOSE
    assert 38 < y < 40


def test_descent_on_the_valley(js):
    E = gf.problems.valley(0.3, 43.0)
    want = gf.descend(E, torch.tensor([1.3, 38.0], dtype=f64), H, 30).states.numpy()
    got = js(f"m.valley.walk({{kappa: 0.3, top: 43}}, {H}, 0, 1.3, 38, 30)")
    assert np.abs(np.asarray(got) - want).max() < CLOSE
    noisy = np.asarray(js(f"m.valley.walk({{kappa: 0.3, top: 43}}, {H}, 2, 1.3, 38, 30, () => 1)"))
    pushed = gf.Objective(
        lambda v: v[1] * v[0] ** 2 / 2 + 0.15 * (v[1] - 43) ** 2 + 2 * v[0], 2)
    want = gf.descend(pushed, torch.tensor([1.3, 38.0], dtype=f64), H, 30).states.numpy()
    assert np.abs(noisy - want).max() < CLOSE


@pytest.mark.parametrize("h", [0.043, 0.05])
def test_the_gradient_flow_on_the_valley(js, h):
    E = gf.problems.valley(0.3, 43.0)
    start, times = torch.tensor([1.3, 38.0], dtype=f64), torch.arange(101, dtype=f64) * h
    want = gf.integrate(gf.flows.NGF(E), start, times=times, rtol=1e-12, atol=1e-13,
                        method="RK45").states.numpy()  # DOP853's interpolant is off where x rests
    v = "{kappa: 0.3, top: 43}"
    got = js(f"m.valley.glide({v}, {h}, 1.3, 38, 100, {{rtol: 1e-12, atol: 1e-13}})")
    assert np.abs(np.asarray(got) - want).max() < CLOSE
    drawn = np.asarray(js(f"m.valley.glide({v}, {h}, 1.3, 38, 100)"))
    assert np.abs(drawn - want).max() < 1e-5


# ---- the principal flow off the real axis


@pytest.mark.parametrize("bend", [0.0, 0.2])
@pytest.mark.parametrize("h", [0.5, 1.8])
def test_the_spiral(js, bend, h):
    E = gf.Objective(lambda z: (z**2 / 2 + bend * z**4 / 4).sum(), 1)
    flow = PrincipalFlow(E, h, method="dense")
    for re, im in ((0.7, 0.0), (-0.4, 0.3), (0.2, -0.6)):
        at = torch.tensor([re + 1j * im], dtype=torch.complex128)
        want = complex(flow.vector_field(at)[0])
        got = complex(*js(f"m.spiral.field({bend}, {h})([{re}, {im}])"))
        assert abs(got - want) < CLOSE
    start = torch.tensor([0.6], dtype=f64)
    times = torch.arange(2, dtype=f64) * h
    want = gf.integrate(flow, start, times=times, rtol=1e-11, atol=1e-12).states[:, 0].numpy()
    got = js(f"m.spiral.follow({bend}, {h}, [0.6, 0], 1, 1, {{rtol: 1e-12, atol: 1e-13}}).states")
    assert np.abs(pairs(got) - want).max() < CLOSE
    gd = gf.descend(E, start, lr=h, steps=3).states[:, 0].numpy()
    got = pairs(js(f"m.spiral.descend({bend}, {h}, [0.6, 0], 3)"))
    assert np.abs(got - gd).max() < CLOSE


# ---- the network


@pytest.fixture(scope="module")
def net(js):
    """The figure's network as an objective of the package, its start and its data."""
    xs = np.linspace(-1, 1, 9)
    points = np.stack([xs, np.sin(3.5 * xs)], 1)
    module = torch.nn.Sequential(
        torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
    x, y = torch.from_numpy(points).split(1, 1)
    E = gf.Objective.from_module(module, torch.nn.functional.mse_loss, (x, y))
    return E, torch.tensor(js("m.network.start(8, 2)"), dtype=f64), json.dumps(points.tolist())


def test_the_network(js, net):
    E, theta, points = net
    at = json.dumps(theta.tolist())
    assert js(f"m.network.loss({at}, {points})") == pytest.approx(float(E.value(theta)), abs=CLOSE)
    assert np.abs(np.subtract(js(f"m.network.grad({at}, {points})"), E.grad(theta))).max() < CLOSE
    hessian = E.hessian(theta)
    got = js(f"m.network.hessian({at}, {points})")
    assert np.abs(np.subtract(got, hessian)).max() < CLOSE
    top = js(f"m.network.top(m.network.hessian({at}, {points}))")
    pair = gf.curvature.top_eigenpairs(E, theta, tol=1e-12)
    assert top["value"] == pytest.approx(float(pair.values[0]), abs=CLOSE)
    vector = torch.tensor(top["vector"], dtype=f64)
    assert float((hessian @ vector - top["value"] * vector).norm()) < CLOSE


def test_the_network_s_descent_and_rod(js, net):
    E, theta, points = net
    h = 0.25
    gd = gf.descend(E, theta, lr=h, steps=20).states
    at = f"[...Array(20)].reduce(t => m.network.step(t, {points}, {h}), m.network.start(8, 2))"
    last = torch.tensor(js(at), dtype=f64)
    assert float((last - gd[-1]).abs().max()) < CLOSE
    # what RodFlow begins with, at a start of the figure: the point between two iterates
    flow = gf.flows.RodFlow(E, h)
    centre, _ = flow.start(theta)
    seen = js(f"(t => m.network.rod(t, m.network.step(t, {points}, {h}), "
              f"{json.dumps(theta.tolist())}))(m.network.start(8, 2))")
    assert float((torch.tensor(seen["centre"], dtype=f64) - centre).abs().max()) < CLOSE
    half = (theta - gd[1]) / 2
    assert seen["half"] == pytest.approx(float(half @ theta), abs=CLOSE)


def test_the_largest_eigenvalue(js):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(6, 6))
    matrix = matrix + matrix.T
    got = js(f"m.network.top({matrix.tolist()}).value")
    assert got == pytest.approx(np.linalg.eigvalsh(matrix)[-1], abs=1e-12)
