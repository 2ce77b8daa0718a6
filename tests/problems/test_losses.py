"""The two losses, against torch's and against the formulas."""

import pytest
import torch

from gdflows.errors import InputError
from gdflows.problems import cross_entropy, squared_error

F64 = torch.float64
GENERATOR = torch.Generator().manual_seed(0)
OUTPUT = torch.randn(6, 4, dtype=F64, generator=GENERATOR)
LABELS = torch.tensor([0, 3, 1, 1, 2, 0])


def test_squared_error_sums_outputs_and_averages_samples():
    target = torch.zeros(2, 3, dtype=F64)
    output = torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 1.0]], dtype=F64)
    assert squared_error(output, target).item() == (9 + 1) / 4


def test_squared_error_takes_class_numbers_as_one_hot():
    one_hot = torch.nn.functional.one_hot(LABELS, 4).to(F64)
    assert squared_error(OUTPUT, LABELS) == squared_error(OUTPUT, one_hot)
    assert squared_error(OUTPUT, LABELS.to(torch.uint8)) == squared_error(OUTPUT, one_hot)


def test_cross_entropy_is_torchs():
    expected = torch.nn.functional.cross_entropy(OUTPUT, LABELS)
    torch.testing.assert_close(cross_entropy(OUTPUT, LABELS), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_cross_entropy_does_not_overflow(dtype):
    output = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], dtype=dtype)
    assert cross_entropy(output, torch.tensor([0, 0])).real.item() == 1e4


@pytest.mark.parametrize("loss", [squared_error, cross_entropy])
def test_losses_are_holomorphic(loss):
    v, step = torch.ones_like(OUTPUT).cumsum(1), 1e-20
    x = OUTPUT.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(x, LABELS), x)
    derivative = loss(OUTPUT + 1j * step * v, LABELS).imag / step
    torch.testing.assert_close(derivative, (grad * v).sum(), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("loss", [squared_error, cross_entropy])
def test_losses_add_up_over_chunks(loss):
    whole = loss(OUTPUT, LABELS)
    parts = 4 / 6 * loss(OUTPUT[:4], LABELS[:4]) + 2 / 6 * loss(OUTPUT[4:], LABELS[4:])
    torch.testing.assert_close(parts, whole, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("call", "culprit"),
    [
        (lambda: squared_error(OUTPUT, OUTPUT[:, :2]), r"\(6, 4\).*\(6, 2\)"),
        (lambda: squared_error(OUTPUT, LABELS + 1), "1 to 4, but the network has 4 outputs"),
        (lambda: squared_error(OUTPUT, LABELS[:5]), r"\(5,\)"),
        (lambda: squared_error(OUTPUT[:, 0], LABELS), r"outputs \(N, C\)"),
        (lambda: cross_entropy(OUTPUT, LABELS - 1), "-1 to 2"),
        (lambda: cross_entropy(OUTPUT, LABELS.double()), "class numbers"),
    ],
)
def test_bad_targets_are_named(call, culprit):
    with pytest.raises(InputError, match=culprit):
        call()
