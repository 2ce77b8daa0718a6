import itertools
import math

import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError
from gdflows.optim import thresholds

f64 = torch.float64
TINY = 1e-12  # of the state: its squares leave the second moments of an optimiser alone
LR = 0.01

SGDS = {
    "plain": {},
    "decay": {"weight_decay": 3.0},
    "heavy ball": {"momentum": 0.9},
    "heavy ball, decay": {"momentum": 0.7, "weight_decay": 5.0},
    "average": {"momentum": 0.9, "dampening": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "nesterov, decay": {"momentum": 0.6, "nesterov": True, "weight_decay": 2.0},
}
OPTIMISERS = {
    **{name: (torch.optim.SGD, options, None) for name, options in SGDS.items()},
    "adam": (torch.optim.Adam, {}, 4000),
    "adam, first step": (torch.optim.Adam, {}, 1),
    "adam, tenth step": (torch.optim.Adam, {"betas": (0.8, 0.99)}, 10),
    "amsgrad": (torch.optim.Adam, {"amsgrad": True}, 50),
    "adamw": (torch.optim.AdamW, {"weight_decay": 4.0}, 7),
    "rmsprop": (torch.optim.RMSprop, {}, 5),
    "rmsprop, momentum": (torch.optim.RMSprop, {"momentum": 0.8}, 5),
    "rmsprop, centred": (torch.optim.RMSprop, {"centered": True}, 5),
    "adagrad": (torch.optim.Adagrad, {"lr_decay": 0.1}, 5),
}


def step(kind, options, t, curvature, x, m):
    """(x, m) after torch's own step number t on ½ · curvature · x², and the optimiser after it."""
    p = torch.nn.Parameter(torch.tensor([x], dtype=f64))
    optimizer = kind([p], lr=LR, **options)
    state = optimizer.state[p]
    moments = torch.tensor([m], dtype=f64)
    if t is not None:
        state["step"] = torch.tensor(float(t - 1))
        state["exp_avg"] = state["grad_avg"] = moments
        state["exp_avg_sq"] = torch.tensor([0.3], dtype=f64)
        state["max_exp_avg_sq"] = torch.tensor([0.5], dtype=f64)
        state["square_avg"] = state["sum"] = torch.tensor([0.3], dtype=f64)
        if kind is torch.optim.RMSprop:
            state["grad_avg"] = torch.tensor([0.2], dtype=f64)
            state["momentum_buffer"] = moments
    else:
        state["momentum_buffer"] = moments
    p.grad = curvature * p.detach()
    optimizer.step()
    after = "exp_avg" if issubclass(kind, torch.optim.Adam) else "momentum_buffer"
    used = after == "exp_avg" or options.get("momentum")
    return p.item(), state[after].item() if used else 0.0, optimizer, p


def radius(kind, options, t, curvature):
    columns = [step(kind, options, t, curvature, *start)[:2] for start in ((TINY, 0), (0, TINY))]
    zero = np.array(step(kind, options, t, curvature, 0.0, 0.0)[:2])
    return np.abs(np.linalg.eigvals((np.array(columns) - zero).T / TINY)).max()


@pytest.mark.parametrize("name", OPTIMISERS)
def test_the_linearised_step_is_marginal_at_the_edge(name):
    kind, options, t = OPTIMISERS[name]
    *_, optimizer, p = step(kind, options, t, 1.0, TINY, TINY)
    edge = gf.optim.stability_edge(optimizer)
    curvature = edge / float(gf.optim.preconditioner(optimizer, [p]))
    assert radius(kind, options, t, curvature) == pytest.approx(1, abs=1e-9)
    assert radius(kind, options, t, 0.99 * curvature) < 1 - 1e-5
    assert radius(kind, options, t, 1.01 * curvature) > 1 + 1e-5


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.98])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
def test_schedule_free_averaging_is_marginal_at_its_edge(beta, share):
    def growth(x):
        y = np.array([1 - beta, beta])  # of (z, x)
        z = np.array([1.0, 0.0]) - x * y
        average = (1 - share) * np.array([0.0, 1.0]) + share * z
        return np.abs(np.linalg.eigvals(np.array([z, average])))

    edge = thresholds.schedule_free(beta, share)
    at_rest = 1 if share == 0 else 0  # an average that takes nothing in stays what it is
    assert sorted(growth(edge))[-1] == pytest.approx(1, abs=1e-12)
    assert (growth(0.99 * edge) < 1 - 1e-5).sum() == 2 - at_rest
    assert growth(1.01 * edge).max() > 1 + 1e-5


@pytest.mark.parametrize("taken, decay", [(1, 0.0), (7, 0.0), (400, 0.0), (7, 4.0)])
def test_the_schedule_free_package_is_marginal_at_its_edge(taken, decay):
    kind = pytest.importorskip("schedulefree").AdamWScheduleFree

    def step(curvature, y, z):
        """(y, z) after the package's own step, and the optimiser before it."""
        p = torch.nn.Parameter(torch.tensor([y], dtype=f64))
        optimizer = kind([p], lr=LR, weight_decay=decay)
        optimizer.train()
        optimizer.state[p].update(
            z=torch.tensor([z], dtype=f64), exp_avg_sq=torch.tensor([0.3], dtype=f64)
        )
        optimizer.param_groups[0].update(k=taken, lr_max=LR, weight_sum=taken * LR**2)
        edge = gf.optim.stability_edge(optimizer)
        scale = float(gf.optim.preconditioner(optimizer, [p]))
        p.grad = curvature * p.detach()
        optimizer.step()
        after = float(gf.optim.preconditioner(optimizer, [p]))  # v has moved on, with g = 0
        return (p.item(), optimizer.state[p]["z"].item()), edge, scale, after

    _, edge, scale, after = step(0.0, 0.0, 0.0)
    assert scale != after

    def growth(part):
        columns = [step(part * edge / after, *start)[0] for start in ((TINY, 0.0), (0.0, TINY))]
        return np.abs(np.linalg.eigvals(np.array(columns).T / TINY)).max()

    assert growth(1.0) == pytest.approx(1, abs=1e-9)
    assert growth(1.01) > 1 + 1e-5
    assert growth(0.99) < 1 - 1e-5


def test_known_values():
    weights = [torch.nn.Parameter(torch.ones(2))]
    assert gf.optim.stability_edge(torch.optim.SGD(weights, lr=0.1)) == 2
    assert thresholds.heavy_ball(0.9) == pytest.approx(3.8)
    assert thresholds.heavy_ball(0.9, dampening=0.9) == pytest.approx(38)
    assert thresholds.nesterov(0.9) == pytest.approx(3.8 / 2.8)
    assert thresholds.adam(0.9) == pytest.approx(38)
    assert thresholds.adam(0.9, 1) == pytest.approx(3.8)
    assert thresholds.schedule_free(0.9) == pytest.approx(20)
    assert thresholds.schedule_free(0.9, 1.0) == pytest.approx(2)


@pytest.mark.parametrize("batch, replacement", [(1, True), (1, False), (2, True), (2, False)])
def test_sgd_in_mean_square_against_all_batches(batch, replacement):
    roots = torch.randn(4, 3, 2, dtype=f64, generator=torch.Generator().manual_seed(0))
    hessians = roots @ roots.mT  # rank 2 each, rank 3 together
    eta = thresholds.sgd_mean_square(hessians, batch, replacement=replacement)
    drawn = itertools.product if replacement else itertools.combinations
    batches = list(drawn(range(4), repeat=batch)) if replacement else list(drawn(range(4), batch))

    def growth(lr):
        maps = [torch.eye(3, dtype=f64) - lr * hessians[list(b)].mean(0) for b in batches]
        return float(
            torch.linalg.eigvals(sum(torch.kron(a, a) for a in maps) / len(maps)).abs().max()
        )

    assert growth(eta) == pytest.approx(1, abs=1e-12)
    assert growth(0.99 * eta) < 1 < growth(1.01 * eta)


def test_sgd_in_one_dimension():
    curvatures = torch.tensor([1.0, 2.0, 6.0], dtype=f64)
    relative = float(curvatures.var(correction=0)) / 9
    eta = thresholds.sgd_mean_square(curvatures, 1, replacement=True)
    assert eta * 3 == pytest.approx(2 / (1 + relative))
    assert thresholds.sgd_mean_square(curvatures, 3) * 3 == pytest.approx(2)
    assert thresholds.sgd_mean_square(torch.zeros(3), 1) == math.inf


def test_groups():
    a, b, c = (torch.nn.Parameter(torch.ones(n)) for n in (2, 1, 3))
    two = torch.optim.SGD([{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.4}], momentum=0.5)
    assert gf.optim.stability_edge(two) == 3
    rates = gf.optim.preconditioner(two, [a, c, b])
    assert torch.allclose(rates, torch.tensor([0.1, 0.1, 0, 0, 0, 0.4]))
    two.param_groups[1]["momentum"] = 0.9
    with pytest.raises(InputError, match="different edges"):
        gf.optim.stability_edge(two)


def test_errors_name_the_remedy():
    p = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(InputError, match="LBFGS is not known"):
        gf.optim.stability_edge(torch.optim.LBFGS([p]))
    with pytest.raises(InputError, match="climbs"):
        gf.optim.stability_edge(torch.optim.SGD([p], lr=0.1, maximize=True))
    with pytest.raises(InputError, match="use AdamW"):
        gf.optim.stability_edge(torch.optim.Adam([p], weight_decay=0.1))
    with pytest.raises(InputError, match="first step"):
        gf.optim.preconditioner(torch.optim.Adam([p]), [p])
    with pytest.raises(InputError, match="beta must"):
        thresholds.heavy_ball(1.0)
    with pytest.raises(InputError, match="share must"):
        thresholds.schedule_free(0.9, 1.5)
    with pytest.raises(InputError, match="cannot be drawn"):
        thresholds.sgd_mean_square(torch.ones(3), 4)
