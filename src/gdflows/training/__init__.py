"""For anybody's training loop: the monitor, the largest stable rate, replays, callbacks."""

from gdflows.training.monitor import Sharpness, SharpnessMonitor
from gdflows.training.replay import Spike, explain_spike, try_rates
from gdflows.training.suggestion import Suggestion, suggest_lr

__all__ = [
    "Sharpness",
    "SharpnessMonitor",
    "Spike",
    "Suggestion",
    "explain_spike",
    "suggest_lr",
    "try_rates",
]
