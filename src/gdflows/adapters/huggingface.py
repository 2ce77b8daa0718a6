"""See :mod:`gdflows.training.huggingface`; this is the name under which it is public."""

from gdflows.training.huggingface import SharpnessCallback

__all__ = ["SharpnessCallback"]
