"""How far a sequence has come, against a random walk of the same displacements."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gdflows.optim.vectors import lengths, norm

GAP = 4  # steps of a displacement: a step to and fro at the edge is none
LEAST = 2  # displacements before anything is said


class Walk:
    r"""The learning rate at which the way from the start is as long as a random walk's.

    With :math:`\Delta_j` the displacements over four steps each, at mean rates
    :math:`\bar\eta_j`, and d the distance from the start,

    .. math:: \eta_{\text{walk}} = \frac{d}{C\,\bigl(\sum_j\|\Delta_j/\bar\eta_j\|^2\bigr)^{1/2}} .

    At a constant rate η it is η/C for a random walk, more where displacements agree, less where
    they undo one another.

    Parameters
    ----------
    part : float
        C.

    References
    ----------
    Ivgi, Hinder and Carmon (2023), "DoG is SGD's best friend", with single steps, the largest
    distance so far, C = 1, and as the rate itself.
    """

    def __init__(self, part: float):
        self.part = part
        self.rates = 0.0  # summed over the steps of the present displacement
        self.steps = self.displacements = 0
        self.limit = math.inf

    def look(self, states: Sequence[dict], where: Sequence[Tensor]) -> float:
        """The rate, at the present point; ∞ while too little is known."""
        for state, point in zip(states, where, strict=True):
            if "walk_start" not in state:
                state["walk_start"] = point.detach().clone()
                state["walk_last"] = point.detach().clone()
                state["walk_squares"] = 0.0  # of displacements over rates
        if self.steps < GAP:
            return self.limit
        if self.rates > 0:
            moved = torch._foreach_sub(where, [state["walk_last"] for state in states])
            for state, length in zip(states, lengths(moved), strict=True):
                state["walk_squares"] += (length * self.steps / self.rates) ** 2
            self.displacements += 1
        self.rest(states, where)
        # Of those that move now: one that is frozen takes its past with it.
        squares = sum(state["walk_squares"] for state in states)
        if self.displacements >= LEAST and squares > 0:
            way = torch._foreach_sub(where, [state["walk_start"] for state in states])
            self.limit = float(norm(way)) / (self.part * math.sqrt(squares))
        return self.limit

    def count(self, rate: float) -> None:
        """A step of that rate is made."""
        self.steps += 1
        self.rates += rate

    def rest(self, states: Sequence[dict], where: Sequence[Tensor]) -> None:
        """The next displacement begins here, as after a jump that was no step."""
        self.steps, self.rates = 0, 0.0
        for state, point in zip(states, where, strict=True):
            if "walk_last" in state:
                state["walk_last"].copy_(point)
