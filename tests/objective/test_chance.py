"""A loss that draws random numbers is one function, and it is said that it is but one of many."""

import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import gdflows as gf
from gdflows.errors import InputError

MSE = nn.MSELoss()
LAYERS = {
    "dropout": (lambda: nn.Dropout(0.5), "Dropout 1"),
    "random slopes": (lambda: nn.RReLU(), "RReLU 1"),
    "dropout inside": (lambda: nn.Sequential(nn.Tanh(), nn.Dropout(0.5)), "Dropout 1.1"),
    "by its function": (lambda: Skipped(lambda h: nn.functional.dropout(h, 0.5)), "Skipped 1"),
    "a layer skipped": (lambda: Skipped(lambda h: h * torch.rand(len(h), 1).round()), "Skipped 1"),
    "numpy's": (lambda: Skipped(lambda h: h * np.random.rand()), "Skipped 1"),  # noqa: NPY002
}


class Skipped(nn.Module):
    """What a function does to the features, in training mode only."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, h):
        return self.function(h) if self.training else h


def network(layer):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), layer, nn.Linear(8, 1))


def data():
    g = torch.Generator().manual_seed(1)
    return torch.randn(10, 4, generator=g), torch.randn(10, 1, generator=g)


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("name", LAYERS)
def test_names_what_draws(name):
    layer, culprit = LAYERS[name]
    said = rf"random numbers \({re.escape(culprit)}\).*model\.eval\(\).*seed=0"
    with pytest.warns(UserWarning, match=said) as caught:
        gf.Objective.from_module(network(layer()), MSE, data())
    assert caught[0].filename == __file__, "it is not said of the user's own line"


@pytest.mark.parametrize("name", LAYERS)
def test_says_nothing_in_evaluation_mode_or_where_one_draw_is_meant(name, quiet):
    model = network(LAYERS[name][0]())
    gf.Objective.from_module(model, MSE, data(), seed=0)
    gf.Objective.from_module(model, MSE, data(), check=False)
    E = gf.Objective.from_module(model.eval(), MSE, data())
    torch.testing.assert_close(E.value(E.theta0), MSE(model(data()[0]), data()[1]).detach())


def test_says_nothing_of_layers_that_draw_nothing(quiet):
    for layer in (nn.Dropout(0.0), nn.BatchNorm1d(8), nn.Tanh()):
        gf.Objective.from_module(network(layer), MSE, data())


def test_a_generator_of_its_own():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 1)
            self.generator = torch.Generator().manual_seed(3)

        def forward(self, x):
            return self.inner(x * torch.rand(x.shape, generator=self.generator))

    with pytest.warns(UserWarning, match="a generator of its own, generator"):
        gf.Objective.from_module(Noisy(), MSE, data())


def test_a_function_of_a_vector():
    E = gf.Objective(lambda theta: (theta * torch.rand(3)).square().sum(), 3)
    with pytest.warns(UserWarning, match="torch's global state"):
        E.value(torch.ones(3))


def test_every_way_in():
    model = network(nn.Dropout(0.5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for ask in (gf.suggest_lr, gf.SharpnessMonitor):
        with pytest.warns(UserWarning, match="Dropout 1"):
            ask(model, MSE, data(), optimizer)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ask(model, MSE, data(), optimizer, seed=0)


def test_another_mode_than_the_one_it_was_made_in():
    """Made in evaluation mode and looked at in training mode, where numpy's state is used too."""
    model = network(nn.Sequential(LAYERS["numpy's"][0](), nn.Dropout(0.5))).eval()
    E = gf.Objective.from_module(model, MSE, data())
    still = E.value(E.theta0)
    model.train()
    with pytest.warns(UserWarning, match=r"Skipped 1\.0, Dropout 1\.1"):
        drawn = E.value(E.theta0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert E.value(E.theta0) == drawn != still
        model.eval()
        assert E.value(E.theta0) == still


def test_chunks_of_a_model_that_is_put_into_training_mode():
    """Each chunk would be normalised by its own mean, which the whole is not."""
    model = network(nn.BatchNorm1d(8)).eval()
    E = gf.Objective.from_module(model, MSE, data(), chunk=5)
    E.value(E.theta0)
    model.train()
    with pytest.raises(InputError, match="Batch normalisation in training mode"):
        E.value(E.theta0)
