"""suggest_lr against dense Hessians, and by trying what it says."""

import matplotlib
import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError

matplotlib.use("agg")
F64 = torch.float64
LOSS = torch.nn.functional.mse_loss


def regression():
    torch.manual_seed(0)
    x = torch.randn(30, 4, dtype=F64)
    y = x[:, :1] - x[:, 1:2]
    return torch.nn.Linear(4, 1, dtype=F64), (x, y)


OPTIMISERS = {
    "sgd": lambda p, lr: torch.optim.SGD(p, lr=lr),
    "momentum": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9),
    "decay": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.5, weight_decay=0.3),
    "nesterov": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, nesterov=True),
}


@pytest.mark.parametrize("make", OPTIMISERS.values(), ids=OPTIMISERS)
def test_just_below_it_converges_and_just_above_it_diverges(make):
    model, (x, y) = regression()
    said = gf.suggest_lr(model, LOSS, (x, y), make(model.parameters(), 1e-3), tol=1e-6)
    for factor, stable in ((0.98, True), (1.02, False)):
        model, _ = regression()
        optimizer = make(model.parameters(), factor * said.lr)
        for _ in range(3000):
            optimizer.zero_grad()
            LOSS(model(x), y).backward()
            optimizer.step()
        assert (max(float(p.abs().max()) for p in model.parameters()) < 10) == stable


def test_what_it_says_against_a_dense_hessian():
    model, data = regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    said = gf.suggest_lr(model, LOSS, data, optimizer)
    E = gf.Objective.from_module(model, LOSS, data)
    top = float(torch.linalg.eigvalsh(E.hessian(E.theta0))[-1])
    assert said.eigenvalue == pytest.approx(top, rel=1e-2)
    assert said.lr == pytest.approx(3.8 / top, rel=1e-2)
    assert (said.now, said.edge) == (0.01, pytest.approx(3.8))
    assert optimizer.param_groups[0]["lr"] == 0.01
    assert said.residual < 0.1


def test_adamw_after_its_first_steps():
    model, (x, y) = regression()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    with pytest.raises(InputError, match="not taken a step yet"):
        gf.suggest_lr(model, LOSS, (x, y), optimizer)
    for _ in range(5):
        optimizer.zero_grad()
        LOSS(model(x), y).backward()
        optimizer.step()
    said = gf.suggest_lr(model, LOSS, (x, y), optimizer, tol=1e-6)
    optimizer.param_groups[0]["lr"] = said.lr
    assert said.lr * said.eigenvalue == pytest.approx(gf.optim.stability_edge(optimizer), rel=1e-5)


def test_the_picture_has_its_minimum_below_the_edge():
    model, data = regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = [p.detach().clone() for p in model.parameters()]
    said = gf.suggest_lr(model, LOSS, data, optimizer)
    line = said.plot().lines[0]
    best = line.get_xdata()[line.get_ydata().argmin()]
    assert best < said.lr
    assert line.get_ydata()[-1] > line.get_ydata()[0]
    for p, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, old)


def test_what_cannot_be_suggested():
    model, data = regression()
    groups = [{"params": [model.weight], "lr": 0.1}, {"params": [model.bias], "lr": 0.2}]
    with pytest.raises(InputError, match="one common"):
        gf.suggest_lr(model, LOSS, data, torch.optim.SGD(groups))
    with pytest.raises(InputError, match="No direction curves upwards"):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        gf.suggest_lr(model, lambda out, y: -LOSS(out, y), data, optimizer)


def test_the_rate_in_use_does_not_matter():
    """At zero, the start of a warm-up, and as a tensor it is the same suggestion."""
    model, data = regression()
    said = [
        gf.suggest_lr(model, LOSS, data, make(model.parameters(), lr), tol=1e-8)
        for make in (OPTIMISERS["decay"],)
        for lr in (0.0, 1e-3, 0.5, torch.tensor(0.1))
    ]
    for one in said[1:]:
        assert one.lr == pytest.approx(said[0].lr, rel=1e-6)
        assert one.edge == pytest.approx(said[0].edge, rel=1e-6)
    assert [one.now for one in said] == [0.0, 1e-3, 0.5, pytest.approx(0.1)]
    assert len(said[0].plot().lines) == 2
    assert len(said[1].plot().lines) == 3


def test_adamw_with_usual_groups_in_a_warm_up():
    """Decay and no decay, at a rate of zero, against a dense Hessian."""
    model, (x, y) = regression()
    groups = [
        {"params": [model.weight], "weight_decay": 1e-3},
        {"params": [model.bias], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0)
    for _ in range(5):
        optimizer.zero_grad()
        LOSS(model(x), y).backward()
        optimizer.step()
    said = gf.suggest_lr(model, LOSS, (x, y), optimizer, tol=1e-8)
    assert optimizer.param_groups[0]["lr"] == 0.0
    E = gf.Objective.from_module(model, LOSS, (x, y))
    for group in optimizer.param_groups:
        group["lr"] = 1.0
    roots = gf.optim.preconditioner(optimizer, list(model.parameters())).sqrt()
    top = float(torch.linalg.eigvalsh(roots[:, None] * E.hessian(E.theta0) * roots)[-1])
    assert said.eigenvalue == pytest.approx(top, rel=1e-6)
    for group in optimizer.param_groups:
        group["lr"] = said.lr
    assert said.lr * top == pytest.approx(gf.optim.stability_edge(optimizer), rel=1e-6)
    groups[0]["weight_decay"] = 0.1
    with pytest.raises(InputError, match="different edges"):
        gf.suggest_lr(model, LOSS, (x, y), optimizer)


@pytest.mark.parametrize("make", [gf.optim.DAL, gf.optim.CDAT, gf.optim.AdaEoS])
def test_optimisers_that_choose_their_rate_are_refused(make):
    model, data = regression()
    with pytest.raises(InputError, match="chooses its rate by the curvature"):
        gf.suggest_lr(model, LOSS, data, make(model.parameters()))


def test_rates_that_cannot_be():
    model, data = regression()
    for lr in (-0.1, float("nan")):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer.param_groups[0]["lr"] = lr
        with pytest.raises(InputError, match="finite and not negative"):
            gf.suggest_lr(model, LOSS, data, optimizer)


def test_dropout_is_drawn_once_and_random_numbers_are_left_alone():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1)
    ).double()
    _, data = regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = torch.get_rng_state()
    said = [gf.suggest_lr(model, LOSS, data, optimizer, seed=0).lr for _ in range(2)]
    assert said[0] == said[1]
    assert torch.equal(torch.get_rng_state(), before)


def test_the_former_name_says_so_and_the_repr_holds_no_function():
    model, data = regression()
    said = gf.suggest_lr(model, LOSS, data, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.warns(DeprecationWarning, match="eigenvalue"):
        assert said.sharpness == said.eigenvalue
    assert "function" not in repr(said)
    assert "_losses" not in repr(said)
