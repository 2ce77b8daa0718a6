"""Closures and products as curvature-aware optimisers see them; what they owe their users."""

import copy
import os
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

import gdflows as gf
from gdflows.errors import InputError, NonFiniteError
from gdflows.optim import CDAT, DAL, AdaEoS
from gdflows.optim.evaluation import CurvatureOptimizer

F64 = torch.float64
X = torch.randn(40, 6, dtype=F64, generator=torch.Generator().manual_seed(0))
Y = torch.sin(X[:, :2].sum(1, keepdim=True))
LOSS = nn.functional.mse_loss

MAKERS = {
    "DAL": lambda p, **k: DAL(p, scale=1.0, **k),
    "DAL-momentum": lambda p, **k: DAL(p, momentum=0.5, **k),
    "DAL-each": lambda p, **k: DAL(p, per_parameter=True, **k),
    "CDAT": lambda p, **k: CDAT(p, **k),
    "AdaEoS": lambda p, **k: AdaEoS(p, **k),
    "AdaEoS-sgd": lambda p, **k: AdaEoS(p, base="sgd", stochastic=True, **k),
    "AdaEoS-free": lambda p, **k: AdaEoS(p, base="schedule-free", stochastic=True, **k),
    "AdaEoS-walk": lambda p, **k: AdaEoS(p, base="schedule-free", walk=0.9, **k),
    "AdaEoS-momentum": lambda p, **k: AdaEoS(p, base="momentum", weight_decay=0.01, **k),
}
EVERY = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def network(*extra, dtype=F64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), *extra, nn.Linear(8, 1)).to(dtype)


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def train(model, optimizer, steps, batches=None):
    losses = []
    for k in range(steps):
        rows = slice(None) if batches is None else batches[k]
        losses.append(float(optimizer.step(lambda rows=rows: LOSS(model(X[rows]), Y[rows]))))
    return losses


class Probe(CurvatureOptimizer):
    """Takes no step; shows the evaluation."""

    def __init__(self, params, hvp="auto"):
        super().__init__(params, {"lr": 1.0}, hvp=hvp)

    def step(self, closure):
        return self._evaluate(closure, products=True)


# -- products --------------------------------------------------------------------------------------


@pytest.mark.parametrize("hvp, tolerance", [("exact", 1e-12), ("difference", 1e-6)])
def test_gradient_and_product(hvp, tolerance):
    model = network()
    E = gf.Objective.from_module(model, LOSS, (X, Y))
    seen = Probe(model.parameters(), hvp).step(lambda: LOSS(model(X), Y))
    vectors = [torch.randn_like(p) for p in model.parameters()]
    product = torch.cat([part.flatten() for part in seen.product(vectors)])
    v = torch.cat([part.flatten() for part in vectors])
    assert seen.loss == pytest.approx(float(E.value(E.theta0)), rel=1e-14)
    torch.testing.assert_close(torch.cat([g.flatten() for g in seen.grads]), E.grad(E.theta0))
    true = E.hvp(E.theta0, v)
    assert float((product - true).norm()) < tolerance * float(true.norm())
    assert torch.equal(flat(model), E.theta0)  # to the bit


def test_microbatches_add_up_to_the_batch():
    model = network()
    parts = [lambda rows=rows: LOSS(model(X[rows]), Y[rows]) for rows in torch.arange(40).chunk(4)]
    whole = Probe(model.parameters()).step(lambda: LOSS(model(X), Y))
    sums = Probe(model.parameters()).step(parts)
    vectors = [torch.randn_like(p) for p in model.parameters()]
    assert sums.loss == pytest.approx(whole.loss, rel=1e-14)
    for a, b in zip(sums.grads, whole.grads, strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(sums.product(vectors), whole.product(vectors), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("hvp", ["exact", "difference"])
def test_dropout_is_the_same_in_a_product_and_goes_on_after_it(hvp):
    model = network(nn.Dropout(0.5))
    probe = Probe(model.parameters(), hvp)
    torch.manual_seed(3)
    seen = probe.step(lambda: LOSS(model(X), Y))
    after = torch.get_rng_state()
    products = [seen.product(seen.grads) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), after)
    torch.manual_seed(3)
    fixed = nn.functional.dropout(torch.ones(40, 8, dtype=F64), 0.5)

    def loss(theta):
        w1, b1, w2, b2 = theta.split([48, 8, 8, 1])
        return LOSS((torch.tanh(X @ w1.view(8, 6).T + b1) * fixed) @ w2[:, None] + b2, Y)

    E = gf.Objective(loss, 65)
    true = E.hvp(flat(model), torch.cat([g.flatten() for g in seen.grads]))
    for product in products:
        got = torch.cat([part.flatten() for part in product])
        assert float((got - true).norm()) < 1e-5 * float(true.norm())


def test_products_leave_running_statistics_alone():
    model = network(nn.BatchNorm1d(8))
    seen = Probe(model.parameters(), "difference").step(lambda: LOSS(model(X), Y))
    before = copy.deepcopy(model.state_dict())
    seen.product(seen.grads)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert int(before["2.num_batches_tracked"]) == 1


class NoSecond(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0].cos()


def test_without_a_second_derivative_differences_step_in():
    model = network()

    def loss():
        return LOSS(NoSecond.apply(model(X)), Y)

    with pytest.warns(UserWarning, match="by differences of gradients"):
        seen = Probe(model.parameters()).step(loss)
        product = seen.product(seen.grads)
    E = gf.Objective.from_module(nn.Sequential(model, Sine()), LOSS, (X, Y))
    true = E.hvp(E.theta0, torch.cat([g.flatten() for g in seen.grads]))
    got = torch.cat([part.flatten() for part in product])
    assert float((got - true).norm()) < 1e-5 * float(true.norm())
    with pytest.raises(InputError, match="hvp='difference'"):
        seen = Probe(model.parameters(), "exact").step(loss)
        seen.product(seen.grads)


class Sine(nn.Module):
    def forward(self, x):
        return x.sin()


def test_a_compiled_model_works_with_a_warning():
    model = network()
    compiled = torch.compile(model, backend="aot_eager")
    optimizer = AdaEoS(model.parameters(), base="sgd")
    with pytest.warns(UserWarning, match="torch.compile"):  # when curvature is first asked for
        first = [float(optimizer.step(lambda: LOSS(compiled(X), Y))) for _ in range(4)][0]
    assert optimizer.hvp == "difference"
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*by differences")
        last = [float(optimizer.step(lambda: LOSS(compiled(X), Y))) for _ in range(20)][-1]
    assert last < first


def test_autocast_with_parameters_in_single_precision():
    model = network(dtype=torch.float32)
    x, y = X.float(), Y.float()

    def loss():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return LOSS(model(x).float(), y)

    optimizer = AdaEoS(model.parameters())
    losses = [float(optimizer.step(loss)) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


# -- what every one of them owes -------------------------------------------------------------------


@EVERY
def test_it_trains(make):
    model = network()
    losses = train(model, make(model.parameters()), 60)
    assert losses[-1] < 0.7 * losses[0]


@EVERY
def test_resumed_to_the_same_bits(make, tmp_path):
    batches = [
        torch.randperm(40, generator=torch.Generator().manual_seed(k))[:20] for k in range(30)
    ]
    model = network()
    whole = make(model.parameters())
    losses = train(model, whole, 30, batches)
    half = network()
    optimizer = make(half.parameters())
    early = train(half, optimizer, 13, batches)
    torch.save({"model": half.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    kept = torch.load(tmp_path / "c.pt", weights_only=True)
    again = network()
    again.load_state_dict(kept["model"])
    optimizer = make(again.parameters())
    optimizer.load_state_dict(kept["optimizer"])
    assert early + train(again, optimizer, 17, batches[13:]) == losses
    assert torch.equal(flat(again), flat(model))
    assert optimizer.cost == whole.cost


@EVERY
def test_a_scheduler_multiplies(make):
    """At half the factor the first step is half as long, in the same direction."""
    moves = []
    for factor in (1.0, 0.5):
        model = network()
        start = flat(model)
        optimizer = make(model.parameters())
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k, factor=factor: factor)
        train(model, optimizer, 1)
        schedule.step()
        assert optimizer.param_groups[0]["lr"] == factor
        moves.append(flat(model) - start)
    if "weight_decay" in optimizer.param_groups[0] and optimizer.param_groups[0]["weight_decay"]:
        assert float(moves[1].norm() / moves[0].norm()) == pytest.approx(0.5, rel=1e-2)
    else:
        torch.testing.assert_close(moves[1], moves[0] / 2)


@EVERY
def test_groups_may_differ_in_their_factor(make):
    model = network()
    first, last = model[0], model[2]
    groups = [{"params": first.parameters()}, {"params": last.parameters(), "lr": 1e-12}]
    before = flat(last)
    optimizer = make(groups)
    train(model, optimizer, 3)
    assert float((flat(last) - before).norm()) < 1e-9
    assert float((flat(first) - flat(network()[0])).norm()) > 1e-4


@EVERY
@pytest.mark.parametrize(
    "closure, words",
    [
        (None, "needs a closure"),
        (lambda: 0.5, "not the loss as a tensor"),
        (lambda: torch.ones(3, requires_grad=True), "not a scalar loss"),
        (lambda: torch.tensor(1.0), "has no graph"),
        ([], "no closure"),
    ],
)
def test_closures_that_cannot_be_used(make, closure, words):
    optimizer = make(network().parameters())
    with pytest.raises(InputError, match=words):
        optimizer.step(closure)


@EVERY
def test_a_loss_that_is_not_finite(make):
    model = network()
    optimizer = make(model.parameters())
    before = flat(model)
    with pytest.raises(NonFiniteError, match="finite"):
        optimizer.step(lambda: LOSS(model(X), Y) / 0)
    assert torch.equal(flat(model), before)


@EVERY
def test_parameters_that_cannot_be_used(make):
    for dtype in (torch.bfloat16, torch.float16, torch.complex64):
        with pytest.raises(InputError, match="float32 or float64"):
            make([nn.Parameter(torch.ones(2, dtype=dtype))])
    embedding = nn.Embedding(5, 3, sparse=True)
    optimizer = make(embedding.parameters(), hvp="difference")
    with pytest.raises(InputError, match="sparse=False"):
        optimizer.step(lambda: embedding(torch.tensor([1, 2])).square().sum())


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda p: DAL(p, p=-1.0), "p must be"),
        (lambda p: DAL(p, momentum=1.0), "momentum"),
        (lambda p: DAL(p, hvp="maybe"), "hvp"),
        (lambda p: DAL(p, cap=0.0), "cap"),
        (lambda p: CDAT(p, sigma=0.0), "sigma"),
        (lambda p: CDAT(p, average=1.0), "average"),
        (lambda p: AdaEoS(p, base="lion"), "base"),
        (lambda p: AdaEoS(p, rho=0.0), "rho"),
        (lambda p: AdaEoS(p, gamma=2.0), "gamma"),
        (lambda p: AdaEoS(p, refresh_every=0), "refresh_every"),
        (lambda p: AdaEoS(p, betas=(1.0, 0.9)), "betas"),
        (lambda p: AdaEoS(p, eps=0.0), "eps"),
        (lambda p: AdaEoS(p, start=0.0), "start"),
        (lambda p: AdaEoS(p, trust=-1.0), "trust"),
        (lambda p: AdaEoS(p, base="schedule-free", betas=(0.0, 0.9)), "averages"),
        (lambda p: CDAT(p, base="schedule-free"), "base must be one of sgd, momentum, adam,"),
        (lambda p: AdaEoS(p, weight_decay=-1.0), "weight_decay"),
    ],
)
def test_settings_out_of_range(make, words):
    with pytest.raises(InputError, match=words):
        make(network().parameters())


PARALLEL = """
import sys, torch
sys.path.insert(0, {here!r})
from test_evaluation import LOSS, MAKERS, X, Y, flat, network
from gdflows import parallel
out = {{}}
with parallel.group("cpu"):
    for name, make in MAKERS.items():
        model = network()
        many = parallel.size() > 1
        wrapped = torch.nn.parallel.DistributedDataParallel(model) if many else model
        optimizer = make(model.parameters())
        x, y = parallel.share(X), parallel.share(Y)
        for _ in range(12):
            loss = optimizer.step(lambda: LOSS(wrapped(x), y))
        mine = flat(model)
        others = parallel.total(mine.clone()) / parallel.size()
        out[name] = (mine, float(loss), bool((others - mine).abs().max() < 1e-15))
    if parallel.first():
        torch.save(out, sys.argv[1])
"""


def test_two_data_parallel_processes_are_one(tmp_path):
    """Under torch's own DistributedDataParallel; all ranks hold the same parameters."""
    script = tmp_path / "train.py"
    script.write_text(PARALLEL.format(here=os.path.dirname(__file__)))
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    results = []
    for words in ([], launch):
        file = str(tmp_path / f"{len(words)}.pt")
        done = subprocess.run(
            [sys.executable, *words, str(script), file],
            env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        results.append(torch.load(file, weights_only=True))
    for name in MAKERS:
        (one, loss, _), (two, loss_two, agree) = (result[name] for result in results)
        assert agree, name
        torch.testing.assert_close(two, one, rtol=1e-7, atol=1e-8, msg=name)
        assert loss_two == pytest.approx(loss, rel=1e-7)
