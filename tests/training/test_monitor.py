"""SharpnessMonitor in ordinary training loops."""

import warnings

import matplotlib
import pytest
import torch
from torch import nn

import gdflows as gf
from gdflows.errors import EdgeWarning, InputError

matplotlib.use("Agg")
f64 = torch.float64


def digits(n=200, dtype=f64):
    data = gf.problems.load("digits", dtype=dtype)
    return data.x_train[:n].flatten(1), data.y_train[:n]


def train(model, loss, data, optimizer, steps, monitor=None):
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(data[0]), data[1]).backward()
        optimizer.step()
        if monitor is not None:
            monitor.step()


OPTIMISERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-4),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_against_a_dense_eigendecomposition(name):
    net = gf.problems.mlp([64, 8, 10], "tanh", seed=0, dtype=f64)
    data, optimizer = digits(), OPTIMISERS[name](net.parameters())
    loss = gf.problems.squared_error
    monitor = gf.SharpnessMonitor(net, loss, data, optimizer, every=5, tol=1e-3)
    train(net, loss, data, optimizer, 30, monitor)
    E = gf.Objective.from_module(net, loss, data)
    root = gf.optim.preconditioner(optimizer, net.parameters()).sqrt()
    dense = torch.linalg.eigvalsh(root[:, None] * E.hessian(E.theta0) * root)[-1]
    last = monitor.history.iloc[-1]
    assert last.step == 30 and list(monitor.history.step) == [5, 10, 15, 20, 25, 30]
    assert last.h_lambda == pytest.approx(float(dense), rel=1e-3)
    assert last.ratio == pytest.approx(float(dense) / gf.optim.stability_edge(optimizer), rel=1e-3)
    assert last.loss == pytest.approx(float(E.value(E.theta0)))
    assert monitor.history.hvps[1:].mean() < 12
    assert monitor.overhead > 0


def test_training_is_not_disturbed():
    def run(watched):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 10)
        ).double()
        data, optimizer = digits(), torch.optim.Adam(net.parameters(), lr=1e-2)
        loss, monitor = nn.CrossEntropyLoss(), None
        if watched:
            monitor = gf.SharpnessMonitor(net, loss, data, optimizer, every=3, seed=0)
        train(net, loss, data, optimizer, 10, monitor)
        return net.state_dict()

    plain, watched = run(False), run(True)
    for name, value in plain.items():
        assert torch.equal(value, watched[name]), name


def test_warns_at_the_crossing_only():
    net = gf.problems.mlp([64, 16, 10], "tanh", seed=0, dtype=f64)
    data, loss = digits(), gf.problems.squared_error
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6)
    monitor = gf.SharpnessMonitor(net, loss, data, optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        below = monitor.measure()
    optimizer.param_groups[0]["lr"] *= 1.5 / below.ratio
    with pytest.warns(EdgeWarning, match="has reached 1.5"):
        above = monitor.measure()
    assert above.ratio == pytest.approx(1.5, rel=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor.measure()


def beyond(ratio):
    """A network, and a monitor that has not looked yet, at a multiple of its edge."""
    net = gf.problems.mlp([64, 16, 10], "tanh", seed=0, dtype=f64)
    data, loss = digits(), gf.problems.squared_error
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    optimizer.param_groups[0]["lr"] = ratio * gf.suggest_lr(net, loss, data, optimizer).lr
    return net, loss, data, optimizer, gf.SharpnessMonitor(net, loss, data, optimizer, every=1)


def test_says_so_if_the_run_begins_beyond_the_edge():
    *run, monitor = beyond(1.8)
    with pytest.warns(EdgeWarning, match=r"Step 1: at the first look.*1\.80.*there") as caught:
        seen = monitor.step()
    assert seen.ratio == pytest.approx(1.8, rel=0.05)
    assert caught[0].filename == __file__, "it is not said of the loop's own line"
    resumed = gf.SharpnessMonitor(*run, every=1)
    resumed.load_state_dict(monitor.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor.step()  # it has been said
        resumed.step()
    run[3].param_groups[0]["lr"] /= 2
    assert monitor.step().ratio < 1
    run[3].param_groups[0]["lr"] *= 2
    with pytest.warns(EdgeWarning, match="Step 4: the sharpness has reached"):
        monitor.step()


def test_says_nothing_if_it_begins_below():
    *_, monitor = beyond(0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 0.8 < monitor.step().ratio < 1


def test_resumes_where_it_was():
    net = gf.problems.mlp([64, 16, 10], "tanh", seed=0, dtype=f64)
    data, loss = digits(), gf.problems.squared_error
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    first = gf.SharpnessMonitor(net, loss, data, optimizer, every=2)
    train(net, loss, data, optimizer, 5, first)
    second = gf.SharpnessMonitor(net, loss, data, optimizer, every=2)
    second.load_state_dict(first.state_dict())
    train(net, loss, data, optimizer, 1)
    assert first.step() == second.step()
    assert first.history.equals(second.history)


def test_attention_frozen_layers_and_the_picture():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out = nn.Linear(8, 24), nn.Linear(64, 10)

        def forward(self, x):
            q, k, v = self.qkv(x.view(-1, 8, 8)).chunk(3, -1)
            return self.out(nn.functional.scaled_dot_product_attention(q, k, v).flatten(1))

    torch.manual_seed(0)
    net, data, loss = Attention(), digits(dtype=torch.float32), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    monitor = gf.SharpnessMonitor(net, loss, data, optimizer, every=1)
    train(net, loss, data, optimizer, 2, monitor)
    whole = monitor.history.h_lambda.iloc[-1]
    net.qkv.requires_grad_(False)
    assert monitor.measure().h_lambda < whole
    ax = monitor.plot()
    assert len(ax.lines) == 2 and list(ax.lines[0].get_xdata()) == [1, 2, 2]


def test_bad_input():
    net, data, loss = nn.Linear(64, 10).bfloat16(), digits(), nn.CrossEntropyLoss()
    sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(InputError, match="half precision"):
        gf.SharpnessMonitor(net, loss, data, sgd)
    net = nn.Linear(64, 10).double()
    with pytest.raises(InputError, match="every must"):
        gf.SharpnessMonitor(net, loss, data, torch.optim.SGD(net.parameters(), lr=0.1), every=0)
    with pytest.raises(InputError, match="Rprop is not known"):
        gf.SharpnessMonitor(net, loss, data, torch.optim.Rprop(net.parameters()))
