"""See :mod:`gdflows.training.huggingface`; this is the name under which it is public."""

from gdflows.training.huggingface import ClosureTrainer, SharpnessCallback

__all__ = ["ClosureTrainer", "SharpnessCallback"]
