"""Losses of odd form, and losses without a graph."""

import torch
import torch.utils.checkpoint
from torch import nn

from hostile.entry import (
    CE,
    F64,
    UNASKED,
    Around,
    batch,
    error,
    inputs,
    labels,
    net,
    refused,
    right,
    right_or_refused,
)

# -- of odd form -----------------------------------------------------------------------------------


@refused("a loss that is not reduced", "scalar|reduc|shape", optimizer=error("scalar"))
def unreduced():
    return net(), nn.CrossEntropyLoss(reduction="none"), batch()


@right("a loss of shape (1,)")
def one_entry():
    return net(), lambda o, y: CE(o, y).reshape(1), batch()


@refused("a loss in a tuple", "tuple", optimizer=error("tuple"))
def in_tuple():
    return net(), lambda o, y: (CE(o, y), o.argmax(1)), batch()


@refused("losses in a dict", "dict", optimizer=error("dict"))
def in_dict():
    return net(), lambda o, y: {"ce": CE(o, y), "l2": o.square().mean()}, batch()


@refused("a loss that is a number", "float|item", optimizer=error("float|item"))
def number():
    return net(), lambda o, y: CE(o, y).item(), batch()


@refused(
    "a loss of whole numbers",
    "int|dtype|graph|gradient|detach|constant",
    optimizer=error("graph|int"),
)
def errors_counted():
    return net(), lambda o, y: (o.argmax(1) != y).sum(), batch()


@refused("a complex loss", "complex", optimizer=error("complex"))
def complex_loss():
    return net(), lambda o, y: torch.fft.fft(o, dim=0).square().mean(), batch()


@right("a loss with complex parts inside")
def spectrum():
    return net(), lambda o, y: torch.fft.rfft(o, dim=0).abs().square().mean(), batch()


# -- without a graph -------------------------------------------------------------------------------

NO_GRAPH = "graph|detach|gradient|no_grad|inference|constant|depend"


@refused("a loss that was detached by mistake", NO_GRAPH, optimizer=error("graph"))
def detached():
    return net(), lambda o, y: CE(o, y).detach(), batch()


@refused("a loss that goes through numpy's hands", NO_GRAPH, optimizer=error("graph"))
def rewrapped():
    return net(), lambda o, y: torch.tensor(CE(o, y).item(), dtype=F64), batch()


@refused("a forward pass under @torch.no_grad", NO_GRAPH, optimizer=error("graph"))
def no_grad_inside():
    class Model(Around):
        @torch.no_grad()
        def forward(self, x):
            return self.net(x)

    return Model(), CE, batch()


@refused("a graph that ends in the data, not in the parameters", NO_GRAPH, optimizer=UNASKED)
def graph_of_data():
    class Model(Around):
        def forward(self, x):
            return self.net(x).detach() + x.tanh()

    x, y = batch()
    return Model(), CE, (x.requires_grad_(), y)


@right_or_refused(
    "features computed under no_grad by layers that are trained",
    NO_GRAPH + "|differ|symmetr",
    by="hvp",
    optimizer=UNASKED,
)
def features_without_graph():
    class Model(Around):
        def forward(self, x):
            with torch.no_grad():
                h = self.net[0](x)
            return self.net[2](h.tanh())

    return Model(), CE, batch()


@refused("a forward pass under inference_mode", NO_GRAPH, optimizer=error("graph|inference"))
def inference_inside():
    class Model(Around):
        @torch.inference_mode()
        def forward(self, x):
            return self.net(x)

    return Model(), CE, batch()


@right("a call under no_grad, as in evaluation code", context=torch.no_grad)
def called_under_no_grad():
    return net(), CE, batch()


@right(
    "a call under set_grad_enabled(False)", context=lambda: torch.autograd.set_grad_enabled(False)
)
def called_with_gradients_off():
    return net(), CE, batch()


@refused(
    "a call under inference_mode",
    "inference",
    context=torch.inference_mode,
    optimizer=error("inference|graph"),
)
def called_under_inference():
    return net(), CE, batch()


@refused("a loss that does not depend on the parameters", NO_GRAPH, optimizer=error("graph"))
def constant():
    return net(), lambda o, y: torch.tensor(1.0, dtype=F64), batch()


@refused(
    "a loss that depends on other parameters only",
    NO_GRAPH + "|among|other|leaf",
    optimizer=UNASKED,
)
def of_another_model():
    other, x = net(), inputs()
    return net(), lambda o, y: CE(other(x), y), batch()


@right_or_refused(
    "a stop-gradient inside the loss", "detach|differ|symmetr|stop", by="hvp", optimizer=UNASKED
)
def stop_gradient():
    def loss(o, y):
        return CE(o, y) + (o * o.detach().square()).sum(1).mean()

    return net(), loss, batch()


@right_or_refused(
    "rounded weights with the gradient sent straight through",
    "differ|symmetr|round",
    by="hvp",
    optimizer=UNASKED,
)
def straight_through():
    class Rounded(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(2, 2, dtype=F64))

        def forward(self, x):
            coarse = (self.w * 4).round() / 4
            return (x @ (self.w + (coarse - self.w).detach())).tanh()

    return Rounded(), CE, batch()


@right("a part of the outputs detached, as a constant target")
def constant_target():
    target = net()
    x = inputs()
    fixed = target(x).detach()
    return net(), lambda o, y: (o - fixed).square().mean(), (x, labels())
