"""Rooted trees: their numbers, and the identities that symmetry and density obey."""

from fractions import Fraction
from math import factorial

import pytest

from gdflows.bseries import Tree, rooted_trees
from gdflows.errors import InputError

DOT = Tree()


def test_numbers_of_trees():
    # OEIS A000081
    assert [len(rooted_trees(n)) for n in range(1, 12)] == [
        1, 1, 2, 4, 9, 20, 48, 115, 286, 719, 1842,
    ]  # fmt: skip


def test_order_of_branches_does_not_matter():
    a, b = Tree([DOT]), Tree([DOT, DOT])
    assert Tree([a, b, DOT]) == Tree([DOT, b, a]) and hash(Tree([a, b])) == hash(Tree([b, a]))
    assert Tree([a]) != Tree([b])


@pytest.mark.parametrize("n", range(1, 9))
def test_sums_over_all_trees(n):
    trees = rooted_trees(n)
    # monotonic labellings: n!/(σγ) each, (n−1)! in all; labellings: n!/σ each, n^(n−1) in all
    assert sum(Fraction(factorial(n), t.symmetry * t.density) for t in trees) == factorial(n - 1)
    assert sum(Fraction(factorial(n), t.symmetry) for t in trees) == n ** (n - 1)


def test_known_symmetries_and_densities():
    cherry, tall = Tree([DOT, DOT]), Tree([Tree([DOT])])
    assert (cherry.symmetry, cherry.density, tall.symmetry, tall.density) == (2, 3, 1, 6)
    wide = Tree([cherry, cherry, DOT])
    assert wide.symmetry == 2 * 2 * 2 and wide.density == 8 * 3 * 3
    assert tall.is_tall and not cherry.is_tall and cherry.is_bushy and not tall.is_bushy


@pytest.mark.parametrize("n", range(2, 8))
def test_cuts_take_every_vertex_but_the_root_once(n):
    for tree in rooted_trees(n):
        assert sum(tree.cuts.values()) == n - 1
        assert all(left.order + off.order == n for left, off in tree.cuts)


def test_no_tree_without_a_root():
    with pytest.raises(InputError, match="at least one vertex"):
        rooted_trees(0)
