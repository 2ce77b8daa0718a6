"""See :mod:`gdflows.training.lightning`; this is the name under which it is public."""

from gdflows.training.lightning import SharpnessCallback

__all__ = ["SharpnessCallback"]
