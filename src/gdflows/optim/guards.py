"""What an optimiser at a rate of its own does when a loss jumps."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gdflows.errors import InputError, NonFiniteError
from gdflows.optim.evaluation import CurvatureOptimizer, Evaluation

PAUSE = 2  # steps without a look at curvature after going back
SPIKE, BLOW_UP = 2.0, 50.0  # losses, in units of what is usual, that trip the guards
MOST_TRIPS = 20  # restorations in a row before giving up
MEMORY, PEAK = 0.9, 0.98  # of the loss's average, of its largest value


class Guarded(CurvatureOptimizer):
    """The guards of :class:`gdflows.optim.AdaEoS`; losses are measured from ``lower_bound``."""

    def _above(self, seen: Evaluation) -> float:
        return seen.loss - self.lower_bound

    def _require_above_bound(self, seen: Evaluation) -> None:
        usual = self._average if self._average > 0 else 0.0
        slack = torch.finfo(seen.value.dtype).eps ** 0.5 * (usual + abs(self.lower_bound))
        if self._above(seen) < -slack:
            raise InputError(
                f"The loss is {seen.loss:g}, below lower_bound = {self.lower_bound:g}. First steps "
                "and guards measure the loss from there: give AdaEoS a lower_bound that no loss "
                "falls below."
            )

    def _spiked(self, seen: Evaluation) -> bool:
        usual = self._peak if self.stochastic else self._average
        return usual > 0 and self._above(seen) > SPIKE * usual

    def _blown_up(self, seen: Evaluation) -> bool:
        high = self._average > 0 and self._above(seen) > BLOW_UP * self._average
        return not math.isfinite(seen.loss) or high

    def _remember(self, above: float) -> None:
        if not self._average > 0:
            self._average = self._peak = above
        self._average = MEMORY * self._average + (1 - MEMORY) * above
        self._peak = max(above, PEAK * self._peak)

    def _keep(self, parameters: list[Tensor]) -> None:
        """What to go back to."""
        for p in parameters:
            state = self.state[p]
            state["kept"] = p.detach().clone()
            if not self.moments.second and "exp_avg" in state:
                state["kept_exp_avg"] = state["exp_avg"].clone()
                state["kept_count"] = state["count"]

    def _go_back(self, seen: Evaluation) -> None:
        self.trips += 1
        self._in_a_row += 1
        if self._in_a_row > MOST_TRIPS or math.isnan(self.eta):
            raise NonFiniteError(
                f"The loss is {seen.loss}, or its gradient is not finite"
                + (
                    " at the first step. Are the data clean, and is the initialisation sane?"
                    if math.isnan(self.eta)
                    else f"; going back {MOST_TRIPS} times to smaller learning rates did not help "
                    f"(η is {self.eta:.1e} now). The parameters are those of the last refresh."
                )
            )
        with torch.no_grad():
            for p in seen.parameters:
                state = self.state[p]
                if "kept" not in state:
                    continue  # it has not moved yet
                p.copy_(state["kept"])
                if "kept_exp_avg" in state:
                    state["exp_avg"].copy_(state["kept_exp_avg"])
                    state["count"] = state["kept_count"]
                elif "exp_avg" in state:  # a copy of Adam's moments would be two numbers more
                    state["exp_avg"].zero_()
                if "z" in state:
                    state["z"].copy_(p)
        self.eta /= 4
        # Not at once: the batch that is at hand has no sound curvature.
        self._gap, self._wait = self._half, PAUSE
