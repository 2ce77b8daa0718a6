"""gdflows: the continuous-time dynamics that gradient descent really follows.

Six nouns, in the order in which data meets them: an :class:`Objective` becomes a flow
(:mod:`gdflows.flows`), walking it yields a :class:`Trajectory`, probes
(:mod:`gdflows.probes`) look at its states, and a :class:`~gdflows.runs.Run` records what they
saw with everything needed to make it again.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gdflows import (
        bseries,
        curvature,
        errors,
        flows,
        landscape,
        noise,
        optim,
        plotting,
        probes,
        problems,
        runs,
    )
    from gdflows.experiments.leaderboard import leaderboard
    from gdflows.flows import stability_coefficients
    from gdflows.objective import Objective, Point
    from gdflows.training import SharpnessMonitor, explain_spike, suggest_lr, try_rates
    from gdflows.trajectory import Trajectory
    from gdflows.verdict import validity
    from gdflows.walking import descend, drift_bound, integrate

__version__ = "0.1.0"

__all__ = [
    "Objective",
    "Point",
    "SharpnessMonitor",
    "Trajectory",
    "bseries",
    "curvature",
    "descend",
    "drift_bound",
    "errors",
    "explain_spike",
    "flows",
    "integrate",
    "landscape",
    "leaderboard",
    "noise",
    "optim",
    "plotting",
    "probes",
    "problems",
    "runs",
    "stability_coefficients",
    "suggest_lr",
    "try_rates",
    "validity",
]

# Everything is loaded on first use: a command that only lists does not pay for torch, nor a
# training script for sympy or matplotlib.
_FROM = {
    "Objective": "objective",
    "Point": "objective",
    "SharpnessMonitor": "training",
    "Trajectory": "trajectory",
    "descend": "walking",
    "drift_bound": "walking",
    "explain_spike": "training",
    "integrate": "walking",
    "leaderboard": "experiments.leaderboard",
    "stability_coefficients": "flows",
    "suggest_lr": "training",
    "try_rates": "training",
    "validity": "verdict",
}
_ROOMS = {*__all__} - {*_FROM}
_ROOMS |= {"objective", "parallel", "training", "trajectory", "verdict", "walking"}


def __getattr__(name: str):
    if name in _FROM:
        value = getattr(import_module(f"gdflows.{_FROM[name]}"), name)
    elif name in _ROOMS:
        value = import_module(f"gdflows.{name}")
    else:
        raise AttributeError(f"module 'gdflows' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})
