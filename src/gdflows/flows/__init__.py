"""Continuous-time models of gradient descent, one small class each; with noise, of SGD."""

from gdflows.flows.adaptive import AdaptiveRule, Averages, StableFlow
from gdflows.flows.base import Flow
from gdflows.flows.central import CentralFlow, Oscillation
from gdflows.flows.central_adaptive import AdaptiveCentralFlow
from gdflows.flows.constrained import StablePoint, StableSet, predicted_swing
from gdflows.flows.covariance import Covariance, NoiseFactor, PerSampleNoise
from gdflows.flows.depth import ResidualFlow
from gdflows.flows.gradient import IGR, NGF, PositiveGradientFlow
from gdflows.flows.inertial import InertialFlow, VanishingFriction
from gdflows.flows.labels import LabelNoise
from gdflows.flows.modified import EpochFlow, HeavyBall, Nesterov
from gdflows.flows.momentum import MomentumRodFlow
from gdflows.flows.principal import PrincipalFlow, alpha, log_multiplier
from gdflows.flows.principal_momentum import MomentumPrincipalFlow, multipliers, swinging
from gdflows.flows.principal_rod import PrincipalRodFlow
from gdflows.flows.rod import EdgeFlow, RodFlow
from gdflows.flows.rod_adaptive import AdaptiveRodFlow
from gdflows.flows.rounding import rounding
from gdflows.flows.stabilisation import SelfStabilisation
from gdflows.flows.stability import (
    StabilityCoefficients,
    classify,
    jacobian,
    jacobian_eigenvalue,
    stability_coefficients,
)
from gdflows.flows.stochastic import StochasticFlow, StochasticModifiedEquation
from gdflows.flows.stochastic_adaptive import AdaptiveModifiedEquation, settled_averages
from gdflows.flows.stochastic_rod import StochasticRodFlow
from gdflows.flows.truncated import Truncated, third_order_nonprincipal
from gdflows.flows.valley import ShuffledValleyFlow, ValleyFlow, epoch_share

__all__ = [
    "IGR",
    "NGF",
    "AdaptiveCentralFlow",
    "AdaptiveModifiedEquation",
    "AdaptiveRodFlow",
    "AdaptiveRule",
    "Averages",
    "CentralFlow",
    "Covariance",
    "EdgeFlow",
    "EpochFlow",
    "Flow",
    "HeavyBall",
    "InertialFlow",
    "LabelNoise",
    "MomentumPrincipalFlow",
    "MomentumRodFlow",
    "Nesterov",
    "NoiseFactor",
    "Oscillation",
    "PerSampleNoise",
    "PositiveGradientFlow",
    "PrincipalFlow",
    "PrincipalRodFlow",
    "ResidualFlow",
    "RodFlow",
    "SelfStabilisation",
    "ShuffledValleyFlow",
    "StabilityCoefficients",
    "StableFlow",
    "StablePoint",
    "StableSet",
    "StochasticFlow",
    "StochasticModifiedEquation",
    "StochasticRodFlow",
    "Truncated",
    "ValleyFlow",
    "VanishingFriction",
    "alpha",
    "classify",
    "epoch_share",
    "jacobian",
    "jacobian_eigenvalue",
    "log_multiplier",
    "multipliers",
    "predicted_swing",
    "rounding",
    "settled_averages",
    "stability_coefficients",
    "swinging",
    "third_order_nonprincipal",
]
