"""What a newcomer is told who takes a wrong turn. (What else is refused: tests of each part.)"""

import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError
from gdflows.experiments import carry_out

mse = torch.nn.functional.mse_loss


def small():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(8, 3, generator=g), torch.randn(8, 1, generator=g)
    return torch.nn.Linear(3, 1), (x, y)


def test_a_class_in_place_of_a_loss():
    model, data = small()
    with pytest.raises(InputError, match=r"class MSELoss.*MSELoss\(\)"):
        gf.Objective.from_module(model, torch.nn.MSELoss, data)


def test_a_loss_of_each_sample():
    model, data = small()
    with pytest.raises(InputError, match="scalar.*reduction='none'"):
        E = gf.Objective.from_module(model, torch.nn.MSELoss(reduction="none"), data)
        E.value(E.theta0)


@pytest.mark.parametrize("probe", ["loss", "gradient_norm", "sharpness", "smallest_eigenvalue"])
def test_a_model_or_an_objective_in_place_of_a_point(probe):
    model, data = small()
    E = gf.Objective.from_module(model, mse, data)
    for what in (model, E, E.theta0):
        with pytest.raises(InputError, match=r"looks at a point.*E\.at\(E\.theta0\)"):
            getattr(gf.probes, probe)(what)


def test_an_optimiser_of_another_model():
    """It would be told that its sharpness is zero."""
    model, data = small()
    optimizer = torch.optim.SGD(small()[0].parameters(), lr=0.1)
    with pytest.raises(InputError, match="SGD holds none of the model's parameters"):
        gf.SharpnessMonitor(model, mse, data, optimizer, every=1).step()
    with pytest.raises(InputError, match="SGD holds none of the model's parameters"):
        gf.suggest_lr(model, mse, data, optimizer)


def test_half_precision_and_a_rate_of_zero():
    model, (x, y) = small()
    with pytest.raises(InputError, match="half precision.*float32"):
        gf.Objective.from_module(model.half(), mse, (x.half(), y.half()))
    E = gf.problems.quadratic([1.0])
    with pytest.raises(InputError, match="lr must be positive"):
        gf.descend(E, torch.ones(1).double(), lr=0, steps=1)


def test_a_study_at_a_rate_of_zero():
    """It would train nothing, and look for the edge for ever."""
    with pytest.raises(InputError, match="lr must be positive"):
        carry_out("eos", {"lr": 0.0, "steps": 2})
