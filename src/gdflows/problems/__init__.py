"""Losses to study: formulas, networks and data.

Everything here ends in an :class:`gdflows.Objective`. Formulas return one; a network and a data
set are joined into one by :func:`classification`; :func:`penalised`, :func:`mean` and
:func:`linearised` make one of others.
"""

from gdflows.problems.analytic import banana, concave, cosh, cubic, product, quadratic, valley
from gdflows.problems.balance import balancedness
from gdflows.problems.classification import classification
from gdflows.problems.data import Dataset, load, text, whiten
from gdflows.problems.language import gpt
from gdflows.problems.linear import linearised
from gdflows.problems.losses import cross_entropy, squared_error
from gdflows.problems.made import mean, penalised
from gdflows.problems.networks import conv, deep_linear, mlp
from gdflows.problems.signals import MeanField, mean_field, mean_field_limit
from gdflows.problems.vision import resnet18, vgg11, vit

__all__ = [
    "Dataset",
    "MeanField",
    "balancedness",
    "banana",
    "classification",
    "concave",
    "conv",
    "cosh",
    "cross_entropy",
    "cubic",
    "deep_linear",
    "gpt",
    "linearised",
    "load",
    "mean",
    "mean_field",
    "mean_field_limit",
    "mlp",
    "penalised",
    "product",
    "quadratic",
    "resnet18",
    "squared_error",
    "text",
    "valley",
    "vgg11",
    "vit",
    "whiten",
]
