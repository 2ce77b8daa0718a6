"""Optimisers seen through curvature: where their linearised step ceases to contract."""

from gdflows.optim import thresholds
from gdflows.optim.thresholds import preconditioner, stability_edge

__all__ = ["preconditioner", "stability_edge", "thresholds"]
