"""Chunks add up to the whole, or are refused."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gdflows as gf
from gdflows.errors import InputError

f64 = torch.float64
G = torch.Generator().manual_seed(0)
X = torch.randn(20, 4, generator=G, dtype=f64)
Y = torch.randint(0, 3, (20,), generator=G)
WEIGHT = torch.tensor([1.0, 5.0, 1.0], dtype=f64)
SOME, CHUNK = Y.clone(), Y.clone()
SOME[:5] = -100
CHUNK[:6] = -100
SORTED = Y.sort().values


def net(seed=1):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(f64)


def contrast(out, y):
    z = F.normalize(out, dim=1)
    return F.cross_entropy(z @ z.T / 0.5, torch.arange(len(z)))


RIGHT = {
    "a mean": (F.cross_entropy, Y),
    "a hidden sum": (lambda out, y: F.cross_entropy(out, y, reduction="sum"), Y),
    "a sum in a partial": (functools.partial(F.cross_entropy, reduction="sum"), Y),
    "weights by class": (nn.CrossEntropyLoss(weight=WEIGHT), Y),
    "weights by class and sorted labels": (nn.CrossEntropyLoss(weight=WEIGHT), SORTED),
    "ignored labels": (nn.CrossEntropyLoss(), SOME),
    "a whole chunk ignored": (nn.CrossEntropyLoss(), CHUNK),
    "a whole chunk ignored, in a lambda": (lambda out, y: F.cross_entropy(out, y), CHUNK),
    "another label ignored": (nn.CrossEntropyLoss(ignore_index=2), Y),
    "smoothed labels, weighted": (nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1), Y),
}


@pytest.mark.parametrize("what", RIGHT)
def test_chunks_are_the_whole(what):
    loss, y = RIGHT[what]
    whole = gf.Objective.from_module(net(), loss, (X, y))
    parts = gf.Objective.from_module(net(), loss, (X, y), chunk=6)
    theta = whole.theta0 + 0.1
    v = torch.linspace(-1, 1, whole.dim, dtype=f64)
    for a, b in [
        (parts.value(theta), whole.value(theta)),
        (parts.grad(theta), whole.grad(theta)),
        (parts.at(theta).hvp(v), whole.at(theta).hvp(v)),
        (parts.third(theta, v, v), whole.third(theta, v, v)),
    ]:
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


REFUSED = {
    "weights by class in a lambda": (lambda o, y: F.cross_entropy(o, y, weight=WEIGHT), Y),
    "the same with sorted labels": (lambda o, y: F.cross_entropy(o, y, weight=WEIGHT), SORTED),
    "samples compared with one another": (contrast, Y),
    "a batch's own mean": (lambda o, y: F.cross_entropy(o - o.mean(0), y), Y),
    "a root of a mean": (lambda o, y: F.cross_entropy(o, y).sqrt(), Y),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_add_up_is_refused(what):
    loss, y = REFUSED[what]
    with pytest.raises(InputError, match="not what its parts add up to"):
        gf.Objective.from_module(net(), loss, (X, y), chunk=6)


def test_what_a_part_is_a_mean_over_can_be_said():
    loss = REFUSED["weights by class in a lambda"][0]
    whole = gf.Objective.from_module(net(), loss, (X, Y))
    parts = gf.Objective.from_module(net(), loss, (X, Y), chunk=6, count=lambda y: WEIGHT[y].sum())
    torch.testing.assert_close(
        parts.grad(parts.theta0), whole.grad(whole.theta0), rtol=1e-11, atol=1e-14
    )


def test_batches_may_be_coupled_within():
    """Statistics of a batch: each batch is a term of the user's own."""
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).to(f64)
    pairs = [(X[:8], Y[:8]), (X[8:], Y[8:])]
    E = gf.Objective.from_module(model, F.cross_entropy, pairs)
    alone = [gf.Objective.from_module(model, F.cross_entropy, p) for p in pairs]
    values = [float(e.value(e.theta0)) for e in alone]
    assert float(E.value(E.theta0)) == pytest.approx((8 * values[0] + 12 * values[1]) / 20)
    with pytest.raises(InputError, match="Batch normalisation in training mode"):
        gf.Objective.from_module(model, F.cross_entropy, (X, Y), chunk=8)
    with pytest.raises(InputError, match="reduction='mean'"):
        gf.Objective.from_module(net(), contrast, pairs)
    said = gf.Objective.from_module(net(), contrast, pairs, reduction="mean")
    alone = [gf.Objective.from_module(net(), contrast, p) for p in pairs]
    values = [float(e.value(e.theta0)) for e in alone]
    assert float(said.value(said.theta0)) == pytest.approx((8 * values[0] + 12 * values[1]) / 20)


def test_dropout_in_chunks_is_one_function():
    model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 3)).to(f64)
    E = gf.Objective.from_module(model, F.cross_entropy, (X, Y), chunk=6, seed=0)
    theta = E.theta0
    v, eps = torch.ones_like(theta), 1e-5
    difference = (E.grad(theta + eps * v) - E.grad(theta - eps * v)) / (2 * eps)
    torch.testing.assert_close(E.hvp(theta, v), difference, rtol=1e-6, atol=1e-8)
    # each chunk draws its own masks
    one = gf.Objective.from_module(
        model, F.cross_entropy, (X[:12] * 0 + X[:1], Y[:12] * 0), chunk=6, seed=0
    )
    first, second = (one._run(i, one.theta0, lambda e: e().detach(), False) for i in (0, 1))
    assert first != second
