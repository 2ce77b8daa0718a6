"""What things cost: the count of bytes against what is known to be allocated, and the table."""

import pytest
import torch

from gdflows import problems
from gdflows.errors import InputError
from gdflows.experiments.costs import TASKS, costs, peak, width_of
from gdflows.experiments.registry import CHECKS

MIB = 2**20


def test_bytes_are_those_that_are_allocated():
    """Two blocks at once, one kept; against torch's own sizes."""

    def action():
        a = torch.ones(MIB)  # 4 MiB
        b = torch.ones(2 * MIB)  # 8 MiB
        del a
        return b, torch.ones(MIB // 4)  # 1 MiB

    most, after = peak(action)
    assert most == 12 * MIB
    assert after == 9 * MIB


def test_what_a_backward_pass_saves_is_seen():
    """tanh keeps its output: three vectors at the height, though only one result."""
    x = torch.ones(MIB, requires_grad=True)
    most, after = peak(lambda: torch.autograd.grad(x.tanh().sum(), x)[0])
    assert after == 4 * MIB
    assert 8 * MIB <= most <= 12 * MIB + 1024


@pytest.mark.parametrize(("size", "hidden"), [(1000, 2), (10_000, 2), (30_000, 4)])
def test_width(size, hidden):
    def count(width):
        net = problems.mlp([64, *[width] * hidden, 10], "tanh", seed=0)
        return sum(p.numel() for p in net.parameters())

    w = width_of(size, hidden, 64, 10)
    assert abs(count(w) - size) <= min(abs(count(w - 1) - size), abs(count(w + 1) - size))


@pytest.fixture(scope="module")
def table():
    return costs(sizes="600", n=8).set_index("what")


def test_counts_are_those_of_the_formulas(table):
    for what, gradients, hvps in [
        ("gradient", 1, 0), ("product, graph kept", 0, 1), ("product, from nothing", 1, 1),
        ("NGF", 1, 0), ("IGR", 1, 1), ("rod", 2, 0), ("density, 20 products", 1, 20),
        ("order 2, differences", 3, 0), ("SGD", 1, 0), ("Adam", 1, 0), ("DAL", 1, 1),
        ("CDAT on Adam", 1, 1),
    ]:  # fmt: skip
        assert (table.gradients[what], table.hvps[what]) == (gradients, hvps), what
    assert list(table.index) == [task.what for task in TASKS]
    assert (table.microseconds > 0).all()


def test_what_is_kept_is_what_the_method_keeps(table):
    kept = table.kept
    assert (table.vectors >= kept - 1e-9).all()
    # A copy of the module and its gradient; momentum one vector more, Adam two.
    for what, vectors in [("SGD", 2), ("momentum", 3), ("Adam", 4), ("gradient", 1)]:
        assert kept[what] == pytest.approx(vectors, abs=0.05), what
    assert kept["gradients sample by sample"] == pytest.approx(8, abs=0.01)


def test_bytes_are_the_same_twice(table):
    again = costs(sizes="600", n=8).set_index("what")
    assert (again.kept == table.kept).all()
    assert again.vectors.to_numpy() == pytest.approx(table.vectors.to_numpy(), rel=0.1)


def test_sizes_that_no_width_has_are_refused():
    with pytest.raises(InputError, match="no width has about 10 parameters"):
        costs(sizes="10")
    with pytest.raises(InputError, match="hidden must be at least 2"):
        costs(hidden=1)


def test_what_is_long_can_be_left_out():
    assert [t.what for t in TASKS if t.long] == [
        "five eigenpairs", "sharpness, tracked", "density, 20 products", "central, tracked",
    ]  # fmt: skip


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with pytest.raises(InputError):
        costs(sizes="10")
    assert torch.get_num_threads() == before


def test_one_thing_alone(table):
    """What needs no learning rate is measured without a search for one."""
    (row,) = costs(sizes="600", n=8, only="gradient").to_dict("records")
    assert row["what"] == "gradient" and row["gradients"] == 1
    assert row["kept"] == table.kept["gradient"]
    assert costs(sizes="600", n=8, only="SGD").what.tolist() == ["SGD"]
    with pytest.raises(InputError, match="nothing that is measured is called 'speed'"):
        costs(sizes="600", only="speed")
    shorten = CHECKS["costs"][1]
    assert shorten({"sizes": "600,10000000"}) == {"sizes": "600", "rounds": 1}
    assert shorten({"sizes": "10000000"})["only"] == "gradient"
