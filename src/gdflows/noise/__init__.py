"""The noise of minibatch gradients: measured without its covariance matrix, and what it does to
SGD on quadratics, exactly.
"""

from gdflows.noise.curvature import DirectionalNoise, directional_noise
from gdflows.noise.gradients import GradientNoise, batch_factor, per_sample_gradients
from gdflows.noise.recursions import Quadratic, SampledQuadratics
from gdflows.noise.stationary import (
    mean_square_edge,
    moments,
    shuffled_moments,
    stationary_covariance,
)

__all__ = [
    "DirectionalNoise",
    "GradientNoise",
    "Quadratic",
    "SampledQuadratics",
    "batch_factor",
    "directional_noise",
    "mean_square_edge",
    "moments",
    "per_sample_gradients",
    "shuffled_moments",
    "stationary_covariance",
]
