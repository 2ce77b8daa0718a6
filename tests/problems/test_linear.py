"""The linearised network against the Gauss-Newton matrix from all Jacobians."""

import pytest
import torch
from torch.func import functional_call, hessian, jacrev

import gdflows as gf
from gdflows.errors import InputError
from gdflows.problems import linearised

F64 = torch.float64


def small(loss, seed=0):
    net = gf.problems.mlp([13, 4, 3], "tanh", seed=seed, dtype=F64)
    return gf.problems.classification("wine", net, n=12, loss=loss)


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_its_hessian_is_the_gauss_newton_matrix(loss):
    E = small(loss)
    theta = E.theta0 + 0.1
    x, y = E.data

    def output(t):
        return functional_call(E.model, E.unflatten(t), (x,)).flatten()

    J = jacrev(output)(theta)
    of_loss = hessian(lambda out: E.loss(out.view(len(x), -1), y))(output(theta))
    made = linearised(E, theta)
    torch.testing.assert_close(made.hessian(theta), J.T @ of_loss @ J, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(made.grad(theta), E.grad(theta), rtol=1e-10, atol=1e-12)
    assert float(made.value(theta)) == pytest.approx(float(E.value(theta)), rel=1e-12)


def test_a_linear_network_with_squared_error_is_itself():
    net = gf.problems.deep_linear([13, 3], seed=0, dtype=F64)
    E = gf.problems.classification("wine", net, n=12)
    v = torch.ones(E.dim, dtype=F64)
    torch.testing.assert_close(linearised(E).hvp(v, v), E.hvp(v, v), rtol=1e-10, atol=1e-12)


def test_what_has_no_output_or_is_in_parts_is_refused():
    with pytest.raises(InputError, match="it is not known what is the output"):
        linearised(gf.problems.quadratic([1.0]))
    net = gf.problems.mlp([13, 4, 3], "tanh", seed=0, dtype=F64)
    with pytest.raises(InputError, match="leave out chunk"):
        linearised(gf.problems.classification("wine", net, n=12, chunk=4))


def test_a_penalty_on_parameters_is_seen():
    net = gf.problems.mlp([13, 4, 3], "tanh", seed=0, dtype=F64)
    x, y = small("mse").data

    def loss(out, y):
        return gf.problems.squared_error(out, y) + sum((p**2).sum() for p in net.parameters())

    E = gf.Objective.from_module(net, loss, (x, y), reduction="mean")
    with pytest.raises(InputError, match="depends on|differ|penalty|parameters"):
        linearised(E, E.theta0 + 0.1)
