"""The objective: a loss E on one flat parameter vector, from a formula or a torch module."""

from gdflows.objective.base import LARGEST_DENSE, Objective, Point
from gdflows.objective.graph import twice_differentiable
from gdflows.objective.module import FlatModule

__all__ = ["LARGEST_DENSE", "FlatModule", "Objective", "Point", "twice_differentiable"]
