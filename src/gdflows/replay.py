"""See :mod:`gdflows.training.replay`; this is the name under which it is public."""

from gdflows.training.replay import Spike, explain_spike, try_rates

__all__ = ["Spike", "explain_spike", "try_rates"]
