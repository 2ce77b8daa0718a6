"""Outputs (N, 1) and targets (N,) would be compared each with every other."""

import functools
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gdflows as gf
from gdflows.errors import InputError


def network(outputs=1):
    torch.manual_seed(0)
    return nn.Linear(4, outputs)


def data(*shape):
    g = torch.Generator().manual_seed(1)
    return torch.randn(10, 4, generator=g), torch.randn(*shape, generator=g)


def made(model, loss, pair):
    """What is said, while it is an error to warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return gf.Objective.from_module(model, loss, pair)


TORCHS = {
    name: getattr(nn, name)()
    for name in (
        "MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "PoissonNLLLoss", "SoftMarginLoss",
        "HingeEmbeddingLoss", "KLDivLoss", "MultiLabelSoftMarginLoss",
    )
} | {
    "mse_loss": F.mse_loss,
    "l1_loss": F.l1_loss,
    "sum": nn.MSELoss(reduction="sum"),
    "partial": functools.partial(F.mse_loss, reduction="sum"),
}  # fmt: skip


@pytest.mark.parametrize("name", TORCHS)
def test_refuses_losses_of_torch(name):
    said = r"\(10, 1\), the targets \(10,\).*\(10, 10\), each output.*y\[\.\.\., None\]"
    with pytest.raises(InputError, match=said):
        made(network(), TORCHS[name], data(10))


def test_refuses_the_other_way_round_and_what_repeats_one():
    flat = nn.Sequential(network(), nn.Flatten(0))
    with pytest.raises(InputError, match=r"model\(x\)\[\.\.\., None\], or y\.squeeze\(-1\)"):
        made(flat, nn.MSELoss(), data(10, 1))
    with pytest.raises(InputError, match=r"MSELoss.*\(10, 3\), repeating what is smaller"):
        made(network(3), nn.MSELoss(), data(10, 1))


@pytest.mark.parametrize("name", ["BCEWithLogitsLoss", "BCELoss"])
def test_torch_refuses_the_others_itself(name):
    x, y = data(10)
    model = nn.Sequential(network(), nn.Sigmoid())
    with pytest.raises(InputError, match="size"):
        made(model, getattr(nn, name)(), (x, y.sigmoid()))


class Own(nn.MSELoss):
    def forward(self, output, target):
        return (output - target).square().mean()


OWN = {
    "written out": lambda o, y: ((o - y) ** 2).mean(),
    "turned round": lambda o, y: (y - o).abs().mean(),
    "in another dtype": lambda o, y: (o.double() - y.double()).square().mean(),
    "after a function": lambda o, y: F.softplus(-torch.tanh(o) * y.sign()).mean(),
    "torch's, inside": lambda o, y: F.mse_loss(o, y),
    "a class derived from torch's": Own(),
}


@pytest.mark.parametrize("name", OWN)
def test_warns_of_losses_of_ones_own(name):
    with pytest.warns(UserWarning, match=r"\(10, 10\), each output with every target.*is meant"):
        gf.Objective.from_module(network(), OWN[name], data(10))


FINE = {
    "one shape": (network(), nn.MSELoss(), data(10, 1)),
    "one sample": (network(), lambda o, y: (o - y).square().sum(), tuple(t[:1] for t in data(10))),
    "classes": (network(3), nn.CrossEntropyLoss(), (data(1)[0], torch.arange(10) % 3)),
    "squeezed": (network(), lambda o, y: (o.squeeze(1) - y).square().mean(), data(10)),
    "pairs on purpose": (
        network(),
        lambda o, y: ((o - o.T) * (y[:, None] - y)).sigmoid().mean(),
        data(10),
    ),
    "a target for all outputs": (network(3), lambda o, y: (o - y).square().mean(), data(10, 1)),
    "a product of matrices": (network(), lambda o, y: (o.T @ y).square().sum(), data(10)),
}


@pytest.mark.parametrize("name", FINE)
def test_says_nothing_where_nothing_is_wrong(name):
    model, loss, pair = FINE[name]
    E = made(model, loss, pair)
    torch.testing.assert_close(E.value(E.theta0), loss(model(pair[0]), pair[1]).detach())


def test_the_losses_of_the_problems():
    with pytest.raises(InputError, match=r"\(10, 1\), the target \(10,\).*y\[:, None\]"):
        made(network(), gf.problems.squared_error, data(10))


def test_every_way_in():
    model, (x, y) = network(), data(10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for ask in (gf.suggest_lr, gf.SharpnessMonitor):
        with pytest.raises(InputError, match="each output with every target"):
            ask(model, nn.MSELoss(), (x, y), optimizer)
    batches = [(x, y)] * 3
    for ask in (gf.explain_spike, gf.try_rates):
        with pytest.raises(InputError, match="each output with every target"):
            ask(model, nn.MSELoss(), optimizer, batches[:1], batches[1:])
