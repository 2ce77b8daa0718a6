"""Replays against steps written out by hand, and each line of the practitioner's table."""

import copy
import math

import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError

F64 = torch.float64
MSE = torch.nn.functional.mse_loss


def line(value=2.0):
    model = torch.nn.Linear(1, 1, bias=False, dtype=F64)
    torch.nn.init.constant_(model.weight, value)
    return model


def batch(target, n=4):
    """Of the loss (w − target)², whose curvature is 2."""
    x = torch.ones(n, 1, dtype=F64)
    return x, target * x


def noisy(n=9, spread=1.0, size=4):
    """Batches of a regression on five inputs, labels off by the spread."""
    g = torch.Generator().manual_seed(0)
    truth = torch.ones(5, 1, dtype=F64)
    made = []
    for _ in range(n):
        x = torch.randn(size, 5, generator=g, dtype=F64)
        made.append((x, x @ truth + spread * torch.randn(size, 1, generator=g, dtype=F64)))
    return made


def test_numbers_of_a_spike_by_hand():
    model, lr = line(), 0.25  # w goes half of the way to the target in a step
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    others = [batch(0.0), batch(1.0)]
    seen = gf.explain_spike(model, MSE, optimizer, [batch(8.0)], others)
    before = (2.0**2 + 1.0**2) / 2
    assert seen.before == pytest.approx(before)
    assert seen.rise == pytest.approx((5.0**2 + 4.0**2) / 2 - before)
    assert seen.shorter == pytest.approx((3.5**2 + 2.5**2) / 2 - before)
    # with the one in place of the first, on the other
    assert seen.others == pytest.approx((0.0 - 1.0, 1.5**2 - 2.0**2))
    assert seen.share == 0 and seen.cause == "batch"
    assert seen.slope == pytest.approx(3.0 * 3.0) and seen.bend == pytest.approx(9.0)
    assert seen.slope + seen.bend == pytest.approx(seen.rise)  # the loss is quadratic


@pytest.mark.parametrize("make", [
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    lambda p: torch.optim.AdamW(p, lr=0.1),
], ids=["momentum", "adamw"])  # fmt: skip
def test_nothing_is_changed_and_the_state_counts(make):
    batches = noisy()
    model = torch.nn.Linear(5, 1, dtype=F64)
    optimizer = make(model.parameters())

    def step(model, optimizer, x, y):
        optimizer.zero_grad()
        MSE(model(x), y).backward()
        optimizer.step()

    for x, y in batches[:3]:
        step(model, optimizer, x, y)
    weights = [p.clone() for p in model.parameters()]
    state = copy.deepcopy(optimizer.state_dict())
    torch.manual_seed(5)
    seen = gf.explain_spike(model, MSE, optimizer, batches[3:5], batches[5:])
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    for one, other in zip(weights, model.parameters(), strict=True):
        assert torch.equal(one, other)
    for k, now in optimizer.state_dict()["state"].items():
        assert all(torch.equal(torch.as_tensor(now[n]), torch.as_tensor(v))
                   for n, v in state["state"][k].items())  # fmt: skip
    # the loop itself goes where the replay went
    with torch.no_grad():
        before = sum(float(MSE(model(x), y)) for x, y in batches[5:]) / 4
    for x, y in batches[3:5]:
        step(model, optimizer, x, y)
    with torch.no_grad():
        after = sum(float(MSE(model(x), y)) for x, y in batches[5:]) / 4
    assert seen.rise == pytest.approx(after - before, rel=1e-12)


def test_rates_by_hand_and_with_their_errors():
    model = line()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.125)
    judge = [batch(0.0), batch(1.0)]
    table = gf.try_rates(model, MSE, optimizer, [batch(0.0)] * 2, judge, factors=(1, 2, 4))
    ends = [2.0 * (1 - 2 * 0.125 * f) ** 2 for f in (1, 2, 4)]
    losses = [(w**2 + (w - 1) ** 2) / 2 for w in ends]
    assert table.loss.tolist() == pytest.approx(losses)
    assert table.lr.tolist() == [0.125, 0.25, 0.5]
    assert table.gain.tolist() == pytest.approx([losses[0] - one for one in losses])
    gains = [ends[0] ** 2 - ends[2] ** 2, (ends[0] - 1) ** 2 - (ends[2] - 1) ** 2]
    assert table.error[2] == pytest.approx(abs(gains[0] - gains[1]) / 2)


def test_dropout_and_modes():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    batches = [(x.float(), y.float()) for x, y in noisy()]
    one, other = (gf.explain_spike(model, MSE, optimizer, batches[:2], batches[2:]) for _ in "ab")
    assert one == other and model.training and model[1].training


def test_what_cannot_be_asked_is_refused():
    model = line()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(InputError, match="At least 2 other batches"):
        gf.explain_spike(model, MSE, optimizer, [batch(0.0)], [batch(1.0)])
    with pytest.raises(InputError, match="No step"):
        gf.explain_spike(model, MSE, optimizer, [], [batch(1.0)] * 2)
    with pytest.raises(InputError, match="factors must hold 1"):
        gf.try_rates(model, MSE, optimizer, [batch(0.0)], [batch(1.0)] * 2, factors=(2, 4))
    for own in (gf.optim.AdaEoS(model.parameters()), torch.optim.LBFGS(model.parameters())):
        with pytest.raises(InputError, match="takes a closure"):
            gf.try_rates(model, MSE, own, [batch(0.0)], [batch(1.0)] * 2)
    with pytest.raises(InputError, match="list of batches"):
        gf.explain_spike(model, MSE, optimizer, batch(0.0), [batch(1.0)] * 2)
    with pytest.raises(InputError, match="max_norm must be above 0"):
        gf.explain_spike(model, MSE, optimizer, [batch(0.0)], [batch(1.0)] * 2, max_norm=0.0)
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    with pytest.raises(InputError, match="learning rate is 0"):
        gf.try_rates(model, MSE, still, [batch(0.0)], [batch(1.0)] * 2)


@pytest.mark.parametrize("ask", [gf.explain_spike, gf.try_rates])
def test_what_would_be_answered_wrongly_is_refused_or_warned_of(ask):
    batches = noisy()
    model = torch.nn.Linear(5, 1, dtype=F64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    apart = copy.deepcopy(model), copy.deepcopy(optimizer)  # no longer of one another
    with pytest.raises(InputError, match="Copy both in one call"):
        ask(apart[0], MSE, apart[1], batches[:2], batches[2:])
    half = copy.deepcopy(model).bfloat16()
    with pytest.raises(InputError, match="half precision"):
        ask(half, MSE, torch.optim.SGD(half.parameters(), lr=0.1), batches[:2], batches[2:])
    with pytest.warns(UserWarning, match="in evaluation mode"):
        ask(model.eval(), MSE, optimizer, batches[:2], batches[2:])
    optimizer.register_step_pre_hook(lambda *_: None)
    with pytest.warns(UserWarning, match="hooks at SGD's step"):
        ask(model.train(), MSE, optimizer, batches[:2], batches[2:])
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(InputError, match="autocast"):
        ask(model, MSE, optimizer, batches[:2], batches[2:])
    locked = torch.nn.Linear(5, 1, dtype=F64)
    locked.seen = locked.weight * 2  # no leaf
    with pytest.raises(InputError, match="cannot be copied"):
        ask(locked, MSE, torch.optim.SGD(locked.parameters(), lr=0.1), batches[:2], batches[2:])


def taken(model, optimizer, loss, batches, max_norm=None):
    """The loop by hand."""
    for x, y in batches:
        optimizer.zero_grad()
        loss(model(x), y).backward()
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()


@pytest.mark.parametrize("kind", ["clipped", "batch norm", "schedule-free", "own loss", "groups",
                                  "loss with parameters", "autocast"])  # fmt: skip
def test_replays_are_the_loop_with(kind):
    """The rise is what a loop written by hand makes of it, and the run is left as it was."""
    torch.manual_seed(2)
    parts = [torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)]
    if kind == "batch norm":
        parts.insert(1, torch.nn.BatchNorm1d(4))
    model = torch.nn.Sequential(*parts) if kind != "autocast" else Cast(*parts)
    loss, max_norm = MSE, 0.1 if kind == "clipped" else None
    batches = [(x.float(), y.float()) for x, y in noisy()]
    moved = list(model.parameters())
    if kind == "loss with parameters":
        loss = Scaled()
        moved += list(loss.parameters())
    optimizer = torch.optim.SGD(moved, lr=0.2, momentum=0.5)
    if kind == "groups":
        groups = [{"params": model[0].parameters(), "lr": 0.3}, {"params": model[2].parameters()}]
        optimizer = torch.optim.AdamW(groups, lr=0.01)
    if kind == "schedule-free":
        schedulefree = pytest.importorskip("schedulefree")
        optimizer = schedulefree.AdamWScheduleFree(moved, lr=0.1)
        optimizer.train()
    taken(model, optimizer, loss, batches[:3], max_norm)
    kept = copy.deepcopy((list(model.state_dict().values()), list(optimizer.state.values())))
    asked, given = (model, loss), batches
    if kind == "own loss":
        asked, given = (Itself(model), None), [{"x": x, "labels": y} for x, y in batches]
    seen = gf.explain_spike(*asked, optimizer, given[3:5], given[5:], max_norm=max_norm)
    table = gf.try_rates(*asked, optimizer, given[3:5], given[5:], max_norm=max_norm)
    assert str((list(model.state_dict().values()), list(optimizer.state.values()))) == str(kept)

    def judged():
        other, its_loss, walker = copy.deepcopy((model, loss, optimizer))
        if kind == "schedule-free":
            walker.eval()
        other.eval()
        with torch.no_grad():
            return sum(float(its_loss(other(x), y)) for x, y in batches[5:]) / 4

    before = judged()
    taken(model, optimizer, loss, batches[3:5], max_norm)
    assert seen.before == pytest.approx(before, rel=1e-6)
    assert seen.rise == pytest.approx(judged() - before, rel=1e-4, abs=1e-6)
    assert table.loss[2] == pytest.approx(judged(), rel=1e-6)
    assert math.isfinite(seen.slope + seen.bend)


class Cast(torch.nn.Sequential):
    """A model that opens its region of half precision itself."""

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x).float()


class Scaled(torch.nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.log = torch.nn.Parameter(torch.zeros(()))

    def forward(self, out, y):
        return MSE(out * self.log.exp(), y)


class Itself(torch.nn.Module):
    """A model that computes its own loss."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, labels):
        return {"loss": MSE(self.model(x), labels)}


def test_a_parameter_of_the_loss_is_in_slope_and_bend():
    """E = (w·e^a − t)² in two variables: against the expansion by hand."""
    model, loss = line(2.0), Scaled().double()
    optimizer = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=0.01)
    seen = gf.explain_spike(model, loss, optimizer, [batch(8.0)], [batch(1.0)] * 2)
    assert loss.log.item() == 0 and loss.log.grad is None
    step = [0.01 * 2 * 6.0, 0.01 * 2 * 6.0 * 2.0]  # −h∂ (2e^a − 8)² in w and a
    slope = 2 * 1.0 * (step[0] + 2.0 * step[1])
    # At w = 2, a = 0, t = 1: ∂_w²E = 2, ∂_w∂_aE = 2(2w − t), ∂_a²E = 2w(2w − t)
    ww, wa, aa = 2.0, 2 * (2 * 2.0 - 1), 2 * 2.0 * (2 * 2.0 - 1)
    bend = 0.5 * (ww * step[0] ** 2 + 2 * wa * step[0] * step[1] + aa * step[1] ** 2)
    assert seen.slope == pytest.approx(slope) and seen.bend == pytest.approx(bend)


# -- explosions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("lr", [3.0, 30.0, 1e3, 1e8, 1e60])
def test_explosions_are_the_steps_even_if_their_sizes_differ(lr):
    """Past the edge at 1 all batches explode, by what their targets are: 10 to 1e4 apart."""
    model, others = line(1.0), [batch(1.0 + 10.0**-k) for k in range(4)]
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    seen = gf.explain_spike(model, MSE, optimizer, [batch(9.0), *others[:3]], others)
    assert seen.rise > 10 * seen.before and seen.cause == "step"
    # By half of the rise itself, and not of its logarithm, the batch would have been accused.
    assert not math.isfinite(seen.rise) or max(seen.others) < 0.5 * seen.rise


@pytest.mark.parametrize("target", [10.0, 1e3, 1e8, math.inf])
@pytest.mark.parametrize("spread", [1.0, 1e-6])
def test_a_batch_that_explodes_is_the_batch(target, spread):
    """Also of a loss that is all but fitted, where others change it by its own size."""
    model, others = line(0.0), [batch(spread * (1 + k) / 8) for k in range(8)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.4)
    seen = gf.explain_spike(model, MSE, optimizer, [batch(target), *others[:1]], others)
    assert seen.cause == "batch"


def test_half_is_meant_in_the_logarithm_and_is_half_of_a_small_rise():
    from gdflows.training.replay import _half

    assert _half(2.0, 6.0) == pytest.approx(2.0)  # from 2 to 4, of 2 to 8
    assert _half(1.0, 1e-6) == pytest.approx(0.5e-6, rel=1e-6)
    assert _half(-1.0, 3.0) == 1.5 and _half(0.0, 3.0) == 1.5
    assert _half(2.0, math.inf) == _half(2.0, math.nan) == 2.0


def test_a_loss_that_is_lost_is_put_down_to_what_loses_it():
    model = line()
    others = [batch(0.0)] * 4
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = gf.explain_spike(model, MSE, optimizer, [batch(math.inf)], others)
    assert not math.isfinite(seen.rise) and seen.cause == "batch"
    optimizer = torch.optim.SGD(model.parameters(), lr=1e200)
    seen = gf.explain_spike(model, MSE, optimizer, others[:2], others)
    assert not math.isfinite(seen.rise) and seen.cause == "step"


# -- the table: a made case for each of its lines --------------------------------------------------


def walked(lr, steps, spread=0.0, momentum=0.0, n=64):
    """Batches of a regression, and SGD on them; its curvature is fixed."""
    batches = noisy(n, spread, size=16)
    torch.manual_seed(1)
    model = torch.nn.Linear(5, 1, bias=False, dtype=F64)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    for k in range(steps):
        x, y = batches[k % n]
        optimizer.zero_grad()
        MSE(model(x), y).backward()
        optimizer.step()
    return model, optimizer, batches


def ratio(model, optimizer, data):
    return gf.SharpnessMonitor(model, MSE, data, optimizer).measure().ratio


def test_full_batch_a_run_at_its_edge_and_one_below():
    torch.manual_seed(0)
    data = gf.problems.load("digits", dtype=F64).take(100)
    x, y = data.x_train.flatten(1), torch.nn.functional.one_hot(data.y_train, 10).double()
    seen = {}
    for lr in (0.01, 1.0):
        model = gf.problems.mlp([64, 16, 10], "tanh", seed=0, dtype=F64)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        monitor = gf.SharpnessMonitor(model, MSE, (x, y), optimizer, every=400)
        for _ in range(400):
            optimizer.zero_grad()
            MSE(model(x), y).backward()
            optimizer.step()
        seen[lr] = monitor.measure().ratio
    assert seen[0.01] < 0.5 and seen[1.0] > 0.8
    small = gf.suggest_lr(model, MSE, (x, y), optimizer).lr
    assert small / 1.0 == pytest.approx(1 / seen[1.0], rel=0.1)  # they say the same


def test_rate_too_small_a_larger_one_gains_at_both_lengths():
    model, optimizer, batches = walked(0.002, 20)
    assert ratio(model, optimizer, batches[:32]) < 0.05
    for length in (5, 30):
        table = gf.try_rates(model, MSE, optimizer, batches[:length], batches[48:])
        best = table.loc[table.gain.idxmax()]
        assert best.factor > 1 and best.gain > 2 * best.error


def test_noise_below_the_edge_a_smaller_rate_gains():
    model, optimizer, batches = walked(0.2, 300, spread=1.0)
    E = gf.Objective.from_module(model, MSE, batches[:32])
    g = E.grad(E.theta0)
    noise = gf.noise.GradientNoise(E, E.theta0)
    assert ratio(model, optimizer, batches[:32]) < 0.5 and noise.trace() / (g @ g) > 16
    table = gf.try_rates(model, MSE, optimizer, batches[:30], batches[32:]).set_index("factor")
    assert table.gain[0.25] > 2 * table.error[0.25] > 0 > table.gain[4.0]


def test_spikes_by_a_batch_by_the_step_and_none():
    model, optimizer, batches = walked(0.1, 100, spread=0.5)
    others = batches[8:16]
    assert gf.explain_spike(model, MSE, optimizer, batches[:2], others).rise < 1
    x, y = batches[0]
    bad = gf.explain_spike(model, MSE, optimizer, [(x, y + 30), batches[1]], others)
    assert bad.cause == "batch" and "first batch did it" in bad.verdict
    edge = gf.suggest_lr(model, MSE, batches[:32], optimizer).lr
    for factor, expected in ((0.25, "none"), (4.0, "step")):
        model, optimizer, batches = walked(0.01, 20)
        optimizer.param_groups[0]["lr"] = factor * edge
        found = gf.explain_spike(model, MSE, optimizer, batches[:4], others)
        assert found.cause == expected, found
    assert found.bend > -found.slope and "At half the rate" in found.verdict


def test_spike_uphill_is_momentum_and_not_the_batch():
    """Past the minimum at speed: every batch would have risen, and to first order too."""
    model = line(0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.99)
    model.weight.grad = torch.full_like(model.weight, -200.0)
    optimizer.step()  # from 0 to 2, with the velocity 2 a step
    seen = gf.explain_spike(model, MSE, optimizer, [batch(0.0)] * 2, [batch(0.0)] * 4)
    assert seen.cause == "step" and seen.slope > 0 and "uphill from the start" in seen.verdict


def test_the_short_replay_prefers_a_smaller_rate_and_the_long_one_does_not():
    """A noisy sharp direction at its usual distance, and a flat one that is far from rest."""
    flat, h = 0.15, 0.4  # curvatures 1 and 0.0225, noise of variance 1 along the first
    x = torch.tensor([[1.0, 0.0], [0.0, flat]], dtype=F64)
    drawn = torch.randn(1200, generator=torch.Generator().manual_seed(3), dtype=F64)

    def aimed(y):
        return x, torch.tensor([[float(y)], [8 * flat]], dtype=F64)

    model = torch.nn.Linear(2, 1, bias=False, dtype=F64)
    optimizer = torch.optim.SGD(model.parameters(), lr=h)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[(h / (2 - h)) ** 0.5, 1.5]]))
    gains = {}
    for length, repeats in ((8, 40), (200, 6)):
        parts = drawn[: length * repeats].split(length)
        tried = [
            gf.try_rates(model, MSE, optimizer, list(map(aimed, part)), [aimed(0.0)] * 2,
                         factors=(0.25, 1.0)).gain[0]
            for part in parts
        ]  # fmt: skip
        gains[length] = sum(tried) / repeats
    assert gains[8] > 0.02 and gains[200] < -0.02


def test_few_samples_look_sharper_than_they_are():
    model, optimizer, batches = walked(0.1, 0)
    one = [ratio(model, optimizer, (x[:4], y[:4])) for x, y in batches[:8]]
    assert min(one) > 1.3 * ratio(model, optimizer, batches)
