"""Small inputs that once gave a wrong number without a word."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import gdflows as gf
from gdflows.errors import InputError, NonFiniteError

MSE = nn.MSELoss()
G = torch.Generator().manual_seed(0)
X, Y = torch.randn(10, 4, generator=G), torch.randn(10, 1, generator=G)


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 1))


# -- parameters ------------------------------------------------------------------------------------


def test_two_parameters_in_one_memory():
    """A step moves both: the curvature is that of the tied network, not of two free layers."""
    model = network()
    model[2].weight = nn.Parameter(model[0].weight.data)
    with pytest.raises(InputError, match=r"0\.weight and 2\.weight.*one memory.*itself"):
        gf.Objective.from_module(model, MSE, (X, Y))
    model[2].weight = nn.Parameter(model[0].weight.data.t())
    with pytest.raises(InputError, match="one memory"):
        gf.Objective.from_module(model, MSE, (X, Y))
    model[2].weight = model[0].weight  # tied as one ties
    assert gf.Objective.from_module(model, MSE, (X, Y)).dim == 16 + 4 + 4 + 5


def test_an_expanded_parameter():
    model = network()
    model[0].bias = nn.Parameter(torch.zeros(1).expand(4))
    with pytest.raises(InputError, match=r"0\.bias was made by expand"):
        gf.Objective.from_module(model, MSE, (X, Y))


def test_parameters_side_by_side_in_one_memory(quiet):
    """As a flat vector, and as columns of one matrix, they share no entry."""
    model = network()
    flat = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    nn.utils.vector_to_parameters(flat, model.parameters())
    assert gf.Objective.from_module(model, MSE, (X, Y)).dim == flat.numel()
    columns = torch.randn(4, 8)
    model[0].weight = nn.Parameter(columns[:, ::2])
    model[2].weight = nn.Parameter(columns[:, 1::2])
    assert gf.Objective.from_module(model, MSE, (X, Y)).dim == flat.numel()


# -- data ------------------------------------------------------------------------------------------


class Refilled:
    """A loader that fills the same memory anew for each batch."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __iter__(self):
        for i in (0, 5):
            self.x[:], self.y[:] = X[i : i + 5], Y[i : i + 5]
            yield self.x, self.y


def test_a_loader_that_fills_the_same_memory_anew():
    with pytest.raises(InputError, match="Batch 0.*Refilled fills the same tensors.*clones"):
        gf.Objective.from_module(network(), MSE, Refilled(torch.empty(5, 4), torch.empty(5, 1)))


def test_a_loader_that_fills_the_same_array_anew():
    arrays = np.empty((5, 4), np.float32), np.empty((5, 1), np.float32)
    E = gf.Objective.from_module(network(), MSE, Refilled(*arrays))
    whole = gf.Objective.from_module(network(), MSE, (X, Y))
    torch.testing.assert_close(E.value(E.theta0), whole.value(E.theta0))


def test_a_loader_that_leaves_samples_out():
    data = TensorDataset(X, Y)
    with pytest.warns(UserWarning, match="leaves 2 of 10 samples out.*drop_last=False"):
        gf.Objective.from_module(network(), MSE, DataLoader(data, 4, drop_last=True))
    again = RandomSampler(data, replacement=True)
    with pytest.warns(UserWarning, match="RandomSampler draws with replacement"):
        gf.Objective.from_module(network(), MSE, DataLoader(data, 5, sampler=again))


def test_a_loader_that_gives_every_sample(quiet):
    data = TensorDataset(X, Y)
    whole = gf.Objective.from_module(network(), MSE, (X, Y))
    for how in ({"shuffle": True}, {"batch_size": 5, "drop_last": True}, {"batch_size": 1}):
        E = gf.Objective.from_module(network(), MSE, DataLoader(data, **{"batch_size": 4} | how))
        torch.testing.assert_close(E.value(E.theta0), whole.value(E.theta0))


def test_data_that_are_not_finite_are_named():
    model, x = network(), X.clone()
    x[3, 1] = torch.nan
    E = gf.Objective.from_module(model, MSE, (x, Y))
    with pytest.raises(NonFiniteError, match="the data hold numbers that are not"):
        E.value(E.theta0)
    fine = gf.Objective.from_module(model, MSE, (X, Y))
    with pytest.raises(NonFiniteError, match="run off"):
        fine.value(fine.theta0 * 1e30)


# -- optimisers ------------------------------------------------------------------------------------


class Signs(torch.optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.data.add_(p.grad.sign(), alpha=-group["lr"])


class Named(torch.optim.SGD):
    """Of another name only."""


def test_a_step_of_its_own():
    model = network()
    with pytest.warns(UserWarning, match="Signs has a step of its own.*SGD"):
        gf.suggest_lr(model, MSE, (X, Y), Signs(model.parameters(), lr=0.1))


def test_a_step_that_is_torchs(quiet):
    model = network()
    for kind in (Named, torch.optim.SGD):
        gf.suggest_lr(model, MSE, (X, Y), kind(model.parameters(), lr=0.1))
    for kind in (torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad):
        assert gf.optim.stability_edge(kind(model.parameters(), lr=0.1)) > 0
