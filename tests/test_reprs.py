"""What results look like where they are printed: no private field, no table of numbers."""

import dataclasses
import importlib
import pkgutil

import pytest
import torch

import gdflows as gf


def dataclasses_of_the_package():
    found = set()
    for module in pkgutil.walk_packages(gf.__path__, "gdflows."):
        if module.name == "gdflows.__main__":
            continue
        try:
            room = importlib.import_module(module.name)
        except ImportError as error:  # an adapter to a package that is not here
            if (error.name or "").startswith("gdflows"):
                raise
            continue
        for thing in vars(room).values():
            if not isinstance(thing, type) or not dataclasses.is_dataclass(thing):
                continue
            if thing.__module__ == module.name:
                found.add(thing)
    return sorted((c for c in found if not c.__name__.startswith("_")), key=lambda c: c.__name__)


@pytest.mark.parametrize("kind", dataclasses_of_the_package(), ids=lambda kind: kind.__name__)
def test_no_private_field_in_a_repr(kind):
    if not kind.__dataclass_params__.repr:
        return  # it has its own, see below
    shown = [f.name for f in dataclasses.fields(kind) if f.repr]
    assert not [name for name in shown if name.startswith("_")]


def test_the_length_of_a_repr_does_not_grow_with_the_parameters():
    E = gf.problems.quadratic(torch.linspace(1.0, 2.0, 900, dtype=torch.float64))
    theta = torch.ones(900, dtype=torch.float64)
    pairs = gf.curvature.top_eigenpairs(E, theta, 2)
    applied = gf.curvature.apply_function(E, theta, lambda x: x * x, theta, full_output=True)
    density = gf.curvature.spectral_density(E, theta)
    stability = gf.flows.stability_coefficients(E, theta, 0.5)
    tracked = gf.curvature.Tracker(E, 1).update(theta)
    path = gf.descend(E, theta, 0.1, 3)
    for result in (pairs, applied, density, stability, tracked, path, gf.problems.load("iris")):
        assert len(repr(result)) < 600, repr(result)
        assert "_" not in repr(result).replace("since_check", ""), repr(result)
