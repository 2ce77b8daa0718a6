"""DAL, CDAT and AdaEoS by their own promises."""

import math

import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError, NonFiniteError
from gdflows.optim import CDAT, DAL, AdaEoS

F64 = torch.float64


def quadratic(values):
    w = torch.nn.Parameter(torch.ones(len(values), dtype=F64))
    h = torch.tensor(values, dtype=F64)
    return w, h, lambda: (h * w**2).sum() / 2


@pytest.mark.parametrize("seed", range(20))
def test_dal_never_makes_a_quadratic_s_gradient_smaller(seed):
    generator = torch.Generator().manual_seed(seed)
    size = 10 ** (3 * torch.rand(1, generator=generator, dtype=F64))
    values = torch.rand(6, generator=generator, dtype=F64) * size
    w, h, loss = quadratic(values.tolist())
    with torch.no_grad():
        w.copy_(torch.randn(6, generator=generator, dtype=F64))
    optimizer = DAL([w], cap=1e9)
    before = float((h * w).detach().norm())
    for _ in range(20):
        g = h * w.detach()
        cosine = float(torch.dot(g, h * g) / (g.norm() * (h * g).norm()))
        optimizer.step(loss)
        after = float((h * w).detach().norm())
        # the law behind it: ‖g'‖² − ‖g‖² = 4‖g‖²(1 − cos∠(g, Hg))
        assert after**2 - before**2 == pytest.approx(
            4 * before**2 * (1 - cosine), rel=1e-9, abs=1e-9 * before**2
        )
        before = after


def test_dal_with_half_the_numerator_converges_near_the_edge():
    w, h, loss = quadratic([1.0, 3.0, 10.0])
    optimizer = DAL([w], scale=1.0)
    values = [float(optimizer.step(loss)) for _ in range(200)]
    assert values[-1] < 1e-12 * values[0]


def test_dal_s_rate_power_cap_and_drift():
    w, h, loss = quadratic([4.0, 4.0])
    for p, cap, rate in ((1.0, 5.0, 0.5), (0.5, 5.0, 1.0), (0.0, 5.0, 2.0), (0.0, 1.5, 1.5)):
        optimizer = DAL([w], p=p, cap=cap)
        length = float((h * w).norm())
        optimizer.step(loss)
        assert optimizer.rate == pytest.approx(rate)
        assert optimizer.drift == pytest.approx(0.5 * rate**2 * 4 * length)


def test_dal_per_parameter_has_a_rate_for_each():
    w, h, loss = quadratic([1.0, 100.0])
    DAL([w], per_parameter=True).step(loss)
    # ½|ĝᵢ|/|(Hĝ)ᵢ| = ½/hᵢ: each entry is halved
    torch.testing.assert_close(w.detach(), torch.full((2,), 0.5, dtype=F64))


def test_dal_stands_still_at_a_minimum():
    w, _, loss = quadratic([1.0, 2.0])
    with torch.no_grad():
        w.zero_()
    DAL([w]).step(loss)
    assert torch.equal(w.detach(), torch.zeros(2, dtype=F64))


def test_cdat_minimises_along_the_gradient_and_on_edge_keeps_the_loss():
    for sigma, expected in ((1.0, None), (2.0, 1.0)):
        w, h, loss = quadratic([1.0, 5.0])
        before = float(loss())
        optimizer = CDAT([w], "sgd", sigma=sigma, average=0.0)
        optimizer.step(loss)
        if expected is not None:
            assert float(loss()) == pytest.approx(before)
        else:
            old = torch.ones(2, dtype=F64)
            assert float(torch.dot(h * w.detach(), h * old)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("base", ["sgd", "momentum", "adam"])
def test_adaeos_holds_its_part_of_the_edge_in_full_batch(base):
    """σ within a fifth of its target at most of the steps, measured against torch's own edge."""
    network = gf.problems.mlp([64, 16, 10], "tanh", seed=0, dtype=F64)
    E = gf.problems.classification("digits", network, n=200)
    optimizer = AdaEoS(network.parameters(), base)
    held, x, y = [], *E.data
    for k in range(300):
        optimizer.step(lambda: E.loss(network(x), y))
        if k >= 60 and k % 10 == 0:
            theta = torch.cat([p.detach().flatten() for p in network.parameters()])
            states = [optimizer.state[p] for p in network.parameters()]
            scales = optimizer.moments.precondition(states)
            scale = torch.cat([s.flatten() for s in scales]).sqrt() if scales else None
            true = float(gf.curvature.top_eigenpairs(E, theta, scale=scale, tol=1e-3).values[0])
            held.append(abs(optimizer.eta * true / (0.8 * optimizer.edge) - 1) < 0.25)
    assert sum(held) >= 0.8 * len(held)
    assert optimizer.cost["gradients"] + optimizer.cost["hvps"] < 1.2 * 300


def test_adaeos_finds_its_rate_whatever_the_units():
    """Scaling the loss by a million scales η by a millionth, and no step changes."""
    paths = []
    for unit in (1.0, 1e6):
        w, h, loss = quadratic([1.0, 10.0, 40.0])
        optimizer = AdaEoS([w], "sgd")
        for _ in range(40):
            optimizer.step(lambda unit=unit, loss=loss: unit * loss())
        paths.append(w.detach().clone())
        assert optimizer.sigma == pytest.approx(1.6, rel=0.01)
    torch.testing.assert_close(*paths, rtol=1e-6, atol=1e-9)


def test_a_spike_halves_the_rate_and_asks_for_a_look():
    w, h, loss = quadratic([1.0, 10.0])
    optimizer = AdaEoS([w], "sgd")
    for _ in range(30):
        optimizer.step(loss)
    eta, products = optimizer.eta, optimizer.cost["hvps"]
    optimizer._average = float(loss()) / 3
    optimizer.step(loss)
    assert optimizer.trips == 1
    assert optimizer.eta == pytest.approx(eta / 2)
    optimizer.step(loss)
    assert optimizer.cost["hvps"] == products + 1


def test_a_blow_up_goes_back_and_in_the_end_gives_up():
    w, h, loss = quadratic([1.0, 10.0])
    optimizer = AdaEoS([w], "momentum")
    for _ in range(10):
        optimizer.step(loss)
    kept, eta = optimizer.state[w]["kept"].clone(), optimizer.eta
    optimizer.step(lambda: loss() * math.nan)
    assert torch.equal(w.detach(), kept)
    assert optimizer.eta == eta / 4
    optimizer.step(loss)  # goes on
    with pytest.raises(NonFiniteError, match="going back 20 times"):
        for _ in range(25):
            optimizer.step(lambda: loss() * math.inf)
    assert torch.isfinite(w).all()


def test_with_minibatches_the_curvature_falls_slowly_only():
    w, h, loss = quadratic([1.0, 10.0])
    optimizer = AdaEoS([w], "sgd", stochastic=True, refresh_every=1)
    for _ in range(30):
        optimizer.step(loss)
    seen = optimizer.sharpness
    for k in range(1, 6):  # batches that are fitted: almost no curvature
        optimizer.step(lambda: 1e-6 * loss())
        assert optimizer.sharpness == pytest.approx(seen * 0.9**k, rel=0.05)


@pytest.mark.parametrize("base", ["sgd", "momentum", "adam", "schedule-free"])
def test_adaeos_decays_weights_by_its_own_rate_and_steps_along_the_base(base):
    """The first step, by hand: corrected averages of one gradient are that gradient."""
    w, h, loss = quadratic([1.0, 3.0])
    before = w.detach().clone()
    g = h * before
    optimizer = AdaEoS([w], base, weight_decay=0.1)
    optimizer.step(loss)
    along = g / (g.abs() + 1e-8) if base in ("adam", "schedule-free") else g
    expected = before * (1 - 0.1 * optimizer.eta) - optimizer.eta * along
    torch.testing.assert_close(w.detach(), expected)


@pytest.mark.parametrize("stochastic, part", [(False, 1.0), (True, 0.2)])
def test_the_first_steps_know_the_loss_and_the_parameters_only(stochastic, part):
    for offset, start in ((0.0, 1e-3), (1e-3, 100.0)):  # the norm decides; the loss does
        w, h, loss = quadratic([1.0, 3.0])
        optimizer = AdaEoS([w], "sgd", start=start, stochastic=stochastic)
        before, g, value = w.detach().clone(), h * w.detach(), float(loss()) + offset
        optimizer.step(lambda loss=loss, offset=offset: loss() + offset)
        length = float((w.detach() - before).norm())
        most = float(start * before.norm()), part * value / float(g.norm())
        assert length == pytest.approx(min(most))
        assert optimizer.cost["hvps"] == 0
        assert (most[0] < most[1]) == (offset == 0)


def test_the_average_is_that_of_the_schedule_free_package():
    peer = pytest.importorskip("schedulefree")
    torch.manual_seed(0)
    values = torch.rand(6, dtype=F64) * 10
    ours, theirs = (torch.nn.Parameter(torch.ones(6, dtype=F64)) for _ in range(2))
    other = peer.AdamWScheduleFree([theirs], lr=0.02, weight_decay=0.1)
    other.train()
    # Everything of AdaEoS but the rule for its rate.
    optimizer = AdaEoS([ours], "schedule-free", weight_decay=0.1, hvp="difference")
    optimizer._first_rate = lambda seen, states: setattr(optimizer, "eta", 0.02)
    optimizer._wait = 10**6
    for _ in range(40):
        optimizer.eta, optimizer._edge_before = 0.02, optimizer.edge
        optimizer.step(lambda: (values * ours**2).sum() / 2)
        theirs.grad = values * theirs.detach()
        other.step()
        torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-12, atol=1e-14)
    optimizer.eval()
    other.eval()
    torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-12, atol=1e-14)


def test_an_average_is_shown_and_hidden():
    w, h, loss = quadratic([1.0, 10.0])
    optimizer = AdaEoS([w], "schedule-free")
    optimizer.eval()  # nothing to average yet
    optimizer.train()
    for _ in range(30):
        optimizer.step(loss)
    y, z = w.detach().clone(), optimizer.state[w]["z"]
    optimizer.eval()
    torch.testing.assert_close(0.1 * z + 0.9 * w.detach(), y)
    assert float((w.detach() - y).norm()) > 1e-6
    shown = w.detach().clone()
    optimizer.eval()
    assert torch.equal(w.detach(), shown)
    with pytest.raises(InputError, match=r"call train\(\)"):
        optimizer.step(loss)
    again = AdaEoS([w], "schedule-free")
    again.load_state_dict(optimizer.state_dict())
    again.train()
    torch.testing.assert_close(w.detach(), y)
    assert again.edge == optimizer.edge


def test_noise_that_fitted_batches_make_trips_no_guard():
    """With minibatches a loss is held against the largest of late, not against its average."""
    w, h, loss = quadratic([1.0, 10.0])
    for stochastic, trips in ((True, 0), (False, 1)):
        optimizer = AdaEoS([w], "sgd", stochastic=stochastic)
        for k in range(16):
            optimizer.step(lambda k=k: 1e-9 * loss() + (4.0 if k in (0, 15) else 1.0))
        assert min(optimizer.trips, 1) == trips


def test_a_gradient_that_is_not_finite_under_a_finite_loss():
    w, h, loss = quadratic([1.0, 10.0])
    optimizer = AdaEoS([w])
    for _ in range(10):
        optimizer.step(loss)
    kept = optimizer.state[w]["kept"].clone()
    optimizer.step(lambda: loss() + (w - w.detach()).abs().sqrt().sum())  # √0 has slope ∞
    assert torch.equal(w.detach(), kept)
    assert torch.isfinite(optimizer.state[w]["exp_avg"]).all()
    assert optimizer.trips == 1


def test_averaging_reaches_a_noisy_minimum_that_adam_at_its_edge_does_not():
    """Gradients with noise on a quadratic, the same seeds: the mean over eight runs."""
    values = torch.logspace(-1, 1, 20, dtype=F64)

    def run(seed, base, rho):
        generator = torch.Generator().manual_seed(seed)
        w = torch.nn.Parameter(torch.ones(20, dtype=F64))
        optimizer = AdaEoS([w], base, rho=rho, stochastic=True)
        for _ in range(300):
            noise = torch.randn(20, dtype=F64, generator=generator)
            optimizer.step(lambda noise=noise: (values * (w - 0.3 * noise) ** 2).sum() / 2)
        optimizer.eval()
        return float((values * w.detach() ** 2).sum() / 2)

    found = {
        name: sum(run(seed, *name) for seed in range(8)) / 8
        for name in (("schedule-free", 0.8), ("adam", 0.8), ("adam", 0.15))
    }
    assert found["schedule-free", 0.8] < found["adam", 0.15] < found["adam", 0.8], found


@pytest.mark.parametrize("stochastic, each", [(False, 1), (True, 3)])
def test_products_while_the_rate_climbs(stochastic, each):
    w, h, loss = quadratic([1.0, 10.0])
    optimizer = AdaEoS([w], "sgd", start=1e-6, stochastic=stochastic)
    seen = []
    for _ in range(8):
        optimizer.step(loss)
        seen.append(optimizer.cost["hvps"])
    # none for three steps, two for the first estimate, then at every second step
    assert seen == [0, 0, 0, 2, 2, 2 + each, 2 + each, 2 + 2 * each]


def test_the_target_is_lower_where_noise_is_not_averaged_away():
    w, _, _ = quadratic([1.0])
    noisy = {base: AdaEoS([w], base, stochastic=True).rho for base in ("sgd", "momentum", "adam")}
    assert noisy == {"sgd": 0.4, "momentum": 0.15, "adam": 0.15}
    assert AdaEoS([w]).rho == AdaEoS([w], "schedule-free").rho == 0.8
    assert AdaEoS([w], "schedule-free").stochastic and not AdaEoS([w]).stochastic
    assert AdaEoS([w], "adam", stochastic=True, rho=0.5).rho == 0.5
