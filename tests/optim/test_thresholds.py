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


# -- several groups, and what an optimiser does not know -------------------------------------------

HESSIAN = torch.tensor([[2.0, 0.7, 0.1], [0.7, 1.0, -0.4], [0.1, -0.4, 3.0]], dtype=f64)


def growth_of_all(make, curvature, frozen):
    """Largest modulus of the map (θ, momenta) of torch's own step on θᵀHθ/2, groups and all."""

    def moved(start):
        theta, rest = start[:3], start[3:]
        parts = [torch.nn.Parameter(theta[:2].clone()), torch.nn.Parameter(theta[2:].clone())]
        optimizer = make(parts)
        buffers = frozen(optimizer, parts, rest.split([2, 1]))
        grads = curvature * HESSIAN @ theta
        for p, g in zip(parts, grads.split([2, 1]), strict=True):
            p.grad = g
        optimizer.step()
        after = [optimizer.state[p][buffers] for p in parts]
        return torch.cat([torch.cat([p.detach() for p in parts]), *after])

    zero = moved(torch.zeros(6, dtype=f64))
    columns = [(moved(TINY * row) - zero) / TINY for row in torch.eye(6, dtype=f64)]
    return float(torch.linalg.eigvals(torch.stack(columns).T).abs().max())


def adam_state(optimizer, parts, momenta):
    for p, m, t in zip(parts, momenta, (optimizer.ages), strict=True):
        optimizer.state[p].update(
            step=torch.tensor(float(t - 1)), exp_avg=m.clone(),
            exp_avg_sq=torch.full_like(p.detach(), 0.3) * torch.arange(1, len(p) + 1),
        )  # fmt: skip
    return "exp_avg"


def sgd_state(optimizer, parts, momenta):
    for p, m in zip(parts, momenta, strict=True):
        optimizer.state[p]["momentum_buffer"] = m.clone()
    return "momentum_buffer"


def adamw(ages, *decays):
    def make(parts):
        groups = [{"params": [p], "weight_decay": w} for p, w in zip(parts, decays, strict=True)]
        optimizer = torch.optim.AdamW(groups, lr=LR)
        optimizer.ages = ages
        return optimizer

    return make


def sgd(*decays, rates=(LR, LR)):
    def make(parts):
        settings = zip(parts, decays, rates, strict=True)
        groups = [{"params": [p], "weight_decay": w, "lr": h} for p, w, h in settings]
        return torch.optim.SGD(groups, lr=LR, momentum=0.9)

    return make


GROUPS = {
    "AdamW, decay and none": (adamw((50, 50), 0.1, 0.0), adam_state, 0.1 * LR / 2),
    "AdamW, one joined later": (adamw((50, 3), 0.0, 0.0), adam_state, 0.0),
    "AdamW, the first joined later": (adamw((1, 40), 0.1, 0.1), adam_state, 0.0),
    "SGD, decay and none": (sgd(0.5, 0.0), sgd_state, 0.5 * LR / 3.8),
    "SGD, two rates": (sgd(0.0, 0.0, rates=(LR, 3 * LR)), sgd_state, 0.0),
}


@pytest.mark.parametrize("make, frozen, spread", GROUPS.values(), ids=GROUPS)
def test_groups_have_one_edge(make, frozen, spread):
    """Against the whole map's eigenvalues: marginal at the edge, or at most the spread above it."""
    parts = [torch.nn.Parameter(torch.zeros(n, dtype=f64)) for n in (2, 1)]
    optimizer = make(parts)
    frozen(optimizer, parts, torch.zeros(3, dtype=f64).split([2, 1]))
    for p in parts:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    edge = gf.optim.stability_edge(optimizer)
    roots = gf.optim.preconditioner(optimizer, parts).sqrt()
    top = float(torch.linalg.eigvalsh(roots[:, None] * HESSIAN * roots)[-1])
    assert growth_of_all(make, (1 - 1e-4) * edge / top, frozen) < 1
    assert growth_of_all(make, (1 + 1e-4) * (1 + spread) * edge / top, frozen) > 1
    assert spread < 0.01


def test_groups_with_other_betas_or_too_much_decay_are_refused():
    a, b = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    with pytest.raises(InputError, match="different edges"):
        gf.optim.stability_edge(
            torch.optim.AdamW([{"params": [a]}, {"params": [b], "betas": (0.8, 0.999)}])
        )
    groups = [{"params": [a], "weight_decay": 1.0}, {"params": [b]}]
    with pytest.raises(InputError, match="different edges"):
        gf.optim.stability_edge(torch.optim.SGD(groups, lr=0.1))
    with pytest.raises(InputError, match="past the edge by itself"):
        gf.optim.stability_edge(torch.optim.SGD([a], lr=1.0, weight_decay=3.0))


@pytest.mark.parametrize(
    "kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad]
)
@pytest.mark.parametrize("lr", [0.0, torch.tensor(0.0), torch.tensor(0.1)])
def test_a_learning_rate_of_zero_or_as_a_tensor(kind, lr):
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = kind([p], lr=lr if isinstance(lr, float) or kind is not torch.optim.RMSprop else lr)
    p.grad = torch.ones(2)
    optimizer.step()
    assert math.isfinite(gf.optim.stability_edge(optimizer))
    entries = gf.optim.preconditioner(optimizer, [p])
    assert torch.isfinite(entries).all()
    assert bool((entries > 0).all()) == (float(lr) > 0)


def test_schedule_free_at_a_rate_of_zero_and_in_its_own_warm_up():
    kind = pytest.importorskip("schedulefree").AdamWScheduleFree
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = kind([p], lr=0.0)
    optimizer.train()
    assert gf.optim.stability_edge(optimizer) == 2  # of the first step at any rate
    p.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(gf.optim.preconditioner(optimizer, [p]), torch.zeros(2))
    optimizer = kind([p], lr=0.4, warmup_steps=10)
    optimizer.train()
    p.grad = torch.ones(2)
    optimizer.step()
    p.grad = torch.ones(2)
    scale = float(gf.optim.preconditioner(optimizer, [p])[0])
    z = optimizer.state[p]["z"].clone()
    optimizer.step()
    assert scale == pytest.approx(float((z - optimizer.state[p]["z"])[0]), rel=1e-3)


@pytest.mark.parametrize(
    "kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad]
)
def test_parameters_without_a_gradient_are_told_and_left_out(kind):
    a, b, c = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    optimizer = kind([{"params": [a, b]}, {"params": [c]}], lr=0.1, weight_decay=0.0)
    with pytest.raises(InputError, match="first step"):
        gf.optim.preconditioner(optimizer, [a, b, c])
    a.grad, b.grad = torch.tensor([1.0, 0.0]), torch.zeros(2)  # c has none at all
    optimizer.step()
    with pytest.warns(UserWarning, match="no gradient of parameter 1 of group 0, of shape") as seen:
        entries = gf.optim.preconditioner(optimizer, [a, b, c])
    assert "parameter 0 of group 1" in str(seen[0].message)
    assert entries[0] > 0
    assert torch.equal(entries[1:], torch.zeros(5))


def test_they_are_told_by_name_where_the_optimiser_knows_it():
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.named_parameters(), lr=0.1)
    model(torch.ones(1, 2)).sum().backward()
    model.bias.grad = None
    optimizer.step()
    with pytest.warns(UserWarning, match="no gradient of 'bias'"):
        gf.optim.preconditioner(optimizer, list(model.parameters()))


# -- our own optimisers ----------------------------------------------------------------------------

OURS = {
    "DAL": (lambda p: gf.optim.DAL(p, scale=0.5), 2.0),
    "DAL, momentum": (lambda p: gf.optim.DAL(p, momentum=0.9), 3.8),
    "DAL, each": (lambda p: gf.optim.DAL(p, per_parameter=True), 2.0),
    "CDAT, sgd": (lambda p: gf.optim.CDAT(p, "sgd", sigma=0.5), 2.0),
    "CDAT, adam": (lambda p: gf.optim.CDAT(p, sigma=0.1), thresholds.adam(0.9, 6)),
    "sgd": (lambda p: gf.optim.AdaEoS(p, "sgd"), 2.0),
    "momentum, decay": (
        lambda p: gf.optim.AdaEoS(p, "momentum", weight_decay=0.01),
        lambda o: thresholds.adam(0.9, 6, weight_decay=0.01 * o.eta),
    ),
    "adam": (lambda p: gf.optim.AdaEoS(p, lr=0.5), thresholds.adam(0.9, 6)),
    "schedule-free": (
        lambda p: gf.optim.AdaEoS(p, "schedule-free", weight_decay=0.01),
        lambda o: thresholds.schedule_free(0.9, o.averaging.share) - 0.01 * o.eta,
    ),
}


@pytest.mark.parametrize("make, edge", OURS.values(), ids=OURS)
def test_our_optimisers_have_an_edge_too(make, edge):
    """And their preconditioner is what multiplies a small change of the gradient in a step."""
    x = torch.randn(30, 3, dtype=f64, generator=torch.Generator().manual_seed(0))
    w = torch.nn.Parameter(torch.tensor([1.0, -0.5, 0.3], dtype=f64))
    optimizer = make([w])
    with pytest.raises(InputError, match="first step"):
        gf.optim.preconditioner(optimizer, [w])
    for _ in range(6):
        optimizer.step(lambda: (x @ w - x.sum(1)).tanh().square().mean())
    expected = edge(optimizer) if callable(edge) else edge
    assert gf.optim.stability_edge(optimizer) == pytest.approx(expected, rel=1e-12)
    entries = gf.optim.preconditioner(optimizer, [w])
    rate = getattr(optimizer, "eta", None) or optimizer.rate
    scales = (
        optimizer.moments.precondition([optimizer.state[w]])
        if hasattr(optimizer, "moments")
        else None
    )
    if "rates" in optimizer.state[w]:
        torch.testing.assert_close(entries, optimizer.state[w]["rates"])
    else:
        by_hand = torch.full((3,), rate, dtype=f64) * (scales[0] if scales else 1.0)
        torch.testing.assert_close(entries, by_hand * optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("base", ["sgd", "adam", "schedule-free"])
def test_the_monitor_sees_adaeos_at_its_target(base):
    """On a quadratic σ is ρ times the edge, and the monitor says so."""
    model = torch.nn.Linear(4, 1, bias=False).double()
    x = torch.randn(50, 4, dtype=f64, generator=torch.Generator().manual_seed(0))
    y = x @ torch.tensor([[1.0], [2.0], [-1.0], [0.5]], dtype=f64)
    loss = torch.nn.functional.mse_loss
    optimizer = gf.optim.AdaEoS(model.parameters(), base, refresh_every=1, gamma=1.0, trust=1e9)
    for _ in range(60):
        optimizer.step(lambda: loss(model(x), y) + 1)
    seen = gf.SharpnessMonitor(model, loss, (x, y), optimizer, tol=1e-6).measure()
    assert seen.ratio == pytest.approx(optimizer.sigma / optimizer.edge, rel=0.1)
    assert seen.edge == pytest.approx(optimizer.edge)


def test_the_monitor_sees_dal_at_its_edge():
    """On one curvature λ DAL has h = c/λ: with c = 2 the edge, with c = 1 half of it."""
    x = torch.ones(5, 1, dtype=f64)
    for scale in (2.0, 1.0):
        model = torch.nn.Linear(1, 1, bias=False).double()
        optimizer = gf.optim.DAL(model.parameters(), scale=scale, cap=1e9)
        optimizer.step(lambda m=model: torch.nn.functional.mse_loss(m(x), 3 * x))
        seen = gf.SharpnessMonitor(
            model, torch.nn.functional.mse_loss, (x, 3 * x), optimizer
        ).measure()
        assert seen.ratio == pytest.approx(scale / 2)
