"""What walks are asked with: every argument is used, converted or refused by name."""

import math

import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError, IntegrationError

f64 = torch.float64
THETA = torch.tensor([1.0, 2.0], dtype=f64)
NAN = math.nan


def bowl():
    return gf.problems.quadratic([1.0, 3.0])


def walk(theta0=THETA, **given):
    return gf.integrate(gf.flows.NGF(bowl()), theta0, **({"t": 1.0} | given))


REFUSED = {
    "times with nan": ({"t": None, "times": [0, NAN]}, "finite number, got nan"),
    "times without end": ({"t": None, "times": [0, math.inf]}, "finite number, got inf"),
    "times of text": ({"t": None, "times": ["0", "1"]}, "finite number, got '0'"),
    "one number for times": ({"t": None, "times": 5}, "sequence of numbers"),
    "t of text": ({"t": "1"}, "t must be positive"),
    "atol nan": ({"atol": NAN}, "atol must be positive"),
    "atol negative": ({"atol": -1}, "atol must be positive"),
    "atol zero": ({"atol": 0.0}, "atol must be positive"),
    "rtol of text": ({"rtol": "x"}, "rtol must be positive"),
    "rtol infinite": ({"rtol": math.inf}, "rtol must be positive"),
    "half an evaluation": ({"max_evaluations": 0.5}, "max_evaluations must be a whole number"),
    "no evaluation": ({"max_evaluations": 0}, "max_evaluations must be a whole number"),
    "step nan": ({"method": "rk4", "step": NAN}, "step must be positive"),
    "real_every of text": ({"real_every": "h"}, "real_every must be positive"),
    "a number as theta0": ({"theta0": 5}, "theta0 must be a torch tensor"),
    "text in theta0": ({"theta0": ["a", "b"]}, "something else than numbers"),
    "an array of text": ({"theta0": np.array(["a", "b"])}, "which torch has not"),
    "a matrix": ({"theta0": np.ones((2, 2))}, "flat vector"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_by_integrate(what):
    given, words = REFUSED[what]
    with pytest.raises(InputError) as e:
        walk(**given)
    assert words in str(e.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lr": "x"}, "learning rate lr must be positive"),
        ({"lr": None}, "learning rate lr must be positive"),
        ({"lr": NAN}, "learning rate lr must be positive"),
        ({"steps": "3"}, "steps must be a whole number"),
        ({"steps": -1}, "steps must be a whole number"),
        ({"every": 1.5}, "every must be a whole number"),
        ({"theta0": None}, "theta0 must be a torch tensor"),
    ],
)
def test_refused_by_descend(given, words):
    with pytest.raises(InputError) as e:
        gf.descend(bowl(), **({"theta0": THETA, "lr": 0.1, "steps": 3} | given))
    assert words in str(e.value)


@pytest.mark.parametrize(
    ("flow", "given"),
    [
        (gf.flows.IGR, {"lr": "x"}),
        (gf.flows.PrincipalFlow, {"tol": "x"}),
        (gf.flows.PrincipalFlow, {"tol": 0}),
        (gf.flows.PrincipalFlow, {"max_hvps": 2.5}),
        (gf.flows.CentralFlow, {"horizon": NAN}),
        (gf.flows.CentralFlow, {"tol": -1}),
        (gf.flows.SelfStabilisation, {"tol": "x"}),
        (gf.flows.MomentumRodFlow, {"beta": "x"}),
        (gf.flows.PrincipalRodFlow, {"noise": NAN}),
        (gf.flows.Truncated, {"order": 1.5}),
    ],
)
def test_refused_by_flows(flow, given):
    with pytest.raises(InputError, match=next(iter(given))):
        flow(bowl(), **({"lr": 0.1} | given))


def test_arrays_lists_and_numbers_of_any_make():
    want, steps = walk().states, gf.descend(bowl(), THETA, 0.1, 3).states
    assert torch.equal(walk(THETA.numpy()).states, want)
    assert torch.equal(walk(t=np.float32(1)).states, want)
    assert torch.equal(walk(t=torch.tensor(1.0), max_evaluations=np.int64(999)).states, want)
    assert torch.equal(gf.descend(bowl(), THETA.numpy(), np.float64(0.1), 3.0).states, steps)


def test_a_list_has_the_objective_s_dtype():
    net = gf.problems.mlp([2, 2], "tanh", seed=0, dtype=f64)
    E = gf.Objective.from_module(net, torch.nn.MSELoss(), (THETA[None], THETA[None]))
    start = [0.5] * E.dim
    assert gf.descend(E, start, 0.1, 2).states.dtype == f64
    assert torch.equal(
        gf.descend(E, start, 0.1, 2).states,
        gf.descend(E, torch.full((E.dim,), 0.5, dtype=f64), 0.1, 2).states,
    )
    frozen = THETA.numpy().copy()
    frozen.flags.writeable = False
    assert len(walk(frozen)) > 1
    with pytest.raises(InputError, match="float32"):
        gf.descend(E, np.zeros(E.dim, np.float32), 0.1, 2)


def test_restarts_keep_to_the_budget():
    with pytest.raises(IntegrationError, match=r"restarted.*7 times.*105 evaluations") as e:
        walk(real_every=0.01, max_evaluations=100)
    assert e.value.cause == "budget" and e.value.time == pytest.approx(0.07)
    assert e.value.partial.times[-1] == pytest.approx(0.07)
    assert e.value.partial.cost["evaluations"] == 105
    with pytest.raises(IntegrationError, match="evaluations by t = .* of 1e\\+06"):
        walk(t=1e6, real_every=1e-9, max_evaluations=200)


# -- a flow that leaves the reals while a step is tried ------------------------------------------


def almost_singular():
    """hλ = 0.999 at θ₀, and larger further on: already the trial for the first step is complex."""
    return gf.Objective(lambda t: (t**2 / 2 - t**3 / 6).sum(), dim=1), 0.999 / 0.5


@pytest.mark.parametrize("given", [{"t": 0.5}, {"times": [0, 0.2, 0.5]}, {"t": 2.0}])
@pytest.mark.parametrize("method", ["DOP853", "RK45", "BDF"])
def test_hl_just_below_one_at_the_start(given, method):
    E, lr = almost_singular()
    flow, start = gf.flows.PrincipalFlow(E, lr), torch.tensor([0.5], dtype=f64)
    path = gf.integrate(flow, start, **given, method=method, rtol=1e-8)
    assert path.states.is_complex()
    # θ' = f(θ) with f alone complex: the path's own equation, by a fixed step
    again = gf.integrate(
        flow, path.states[-2], t=float(path.times[-1] - path.times[-2]), rtol=1e-10
    )
    torch.testing.assert_close(again.states[-1], path.states[-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["Radau", "LSODA"])
def test_a_real_solver_says_that_it_cannot_follow(method):
    E, lr = almost_singular()
    with pytest.raises(InputError, match=f"leaves the real numbers.*{method}.*BDF"):
        gf.integrate(
            gf.flows.PrincipalFlow(E, lr), torch.tensor([0.5], dtype=f64), t=1.0, method=method
        )


def test_dense_output_beyond_the_reals():
    """Between two real states the interpolation asks for a complex one."""

    class Fence(gf.flows.Flow):
        label = "fence"

        def vector_field(self, theta):
            asked.append(float(theta[0].real))
            if self.near and 1.5 < asked[-1] < 1.6:
                return torch.complex(torch.ones_like(theta.real), torch.zeros_like(theta.real))
            return torch.ones_like(theta)

    for near in (False, True):
        asked: list[float] = []
        flow = Fence(bowl())
        flow.near = near
        path = gf.integrate(flow, torch.zeros(2, dtype=f64), times=[0, 0.7, 1.55, 3.1])
        torch.testing.assert_close(path.states[:, 0].real, path.times, rtol=0, atol=1e-12)
