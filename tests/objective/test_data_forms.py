"""The forms in which people have their data are one and the same loss, or are refused at once."""

import math
from collections import UserDict

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import gdflows as gf
from gdflows.errors import InputError

f64 = torch.float64
ce = nn.functional.cross_entropy
G = torch.Generator().manual_seed(0)
X = torch.randn(20, 4, generator=G, dtype=f64)
Y = torch.randint(0, 3, (20,), generator=G)
ZERO = torch.zeros_like(X)
LONG = torch.randint(0, 3, (20, 5), generator=G)


def net(seed=1):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(f64)


class Sum(nn.Module):
    """Two inputs."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, a, b=0.0):
        return self.net(a + b)


class Own(Sum):
    """Computes its loss, and returns it as transformers does."""

    def forward(self, a, labels=None):
        out = self.net(a)
        return Output(loss=None if labels is None else ce(out, labels), logits=out)


class Output(dict):
    __getattr__ = dict.get


class Scalar(Sum):
    def forward(self, a, labels):
        return ce(self.net(a), labels)


def batches(size, *parts):
    return DataLoader(TensorDataset(*parts), size)


plain = (net, ce)
FORMS = {
    "a pair": (*plain, (X, Y)),
    "a list [x, y], as a DataLoader gives it": (*plain, [X, Y]),
    "numpy": (*plain, (X.numpy(), Y.numpy())),
    "a TensorDataset": (*plain, TensorDataset(X, Y)),
    "a DataLoader": (*plain, batches(5, X, Y)),
    "a DataLoader whose last batch is smaller": (*plain, batches(8, X, Y)),
    "a list of pairs": (*plain, [(X[:3], Y[:3]), (X[3:], Y[3:])]),
    "a dict with labels": (*plain, {"x": X, "labels": Y}),
    "a list of dicts": (*plain, [{"x": X[:9], "y": Y[:9]}, {"x": X[9:], "y": Y[9:]}]),
    "a mapping that is no dict": (*plain, UserDict({"x": X, "target": Y})),
    "a dict of inputs": (Sum, ce, ({"a": X, "b": 0 * X}, Y)),
    "several inputs": (Sum, ce, ((X, 0 * X), Y)),
    "several inputs in batches": (
        Sum, ce, [((X[:7], ZERO[:7]), Y[:7]), ((X[7:], ZERO[7:]), Y[7:])]
    ),
    "no target": (net, lambda out: ce(out, Y), (X, None)),
    "no target, a loss of two": (net, lambda out, _: ce(out, Y), (X, None)),
    "one tensor": (net, lambda out: ce(out, Y), X),
    "its own loss, from a dict": (Own, None, {"a": X, "labels": Y}),
    "its own loss, from batches": (
        Own, None, [{"a": X[:7], "labels": Y[:7]}, {"a": X[7:], "labels": Y[7:]}]
    ),
    "its own loss, a scalar": (Scalar, None, (X, Y)),
    "its own loss, a scalar, from a DataLoader": (Scalar, None, batches(6, X, Y)),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_loss(form):
    make, loss, data = FORMS[form]
    E, same = (
        gf.Objective.from_module(make(), loss, data),
        gf.Objective.from_module(net(), ce, (X, Y)),
    )
    theta = same.theta0 + 0.1
    u = torch.linspace(-1, 1, E.dim, dtype=f64)
    torch.testing.assert_close(E.value(theta), same.value(theta), rtol=1e-12, atol=0)
    torch.testing.assert_close(E.grad(theta), same.grad(theta), rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(E.hvp(theta, u), same.hvp(theta, u), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("form", FORMS)
def test_the_monitor_takes_them_too(form):
    make, loss, data = FORMS[form]
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = gf.SharpnessMonitor(model, loss, data, optimizer, tol=1e-6).measure()
    E = gf.Objective.from_module(net(), ce, (X, Y))
    top = torch.linalg.eigvalsh(E.hessian(E.theta0))[-1]
    assert seen.eigenvalue == pytest.approx(float(top), rel=1e-6)
    assert seen.h_lambda == pytest.approx(0.1 * float(top), rel=1e-6)


class Samples(Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, i):
        return X[i], Y[i]


BAD = {
    "lists of numbers": (net, ce, (X.tolist(), Y.tolist()), "lists of numbers"),
    "a generator": (net, ce, ((X, Y) for _ in range(2)), "only once"),
    "samples": (net, ce, Samples(), "DataLoader"),
    "three parts": (net, ce, (X, X, Y), "which is the target"),
    "two targets": (net, ce, {"x": X, "y": Y, "labels": Y}, "only one can be the target"),
    "no data": (net, ce, None, "needs data"),
    "a string": (net, ce, "digits", "got str"),
    "an empty loader": (net, ce, [], "empty"),
    "an empty pair": (net, ce, (X[:0], Y[:0]), "empty"),
    "other lengths": (net, ce, (X, Y[:5]), "x has 20 samples, y 5"),
    "time first": (lambda: nn.LSTM(4, 3).to(f64), lambda out, y: ce(out[0][-1], y),
                   (torch.zeros(7, 20, 4, dtype=f64), Y), "axis=1"),
    "strings in numpy": (net, ce, (X.numpy().astype(str), Y), "cannot be made a tensor"),
    "another dtype": (net, ce, (X.float(), Y), "float32"),
    "a loss that is no function": (net, 3, (X, Y), "must be a function"),
    "no loss at all": (net, None, {"input": X}, "scalar .loss"),
    "no labels": (Own, None, {"a": X}, "labels among the data"),
    "names that the model does not know": (Sum, ce, {"ids": X, "mask": X, "labels": Y}, "'ids'"),
    "a target that the loss needs": (net, ce, (X, None), "cannot be evaluated"),
    "no reduction": (net, nn.CrossEntropyLoss(reduction="none"), (X, Y), "scalar"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_wrong_forms_are_refused_at_construction(what):
    make, loss, data, words = BAD[what]
    model = make()
    with pytest.raises(InputError, match=words):
        gf.Objective.from_module(model, loss, data)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(InputError, match=words):
        gf.SharpnessMonitor(model, loss, data, optimizer)


def test_samples_along_another_axis():
    x = torch.randn(7, 20, 4, generator=torch.Generator().manual_seed(1), dtype=f64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lstm = nn.LSTM(4, 3).to(f64)

    def last(out, y):
        return ce(out[0][-1], y)

    whole = gf.Objective.from_module(lstm, last, (x, Y), axis=(1, 0))
    parts = gf.Objective.from_module(lstm, last, (x, Y), axis=(1, 0), chunk=6)
    assert len(parts.terms) == 4
    theta = whole.theta0
    torch.testing.assert_close(parts.grad(theta), whole.grad(theta), rtol=1e-10, atol=1e-13)


def test_batches_are_read_once_and_kept():
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(X, Y), 5, shuffle=True)
    E = gf.Objective.from_module(net(), ce, loader)
    assert E.value(E.theta0) == E.value(E.theta0)


def test_batches_of_different_lengths():
    """Sequences that cannot be joined: each batch is a term, weighted by its samples."""
    parts = [(X[:7], LONG[:7, :2]), (X[7:], LONG[7:, :3])]
    loss = lambda out, y: ce(out[:, :, None].expand(-1, -1, y.shape[1]), y)  # noqa: E731
    E = gf.Objective.from_module(net(), loss, parts)
    alone = [gf.Objective.from_module(net(), loss, p) for p in parts]
    values = [float(e.value(e.theta0)) for e in alone]
    expected = (7 * values[0] + 13 * values[1]) / 20
    assert float(E.value(E.theta0)) == pytest.approx(expected, rel=1e-12)


def test_drawing_from_batches():
    E = gf.Objective.from_module(net(), ce, batches(6, X, Y))
    same = gf.Objective.from_module(net(), ce, (X, Y))
    a, b = (e.batch(8, torch.Generator().manual_seed(3)) for e in (E, same))
    assert float(a.value(a.theta0)) == float(b.value(b.theta0))
    assert a.cost["values"] == 1 and E.cost["values"] == 0


def test_the_loss_s_own_parameters_if_asked():
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.s = nn.Parameter(torch.tensor(0.3, dtype=f64))

        def forward(self, out, y):
            return ce(out, y) * torch.exp(-self.s) + self.s

    model, loss = net(), Weighted()
    with pytest.raises(InputError, match="own parameter s.*loss_parameters=True"):
        gf.Objective.from_module(model, loss, (X, Y))
    E = gf.Objective.from_module(model, loss, (X, Y), loss_parameters=True)
    assert E.names[-1] == "loss.s" and E.dim == 52
    whole = [*model.parameters(), *loss.parameters()]
    gradients = torch.autograd.grad(loss(model(X), Y), whole)
    expected = torch.cat([g.reshape(-1) for g in gradients])
    torch.testing.assert_close(E.grad(E.theta0), expected, rtol=1e-12, atol=1e-15)
    E.write(E.theta0 + 1)
    assert loss.s.item() == pytest.approx(1.3)
    assert math.isclose(float(E.read()[-1]), 1.3)
