"""Optimisers and curvature: where a linearised step ceases to contract, and steps that know it."""

from gdflows.optim import thresholds
from gdflows.optim.adaeos import AdaEoS
from gdflows.optim.cdat import CDAT
from gdflows.optim.dal import DAL
from gdflows.optim.evaluation import CurvatureOptimizer
from gdflows.optim.thresholds import preconditioner, stability_edge

__all__ = [
    "CDAT",
    "DAL",
    "AdaEoS",
    "CurvatureOptimizer",
    "preconditioner",
    "stability_edge",
    "thresholds",
]
