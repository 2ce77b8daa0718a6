"""Losses to study: formulas, networks and data.

Everything here ends in an :class:`gdflows.Objective`. Formulas return one; a network and a data
set are joined into one by :func:`classification`.
"""

from gdflows.problems.analytic import banana, concave, cosh, cubic, product, quadratic, valley
from gdflows.problems.losses import cross_entropy, squared_error

__all__ = [
    "banana",
    "concave",
    "cosh",
    "cross_entropy",
    "cubic",
    "product",
    "quadratic",
    "squared_error",
    "valley",
]
