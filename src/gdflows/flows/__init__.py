"""Continuous-time models of gradient descent, one small class each."""

from gdflows.flows.base import Flow
from gdflows.flows.gradient import IGR, NGF

__all__ = ["IGR", "NGF", "Flow"]
