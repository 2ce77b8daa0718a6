"""Walking: along a flow with a solver, down the loss with gradient descent; how far apart.

Many paths at once where there is noise.
"""

from gdflows.walking.accelerated import accelerate
from gdflows.walking.adaptive import adaptive_sgd
from gdflows.walking.descent import descend
from gdflows.walking.drift import drift_bound
from gdflows.walking.ensemble import Ensemble
from gdflows.walking.ode import integrate
from gdflows.walking.paths import walk_paths
from gdflows.walking.sgd import sgd
from gdflows.walking.splitting import Splitting, conformal_factor

__all__ = [
    "Ensemble",
    "Splitting",
    "accelerate",
    "adaptive_sgd",
    "conformal_factor",
    "descend",
    "drift_bound",
    "integrate",
    "sgd",
    "walk_paths",
]
