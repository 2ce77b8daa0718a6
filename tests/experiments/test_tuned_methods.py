"""The methods of the tuned trial: schedules, averages, Muon, the proposal, the frozen rate."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import gdflows as gf
from gdflows.errors import DataError, InputError
from gdflows.experiments.trial import entrants, suite
from gdflows.experiments.trial.course import Course, range_test
from gdflows.experiments.trial.proposed import Frozen, Proposed
from gdflows.experiments.trial.scheduled import Scheduled, factor, hidden_matrices

F64 = torch.float64


def weights(*values):
    return nn.Parameter(torch.tensor(values, dtype=F64))


def rates(schedule, optimizer, n):
    out = []
    for _ in range(n):
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return out


def test_the_schedule_is_torch_s():
    lr = torch.optim.lr_scheduler
    sgd = torch.optim.SGD([weights(1.0)], lr=1.0)
    cosine = rates(lr.CosineAnnealingLR(sgd, 20), sgd, 21)
    assert [factor(k, decay="cosine", horizon=20) for k in range(21)] == pytest.approx(cosine)
    assert factor(50, decay="cosine", horizon=20) == 0  # where torch's turns round
    sgd = torch.optim.SGD([weights(1.0)], lr=1.0)
    linear = rates(lr.LinearLR(sgd, 1.0, 0.0, 20), sgd, 30)
    assert [factor(k, decay="linear", horizon=20) for k in range(30)] == pytest.approx(linear)
    sgd = torch.optim.SGD([weights(1.0)], lr=1.0)
    both = lr.SequentialLR(
        sgd, [lr.LinearLR(sgd, 0.2, 1.0, 4), lr.CosineAnnealingLR(sgd, 15)], milestones=[5]
    )
    joined = rates(both, sgd, 20)
    ours = [factor(k, warmup=5, decay="cosine", horizon=20) for k in range(20)]
    assert ours == pytest.approx(joined)
    assert [factor(k, warmup=5) for k in range(7)] == pytest.approx([.2, .4, .6, .8, 1, 1, 1])


def digits():
    what = suite.suite_task("digits")
    return what, what.network(0), what.batches(0)


def go(made, what, network, batches):
    x, y = next(batches)
    made.step(lambda: what.loss(network(x), y))


def test_a_scheduled_optimiser_is_torch_s_own_loop():
    what, network, batches = digits()
    scheduled = entrants.ENTRANTS["adamw"].make(
        network, what, lr=0.01, warmup=0.01, decay="linear", horizon=0.1
    )
    twin, again = what.network(0), what.batches(0)
    adam = torch.optim.AdamW(twin.parameters(), lr=0.01, weight_decay=0.0)
    for k in range(12):
        x, y = next(batches)
        scheduled.step(lambda x=x, y=y: what.loss(network(x), y))
        adam.param_groups[0]["lr"] = 0.01 * ((k + 1) / 4 if k < 4 else 1 - (k - 4) / 36)
        u, v = next(again)
        adam.zero_grad()
        what.loss(twin(u), v).backward()
        adam.step()
    for p, q in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    assert scheduled.cost == {"gradients": 12, "hvps": 0} and not scheduled.at_rest


def test_after_its_horizon_a_decayed_rate_is_at_rest():
    w = weights(1.0)
    for ema, rest in ((0.0, True), (0.9, False)):
        made = Scheduled([torch.optim.SGD([w], lr=0.1)], decay="cosine", horizon=3, ema=ema)
        for k in range(3):
            assert not made.at_rest, k
            made.step(lambda: (w**2).sum())
        assert made.at_rest is rest


def test_the_average_of_weights():
    w = weights(1.0, -2.0)
    made = Scheduled([torch.optim.SGD([w], lr=0.1)], ema=0.6)
    seen, average = [], None
    for k in range(8):
        made.step(lambda: (w**2).sum())
        seen.append(w.detach().clone())
        part = min(0.6, (1 + k) / (10 + k))
        average = seen[0] if average is None else part * average + (1 - part) * seen[-1]
        with made.handed_over():
            torch.testing.assert_close(w.detach(), average)
        assert torch.equal(w, seen[-1])


def test_the_average_of_weights_of_what_has_one_of_its_own():
    """AdaEoS can be told to show its average; on Adam it has none, and ours is handed over."""
    w = weights(1.0, -2.0)
    made = Scheduled([gf.optim.AdaEoS([w], "adam")], ema=0.6)
    for _ in range(5):
        made.step(lambda: (w**2).sum())
    own = w.detach().clone()
    with made.handed_over():
        assert not torch.equal(w, own)
    assert torch.equal(w, own)


@pytest.mark.parametrize("name", ["schedule-free", "adaeos-free", "adamw-ema"])
def test_looking_changes_no_bit(name):
    pytest.importorskip("schedulefree")
    ends = []
    for looking in (False, True):
        what, network, batches = digits()
        method = entrants.ENTRANTS[name]
        made = method.make(network, what, **method.start(True))
        for _ in range(10):
            go(made, what, network, batches)
            if looking:
                own = [p.detach().clone() for p in network.parameters()]
                with made.handed_over():
                    assert any(
                        not torch.equal(p, q)
                        for p, q in zip(network.parameters(), own, strict=True)
                    ) or made.steps < 2
        ends.append(torch.nn.utils.parameters_to_vector(network.parameters()))
    assert torch.equal(*ends)


def test_every_method_makes_steps():
    pytest.importorskip("schedulefree")
    pytest.importorskip("prodigyopt")
    pytest.importorskip("dog")
    for name, method in entrants.ENTRANTS.items():
        if name == "soap":
            continue
        what, network, batches = digits()
        settings = method.start(True) if method.axes else {}
        if name == "adamw-finder":
            settings = {"lr": 0.01}
        made = method.make(network, what, **settings)
        before = what.measure(network)[0]
        for _ in range(40):
            go(made, what, network, batches)
        with made.handed_over():
            after = what.measure(network)[0]
        assert made.cost["gradients"] >= 40, name
        # Prodigy and DoG begin with next to nothing; the proposal with a rate that it is given.
        limit = 1.05 if name in ("prodigy", "dog", "ldog") or name.startswith("proposal") else 0.97
        assert after < limit * before, (name, before, after)


def test_soap_comes_from_a_package_that_need_not_be_there(monkeypatch):
    import sys
    import types

    what, network, batches = digits()
    make = entrants.ENTRANTS["soap"].make
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(DataError, match=r"gdflows\[trial\]"):
        make(network, what, lr=0.01)
    made = types.ModuleType("pytorch_optimizer")
    made.SOAP = torch.optim.AdamW  # its arguments are those that are given here
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", made)
    inner = make(network, what, lr=0.01, warmup=0.1).inner
    assert inner.defaults["weight_decay"] == 0


def test_dog_measures_its_way_and_hands_over_its_own_average():
    dog = pytest.importorskip("dog")
    what, network, batches = digits()
    made = entrants.ENTRANTS["dog"].make(network, what, lr=1.0, reps_rel=1e-2)
    assert isinstance(made.inner, dog.DoG)
    begin = torch.nn.utils.parameters_to_vector(network.parameters()).detach().clone()
    path, squares, farthest, average = [], 0.0, 1e-2 * (1 + begin.norm()), None
    for k in range(12):
        x, y = next(batches)
        theta = torch.nn.utils.parameters_to_vector(network.parameters()).detach().clone()
        made.step(lambda x=x, y=y: what.loss(network(x), y))
        g = torch.cat([p.grad.flatten() for p in network.parameters()])
        squares += float(g @ g) + (1e-8 if k == 0 else 0)
        farthest = max(farthest, (theta - begin).norm())
        after = torch.nn.utils.parameters_to_vector(network.parameters()).detach().clone()
        assert torch.allclose(after, theta - farthest / squares**0.5 * g, atol=1e-6)
        # (γ + 1)/(γ + t) with γ = 8, from the second point on
        average = after if average is None else average + 9 / (10 + k) * (after - average)
        path.append(after)
    with made.handed_over():
        over = torch.nn.utils.parameters_to_vector(network.parameters())
        assert torch.allclose(over, average, atol=1e-6) and not torch.allclose(over, path[-1])


def test_dog_without_finite_gradients_ends_and_other_assertions_are_not_swallowed(monkeypatch):
    pytest.importorskip("dog")

    def run():
        what = suite.suite_task("digits-ce")
        network = what.network(0)
        made = entrants.ENTRANTS["dog"].make(network, what, lr=1.0, reps_rel=1e-2)
        return network, made, Course(what, network, made, 0, stop=3)

    network, _, course = run()
    torch.nn.init.constant_(next(network.parameters()), float("nan"))
    assert course._step(0, *next(course.batches)) is False
    assert math.isinf(course.rows[-1]["judged"])
    _, made, course = run()

    def broken():
        raise AssertionError("a fault")

    monkeypatch.setattr(made.inner, "step", broken)
    with pytest.raises(AssertionError, match="a fault"):
        course.carry_out()


# -- Muon ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", suite.SUITE)
def test_what_muon_is_for(name):
    network = suite.SUITE[name].network(0)
    hidden, others = hidden_matrices(network)
    if name.startswith("mnist"):  # of two layers, which are the first and the last
        assert not hidden
        return
    assert len(hidden) + len(others) == len(list(network.parameters()))
    assert hidden and all(p.ndim > 1 for p in hidden)
    matrices = [p for p in network.parameters() if p.ndim > 1]
    known = {id(p) for p in hidden}
    assert id(matrices[0]) not in known and id(matrices[-1]) not in known


def test_muon_is_torch_s_on_filters_as_matrices():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4 * 16, 3)
    )
    what = suite.suite_task("digits-conv")
    made = entrants.ENTRANTS["muon"].make(network, what, lr=0.01)
    start = network[1].weight.detach().clone()
    twin = nn.Parameter(start.view(4, -1).clone())
    muon = torch.optim.Muon([twin], lr=0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    bias = network[3].bias.detach().clone()
    x = torch.randn(5, 1, 8, 8)
    for _ in range(3):
        made.step(lambda: network(x).square().mean())
        twin.grad = network[1].weight.grad.view(4, -1).clone()
        muon.step()
        torch.testing.assert_close(network[1].weight.detach().view(4, -1), twin.detach())
    assert not torch.equal(start, network[1].weight) and not torch.equal(bias, network[3].bias)


# -- the proposal ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("products", "every"), [(1, 1), (2, 3)])
def test_the_proposal_step_by_step(products, every):
    h = np.diag([1.0, 4.0, 9.0]) + 0.5
    matrix, w = torch.tensor(h), weights(1.0, -1.0, 0.5)
    made = Proposed([w], eta=0.02, gamma=0.3, products=products, every=every, seed=7)
    random = torch.Generator().manual_seed(7)
    theta, mean, eta = w.detach().numpy().copy(), np.zeros(3), 0.02
    for k in range(7):
        made.step(lambda: w @ matrix @ w / 2)
        mean = 0.9 * mean + 0.1 * (h @ theta)
        if k % every == 0:
            v = torch.randn(3, generator=random, dtype=F64).numpy()
            v /= np.linalg.norm(v)
            for _ in range(products):
                v = h @ v / np.linalg.norm(h @ v)
            eta *= (2 / (eta * (v @ h @ v))) ** 0.3
        theta = theta - eta * mean
        np.testing.assert_allclose(w.detach().numpy(), theta, rtol=1e-10)
        assert made.eta == pytest.approx(eta)
    looks = len(range(0, 7, every))
    assert made.cost["hvps"] == looks * (products + 1)
    assert made.cost["gradients"] == 7


def test_the_proposal_comes_to_its_target_which_is_far_below_the_edge():
    w = weights(1.0, 1.0)
    scale = torch.tensor([1.0, 10.0], dtype=F64)
    made = Proposed([w], eta=1e-3, gamma=1.0, products=20)
    for _ in range(5):
        made.step(lambda: (scale * w**2).sum() / 2)
    assert made.eta * 10 == pytest.approx(2, rel=1e-6)
    assert gf.optim.stability_edge(made) == pytest.approx(38)
    assert made.sigma / made.edge == pytest.approx(2 / 38)
    entries = gf.optim.preconditioner(made, [w])
    torch.testing.assert_close(entries, torch.full((2,), made.eta, dtype=F64))


def test_the_proposal_where_curvature_is_negative_and_where_it_is_not():
    w = weights(1.0, 2.0)
    made = Proposed([w], eta=0.1, products=3)
    made.step(lambda: -(w**2).sum())
    assert made.eta == 0.1 and made.sharpness == pytest.approx(-2)
    for wrong, words in (({"gamma": 2.0}, "gamma"), ({"products": 0}, "products"),
                         ({"beta": 1.0}, "beta"), ({"eta": 0.0}, "eta")):  # fmt: skip
        with pytest.raises(InputError, match=words):
            Proposed([w], **wrong)


def test_injected_noise_has_the_length_that_is_said():
    lengths = []
    for seed in range(200):
        w = nn.Parameter(torch.ones(50, dtype=F64))
        made = Proposed([w], eta=0.1, gamma=0.01, noise=0.5, seed=seed)
        calm = 1 - made.eta * (2 / (made.eta * 1.0)) ** 0.01 / 2  # of H = 1
        made.step(lambda w=w: (w**2).sum() / 2)
        step = made.eta * 0.1 * 50**0.5
        off = w.detach() - (1 - made.eta * 0.1)
        lengths.append(float(off.norm()) / (0.5 * calm * step))
    # (Hv)/λ is exact for a multiple of the identity, so that σ is known.
    assert np.sqrt(np.mean(np.square(lengths))) == pytest.approx(1, rel=0.03)
    w = weights(1.0)
    beyond = Proposed([w], eta=30.0, gamma=0.01, noise=0.5)
    beyond.step(lambda: (w**2).sum() / 2)  # past its target: no noise
    assert float(w.detach()) == pytest.approx(1 - 0.1 * beyond.eta)


def test_the_proposal_goes_on_from_its_state():
    def pair():
        w = weights(1.0, -1.0)
        return w, Proposed([w], noise=0.1, every=2)

    loss = lambda w: ((w**2).sum() + (w**4).sum()) / 2  # noqa: E731
    w, made = pair()
    for _ in range(5):
        made.step(lambda: loss(w))
    other, resumed = pair()
    other.data.copy_(w.data)
    resumed.load_state_dict(copy.deepcopy(made.state_dict()))
    for _ in range(5):
        made.step(lambda: loss(w))
        resumed.step(lambda: loss(other))
    assert torch.equal(w, other) and made.eta == resumed.eta


def test_a_frozen_rate_never_looks_again():
    what, network, batches = digits()
    made = Frozen(network.parameters(), base="schedule-free")
    hvps, along = [], []
    for _ in range(150):
        x, y = next(batches)
        made.step(lambda x=x, y=y: what.loss(network(x), y))
        hvps.append(made.cost["hvps"])
        if made.frozen:
            along.append(made.eta / made._edge_before)
    assert len(along) > 80 and len(set(hvps[-len(along) :])) == 1
    assert max(along) == pytest.approx(min(along), rel=1e-9)


def test_a_range_test_finds_a_tenth_of_the_rate_with_the_least_loss():
    what = suite.suite_task("digits")
    make = entrants.ENTRANTS["adamw-finder"].make
    rate, cost = range_test(what, lambda net, lr: make(net, what, lr=lr), 0)
    assert 1e-4 < rate < 0.1 and 30 < cost["gradients"] <= 100 and cost["microseconds"] > 0
    # by hand
    network, batches = what.network(0), what.batches(10_000)
    adam = torch.optim.AdamW(network.parameters(), weight_decay=0.0)
    smooth, seen = 0.0, {}
    for k in range(cost["gradients"]):
        lr = 10 ** (-5 + 6 * k / 99)
        adam.param_groups[0]["lr"] = lr
        x, y = next(batches)
        adam.zero_grad()
        loss = what.loss(network(x), y)
        loss.backward()
        adam.step()
        smooth = 0.9 * smooth + 0.1 * float(loss)
        seen[lr] = smooth / (1 - 0.9 ** (k + 1))
    assert rate == pytest.approx(min(seen, key=seen.get) / 10)


# -- their names -----------------------------------------------------------------------------------


def test_labels_and_back():
    told = {"lr": 0.01, "warmup": 0, "decay": "constant", "horizon": 0.5}
    assert entrants.label(told) == "lr=0.01"
    told |= {"warmup": 0.05, "decay": "cosine"}
    text = "lr=0.01 warmup=0.05 decay=cosine horizon=0.5"
    assert entrants.label(told) == text and entrants.settings_of(text) == told
    with pytest.raises(InputError, match="Unknown method 'adam'"):
        entrants.entrant("adam")


def test_neighbours():
    rate = entrants.RATE
    assert rate.neighbours(0.01, 0.01) == [0.032, 0.0032]
    assert rate.neighbours(0.032, 0.01) == [0.1, 0.01]
    assert rate.neighbours(0.01, 0.01, fine=True) == [0.018, 0.0056]
    assert entrants.RHO.neighbours(1.6, 0.8) == [0.8]  # twice the edge is its natural end
    assert entrants.WARMUP.neighbours(0.05, 0) == [0.1, 0]
    assert set(entrants.DECAY.neighbours("constant", "constant")) == {"cosine", "linear"}
    for name, method in entrants.ENTRANTS.items():
        for batches in (False, True):
            start = method.start(batches)
            for axis in method.axes:
                assert axis.neighbours(start[axis.name], start[axis.name]), (name, axis.name)
            assert not math.isnan(sum(v for v in start.values() if not isinstance(v, str)))
