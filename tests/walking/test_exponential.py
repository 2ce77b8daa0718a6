"""The exponential method: its functions, its order, and rods walked by it."""

import mpmath
import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError
from gdflows.flows import EdgeFlow, Flow, PrincipalRodFlow, RodFlow
from gdflows.flows.decay import Damped, Decay
from gdflows.walking.exponential import Hermite, phi

f64 = torch.float64
H = 0.05


@pytest.mark.parametrize("z", [0.0, -1e-9, -1e-3, -0.0999, -0.1001, -1.0, -7.0, -80.0, 0.5])
def test_phi(z):
    mpmath.mp.dps = 40
    exact, x = [mpmath.exp(z)], mpmath.mpf(z)
    for j in range(3):
        last = (exact[-1] - 1 / mpmath.factorial(j)) / x if z else 1 / mpmath.factorial(j + 1)
        exact.append(last)
    found = [float(v) for v in phi(np.asarray(z))]
    assert found == pytest.approx([float(v) for v in exact], rel=1e-12)


class Damping(Flow):
    """ẋ = −A(x − sin t) + cos t + y², ẏ = −y: x follows sin t. Stiff, and with a forcing."""

    label = "damping"

    def __init__(self, rate: float, told: float):
        super().__init__(gf.problems.quadratic(torch.tensor([1.0, 1.0, 1.0], dtype=f64)))
        self.rate, self.told = rate, told

    def vector_field(self, theta):
        x, y, t = theta
        rate = -self.rate * (x - torch.sin(t)) + torch.cos(t) + y**2
        return torch.stack([rate, -y, torch.ones_like(t)])

    def fast(self, theta, companions, rates, *, slowest):
        unit = torch.tensor([[1.0, 0.0, 0.0]], dtype=f64)
        return Decay({"theta": Damped(unit, torch.tensor([self.told], dtype=f64), 0.0)}, 0.5)


BOTH = pytest.mark.parametrize("method", ["exponential", "exponential-adams"])


@BOTH
@pytest.mark.parametrize("told", [1.0, 0.8])
def test_a_stiff_flow_is_followed_with_long_steps_also_where_the_rate_is_told_badly(told, method):
    flow = Damping(200.0, 200.0 * told)
    start = torch.tensor([1.0, 0.5, 0.0], dtype=f64)
    seen = gf.integrate(flow, start, times=[0.0, 0.7, 2.0], rtol=1e-5, method=method)
    exact = gf.integrate(flow, start, times=[0.0, 0.7, 2.0], rtol=1e-10)
    torch.testing.assert_close(seen.states, exact.states, rtol=0, atol=1e-5)
    assert seen.cost["evaluations"] < exact.cost["evaluations"] / 5


@pytest.mark.parametrize(("method", "order"), [("exponential", 4), ("exponential-adams", 3)])
def test_order_where_nothing_is_stiff(method, order):
    flow = Damping(2.0, 2.0)
    start = torch.tensor([1.0, 0.5, 0.0], dtype=f64)
    exact = gf.integrate(flow, start, t=1.0, rtol=1e-13).states[-1]
    errors, lengths = [], (0.2, 0.1, 0.05)
    for step in lengths:
        flow.fast = lambda *_, slowest, step=step: Decay(
            Damping.fast(flow, *_, slowest=slowest).parts, step
        )
        times = np.arange(0, 1 + step / 2, step)
        path = gf.integrate(flow, start, times=times, rtol=1.0, method=method)
        errors.append(float((path.states[-1] - exact).norm()))
    assert np.polyfit(np.log(lengths), np.log(errors), 1)[0] == pytest.approx(order, abs=0.3)


def test_the_cubic_between_two_ends():
    cubic = np.polynomial.Polynomial([1.0, -2.0, 0.5, 3.0])
    ends = [(np.array(t), np.array([cubic(t)]), np.array([cubic.deriv()(t)])) for t in (0.2, 0.9)]
    between = Hermite(0.2, *ends[0][1:], 0.9, *ends[1][1:])
    assert between(0.5)[0] == pytest.approx(cubic(0.5), rel=1e-14)


@pytest.mark.parametrize(
    "flow",
    [
        lambda E: RodFlow(E, H, noise=1e-12, start="slow"),
        lambda E: EdgeFlow(E, H),
        lambda E: PrincipalRodFlow(E, H, order=1, noise=1e-12),
        lambda E: PrincipalRodFlow(E, H, order=2, noise=1e-12),
    ],
    ids=["rod", "edge", "principal 1", "principal 2"],
)
# Adams' method is of a lower order, and less accurate at the same tolerance.
@pytest.mark.parametrize(("method", "close"), [("exponential", 2e-3), ("exponential-adams", 5e-3)])
def test_rods_are_walked_as_by_the_explicit_method_for_less(flow, method, close):
    E = gf.problems.valley()
    flow = flow(E)
    times = [H * k for k in range(0, 121, 10)]
    exact = gf.integrate(flow, E.theta0, times=times, rtol=1e-9)
    seen = gf.integrate(flow, E.theta0, times=times, rtol=1e-4, method=method)
    torch.testing.assert_close(seen.states, exact.states, rtol=0, atol=close)
    gap = seen.companions["log_length"] - exact.companions["log_length"]
    assert float(gap.abs().max()) < close
    assert seen.cost["evaluations"] < exact.cost["evaluations"] / 1.5


def test_a_flow_that_does_not_tell_its_fast_part_is_refused():
    E = gf.problems.valley()
    with pytest.raises(InputError, match="no fast part"):
        gf.integrate(gf.flows.NGF(E), E.theta0, t=1.0, method="exponential")
    with pytest.raises(InputError, match="step belongs"):
        gf.integrate(RodFlow(E, H), E.theta0, t=1.0, method="exponential", step=0.1)
