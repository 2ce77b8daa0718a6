"""Parameters that are frozen, unused, complex, lazy, in tables, or a loss's own."""

import torch
import torch.utils.checkpoint
from torch import nn

from hostile.entry import (
    CE,
    F64,
    UNASKED,
    Around,
    batch,
    either,
    error,
    labels,
    net,
    refused,
    right,
    right_or_refused,
)

# -- not all of them, or not real ------------------------------------------------------------------


@right("frozen layers")
def frozen():
    model = net(nn.Linear(3, 3))
    model[0].requires_grad_(False)
    model[2].weight.requires_grad_(False)
    return model, CE, batch()


@right("parameters that the loss does not use")
def unused():
    model = net()
    model.register_parameter("spare", nn.Parameter(torch.ones(3, dtype=F64)))
    return model, CE, batch()


@right("a parameter with no entries, and a scalar one")
def empty_and_scalar():
    class Odd(Around):
        def __init__(self):
            super().__init__()
            self.none = nn.Parameter(torch.empty(0, 3, dtype=F64))
            self.scale = nn.Parameter(torch.tensor(0.3, dtype=F64))

        def forward(self, x):
            return self.net(x) * self.scale.exp() + self.none.sum()

    return Odd(), CE, batch()


@right("whole numbers among the parameters")
def integers():
    class Counting(Around):
        def __init__(self):
            super().__init__()
            self.order = nn.Parameter(torch.tensor([1, 0]), requires_grad=False)
            self.on = nn.Parameter(torch.tensor([True, True]), requires_grad=False)

        def forward(self, x):
            return self.net(x)[:, self.order] * self.on

    return Counting(), CE, batch()


@right("parameters that are not contiguous")
def transposed():
    model = net()
    model[0].weight = nn.Parameter(torch.randn(2, 3, dtype=F64).T)
    return model, CE, batch()


@refused("complex parameters", "complex", optimizer=error("complex"))
def complex_parameters():
    class Waves(Around):
        def __init__(self):
            super().__init__()
            self.phase = nn.Parameter(torch.randn(2, dtype=torch.complex128))

        def forward(self, x):
            return self.net(x) + (x * self.phase).abs().square()

    return Waves(), CE, batch()


@refused(
    "parameters in two precisions", "dtype|float32", optimizer=either("dtype|float32"), rtol=1e-3
)
def two_precisions():
    class Mixed(Around):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.3, dtype=torch.float32))

        def forward(self, x):
            return self.net(x) * self.scale.double().exp()

    return Mixed(), CE, batch()


@refused("lazy layers that have not met data", "(?i)lazy|uninitiali[sz]ed", optimizer=UNASKED)
def lazy():
    return nn.Sequential(nn.LazyLinear(3, dtype=F64), nn.Linear(3, 2, dtype=F64)), CE, batch()


@refused("a loss with a trained parameter of its own", "scale", optimizer=UNASKED)
def trained_loss():
    class Uncertain(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.3, dtype=F64))

        def forward(self, o, y):
            return CE(o, y) * torch.exp(-self.scale) + self.scale

    return net(), Uncertain(), batch()


@right("a loss whose trained parameter the model holds too")
def shared_with_loss():
    class Margin(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.3, dtype=F64))

        def forward(self, o, y):
            return CE(o * self.scale.exp(), y)

    model, loss = net(), Margin()
    model.register_module("head", nn.Identity())
    model.head.scale = loss.scale
    return model, loss, batch()


# -- tables ----------------------------------------------------------------------------------------


def table(**settings):
    return nn.Sequential(nn.Embedding(5, 3, dtype=F64, **settings), nn.Tanh(),
                         nn.Linear(3, 2, dtype=F64))  # fmt: skip


def words():
    return torch.arange(12) % 5, labels()


@right_or_refused(
    "an embedding that renormalises its rows in the forward pass",
    "max_norm|[Ee]mbedding",
    optimizer=UNASKED,
)
def max_norm():
    return table(max_norm=1.0), CE, words()


def _without_first_row(v):
    return torch.cat([torch.zeros_like(v[..., :3]), v[..., 3:]], -1)


@right("an embedding whose padding row is never moved", within=_without_first_row)
def padding():
    return table(padding_idx=0), CE, words()


@right_or_refused("an embedding with sparse gradients", "sparse", optimizer=either("sparse"))
def sparse():
    return table(sparse=True), CE, words()


@right_or_refused(
    "an embedding bag, whose kernel has no second derivative",
    "bag|second",
    by="hvp",
    optimizer=either("bag|second"),
    rtol=1e-4,
    orders=2,
)
def embedding_bag():
    class Bags(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag = nn.EmbeddingBag(5, 3, mode="sum", dtype=F64)
            self.out = nn.Linear(3, 2, dtype=F64)

        def forward(self, i):
            return self.out(self.bag(i, per_sample_weights=(1.0 + i).to(F64)).tanh())

    return Bags(), CE, (torch.arange(24).view(12, 2) % 5, labels())
