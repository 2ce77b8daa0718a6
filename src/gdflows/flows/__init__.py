"""Continuous-time models of gradient descent, one small class each."""

from gdflows.flows.adaptive import AdaptiveRule, Averages, StableFlow
from gdflows.flows.base import Flow
from gdflows.flows.central import CentralFlow, Oscillation
from gdflows.flows.central_adaptive import AdaptiveCentralFlow
from gdflows.flows.gradient import IGR, NGF
from gdflows.flows.modified import EpochFlow, HeavyBall
from gdflows.flows.momentum import MomentumRodFlow
from gdflows.flows.principal import PrincipalFlow, alpha, log_multiplier
from gdflows.flows.principal_rod import PrincipalRodFlow
from gdflows.flows.rod import EdgeFlow, RodFlow
from gdflows.flows.rod_adaptive import AdaptiveRodFlow
from gdflows.flows.stabilisation import SelfStabilisation
from gdflows.flows.stability import (
    StabilityCoefficients,
    classify,
    jacobian,
    jacobian_eigenvalue,
    stability_coefficients,
)
from gdflows.flows.truncated import Truncated, third_order_nonprincipal

__all__ = [
    "IGR",
    "NGF",
    "AdaptiveCentralFlow",
    "AdaptiveRodFlow",
    "AdaptiveRule",
    "Averages",
    "CentralFlow",
    "EdgeFlow",
    "EpochFlow",
    "Flow",
    "HeavyBall",
    "MomentumRodFlow",
    "Oscillation",
    "PrincipalFlow",
    "PrincipalRodFlow",
    "RodFlow",
    "SelfStabilisation",
    "StabilityCoefficients",
    "StableFlow",
    "Truncated",
    "alpha",
    "classify",
    "jacobian",
    "jacobian_eigenvalue",
    "log_multiplier",
    "stability_coefficients",
    "third_order_nonprincipal",
]
