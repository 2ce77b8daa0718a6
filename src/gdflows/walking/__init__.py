"""Walking: along a flow with a solver, down the loss with gradient descent; how far apart."""

from gdflows.walking.descent import descend
from gdflows.walking.drift import drift_bound
from gdflows.walking.ode import integrate

__all__ = ["descend", "drift_bound", "integrate"]
