"""The noise of minibatch gradients: measured sample by sample, without its covariance matrix."""

from gdflows.noise.curvature import DirectionalNoise, directional_noise
from gdflows.noise.gradients import GradientNoise, batch_factor, per_sample_gradients

__all__ = [
    "DirectionalNoise",
    "GradientNoise",
    "batch_factor",
    "directional_noise",
    "per_sample_gradients",
]
