"""Copies, checkpoints, groups, schedulers, units and memory: what torch's own optimisers keep."""

import copy
import io
import math
import pickle

import pytest
import torch
from test_evaluation import EVERY, F64, LOSS, MAKERS, X, Y, flat, network, train
from torch import nn

from gdflows.errors import InputError
from gdflows.optim import CDAT, DAL, AdaEoS

BASES = pytest.mark.parametrize("base", ["sgd", "momentum", "adam", "schedule-free"])


def saved(pair):
    file = io.BytesIO()
    torch.save(pair, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "optimiser first": lambda pair: copy.deepcopy(pair[::-1])[::-1],
    "pickle": lambda pair: pickle.loads(pickle.dumps(pair)),
    "torch.save": saved,
}


@EVERY
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_goes_on_to_the_same_bits(make, copied):
    model = network()
    optimizer = make(model.parameters())
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)  # it patches optimizer.step
    train(model, optimizer, 9)
    again, other = copied((model, optimizer))
    assert other.param_groups[0]["params"][0] is next(again.parameters())
    rest = train(again, other, 8)
    assert rest == train(model, optimizer, 8)
    assert torch.equal(flat(again), flat(model))
    assert other.cost == optimizer.cost
    assert schedule.optimizer is optimizer


def test_a_copy_refuses_what_was_accumulated():
    """Where a copy has gradients at all: of plain tensors, which keep theirs."""
    w = torch.ones(3, dtype=F64, requires_grad=True)
    optimizer = DAL([w], scale=0.5)
    optimizer.step(lambda: w.square().sum())
    v, other = copy.deepcopy((w, optimizer))
    assert v.grad is not None
    other.step(lambda: v.square().sum())  # left by a step
    (w.square().sum()).backward()
    v, other = copy.deepcopy((w, optimizer))
    with pytest.raises(InputError, match="list of closures"):
        other.step(lambda: v.square().sum())


# -- settings --------------------------------------------------------------------------------------

MISMATCHES = {
    "p": (DAL, {"p": 0.5}, ["p is 1.0 there, 0.5 here"]),
    "scale": (DAL, {"scale": 1.0}, ["scale is None there, 1.0 here"]),
    "momentum": (DAL, {"momentum": 0.9}, ["momentum is 0.0 there, 0.9 here"]),
    "cap": (DAL, {"cap": math.inf}, ["cap"]),
    "hvp": (DAL, {"hvp": "difference"}, ["hvp is 'auto' there, 'difference' here"]),
    "max_norm": (CDAT, {"max_norm": 1.0}, ["max_norm is None there"]),
    "sigma": (CDAT, {"sigma": 2.0, "average": 0.5}, ["average is 0.9", "sigma is 1.0 there"]),
    "betas": (CDAT, {"betas": (0.8, 0.999)}, ["betas"]),
    "base": (AdaEoS, {"base": "schedule-free"}, ["base is 'adam'", "stochastic is False"]),
    "rho": (AdaEoS, {"rho": 0.5, "gamma": 0.2}, ["gamma is 0.1", "rho is 0.8"]),
    "guards": (AdaEoS, {"lower_bound": -1.0, "trust": 1.0}, ["lower_bound", "trust"]),
    "walk": (AdaEoS, {"base": "schedule-free", "walk": 1.0}, ["walk is None there, 1.0 here"]),
    "decay": (AdaEoS, {"weight_decay": 0.1}, ["weight_decay is 0.0 there, 0.1 here"]),
}


@pytest.mark.parametrize("make, other, words", MISMATCHES.values(), ids=MISMATCHES)
def test_a_state_of_other_settings_is_refused(make, other, words):
    model = network()
    optimizer = make(model.parameters())
    train(model, optimizer, 5)
    state = optimizer.state_dict()
    changed = make(model.parameters(), **other)
    before = copy.deepcopy(changed.state_dict())
    with pytest.raises(InputError, match="other settings") as caught:
        changed.load_state_dict(state)
    for word in words:
        assert word in str(caught.value)
    assert changed.state_dict()["extra"].keys() == before["extra"].keys()
    assert not changed.state_dict()["state"]
    make(model.parameters()).load_state_dict(state)


def test_a_state_of_another_optimiser_is_refused():
    model = network()
    with pytest.raises(InputError, match="optimizer is 'DAL' there, 'CDAT' here"):
        CDAT(model.parameters()).load_state_dict(DAL(model.parameters()).state_dict())
    with pytest.raises(InputError, match="no state of AdaEoS"):
        AdaEoS(model.parameters()).load_state_dict(
            torch.optim.Adam(model.parameters()).state_dict()
        )
    old = DAL(model.parameters()).state_dict()
    del old["extra"]["settings"]
    with pytest.warns(UserWarning, match="before settings"):
        DAL(model.parameters()).load_state_dict(old)


def test_a_learning_rate_is_the_state_s():
    """As with torch: schedulers have changed it."""
    model = network()
    optimizer = DAL(model.parameters())
    optimizer.param_groups[0]["lr"] = 0.25
    other = DAL(model.parameters(), lr=0.5)
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["lr"] == 0.25


# -- parameters that join, and groups --------------------------------------------------------------


def joined(base, way, steps=(6, 8)):
    """(path with the first layer joining later, the optimiser, the model)."""
    model = network()
    fixed = {"lr": 0.02}
    if way == "unfreeze":
        model[0].requires_grad_(False)
        optimizer = AdaEoS(model.parameters(), base)
    else:
        optimizer = AdaEoS(model[2].parameters(), base)
    optimizer._first_rate = lambda seen, states: setattr(optimizer, "eta", fixed["lr"])
    optimizer.moments.edge = lambda count: 1.0
    optimizer.trust, optimizer._refresh = 1e9, lambda seen, edge: None
    for n in steps:
        for _ in range(n):
            if optimizer.averaging:
                optimizer._edge_before = optimizer.edge
            optimizer.eta = fixed["lr"]
            optimizer.step(lambda: LOSS(model(X), Y))
        if way == "unfreeze":
            model[0].requires_grad_(True)
        elif len(optimizer.param_groups) == 1:
            optimizer.add_param_group({"params": model[0].parameters()})
    return optimizer, model


@pytest.mark.parametrize("way", ["unfreeze", "add_param_group"])
@pytest.mark.parametrize("base", ["sgd", "adam"])
def test_a_parameter_that_joins_moves_as_in_torch(base, way):
    """torch's SGD and Adam, which count each parameter's own steps, at the same rate."""
    _, model = joined(base, way)
    other = network()
    other[0].requires_grad_(False)
    kind = torch.optim.Adam if base == "adam" else torch.optim.SGD
    theirs = kind(other.parameters(), lr=0.02)
    for k in range(14):
        if k == 6:
            other[0].requires_grad_(True)
        theirs.zero_grad()
        LOSS(other(X), Y).backward()
        theirs.step()
    torch.testing.assert_close(flat(model), flat(other), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("way", ["unfreeze", "add_param_group"])
def test_a_parameter_that_joins_an_average_stood_still_before(way):
    """z, x and y by the equations, with the second moment's own count."""
    optimizer, model = joined("schedule-free", way)
    start = network()
    parameters = list(start.parameters())
    z, x = ([p.detach().clone() for p in parameters] for _ in range(2))
    v, counts = [torch.zeros_like(p) for p in parameters], [0] * 4
    for k in range(14):
        with torch.no_grad():
            for p, a, b in zip(parameters, z, x, strict=True):
                p.copy_(0.1 * a + 0.9 * b)
        grads = torch.autograd.grad(LOSS(start(X), Y), parameters)
        for i, g in enumerate(grads):
            if i < 2 and k < 6:
                continue
            counts[i] += 1
            v[i] = 0.999 * v[i] + 0.001 * g**2
            z[i] = z[i] - 0.02 * g / ((v[i] / (1 - 0.999 ** counts[i])).sqrt() + 1e-8)
        c = 1 / (k + 1)
        x = [(1 - c) * a + c * b for a, b in zip(x, z, strict=True)]
    optimizer.eval()
    torch.testing.assert_close(flat(model), torch.cat([p.flatten() for p in x]))


@BASES
@pytest.mark.parametrize("way", ["unfreeze", "add_param_group"])
@pytest.mark.parametrize("make", [AdaEoS, CDAT, DAL])
def test_it_trains_on_when_parameters_join(base, way, make):
    if make is DAL and base != "sgd" or make is CDAT and base == "schedule-free":
        return
    settings = {} if make is DAL else {"base": base}
    model = network()
    if way == "unfreeze":
        model[0].requires_grad_(False)
        optimizer = make(model.parameters(), **settings)
    else:
        optimizer = make(model[2].parameters(), **settings)
    early = train(model, optimizer, 15)
    before = flat(model[0])
    if way == "unfreeze":
        model[0].requires_grad_(True)
    else:
        optimizer.add_param_group({"params": model[0].parameters()})
    late = train(model, optimizer, 40)
    assert late[-1] < early[-1]
    assert not torch.equal(flat(model[0]), before)
    if make is AdaEoS:  # D, with unequal counts, against the eigenvalue that it follows
        torch.manual_seed(0)
        again, other = network(), None
        again.load_state_dict(model.state_dict())
        other = make(again.parameters() if way == "unfreeze" else again[2].parameters(), **settings)
        if way != "unfreeze":
            other.add_param_group({"params": again[0].parameters()})
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        assert train(again, other, 5) == train(model, optimizer, 5)


def test_a_guard_knows_parameters_that_joined():
    model = network()
    model[0].requires_grad_(False)
    optimizer = AdaEoS(model.parameters())
    train(model, optimizer, 9)
    model[0].requires_grad_(True)
    before = flat(model[0])
    optimizer.step(lambda: LOSS(model(X), Y) * math.nan)
    optimizer.step(lambda: LOSS(model(X), Y))
    optimizer.step(lambda: LOSS(model(X), Y) * math.nan)
    assert torch.equal(flat(model[0]), before)
    train(model, optimizer, 9)
    assert torch.isfinite(flat(model)).all()


@pytest.mark.parametrize(
    "group, words",
    [
        ({"weight_decay": 0.1}, "weight_decay, which DAL does not have"),
        ({"scale": 1.0}, "scale, which DAL does not have"),
        ({"lr": -1.0}, "a group's lr must be"),
        ({"lr": math.nan}, "a group's lr must be"),
    ],
)
def test_groups_that_cannot_be(group, words):
    model = network()
    with pytest.raises(InputError, match=words):
        DAL([{"params": model.parameters()} | group])
    optimizer = DAL(model[0].parameters())
    with pytest.raises(InputError, match=words):
        optimizer.add_param_group({"params": model[2].parameters()} | group)
    with pytest.raises(InputError, match="float32 or float64"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2).bfloat16())]})
    with pytest.raises(InputError, match="without a shape"):
        optimizer.add_param_group({"params": nn.LazyLinear(3).parameters()})
    assert len(optimizer.param_groups) == 1


# -- schedulers ------------------------------------------------------------------------------------


def test_one_cycle_moves_dal_s_momentum_and_its_scale_follows():
    model, other = network(), network()
    optimizer = DAL(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=12)
    by_hand = DAL(other.parameters(), momentum=0.95)
    for _ in range(10):
        by_hand.param_groups[0].update(
            {key: optimizer.param_groups[0][key] for key in ("lr", "momentum")}
        )
        optimizer.step(lambda: LOSS(model(X), Y))
        by_hand.step(lambda: LOSS(other(X), Y))
        schedule.step()
        assert optimizer.scale == by_hand.scale == 0.5
        assert 0.85 <= optimizer.param_groups[0]["momentum"] <= 0.95
    assert torch.equal(flat(model), flat(other))
    assert DAL(model.parameters(), scale=1.5, momentum=0.5).scale == 1.5


@pytest.mark.parametrize("make", [CDAT, AdaEoS])
def test_one_cycle_elsewhere_moves_the_rate_only(make):
    optimizer = make(network().parameters())
    with pytest.raises(ValueError, match="cycle_momentum"):
        torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=12)
    torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=12, cycle_momentum=False)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1 / 25)


@EVERY
def test_a_rate_of_zero_and_a_rate_as_a_tensor(make):
    model = network()
    optimizer = make(model.parameters())
    optimizer.param_groups[0]["lr"] = 0.0  # the start of a warm-up
    before = flat(model)
    train(model, optimizer, 5)
    assert torch.equal(flat(model), before)
    paths = []
    for lr in (0.5, torch.tensor(0.5, dtype=F64)):
        model = network()
        optimizer = make(model.parameters())
        optimizer.param_groups[0]["lr"] = lr
        train(model, optimizer, 6)
        paths.append(flat(model))
    assert torch.equal(*paths)


# -- units of the loss -----------------------------------------------------------------------------

UNITLESS = {
    "DAL": lambda p: DAL(p, cap=math.inf),
    "DAL-momentum": lambda p: DAL(p, momentum=0.5, cap=math.inf),
    "DAL-each": lambda p: DAL(p, per_parameter=True, cap=math.inf),
    "CDAT-sgd": lambda p: CDAT(p, "sgd"),
    "CDAT-momentum": lambda p: CDAT(p, "momentum"),
    "CDAT-adam": lambda p: CDAT(p, "adam", eps=1e-30),
    "sgd": lambda p: AdaEoS(p, "sgd"),
    "sgd, noisy": lambda p: AdaEoS(p, "sgd", stochastic=True),
    "momentum": lambda p: AdaEoS(p, "momentum"),
    "adam": lambda p: AdaEoS(p, "adam", eps=1e-30),
    "schedule-free": lambda p: AdaEoS(p, "schedule-free", eps=1e-30),
    "schedule-free, walk": lambda p: AdaEoS(p, "schedule-free", eps=1e-30, walk=1.5),
}


@pytest.mark.parametrize("make", UNITLESS.values(), ids=UNITLESS)
@pytest.mark.parametrize("unit", [2.0**-20, 2.0**20])
def test_the_loss_has_no_units(make, unit):
    paths = []
    for scale in (1.0, unit):
        model = network()
        optimizer = make(model.parameters())
        for _ in range(25):
            optimizer.step(lambda m=model, s=scale: s * LOSS(m(X), Y))
        paths.append(flat(model))
    assert float((paths[0] - flat(network())).norm()) > 1e-2
    torch.testing.assert_close(*paths, rtol=1e-12, atol=1e-14)


@BASES
def test_a_negative_loss_needs_its_lower_bound(base):
    paths = []
    for shift in (0.0, 3.0):
        model = network()
        optimizer = AdaEoS(model.parameters(), base, lower_bound=-shift)
        for _ in range(30):
            optimizer.step(lambda m=model, s=shift: LOSS(m(X), Y) - s)
        paths.append(flat(model))
    torch.testing.assert_close(*paths, rtol=1e-7, atol=1e-9)
    model = network()
    before = flat(model)
    with pytest.raises(InputError, match="below lower_bound = 0"):
        AdaEoS(model.parameters(), base).step(lambda: LOSS(model(X), Y) - 3.0)
    assert torch.equal(flat(model), before)


@pytest.mark.parametrize("make", [DAL, CDAT])
def test_dal_and_cdat_do_not_look_at_the_loss_s_value(make):
    paths = []
    for shift in (0.0, 1.0):
        model = network()
        optimizer = make(model.parameters())
        for _ in range(10):
            optimizer.step(lambda m=model, s=shift: LOSS(m(X), Y) - s)
        paths.append(flat(model))
    torch.testing.assert_close(*paths, rtol=1e-9, atol=1e-12)


@BASES
def test_a_first_batch_without_a_loss(base):
    """A hinge that is satisfied: nothing is learned from it, and nothing trips."""
    model = network()
    optimizer = AdaEoS(model.parameters(), base, weight_decay=0.1)
    before = flat(model)
    for _ in range(5):
        optimizer.step(lambda: (model(X) - 100).relu().mean())
    assert torch.equal(flat(model), before)
    other = network()
    fresh = AdaEoS(other.parameters(), base, weight_decay=0.1)
    assert train(model, optimizer, 20) == train(other, fresh, 20)
    assert optimizer.trips == 0


@BASES
def test_parameters_that_start_at_zero(base):
    """Their length says nothing about a first step."""
    model = nn.Linear(6, 1).double()
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    y = X[:, :1] + 1
    optimizer = AdaEoS(model.parameters(), base)
    losses = [float(optimizer.step(lambda: LOSS(model(X), y))) for _ in range(60)]
    assert losses[-1] < 0.1 * losses[0]


# -- memory ----------------------------------------------------------------------------------------

KEPT = {
    "DAL": 0, "DAL-momentum": 1, "DAL-each": 1, "CDAT": 2, "AdaEoS": 4, "AdaEoS-sgd": 2,
    "AdaEoS-free": 4, "AdaEoS-walk": 6, "AdaEoS-momentum": 4,
}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_numbers_kept_for_each_parameter(name):
    """As the docstrings say; never more than four, a parameter and its gradient apart."""
    model = network()
    optimizer = MAKERS[name](model.parameters())
    train(model, optimizer, 30)
    numbers = sum(
        value.numel()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )
    assert numbers == KEPT[name] * sum(p.numel() for p in model.parameters())
    others = [v for v in vars(optimizer).values() if isinstance(v, (torch.Tensor, list))]
    assert not any(isinstance(x, torch.Tensor) for v in others for x in v)
