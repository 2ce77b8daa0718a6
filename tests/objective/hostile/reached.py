"""Parameters that are reached past the call of the module, or shared."""

from dataclasses import dataclass
from functools import partial

import torch
import torch.utils.checkpoint
from torch import nn

from hostile.entry import (
    CE,
    F64,
    UNASKED,
    Around,
    batch,
    inputs,
    net,
    refused,
    right,
    right_or_refused,
)

# -- reached past the call of the module -----------------------------------------------------------


@right("a penalty over model.parameters() in the loss")
def penalty():
    model = net()
    return (
        model,
        lambda o, y: CE(o, y) + 0.5 * sum(p.square().sum() for p in model.parameters()),
        batch(),
    )


@right("a penalty over weights only, by name")
def penalty_by_name():
    model = net()

    def loss(o, y):
        return CE(o, y) + sum(p.pow(4).sum() for n, p in model.named_parameters() if "weight" in n)

    return model, loss, batch()


@right("a penalty over a list of parameters that was made once")
def penalty_over_list():
    model = net()
    kept = list(model.parameters())
    return model, lambda o, y: CE(o, y) + sum(p.square().sum() for p in kept), batch()


@right("a penalty over the flattened parameters")
def penalty_over_vector():
    model = net()
    flat = nn.utils.parameters_to_vector
    return model, lambda o, y: CE(o, y) + flat(model.parameters()).pow(4).sum(), batch()


@right("a loss that looks into a layer")
def look_into_layer():
    model = net()
    return (
        model,
        lambda o, y: CE(o, y) + (model[0].weight @ model[0].weight.T).square().sum(),
        batch(),
    )


@right_or_refused(
    "a penalty over model.state_dict(), which has no graph",
    "detach|differ",
    by="hvp",
    optimizer=UNASKED,
)
def penalty_by_state_dict():
    model = net()
    penalty = lambda: model.state_dict()["0.weight"].square().sum()  # noqa: E731
    return model, lambda o, y: CE(o, y) + o.square().mean() * penalty(), batch()


@right("a loss that holds a parameter by a default argument and a partial")
def held_by_partial():
    model = net()

    def loss(o, y, bias, weight=model[0].weight):
        return CE(o, y) + weight.square().sum() * bias.exp().sum()

    return model, partial(loss, bias=model[2].bias), batch()


@right("a loss that calls the model again")
def model_called_in_loss():
    model = net()
    other = inputs()
    return model, lambda o, y: CE(o, y) + model(other + 1).square().mean(), batch()


@right("a loss that is a method of the model")
def method_as_loss():
    class Model(Around):
        def loss(self, o, y):
            return CE(o, y) + self.net[0].weight.square().sum()

    model = Model()
    return model, model.loss, batch()


@right("parameters kept in a plain list besides")
def plain_list():
    class Listed(Around):
        def __init__(self):
            super().__init__()
            self.all = list(self.net.parameters())

        def forward(self, x):
            return self.net(x) * (1 + sum(w.square().sum() for w in self.all))

    return Listed(), CE, batch()


@right("parameters kept in a dict of lists and in a dataclass besides")
def plain_containers():
    @dataclass
    class Kept:
        weight: nn.Parameter

    class Contained(Around):
        def __init__(self):
            super().__init__()
            self.kept = Kept(self.net[0].weight)
            self.groups = {"decay": [self.net[2].weight]}

        def forward(self, x):
            penalty = self.kept.weight.square().sum() + self.groups["decay"][0].pow(4).sum()
            return self.net(x) * (1 + penalty)

    return Contained(), CE, batch()


@refused(
    "a parameter that only a plain list holds: not trained, not registered",
    "not part of theta|[Rr]egister",
)
def unregistered():
    class Unregistered(Around):
        def __init__(self):
            super().__init__()
            self.extra = [nn.Parameter(torch.ones(2, dtype=F64))]

        def forward(self, x):
            return self.net(x) * self.extra[0].exp()

    return Unregistered(), CE, batch()


@right("another module that is used but not registered, with its gradients switched off")
def teacher():
    class Student(Around):
        def __init__(self):
            super().__init__()
            self.teacher = [net().requires_grad_(False)]

        def forward(self, x):
            return self.net(x) - self.teacher[0](x)

    return Student(), CE, batch()


@right_or_refused("a view of a parameter made in __init__", "view|v\\b|w\\b")
def view_in_init():
    class Viewed(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, dtype=F64))
            self.v = self.w.view(2, 2)

        def forward(self, x):
            return (x @ self.v).tanh()

    return Viewed(), CE, batch()


@right_or_refused("a parameter's pieces made in __init__", "view|piece|parts|w\\b")
def pieces_in_init():
    class Pieces(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 2, dtype=F64))
            self.parts = self.w[:2], self.w[2:]

        def forward(self, x):
            return (x @ self.parts[0]).tanh() @ self.parts[1] + self.w.sum()

    return Pieces(), CE, batch()


@right_or_refused(
    "a detached alias of a parameter, which follows it",
    "old|alias|memory|storage",
    by="hvp",
    optimizer=UNASKED,
)
def detached_alias():
    class Aliased(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(2, 2, dtype=F64))
            self.register_buffer("old", self.w.detach())

        def forward(self, x):
            return (x @ self.w).tanh() * self.old.square().sum()

    return Aliased(), CE, batch()


# -- shared ----------------------------------------------------------------------------------------


@right("weights tied by assignment")
def tied():
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)).to(F64)
    model[2].weight = model[0].weight
    return model, CE, batch()


@right("a decoder that uses the encoder's weight, transposed")
def tied_transposed():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode = nn.Linear(2, 3, dtype=F64)

        def forward(self, x):
            return self.encode(x).tanh() @ self.encode.weight

    return Tied(), CE, batch()


@right("an embedding tied to the layer that reads it out")
def tied_embedding():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.out = nn.Embedding(5, 3, dtype=F64), nn.Linear(3, 5, dtype=F64)
            self.out.weight = self.table.weight

        def forward(self, i):
            return self.out(self.table(i).tanh())

    return Tied(), CE, (torch.arange(10) % 5, torch.arange(10) // 2)


@right("one layer used twice")
def used_twice():
    layer = nn.Linear(2, 2, dtype=F64)
    return nn.Sequential(layer, nn.Tanh(), layer), CE, batch()


@right("one module under two names, and one inside another's list")
def two_names():
    class Twice(Around):
        def __init__(self):
            super().__init__()
            self.again, self.layers = self.net, nn.ModuleList([self.net[0]])

        def forward(self, x):
            return self.again(x) + self.net(x + 1) + self.layers[0](x)[:, :2]

    return Twice(), CE, batch()
