"""Walking: along a flow with a solver, or down the loss with gradient descent."""

from gdflows.walking.descent import descend
from gdflows.walking.ode import integrate

__all__ = ["descend", "integrate"]
