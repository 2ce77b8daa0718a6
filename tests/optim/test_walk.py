"""The walk: against closed forms, a random walk, and what AdaEoS makes of it."""

import math

import pytest
import torch

from gdflows.errors import InputError
from gdflows.optim import AdaEoS
from gdflows.optim.walk import GAP, Walk

F64 = torch.float64


def follow(walk, steps, rates, names=("w",)):
    """Limits along a sequence of displacements, one a step."""
    states, points, limits = [{} for _ in names], [s.clone() for s in steps[0]], []
    for step, rate in zip(steps[1:], rates, strict=True):
        limits.append(walk.look(states, points))
        walk.count(rate)
        for point, along in zip(points, step, strict=True):
            point.sub_(along, alpha=rate)
    limits.append(walk.look(states, points))
    return limits


def along(n, *vectors):
    """A start at zero and n steps, the given ones in turn."""
    each = [torch.tensor(v, dtype=F64) for v in vectors]
    return [[torch.zeros_like(each[0])], *([each[k % len(each)]] for k in range(n))]


def test_a_straight_way_is_the_root_of_its_displacements_as_long():
    limits = follow(Walk(1.0), along(40, [3.0, 4.0]), [0.1] * 40)
    assert limits[: 2 * GAP] == [math.inf] * 2 * GAP
    for j in range(2, 11):
        assert limits[GAP * j] == pytest.approx(0.1 * math.sqrt(j))
    assert follow(Walk(2.0), along(40, [3.0, 4.0]), [0.1] * 40)[-1] == pytest.approx(limits[-1] / 2)


def test_orthogonal_displacements_leave_the_rate_as_it_is():
    steps = [[torch.zeros(12, dtype=F64)]]
    steps += [[torch.eye(12, dtype=F64)[k // GAP]] for k in range(12 * GAP)]
    for limit in follow(Walk(1.0), steps, [0.3] * 12 * GAP)[2 * GAP :]:
        assert limit == pytest.approx(0.3)


def test_a_step_to_and_fro_is_no_displacement():
    """Beside a drift: at the edge a network does both."""
    drift, both = along(40, [1.0, 0.0]), along(40, [1.0, 100.0], [1.0, -100.0])
    assert follow(Walk(1.0), both, [0.1] * 40)[-1] == pytest.approx(
        follow(Walk(1.0), drift, [0.1] * 40)[-1]
    )


def test_a_random_walk_has_the_rate_it_is_made_with():
    generator = torch.Generator().manual_seed(0)
    steps = [[torch.zeros(2000, dtype=F64)]]
    steps += [[torch.randn(2000, generator=generator, dtype=F64)] for _ in range(400)]
    limits = follow(Walk(1.0), steps, [0.02] * 400)
    assert limits[-1] == pytest.approx(0.02, rel=0.05)
    # A bound one, θ ← 0.9 θ + noise, comes no farther: the rate falls as one over the root.
    bound = [steps[0]]
    at = torch.zeros(2000, dtype=F64)
    for (noise,) in steps[1:]:
        move = 0.1 * at / 0.02 + noise
        bound.append([move])
        at = at - 0.02 * move
    limits = follow(Walk(1.0), bound, [0.02] * 400)
    assert limits[400] / limits[100] == pytest.approx(0.5, rel=0.1)


def test_a_rate_of_zero_and_a_jump_are_no_displacements():
    walk, states = Walk(1.0), [{}]
    point = torch.zeros(2, dtype=F64)
    for k in range(3 * GAP):
        walk.look(states, [point])
        rate = 0.0 if k < GAP else 0.1
        walk.count(rate)
        point.sub_(torch.tensor([1.0, 0.0], dtype=F64), alpha=rate)
    assert walk.look(states, [point]) == pytest.approx(0.1 * math.sqrt(2))
    known = states[0]["walk_squares"]
    walk.count(0.1)
    point.add_(100.0)
    walk.rest(states, [point])
    for _ in range(GAP):
        walk.look(states, [point])
        walk.count(0.1)
    walk.look(states, [point])
    assert states[0]["walk_squares"] == known > 0


def noisy(walk, steps, seed=0):
    """A quadratic with noise; rates, and what the edge would have."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.logspace(-2, 1, 30, dtype=F64)
    w = torch.nn.Parameter(torch.ones(30, dtype=F64))
    optimizer, rates = AdaEoS([w], "schedule-free", walk=walk), []
    for _ in range(steps):
        noise = torch.randn(30, dtype=F64, generator=generator)
        optimizer.step(lambda noise=noise: (values * (w - noise) ** 2).sum() / 2)
        rates.append(optimizer.eta)
    return optimizer, rates


def test_the_limit_holds_a_noisy_rate_back_and_the_edge_s_own_is_kept():
    optimizer, rates = noisy(1.0, 600)
    _, free = noisy(None, 600)
    assert rates[:8] == free[:8]  # the blind steps and the climb know nothing of it
    assert rates[-1] < 0.5 * free[-1]
    assert optimizer.eta <= optimizer._walk.limit * (1 + 1e-12)
    assert optimizer.eta / optimizer._held > optimizer.eta
    # A part that never binds changes nothing.
    assert noisy(1e-9, 100)[1] == pytest.approx(free[:100], rel=1e-12)


@pytest.mark.parametrize(("jump", "cut"), [(5.0, 2), (1e6, 4)], ids=["spike", "blow-up"])
def test_a_guard_cuts_the_rate_that_steps_are_taken_with(jump, cut):
    """And not one far above the limit, which no step would feel."""
    optimizer, rates = noisy(1.0, 600)
    (w,) = optimizer.param_groups[0]["params"]
    assert optimizer._held < 0.9
    high = jump * optimizer._peak
    optimizer.step(lambda: (w**2).sum() * 1e-12 + high)
    assert optimizer.trips == 1
    for _ in range(3):  # a refresh may lower it, and a rise is slow
        assert 0 < optimizer.eta <= 1.4 / cut * rates[-1]
        optimizer.step(lambda: (w**2).sum() * 1e-12 + high / jump)


def test_what_is_frozen_takes_its_past_with_it():
    """The limit is that of a walk of the others alone."""
    walk, alone, free, stays = Walk(1.0), Walk(1.0), {}, {}
    other, a, b = {}, torch.zeros(3, dtype=F64), torch.zeros(300, dtype=F64)
    generator = torch.Generator().manual_seed(0)
    for k in range(20 * GAP):
        both = k < 10 * GAP
        limit = walk.look([free, stays] if both else [free], [a, b] if both else [a])
        assert both or limit == pytest.approx(alone.look([other], [a]), rel=1e-12)
        if both:
            alone.look([other], [a])
        for each in (walk, alone):
            each.count(0.1)
        a -= 0.1 * torch.randn(3, generator=generator, dtype=F64)
        b -= 0.1 * both * torch.randn(300, generator=generator, dtype=F64)


def test_a_scheduler_s_factor_is_part_of_the_rate():
    """The limit is one of the whole rate: η alone makes up for a constant factor."""
    for factor in (1.0, 0.5):
        generator = torch.Generator().manual_seed(1)
        w = torch.nn.Parameter(torch.ones(30, dtype=F64))
        optimizer = AdaEoS([w], "schedule-free", walk=3.0, lr=factor)
        for _ in range(200):
            noise = torch.randn(30, dtype=F64, generator=generator)
            optimizer.step(lambda w=w, noise=noise: ((w - noise) ** 2).sum() / 2)
        assert optimizer._held < 1
        assert optimizer.eta * factor == pytest.approx(optimizer._walk.limit, rel=1e-9)


def test_where_it_cannot_be():
    w = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(InputError, match="walk needs base='schedule-free'"):
        AdaEoS([w], "adam", walk=1.0)
    with pytest.raises(InputError, match="walk must be in"):
        AdaEoS([w], "schedule-free", walk=0.0)


def test_going_back_is_no_displacement():
    w = torch.nn.Parameter(torch.ones(5, dtype=F64))
    optimizer = AdaEoS([w], "schedule-free", walk=1.0)
    for _ in range(20):
        optimizer.step(lambda: (w**2).sum())
    known = optimizer.state[w]["walk_squares"]
    optimizer.step(lambda: 1e6 * (w**2).sum() + 1e6)
    assert optimizer.trips == 1 and optimizer._walk.steps == 0
    assert torch.equal(optimizer.state[w]["walk_last"], optimizer.state[w]["z"])
    assert optimizer.state[w]["walk_squares"] == known > 0
