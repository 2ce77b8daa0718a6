"""The studies that the book reports, by name, and the command line that runs them."""

from gdflows.experiments.registry import STUDIES, carry_out, repeat, study

__all__ = ["STUDIES", "carry_out", "repeat", "study"]

# Importing a study's module registers it.
from gdflows.experiments import drift_rates, edge_models, eos, predictions, step_size, trial  # noqa: F401
