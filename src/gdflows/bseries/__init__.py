"""Backward error analysis by rooted trees: modified equations of any order, exactly."""

from gdflows.bseries.coloured import ColouredTree, coloured_trees
from gdflows.bseries.equation import TreeEquation
from gdflows.bseries.methods import METHODS, Method
from gdflows.bseries.modified import ModifiedEquation, modified_equation
from gdflows.bseries.momentum import heavy_ball, nesterov
from gdflows.bseries.numeric import SeriesField, elementary_differentials
from gdflows.bseries.partitioned import (
    PARTITIONED,
    PartitionedEquation,
    PartitionedMethod,
    partitioned_equation,
)
from gdflows.bseries.printing import svg
from gdflows.bseries.series import compose, exact_flow, substitute
from gdflows.bseries.symbolic import taylor_matching
from gdflows.bseries.terms import Term
from gdflows.bseries.trees import Tree, rooted_trees

__all__ = [
    "METHODS",
    "PARTITIONED",
    "ColouredTree",
    "Method",
    "ModifiedEquation",
    "PartitionedEquation",
    "PartitionedMethod",
    "SeriesField",
    "Term",
    "Tree",
    "TreeEquation",
    "coloured_trees",
    "compose",
    "elementary_differentials",
    "exact_flow",
    "heavy_ball",
    "modified_equation",
    "nesterov",
    "partitioned_equation",
    "rooted_trees",
    "substitute",
    "svg",
    "taylor_matching",
]
