"""The transformer for text, its data and its loss."""

import math

import pytest
import torch

import gdflows as gf
from gdflows.errors import DataError, InputError
from gdflows.problems import data, gpt

F64 = torch.float64
LINE = "To be, or not to be: that is the question.\n"


@pytest.fixture
def play(monkeypatch):
    """A text of 430 characters in place of the real one."""
    monkeypatch.setattr(data.sets, "text", lambda **_: LINE * 10)
    return gf.problems.load("shakespeare-8")


def characters(samples, rows):
    return ["".join(samples.classes[i] for i in row) for row in rows]


def test_sequences_follow_one_another_and_targets_are_one_ahead(play):
    whole = LINE * 10
    assert characters(play, play.x_train[:2]) == [whole[:8], whole[8:16]]
    assert characters(play, play.y_train[:2]) == [whole[1:9], whole[9:17]]
    assert len(play.x_train) == 53 - 5
    assert len(play.x_test) == 5
    assert characters(play, play.x_test[:1]) == [whole[48 * 8 : 49 * 8]]
    assert play.classes == tuple(sorted(set(LINE)))


def test_unknown_lengths_are_refused():
    with pytest.raises(DataError, match="shakespeare-T"):
        gf.problems.load("shakespeare-0")


def test_no_place_sees_a_later_one():
    network = gpt(0.25, depth=2, context=6, classes=9, dtype=F64)
    x = torch.tensor([[0, 1, 2, 3, 4, 5]])
    other = x.clone()
    other[0, 4] = 8
    gap = (network(x) - network(other)).abs().amax(2)[0]
    assert (gap[:4] == 0).all()
    assert (gap[4:] > 1e-6).all()


def test_at_the_start_it_knows_next_to_nothing(play):
    network = gpt(0.5, context=8, classes=len(play.classes), scale=0.1, dtype=F64)
    E = gf.problems.classification(play, network, loss="cross-entropy", n=10)
    assert float(E.value(E.theta0)) == pytest.approx(math.log(len(play.classes)), rel=0.05)


def test_derivatives_and_descent(play):
    network = gpt(0.25, depth=1, heads=2, context=8, classes=len(play.classes), dtype=F64)
    E = gf.problems.classification(play, network, loss="cross-entropy", n=10)
    v = torch.randn(E.dim, dtype=F64, generator=torch.Generator().manual_seed(0))
    step = 1e-6
    up, down = E.grad(E.theta0 + step * v), E.grad(E.theta0 - step * v)
    torch.testing.assert_close(E.hvp(E.theta0, v), (up - down) / (2 * step), rtol=1e-5, atol=1e-6)
    path = gf.descend(E, E.theta0, 0.05, 50)
    assert E.value(path.states[-1]) < 0.8 * E.value(path.states[0])


def test_cross_entropy_of_sequences_is_the_mean_over_all_places():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 3, 4, dtype=F64, generator=generator)
    y = torch.tensor([[0, 3, 1], [2, 2, 0]])
    parts = [gf.problems.cross_entropy(z[i], y[i]) for i in range(2)]
    torch.testing.assert_close(gf.problems.cross_entropy(z, y), sum(parts) / 2)


def test_too_long_a_sequence():
    with pytest.raises(InputError, match="5 characters does not fit a context of 4"):
        gpt(0.25, context=4)(torch.zeros(1, 5, dtype=torch.int64))


def test_seed_fixes_the_network():
    first, again, other = (
        torch.cat([p.detach().flatten() for p in gpt(0.25, seed=s).parameters()]) for s in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
