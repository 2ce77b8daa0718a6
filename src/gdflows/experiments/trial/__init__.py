"""The trial of optimisers: tasks, contestants, the study that runs them, and how it is read."""

from gdflows.experiments.trial.reading import reached, standing, sweep_seconds
from gdflows.experiments.trial.study import trial

__all__ = ["reached", "standing", "sweep_seconds", "trial"]
