"""A network and a data set joined into an objective."""

import pytest
import torch

from gdflows import Objective, problems
from gdflows.errors import DataError, InputError
from gdflows.problems import classification, mlp

F64 = torch.float64


def test_is_the_loss_of_the_first_n_samples():
    network, data = mlp([4, 5, 3], dtype=F64), problems.load("iris", dtype=F64)
    for name, loss in (("mse", problems.squared_error), ("cross-entropy", problems.cross_entropy)):
        objective = classification("iris", network, loss=name, n=30)
        expected = loss(network(data.x_train[:30]), data.y_train[:30]).detach()
        torch.testing.assert_close(
            objective.value(objective.theta0), expected, rtol=1e-14, atol=1e-15
        )


def test_regression_with_real_targets():
    data = problems.load("diabetes", dtype=F64)
    for dtype in (F64, torch.float32):
        network = mlp([10, 5, 1], dtype=dtype)
        objective = classification(data, network, n=50)
        x, y = data.x_train[:50].to(dtype), data.y_train[:50].to(dtype)
        expected = 0.5 * (network(x) - y).square().sum(1).mean().detach()
        assert expected.dtype == dtype
        torch.testing.assert_close(objective.value(objective.theta0), expected)


def test_takes_the_networks_dtype_and_a_data_set_already_there():
    data = problems.load("digits").take(20)
    objective = classification(data, mlp([64, 3, 10], dtype=F64))
    assert isinstance(objective, Objective)
    assert objective.value(objective.theta0).dtype == F64
    assert data.x_train.dtype == torch.float32


def test_chunks_change_nothing():
    whole = classification("digits", mlp([64, 3, 10], dtype=F64), n=50)
    parts = classification("digits", mlp([64, 3, 10], dtype=F64), n=50, chunk=13)
    theta = whole.theta0
    torch.testing.assert_close(parts.grad(theta), whole.grad(theta), rtol=1e-12, atol=1e-15)


def test_digits_are_learnt():
    """The whole chain on real data: half the images right after 100 steps from 1 in 10."""
    network, data = mlp([64, 20, 10], dtype=F64), problems.load("digits", dtype=F64)
    objective = classification(data, network, n=300)
    theta = objective.theta0
    for _ in range(100):
        theta = theta - 0.2 * objective.grad(theta)
    objective.write(theta)
    right = (network(data.x_test).argmax(1) == data.y_test).double().mean()
    assert right > 0.5


@pytest.mark.parametrize(
    ("call", "error", "culprit"),
    [
        (lambda: classification("iris", mlp([4, 3]), loss="l2"), InputError, "l2"),
        (lambda: classification("iris", torch.nn.Flatten()), InputError, "Flatten"),
        (lambda: classification("iris", mlp([4, 3]), n=121), InputError, "n = 121"),
        (lambda: classification("iris", mlp([4, 3]), n=0), InputError, "n = 0"),
        (lambda: classification("irish", mlp([4, 3])), DataError, "irish"),
    ],
)
def test_bad_arguments_are_named(call, error, culprit):
    with pytest.raises(error, match=culprit):
        call()


def test_too_few_outputs_are_named():
    with pytest.raises(InputError, match="9 outputs"):
        classification("digits", mlp([64, 9]))
