"""Which model of a run may be trusted, and for how long."""

from gdflows.verdict.foresight import validity
from gdflows.verdict.report import Validity

__all__ = ["Validity", "validity"]
