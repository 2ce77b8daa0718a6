"""Continuous-time models of gradient descent, one small class each."""

from gdflows.flows.base import Flow
from gdflows.flows.gradient import IGR, NGF
from gdflows.flows.truncated import Truncated, third_order_nonprincipal

__all__ = ["IGR", "NGF", "Flow", "Truncated", "third_order_nonprincipal"]
