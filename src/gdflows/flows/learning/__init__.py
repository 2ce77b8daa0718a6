"""Learning rules of neuroscience as flows: local rules, feedback weights, energies that relax."""

from gdflows.flows.learning.energies import HopfieldEnergy, LayeredEnergy, PredictiveCoding
from gdflows.flows.learning.feedback import FeedbackAlignment, KolenPollack, WeightMirror
from gdflows.flows.learning.hebbian import BCM, Hebb, Oja
from gdflows.flows.learning.linear import (
    ModifiedRule,
    asymmetry,
    euler_edge,
    rate_matrix,
    turning_bias,
)
from gdflows.flows.learning.nudging import NudgedLearning, TwoTimes

__all__ = [
    "BCM",
    "FeedbackAlignment",
    "Hebb",
    "HopfieldEnergy",
    "KolenPollack",
    "LayeredEnergy",
    "ModifiedRule",
    "NudgedLearning",
    "Oja",
    "PredictiveCoding",
    "TwoTimes",
    "WeightMirror",
    "asymmetry",
    "euler_edge",
    "rate_matrix",
    "turning_bias",
]
