"""Losses of odd curvature or size, and losses with derivatives inside."""

import torch
import torch.utils.checkpoint
from torch import nn

from hostile.entry import (
    CE,
    F64,
    MSE,
    UNASKED,
    Around,
    batch,
    error,
    inputs,
    net,
    refused,
    right,
    right_or_refused,
)

# -- of odd curvature ------------------------------------------------------------------------------


@right("a loss that is linear in the parameters")
def linear():
    return nn.Linear(2, 2, dtype=F64), lambda o, y: o.sum(), batch()


@right("a loss linear in some parameters, quadratic in others")
def partly_linear():
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)).to(F64), lambda o, y: o.sum(), batch()


@right("a concave loss: no direction curves upwards")
def concave():
    model = nn.Linear(2, 2, dtype=F64)
    return model, lambda o, y: -sum(p.square().sum() for p in model.parameters()), batch()


@right("kinks of ReLU", orders=2)
def kinks():
    return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)).to(F64), CE, batch()


@right("a hinge loss and an absolute value", orders=2)
def hinge():
    def loss(o, y):
        gap = o.gather(1, y[:, None]) - o.gather(1, 1 - y[:, None])
        return (1 - gap).clamp(min=0).mean() + (o - 0.3).abs().mean()

    return net(), loss, batch()


@right("a negative loss")
def negative():
    return net(), lambda o, y: CE(o, y) - 100, batch()


@right("a loss of 1e12")
def large():
    return net(), lambda o, y: 1e12 * CE(o, y), batch()


@right("a loss of 1e-12")
def small():
    return net(), lambda o, y: 1e-12 * CE(o, y), batch()


@right("a huge constant in the loss", rtol=1e-4, orders=2)
def offset():
    return net(), lambda o, y: CE(o, y) + 1e8, batch()


@right("parameters of very different sizes")
def ill_scaled():
    class Scaled(Around):
        def __init__(self):
            super().__init__()
            with torch.no_grad():
                self.net[0].weight.mul_(1 / 30)
                self.net[2].weight.mul_(30)

        def forward(self, x):
            return self.net(x * 30) / 30

    return Scaled(), CE, batch()


@refused("a loss that is not a number", "finite|nan", optimizer=error("finite|nan"))
def not_a_number():
    return net(), lambda o, y: CE(o, y) * float("nan"), batch()


@refused("a loss that is infinite", "finite|inf", optimizer=error("finite|inf"))
def infinite():
    return net(), lambda o, y: CE(o, y) / 0.0, batch()


@refused(
    "a norm at zero: the loss is finite and its curvature is not",
    "finite|nan",
    by="hvp",
    optimizer=UNASKED,
)
def norm_at_zero():
    model = net()
    nn.init.zeros_(model[0].bias)
    return model, lambda o, y: CE(o, y) + model[0].bias.norm(), batch()


# -- with derivatives inside -----------------------------------------------------------------------


class Energy(Around):
    """Outputs, and a derivative of the first by the inputs."""

    def forward(self, x):
        x = x.requires_grad_()
        out = self.net(x)
        (slope,) = torch.autograd.grad(out[:, 0].sum(), x, create_graph=True)
        return out, slope


@right("a loss on the model's derivative by its inputs (forces)")
def forces():
    return Energy(), lambda o, y: CE(o[0], y) + (o[1] - 0.5).square().mean(), batch()


@right("a gradient penalty on mixed samples")
def gradient_penalty():
    model, other = net(), inputs()

    def loss(o, y):
        between = ((other + other.flip(0)) / 2).requires_grad_()
        (slope,) = torch.autograd.grad(model(between)[:, 0].sum(), between, create_graph=True)
        return CE(o, y) + (slope.norm(dim=1) - 1).square().mean()

    return model, loss, batch()


@right("a differential equation's residual", orders=2)
def physics():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)).to(F64)

        def forward(self, t):
            t = t.clone().requires_grad_()
            u = self.net(t)
            (first,) = torch.autograd.grad(u.sum(), t, create_graph=True)
            (second,) = torch.autograd.grad(first.sum(), t, create_graph=True)
            return second + u

    return Residual(), MSE, (inputs(8, 1), torch.zeros(8, 1, dtype=F64))


@right("a derivative by torch.func inside the model")
def functional_inside():
    class Tangent(Around):
        def forward(self, x):
            return torch.func.jvp(self.net, (x,), (torch.ones_like(x),))[1] + self.net(x)

    return Tangent(), CE, batch()


@right("a penalty on the gradient by the parameters")
def flatness():
    model = net()

    def loss(o, y):
        e = CE(o, y)
        grads = torch.autograd.grad(e, list(model.parameters()), create_graph=True)
        return e + 0.1 * sum(g.square().sum() for g in grads)

    return model, loss, batch()


@right_or_refused("a learned inner step (MAML)", "inner", orders=2)
def inner_step():
    class Adapting(Around):
        def forward(self, x):
            weight = self.net[2].weight
            inner = self.net(x).square().mean()
            (g,) = torch.autograd.grad(inner, weight, create_graph=True)
            return self.net[1](self.net[0](x)) @ (weight - 0.1 * g).T

    return Adapting(), CE, batch()


@right_or_refused(
    "a stop-gradient by backward() inside the forward pass",
    "differ|symmetr|detach",
    by="hvp",
    optimizer=UNASKED,
)
def backward_inside():
    class Saliency(Around):
        def forward(self, x):
            probe = x.detach().clone().requires_grad_()
            weight = self.net[0].weight.detach()
            (probe @ weight.T).tanh().sum().backward()
            return self.net(x + 0.1 * probe.grad)

    return Saliency(), CE, batch()
