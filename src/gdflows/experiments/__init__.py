"""The studies that the book reports, by name, and the command line that runs them."""

from gdflows.experiments.registry import STUDIES, study

__all__ = ["STUDIES", "study"]

# Importing a study's module registers it.
from gdflows.experiments import step_size  # noqa: F401
