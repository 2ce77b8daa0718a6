"""Walking: along a flow with a solver, down the loss with gradient descent; how far apart.

Many paths at once where there is noise.
"""

from gdflows.walking.descent import descend
from gdflows.walking.drift import drift_bound
from gdflows.walking.ensemble import Ensemble
from gdflows.walking.ode import integrate
from gdflows.walking.paths import walk_paths
from gdflows.walking.sgd import sgd

__all__ = ["Ensemble", "descend", "drift_bound", "integrate", "sgd", "walk_paths"]
