"""Exact moments of SGD on quadratics: all batches, all orders, Lyapunov's equation, SGD itself."""

from itertools import combinations, permutations, product

import numpy as np
import pytest
import scipy.linalg
import torch

import gdflows as gf
from gdflows.errors import InputError
from gdflows.noise import (
    Quadratic,
    SampledQuadratics,
    mean_square_edge,
    moments,
    shuffled_moments,
    stationary_covariance,
)
from gdflows.optim import edges

f64 = torch.float64
H = torch.tensor([[2.0, 0.6, 0.1], [0.6, 1.0, -0.2], [0.1, -0.2, 0.5]], dtype=f64)
SIGMA = torch.tensor([[1.0, -0.5, 0.2], [-0.5, 2.0, 0.0], [0.2, 0.0, 0.3]], dtype=f64)
METHODS = [
    {},
    {"momentum": 0.6},
    {"momentum": 0.6, "nesterov": True},
    {"averaging": 0.7, "share": 0.2},
]
IDS = ["SGD", "heavy", "Nesterov", "schedule-free"]


def samples(n=4, d=2, seed=0):
    """Hessians, positive semidefinite, and gradients that sum to zero."""
    g = torch.Generator().manual_seed(seed)
    roots = torch.randn(n, d, d, generator=g, dtype=f64)
    gradients = torch.randn(n, d, generator=g, dtype=f64)
    return roots @ roots.transpose(1, 2), gradients - gradients.mean(0)


def step(method, h, hessian, gradient, state):
    """One step as the method is written, from a tuple of sequences."""
    beta = method.get("momentum", 0.0)
    if "averaging" in method:
        z, x = state
        y = (1 - method["averaging"]) * z + method["averaging"] * x
        z = z - h * (hessian @ y + gradient)
        return z, (1 - method["share"]) * x + method["share"] * z
    if not beta:
        return (state[0] - h * (hessian @ state[0] + gradient),)
    theta, v = state
    g = hessian @ theta + gradient
    v = beta * v + g
    return theta - h * (g + beta * v if method.get("nesterov") else v), v


def matrices(method, h, hessian, gradient):
    """A and b of the step s → As + b, by applying it."""
    d = len(hessian)
    m = 1 if not method else 2
    zero = torch.zeros(m, d, dtype=f64)
    b = torch.cat(step(method, h, hessian, gradient, tuple(zero)))
    rows = [
        torch.cat(step(method, h, hessian, gradient, tuple(e.reshape(m, d)))) - b
        for e in torch.eye(m * d, dtype=f64)
    ]
    return torch.stack(rows).T, b


def batches(hessians, gradients, size, replacement):
    index = range(len(hessians))
    chosen = product(index, repeat=size) if replacement else combinations(index, size)
    return [(hessians[list(c)].mean(0), gradients[list(c)].mean(0)) for c in chosen]


def brute(method, h, outcomes):
    """Mean operator and stationary second moments over equally likely affine steps."""
    maps = [matrices(method, h, *outcome) for outcome in outcomes]
    n = len(maps[0][1])
    mean = sum(a for a, _ in maps) / len(maps)
    shift = sum(b for _, b in maps) / len(maps)
    centre = torch.linalg.solve(torch.eye(n, dtype=f64) - mean, shift)
    operator = sum(torch.kron(a, a) for a, _ in maps) / len(maps)
    pushed = sum(
        torch.outer(b, b) + torch.outer(a @ centre, b) + torch.outer(b, a @ centre)
        for a, b in maps
    ) / len(maps)
    eye = torch.eye(n * n, dtype=f64)
    second = torch.linalg.solve(eye - operator, pushed.reshape(-1)).reshape(n, n)
    return centre, second - torch.outer(centre, centre), operator


def radius(operator):
    return float(torch.linalg.eigvals(operator).abs().max())


# -- noise in the gradient alone -------------------------------------------------------------------


def test_sgd_solves_its_equation():
    for h in (0.1, 0.5, 0.85):
        c = stationary_covariance(Quadratic(H, SIGMA), h)
        torch.testing.assert_close(H @ c + c @ H - h * H @ c @ H, h * SIGMA)


@pytest.mark.parametrize("method", METHODS, ids=IDS)
def test_covariance_against_lyapunovs_equation(method):
    h = 0.4
    a, _ = matrices(method, h, H, torch.zeros(3, dtype=f64))
    zero = torch.zeros_like(H)
    k = torch.stack([matrices(method, h, zero, e)[1] for e in torch.eye(3, dtype=f64)], 1)
    full = scipy.linalg.solve_discrete_lyapunov(a.numpy(), (k @ SIGMA @ k.T).numpy())
    problem = Quadratic(H, SIGMA)
    blocks = {"theta": full[:3, :3], "velocity": full[3:, 3:]}
    if "averaging" in method:
        look = np.kron([1 - method["averaging"], method["averaging"]], np.eye(3))
        blocks = {"z": full[:3, :3], "x": full[3:, 3:], "y": look @ full @ look.T}
    for of, expected in blocks.items():
        if expected.size:
            seen = stationary_covariance(problem, h, of=of, **method)
            torch.testing.assert_close(seen, torch.from_numpy(expected))


@pytest.mark.parametrize("hl", [0.25, 1.0, 1.9])
@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_closed_forms_in_one_dimension(hl, beta):
    lam, s = 4.0, 3.0
    h = hl / lam
    seen = stationary_covariance(Quadratic(torch.tensor([lam], dtype=f64), s), h, momentum=beta)
    exact = h * s * (1 + beta) / (lam * (1 - beta) * (2 * (1 + beta) - hl))
    assert float(seen) == pytest.approx(exact, rel=1e-12)


def test_edges_without_noise_in_the_curvature_are_the_methods_own():
    problem, top = Quadratic(H, SIGMA), float(torch.linalg.eigvalsh(H)[-1])
    for beta in (0.3, 0.9):
        assert mean_square_edge(problem, momentum=beta) * top == pytest.approx(
            edges.heavy_ball(beta), rel=1e-9
        )
        assert mean_square_edge(problem, momentum=beta, nesterov=True) * top == pytest.approx(
            edges.nesterov(beta), rel=1e-9
        )
        for share in (0.05, 0.5):
            assert mean_square_edge(problem, averaging=beta, share=share) * top == pytest.approx(
                edges.schedule_free(beta, share), rel=1e-9
            )
    assert mean_square_edge(problem) * top == pytest.approx(2, rel=1e-12)
    assert mean_square_edge(Quadratic(torch.zeros(2, dtype=f64))) == float("inf")


def test_the_law_of_the_noise_does_not_count_and_sgd_itself_agrees():
    """The package's own SGD, with normal noise and with that of three points."""
    E, h, n = gf.Objective(lambda x: 0.5 * x @ (H.to(x) @ x), 3), 0.6, 20_000
    exact = stationary_covariance(Quadratic(H, SIGMA), h)
    for noise in ("gaussian", "three-point"):
        seen = gf.walking.sgd(
            E, torch.zeros(3, dtype=f64), h, 60, covariance=SIGMA, noise=noise, paths=n, seed=0,
            keep="moments",
        )  # fmt: skip
        size = exact.diagonal()
        spread = (size[:, None] * size[None, :]).sqrt() * (2 / n) ** 0.5
        assert float(((seen.covariance[-1] - exact).abs() / spread).max()) < 4


# -- sampled Hessians ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS, ids=IDS)
@pytest.mark.parametrize(
    ("size", "replacement"), [(1, True), (2, False), (2, True), (3, False), (4, False)]
)
def test_covariance_over_every_batch(method, size, replacement):
    hessians, gradients = samples()
    problem = SampledQuadratics(hessians, gradients, batch_size=size, replacement=replacement)
    h = 0.05
    outcomes = batches(hessians, gradients, size, replacement)
    centre, covariance, _ = brute(method, h, outcomes)
    assert float(centre.abs().max()) < 1e-12  # the mean is the minimum
    part = slice(2, 4) if "averaging" in method else slice(0, 2)
    seen = stationary_covariance(problem, h, **method)
    torch.testing.assert_close(seen, covariance[part, part], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS, ids=IDS)
@pytest.mark.parametrize(("size", "replacement"), [(1, False), (2, False), (2, True)])
def test_edge_over_every_batch(method, size, replacement):
    """Stable at 0.999 of it and at all rates below, unstable at 1.001."""
    hessians, gradients = samples()
    problem = SampledQuadratics(hessians, gradients, batch_size=size, replacement=replacement)
    edge = mean_square_edge(problem, **method)
    outcomes = batches(hessians, gradients, size, replacement)
    radii = [radius(brute(method, part * edge, outcomes)[2]) for part in (0.2, 0.6, 0.999, 1.001)]
    assert max(radii[:3]) < 1 < radii[3], radii
    if not method:
        own = edges.sgd_mean_square(hessians, size, replacement=replacement)
        assert edge == pytest.approx(own, rel=1e-9)


def test_edge_in_one_dimension():
    curvatures = torch.tensor([1.0, 2.0, 6.0], dtype=f64)
    problem = SampledQuadratics(curvatures, batch_size=2)
    mean, v = float(curvatures.mean()), float(curvatures.var(unbiased=False)) * (3 - 2) / (2 * 2)
    assert mean_square_edge(problem) == pytest.approx(2 * mean / (mean**2 + v), rel=1e-12)


def test_schedule_free_is_limited_by_the_variance_of_the_curvature():
    """As c → 0: below the edge of the mean by λ²/E λ_B²."""
    p, beta = 0.25, 0.9
    curvatures = torch.zeros(4, dtype=f64)
    curvatures[0] = 1 / p
    problem = SampledQuadratics(curvatures, batch_size=1)
    seen = mean_square_edge(problem, averaging=beta, share=1e-4)
    assert seen == pytest.approx(2 / (1 - beta) * p, rel=2e-3)


def test_common_flat_directions_are_left_alone():
    x = torch.tensor([[1.0, 0, 1], [0, 2, 0], [1, 0, 1]], dtype=f64)  # rows: no third direction
    turn = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=f64)
    x = x @ torch.linalg.qr(turn)[0]
    hessians = x[:, :, None] * x[:, None, :]
    problem = SampledQuadratics(hessians, batch_size=1)
    assert mean_square_edge(problem) == pytest.approx(edges.sgd_mean_square(hessians, 1), rel=1e-9)
    assert float(stationary_covariance(problem, 0.1).abs().max()) < 1e-15


@pytest.mark.parametrize("method", METHODS, ids=IDS)
def test_moments_are_those_of_the_steps(method):
    problem, h, start = Quadratic(H, SIGMA), 0.4, torch.tensor([1.0, -2.0, 0.5], dtype=f64)
    a, _ = matrices(method, h, H, torch.zeros(3, dtype=f64))
    zero = torch.zeros_like(H)
    k = torch.stack([matrices(method, h, zero, e)[1] for e in torch.eye(3, dtype=f64)], 1)
    other = start if "averaging" in method else 0 * start
    mean = torch.cat([start, other]) if method else start
    cov = torch.zeros(len(mean), len(mean), dtype=f64)
    for _ in range(7):
        mean, cov = a @ mean, a @ cov @ a.T + k @ SIGMA @ k.T
    part = slice(3, 6) if "averaging" in method else slice(0, 3)
    seen = moments(problem, h, 7, start, **method)
    torch.testing.assert_close(seen, (mean[part], cov[part, part]))
    torch.testing.assert_close(
        moments(problem, h, 400, **method)[1], stationary_covariance(problem, h, **method),
        rtol=1e-5, atol=1e-8,
    )  # fmt: skip


def test_along_a_flat_direction_the_variance_grows_by_a_step():
    problem = Quadratic(torch.tensor([2.0, 0.0], dtype=f64), 3.0)
    mean, cov = moments(problem, 0.1, 50, torch.tensor([1.0, 4.0], dtype=f64))
    assert float(cov[1, 1]) == pytest.approx(50 * 0.01 * 3)
    torch.testing.assert_close(mean, torch.tensor([0.8**50, 4.0], dtype=f64))
    quiet = Quadratic(torch.tensor([2.0, 0.0], dtype=f64), torch.tensor([3.0, 0.0]))
    kept = moments(quiet, 0.1, 50, torch.tensor([1.0, 4.0], dtype=f64))[0]
    torch.testing.assert_close(kept, mean)


# -- in shuffled order -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS[:3], ids=IDS[:3])
def test_shuffled_epochs_over_every_order(method):
    hessians, gradients = samples()
    h = 0.05
    epochs = []
    for order in permutations(range(4)):
        n = 2 if not method else 4
        a, b = torch.eye(n, dtype=f64), torch.zeros(n, dtype=f64)
        for i in order:
            one, push = matrices(method, h, hessians[i], gradients[i])
            a, b = one @ a, one @ b + push
        epochs.append((a, b))
    n = len(epochs[0][1])
    mean = sum(a for a, _ in epochs) / 24
    centre = torch.linalg.solve(torch.eye(n, dtype=f64) - mean, sum(b for _, b in epochs) / 24)
    second = torch.zeros(n, n, dtype=f64)
    for _ in range(400):
        second = sum(
            a @ second @ a.T + torch.outer(b, b)
            + torch.outer(a @ centre, b) + torch.outer(b, a @ centre)
            for a, b in epochs
        ) / 24  # fmt: skip
    expected = second - torch.outer(centre, centre)
    problem = SampledQuadratics(hessians, gradients, batch_size=1)
    seen = shuffled_moments(problem, h, **method)
    torch.testing.assert_close(seen[0], centre[:2], rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(seen[1], expected[:2, :2], rtol=1e-8, atol=1e-12)


def test_shuffling_leaves_less_noise():
    hessians, gradients = samples()
    problem = SampledQuadratics(hessians, gradients, batch_size=1)
    sizes = np.array([0.01, 0.005, 0.0025])
    shuffled = [float(shuffled_moments(problem, h)[1].trace()) for h in sizes]
    drawn = [float(stationary_covariance(problem, h).trace()) for h in sizes]
    orders = [np.polyfit(np.log(sizes), np.log(v), 1)[0] for v in (drawn, shuffled)]
    assert abs(orders[0] - 1) < 0.1 and abs(orders[1] - 3) < 0.2, orders


# -- what is refused -------------------------------------------------------------------------------

ONE = torch.ones(1, dtype=f64)
PAIR = torch.tensor([1.0, 3.0], dtype=f64)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: stationary_covariance(Quadratic(ONE, 1.0), 2.0), "mean-square edge, 2:"),
        (lambda: stationary_covariance(SampledQuadratics(PAIR), 0.81), "mean-square edge, 0.8:"),
        (lambda: stationary_covariance(Quadratic(ONE, 1.0), 3.9, momentum=0.5), "edge, 3:"),
        (lambda: stationary_covariance(Quadratic(0 * ONE, 1.0), 0.1), "without curvature"),
        (lambda: Quadratic(ONE, -1.0), "negative variance"),
        (lambda: Quadratic(H, -SIGMA), "not positive semidefinite"),
        (lambda: Quadratic(H, SIGMA + torch.ones(3, 3).triu(1)), "not symmetric"),
        (lambda: Quadratic(H, SIGMA[:2]), "shape"),
        (lambda: Quadratic(-H), "away from a minimum"),
        (lambda: Quadratic(torch.triu(H)), "not symmetric"),
        (lambda: Quadratic(H * torch.inf), "not finite"),
        (lambda: Quadratic(torch.ones(2).long()), "real numbers"),
        (lambda: SampledQuadratics(PAIR, batch_size=3), "only 2 samples"),
        (lambda: SampledQuadratics(PAIR, batch_size=3, replacement=True), "only 2 samples"),
        (lambda: SampledQuadratics(PAIR, torch.ones(2)), "sum to zero"),
        (lambda: SampledQuadratics(PAIR, torch.ones(3)), "shape"),
        (lambda: SampledQuadratics(torch.tensor([1.0, -1.0])), "no learning rate is stable"),
        (lambda: SampledQuadratics(torch.ones(2, 2)), "shape"),
        (lambda: SampledQuadratics(torch.stack([torch.triu(H), torch.tril(H)])), "sample's"),
        (lambda: mean_square_edge(Quadratic(ONE), momentum=1.0), "momentum"),
        (lambda: mean_square_edge(Quadratic(ONE), nesterov=True), "nesterov"),
        (lambda: mean_square_edge(Quadratic(ONE), averaging=0.9, momentum=0.5), "not both"),
        (lambda: mean_square_edge(Quadratic(ONE), averaging=1.0), "averaging"),
        (lambda: mean_square_edge(Quadratic(ONE), averaging=0.9, share=0.0), "share"),
        (lambda: stationary_covariance(Quadratic(ONE), 0.1, of="x"), "theta"),
        (lambda: stationary_covariance(Quadratic(ONE), -0.1), "lr"),
        (lambda: moments(Quadratic(ONE), 0.1, 3, torch.ones(2)), "start"),
        (lambda: moments(SampledQuadratics(PAIR, PAIR - 2), 0.1, 3, ONE), "correlation"),
        (lambda: shuffled_moments(Quadratic(ONE), 0.1), "batch_size=1"),
        (lambda: shuffled_moments(SampledQuadratics(PAIR, batch_size=2), 0.1), "batch_size=1"),
        (lambda: shuffled_moments(SampledQuadratics(PAIR), 3.0), "do not settle"),
        (lambda: shuffled_moments(SampledQuadratics(torch.ones(30)), 0.1), "too many"),
        (lambda: mean_square_edge(SampledQuadratics(samples(3, 60)[0])), "project"),
    ],
    ids=range(33),
)  # fmt: skip
def test_what_is_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()


def test_where_there_is_nothing_at_all():
    problem = Quadratic(torch.zeros(2, dtype=f64))
    assert not bool(stationary_covariance(problem, 0.1).any())
    start = torch.tensor([1.0, 2.0], dtype=f64)
    assert torch.equal(moments(problem, 0.1, 3, start)[0], start)


def test_least_squares_in_single_precision():
    """Flat directions and gradients that sum to zero, but for the rounding of float32."""
    g = torch.Generator().manual_seed(0)
    exact, y = torch.randn(50, 3, generator=g, dtype=f64), torch.randn(50, generator=g)
    exact = torch.cat([exact, exact[:, :1] + exact[:, 1:2]], 1)  # a direction without curvature
    x = exact.float()
    best = torch.linalg.pinv(exact, rtol=1e-5) @ y.double()
    given = x[:, :, None] * x[:, None, :], (x @ best.float() - y)[:, None] * x
    other = exact[:, :, None] * exact[:, None, :], (exact @ best - y.double())[:, None] * exact
    single, double = (SampledQuadratics(*both, batch_size=5) for both in (given, other))
    assert mean_square_edge(single) == pytest.approx(mean_square_edge(double), rel=1e-4)
    seen, expected = (stationary_covariance(p, 0.05) for p in (single, double))
    torch.testing.assert_close(seen.double(), expected, rtol=1e-3, atol=1e-6)


def test_the_answer_has_the_callers_dtype():
    seen = stationary_covariance(Quadratic(H.float(), SIGMA), 0.1)
    assert seen.dtype == torch.float32
    assert shuffled_moments(SampledQuadratics(PAIR.float()), 0.1)[0].dtype == torch.float32


def test_a_number_for_a_covariance_is_taken_in_double_precision():
    found = stationary_covariance(Quadratic(torch.ones(1, dtype=torch.float64), 0.3), 0.5)
    assert float(found) == pytest.approx(0.5 * 0.3 / 1.5, rel=1e-14)
