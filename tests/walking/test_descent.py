"""Heavy ball and Nesterov's method, against torch's own optimiser."""

import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError, IntegrationError

f64 = torch.float64
THETA = torch.tensor([0.3, 0.4], dtype=f64)
KINDS = pytest.mark.parametrize("nesterov", [False, True], ids=["heavy ball", "Nesterov"])


def torch_run(E, theta, lr, steps, **given):
    p = torch.nn.Parameter(theta.clone())
    optimizer = torch.optim.SGD([p], lr=lr, **given)
    states, buffers = [theta], [torch.zeros_like(theta)]
    for _ in range(steps):
        p.grad = E.grad(p.detach())
        optimizer.step()
        states.append(p.detach().clone())
        buffers.append(optimizer.state[p]["momentum_buffer"].clone())
    return torch.stack(states), torch.stack(buffers)


@KINDS
def test_the_iterates_are_torch_s(nesterov):
    E = gf.problems.banana()
    run = gf.descend(E, THETA, 0.001, 20, momentum=0.8, nesterov=nesterov)
    states, buffers = torch_run(E, THETA, 0.001, 20, momentum=0.8, nesterov=nesterov)
    torch.testing.assert_close(run.states, states, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(run.companions["buffer"], buffers, rtol=1e-13, atol=1e-14)
    assert run.label == ("Nesterov" if nesterov else "heavy ball")
    assert run.times[-1] == pytest.approx(0.02) and run.cost["gradients"] == 20


@KINDS
def test_a_run_goes_on_where_it_stopped(nesterov):
    E, given = gf.problems.banana(), {"momentum": 0.8, "nesterov": nesterov}
    whole = gf.descend(E, THETA, 0.001, 20, **given)
    first = gf.descend(E, THETA, 0.001, 13, every=5, **given)
    assert first.companions["buffer"].shape == first.states.shape == (4, 2)
    rest = gf.descend(
        E, first.states[-1], 0.001, 7, buffer=first.companions["buffer"][-1], **given
    )  # fmt: skip
    assert torch.equal(rest.states[-1], whole.states[-1])


def test_without_momentum_nothing_is_carried():
    E = gf.problems.banana()
    plain, zero = gf.descend(E, THETA, 0.001, 5), gf.descend(E, THETA, 0.001, 5, momentum=0)
    assert torch.equal(plain.states, zero.states) and not zero.companions and zero.label == "GD"


def test_running_away_is_told_with_what_was_reached():
    E = gf.problems.banana()
    with pytest.raises(IntegrationError, match="Heavy ball at lr = 5") as e:
        gf.descend(E, THETA, 5.0, 100, momentum=0.9)
    partial = e.value.partial
    assert len(partial.companions["buffer"]) == len(partial) < 100


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"momentum": 1.0}, r"\[0, 1\)"),
        ({"momentum": "x"}, "momentum"),
        ({"nesterov": True}, "give momentum"),
        ({"momentum": 0.5, "buffer": torch.zeros(3, dtype=f64)}, "shape"),
        ({"momentum": 0.5, "buffer": torch.zeros(2)}, "dtype"),
        ({"momentum": 0.5, "buffer": [0.0, 0.0]}, "tensor"),
    ],
)
def test_refused(given, words):
    with pytest.raises(InputError, match=words):
        gf.descend(gf.problems.banana(), THETA, 0.1, 3, **given)
