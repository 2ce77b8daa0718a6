"""See :mod:`gdflows.training.monitor`; this is the name under which it is public."""

from gdflows.training.monitor import Sharpness, SharpnessMonitor

__all__ = ["Sharpness", "SharpnessMonitor"]
