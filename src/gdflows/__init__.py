"""gdflows: the continuous-time dynamics that gradient descent really follows.

Six nouns, in the order in which data meets them: an :class:`Objective` becomes a flow
(:mod:`gdflows.flows`), walking it yields a :class:`Trajectory`, probes
(:mod:`gdflows.probes`) look at its states, and a :class:`~gdflows.runs.Run` records what they
saw with everything needed to make it again.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from gdflows import curvature, errors, flows, landscape, optim, probes
from gdflows.flows import stability_coefficients
from gdflows.objective import Objective, Point
from gdflows.training import SharpnessMonitor, suggest_lr
from gdflows.trajectory import Trajectory
from gdflows.walking import descend, integrate

if TYPE_CHECKING:
    from gdflows import bseries, plotting, problems, runs

__version__ = "0.1.0"

# Loaded on first use, so that a training script does not pay for sympy or matplotlib.
_LAZY = ("bseries", "plotting", "problems", "runs")

__all__ = [
    "Objective",
    "Point",
    "SharpnessMonitor",
    "Trajectory",
    "bseries",
    "curvature",
    "descend",
    "errors",
    "flows",
    "integrate",
    "landscape",
    "optim",
    "plotting",
    "probes",
    "problems",
    "runs",
    "stability_coefficients",
    "suggest_lr",
]


def __getattr__(name: str):
    if name in _LAZY:
        return import_module(f"gdflows.{name}")
    raise AttributeError(f"module 'gdflows' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_LAZY})
