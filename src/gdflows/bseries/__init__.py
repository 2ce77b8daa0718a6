"""Backward error analysis by rooted trees: modified equations of any order, exactly."""

from gdflows.bseries.methods import METHODS, Method
from gdflows.bseries.modified import ModifiedEquation, modified_equation
from gdflows.bseries.momentum import heavy_ball, nesterov
from gdflows.bseries.printing import svg
from gdflows.bseries.series import compose, exact_flow, substitute
from gdflows.bseries.symbolic import taylor_matching
from gdflows.bseries.terms import Term
from gdflows.bseries.trees import Tree, rooted_trees

__all__ = [
    "METHODS",
    "Method",
    "ModifiedEquation",
    "Term",
    "Tree",
    "compose",
    "exact_flow",
    "heavy_ball",
    "modified_equation",
    "nesterov",
    "rooted_trees",
    "substitute",
    "svg",
    "taylor_matching",
]
