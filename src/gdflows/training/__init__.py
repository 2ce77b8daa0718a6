"""For anybody's training loop: the monitor, the largest stable learning rate, callbacks."""

from gdflows.training.monitor import Sharpness, SharpnessMonitor
from gdflows.training.suggestion import Suggestion, suggest_lr

__all__ = ["Sharpness", "SharpnessMonitor", "Suggestion", "suggest_lr"]
