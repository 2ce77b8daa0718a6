"""What closures may do, and what is seen when they do more: refused by name, nothing changed."""

import itertools

import numpy as np
import pytest
import torch
from test_evaluation import EVERY, F64, LOSS, MAKERS, Probe, X, Y, flat, network
from torch import nn

import gdflows as gf
from gdflows.errors import InputError
from gdflows.optim import CDAT, DAL, AdaEoS

ONE = pytest.mark.parametrize("make", [DAL, CDAT, AdaEoS])


def backward(retain, zero):
    """Closures that differentiate, before or after zeroing."""

    def of(model, optimizer):
        def closure():
            if zero == "before":
                optimizer.zero_grad()
            loss = LOSS(model(X), Y)
            loss.backward(retain_graph=retain)
            if zero == "after":
                model.zero_grad()
            return loss

        return closure

    return of


def clipping(zero):
    def of(model, optimizer):
        def closure():
            if zero:
                optimizer.zero_grad()
            loss = LOSS(model(X), Y)
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            return loss

        return closure

    return of


OFFENCES = {
    "backward": backward(False, None),
    "backward, graph kept": backward(True, None),
    "zero_grad, backward": backward(True, "before"),
    "backward, zeroed after": backward(False, "after"),
    "clip": clipping(False),
    "zero_grad, clip": clipping(True),
}


@EVERY
@pytest.mark.parametrize("offence", OFFENCES.values(), ids=OFFENCES)
@pytest.mark.parametrize("hvp", ["auto", "difference"])
def test_closures_that_touch_gradients_are_named(make, offence, hvp):
    model = network()
    optimizer = make(model.parameters(), hvp=hvp)
    before = flat(model)
    with pytest.raises(InputError, match="calls backward"):
        optimizer.step(offence(model, optimizer))
    assert torch.equal(flat(model), before)
    optimizer.step(lambda: LOSS(model(X), Y))  # and goes on
    other = network()
    make(other.parameters(), hvp=hvp).step(lambda: LOSS(other(X), Y))
    assert torch.equal(flat(model), flat(other))


@ONE
def test_in_the_second_evaluation_too(make):
    model = network()
    optimizer = make(model.parameters(), hvp="difference", check=False)
    for _ in range(3):
        optimizer.step(lambda: LOSS(model(X), Y))
    calls, before = itertools.count(), flat(model)

    def closure():
        loss = LOSS(model(X), Y)
        if next(calls):
            loss.backward(retain_graph=True)
        return loss

    with pytest.raises(InputError, match="calls backward"):
        optimizer.step(closure)
    assert torch.equal(flat(model), before)


@EVERY
def test_zero_grad_in_a_closure_does_no_harm(make):
    paths = []
    for zeros in ([], ["optimizer"], ["model"], ["zeros"]):
        model = network()
        optimizer = make(model.parameters())

        def part(rows, model=model, optimizer=optimizer, zeros=zeros):
            if "optimizer" in zeros:
                optimizer.zero_grad(set_to_none=False)
            if "model" in zeros:
                model.zero_grad()
            if "zeros" in zeros:
                optimizer.zero_grad()
            return LOSS(model(X[rows]), Y[rows])

        for _ in range(5):
            optimizer.step([lambda rows=rows: part(rows) for rows in torch.arange(40).chunk(2)])
        paths.append(flat(model))
    for path in paths[1:]:
        assert torch.equal(path, paths[0])


@EVERY
def test_gradients_from_before_are_refused(make):
    model = network()
    optimizer = make(model.parameters())
    LOSS(model(X[:20]), Y[:20]).backward()
    before = flat(model)
    with pytest.raises(InputError, match="list of closures"):
        optimizer.step(lambda: LOSS(model(X[20:]), Y[20:]))
    assert torch.equal(flat(model), before)
    optimizer.zero_grad(set_to_none=False)
    for _ in range(3):  # its own are no reason
        optimizer.step(lambda: LOSS(model(X), Y))
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    with pytest.raises(InputError, match="max_norm"):
        optimizer.step(lambda: LOSS(model(X), Y))
    LOSS(model(X), Y).backward()
    with pytest.raises(InputError, match="max_norm|list of closures"):
        optimizer.step(lambda: LOSS(model(X), Y))


@EVERY
def test_frozen_parameters_and_no_closure(make):
    model = network().requires_grad_(False)
    optimizer = make(model.parameters())
    with pytest.raises(InputError, match="frozen"):
        optimizer.step(lambda: LOSS(model(X), Y))
    with pytest.raises(InputError, match="needs a closure"):
        optimizer.step()
    with pytest.raises(InputError, match="float where it needs a closure"):
        optimizer.step(0.5)


@EVERY
def test_other_parameters_keep_their_gradients(make):
    """A step's backward reaches its own parameters only."""
    model = network()
    optimizer = make(model[2].parameters())
    for _ in range(6):
        optimizer.step(lambda: LOSS(model(X), Y))
    assert all(p.grad is None for p in model[0].parameters())


def test_a_closure_may_return_a_list_of_closures():
    """For wrappers that take one only."""
    paths = []
    for one in (False, True):
        model = network()
        optimizer = DAL(model.parameters(), hvp="difference")
        for _ in range(4):
            parts = [lambda m=model, r=r: LOSS(m(X[r]), Y[r]) for r in torch.arange(40).chunk(2)]
            optimizer.step((lambda parts=parts: parts) if one else parts)
        paths.append(flat(model))
    assert torch.equal(*paths)


def test_closures_that_change_parameters_are_named():
    table = nn.Embedding(5, 3, max_norm=0.1).double()
    with pytest.raises(InputError, match="max_norm"):
        DAL(table.parameters()).step(lambda: table(torch.tensor([1, 2])).square().sum())


@pytest.mark.parametrize("products", [True, False])
@ONE
def test_a_loss_from_outside_is_named(make, products):
    model = network()
    optimizer = make(model.parameters(), hvp="auto" if products else "difference")
    loss = LOSS(model(X), Y)
    with pytest.raises(InputError, match="used up"):
        for _ in range(5):
            optimizer.step(lambda: loss)


def test_reentrant_checkpoints_work_by_differences():
    def train(checkpointed):
        model = network()
        optimizer = DAL(model.parameters(), scale=1.0, hvp="difference")

        def closure():
            if not checkpointed:
                return LOSS(model(X), Y)
            x = X.clone().requires_grad_(True)
            hidden = torch.utils.checkpoint.checkpoint(model[:2], x, use_reentrant=True)
            return LOSS(model[2](hidden), Y)

        return [float(optimizer.step(closure)) for _ in range(4)], flat(model)

    plain, again = train(False), train(True)
    assert plain[0][-1] < plain[0][0]
    assert again[0] == pytest.approx(plain[0], rel=1e-10)
    torch.testing.assert_close(again[1], plain[1])


# -- clipping --------------------------------------------------------------------------------------


def test_clipping_is_that_of_torch():
    """SGD and Adam at a rate that is given, against torch's own after clip_grad_norm_."""
    for base in ("sgd", "adam"):
        model, other = network(), network()
        optimizer = AdaEoS(model.parameters(), base, max_norm=0.3)
        optimizer._first_rate = lambda seen, states, o=optimizer: setattr(o, "eta", 0.02)
        optimizer._wait, optimizer.moments.edge = 10**6, lambda count: 1.0
        kind = torch.optim.SGD if base == "sgd" else torch.optim.Adam
        theirs = kind(other.parameters(), lr=0.02)
        clipped = 0
        for _ in range(12):
            optimizer.eta, optimizer._edge_before = 0.02, optimizer.edge
            optimizer.step(lambda m=model: 3 * LOSS(m(X), Y))
            theirs.zero_grad()
            (3 * LOSS(other(X), Y)).backward()
            clipped += float(nn.utils.clip_grad_norm_(other.parameters(), 0.3)) > 0.3
            theirs.step()
            torch.testing.assert_close(flat(model), flat(other), rtol=1e-4, atol=1e-6)
        assert 0 < clipped


@pytest.mark.parametrize("make", [DAL, lambda p, **k: CDAT(p, "sgd", average=0.0, **k)])
def test_clipping_shortens_the_step_and_leaves_the_rate(make):
    moves, rates = [], []
    for most in (None, 0.05):
        model = network()
        start = flat(model)
        optimizer = make(model.parameters(), max_norm=most)
        optimizer.step(lambda m=model: LOSS(m(X), Y))
        moves.append(flat(model) - start)
        rates.append(optimizer.rate)
    length = float(gf.Objective.from_module(network(), LOSS, (X, Y)).grad(flat(network())).norm())
    assert length > 0.05
    assert rates[1] == pytest.approx(rates[0], rel=1e-10)
    torch.testing.assert_close(moves[1], moves[0] * (0.05 / length))


def test_clipping_never_lengthens_the_first_steps():
    lengths = []
    for most in (None, 1e-3):
        model = network()
        start = flat(model)
        AdaEoS(model.parameters(), "sgd", start=1e9, max_norm=most).step(
            lambda m=model: LOSS(m(X), Y)
        )
        lengths.append(float((flat(model) - start).norm()))
    assert lengths[1] <= lengths[0] * (1 + 1e-12)


# -- the same function at each call, and torch's second derivative ---------------------------------


class Fickle:
    """Losses that are another function at each call."""

    def __init__(self, kind, model):
        self.kind, self.model = kind, model
        self.generator, self.numpy = torch.Generator().manual_seed(0), np.random.default_rng(0)
        self.batches = itertools.cycle(torch.arange(40).chunk(8))
        self.calls = 0

    def __call__(self):
        self.calls += 1
        if self.kind == "iterator":
            rows = next(self.batches)
            return LOSS(self.model(X[rows]), Y[rows])
        if self.kind == "generator":
            noise = torch.randn(X.shape, dtype=F64, generator=self.generator)
            return LOSS(self.model(X + 0.1 * noise), Y)
        if self.kind == "numpy":
            return LOSS(self.model(X * self.numpy.uniform(0.9, 1.1)), Y)
        return LOSS(self.model(X), Y) * (1 - 0.01 * self.calls)


@ONE
@pytest.mark.parametrize("kind", ["iterator", "generator", "numpy", "state"])
@pytest.mark.parametrize("hvp", ["auto", "difference"])
def test_a_closure_that_changes_between_calls_is_named(make, kind, hvp):
    model = network()
    optimizer = make(model.parameters(), hvp=hvp)
    with pytest.raises(InputError, match="another gradient at the same parameters"):
        for _ in range(5):
            optimizer.step(Fickle(kind, model))
    unchecked = make(network().parameters(), hvp=hvp, check=False)
    model = network()
    unchecked = make(model.parameters(), hvp=hvp, check=False)
    for _ in range(5):
        unchecked.step(Fickle(kind, model))


class Wrong(torch.autograd.Function):
    """sin, whose backward takes the cosine for a constant: first derivatives are right."""

    @staticmethod
    def forward(ctx, x):
        ctx.cos = x.detach().cos()
        return x.sin()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.cos


@pytest.mark.parametrize("extra", [[], [nn.ReLU()]], ids=["smooth", "kinks"])
def test_a_wrong_second_derivative_is_seen(extra):
    model = network(*extra)

    def loss():
        return LOSS(Wrong.apply(3 * model(X)), Y)

    with pytest.raises(InputError, match="second derivative contradicts"):
        seen = Probe(model.parameters(), "exact").step(loss)
        seen.product(seen.grads)
    with pytest.warns(UserWarning, match="second derivative contradicts"):
        seen = Probe(model.parameters()).step(loss)
        product = seen.product(seen.grads)
    fine = nn.Sequential(model, Sine())
    E = gf.Objective.from_module(fine, LOSS, (X, Y))
    true = E.hvp(E.theta0, torch.cat([g.flatten() for g in seen.grads]))
    got = torch.cat([part.flatten() for part in product])
    assert float((got - true).norm()) < 1e-4 * float(true.norm())


class Sine(nn.Module):
    def forward(self, x):
        return (3 * x).sin()


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(
    "extra",
    [
        lambda: [],
        lambda: [nn.ReLU()],
        lambda: [nn.LayerNorm(8)],
        lambda: [nn.Dropout(0.5)],
        lambda: [nn.BatchNorm1d(8)],
    ],
    ids=["plain", "kinks", "layer norm", "dropout", "batch norm"],
)
def test_the_check_passes_what_is_right_and_leaves_no_trace(dtype, extra):
    x, y = X.to(dtype), Y.to(dtype)
    ends = []
    for check in (True, False):
        model = network(*extra(), dtype=dtype)
        optimizer = DAL(model.parameters(), scale=0.5, hvp="exact", check=check)
        torch.manual_seed(1)
        for _ in range(4):
            optimizer.step(lambda m=model: LOSS(m(x), y))
        ends.append([v.clone() for v in model.state_dict().values()] + [torch.rand(1)])
        assert optimizer.cost["checks"] <= (3 if check else 0)
        assert (optimizer.cost["gradients"], optimizer.cost["hvps"]) == (4, 4)
    for a, b in zip(*ends, strict=True):
        assert torch.equal(a, b)


def test_a_check_costs_one_gradient_once():
    for make in MAKERS.values():
        model = network()
        optimizer = make(model.parameters())
        for _ in range(8):
            optimizer.step(lambda m=model: LOSS(m(X), Y))
        assert optimizer.cost["checks"] == 1
