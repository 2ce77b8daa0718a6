"""The studies that the book reports, by name, and the command line that runs them."""

from importlib import import_module

__all__ = ["STUDIES", "carry_out", "repeat", "study"]

# What runs studies needs torch, what lists them does not.
_LAZY = {"STUDIES", "carry_out", "repeat", "study"}


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module 'gdflows.experiments' has no attribute {name!r}")
    registry = import_module("gdflows.experiments.registry")
    if name == "STUDIES":
        registry.know_all()
    return getattr(registry, name)


def __dir__():
    return sorted({*globals(), *_LAZY})
