"""See :mod:`gdflows.training.suggestion`; this is the name under which it is public."""

from gdflows.training.suggestion import Suggestion, suggest_lr

__all__ = ["Suggestion", "suggest_lr"]
