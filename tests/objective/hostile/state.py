"""Modules and losses that remember: the same parameters, another value."""

import functools

import torch
from torch import nn

from hostile.entry import CE, F64, UNASKED, Around, batch, net, right, right_or_refused

FICKLE = "state|differ|same|twice|remember|call"


@right_or_refused("a buffer that counts calls and scales the outputs", f"count|{FICKLE}")
def counting_buffer():
    class Counting(Around):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros((), dtype=F64))

        def forward(self, x):
            self.count += 1
            return self.net(x) / (1 + self.count)

    return Counting(), CE, batch()


@right_or_refused("a buffer replaced at every call", f"mean|{FICKLE}")
def averaging_buffer():
    class Averaging(Around):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(2, dtype=F64))

        def forward(self, x):
            out = self.net(x) * (1 + self.mean)
            self.mean = 0.5 * self.mean + out.detach().mean(0)
            return out

    return Averaging(), CE, batch()


@right_or_refused(
    "an average of what was seen, used in the outputs",
    f"mean|{FICKLE}|detach",
    by="hvp",
    optimizer=UNASKED,
)
def average_used():
    class Centred(Around):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(2, dtype=F64))

        def forward(self, x):
            out = self.net(x)
            self.mean.mul_(0.5).add_(out.detach().mean(0))
            return (out - self.mean) * 2

    return Centred(), nn.functional.mse_loss, (batch()[0], batch()[0])


@right_or_refused("a number in Python that anneals a coefficient", f"Annealed|steps|{FICKLE}")
def counting_attribute():
    class Annealed(Around):
        steps = 0

        def forward(self, x):
            self.steps += 1
            return self.net(x) / self.steps

    return Annealed(), CE, batch()


@right_or_refused("a loss that counts how often it was called", f"Warming|calls|{FICKLE}")
def counting_loss():
    class Warming:
        calls = 0

        def __call__(self, o, y):
            self.calls += 1
            return CE(o, y) + o.square().mean() / self.calls

    return net(), Warming(), batch()


@right_or_refused("a loss whose closure counts", f"loss|{FICKLE}")
def counting_closure():
    seen = []

    def loss(o, y):
        seen.append(0)
        return CE(o, y) * len(seen)

    return net(), loss, batch()


@right_or_refused("a module that keeps its first output", f"Cached|kept|{FICKLE}")
def first_output_kept():
    class Cached(Around):
        kept = None

        def forward(self, x):
            if self.kept is None:
                self.kept = self.net(x)
            return self.kept

    return Cached(), CE, batch()


@right_or_refused("features kept by the object that holds the data", f"Cached|kept|{FICKLE}|graph")
def features_kept():
    kept = {}

    class Cached(Around):
        def forward(self, x):
            h = kept.setdefault("features", self.net[0](x))
            return self.net[2](h.tanh())

    return Cached(), CE, batch()


@right_or_refused("a method whose result functools caches", f"Cached|cache|{FICKLE}|graph")
def lru_cached():
    class Cached(Around):
        @functools.cache  # noqa: B019
        def kernel(self):
            return self.net[0].weight.softmax(1)

        def forward(self, x):
            return self.net[2]((x @ self.kernel().T).tanh())

    return Cached(), CE, batch()


@right_or_refused("a hidden state carried from call to call", f"Carrying|hidden|{FICKLE}")
def hidden_carried():
    class Carrying(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.hidden = nn.RNNCell(2, 2, dtype=F64), None

        def forward(self, x):
            self.hidden = self.cell(x, None if self.hidden is None else self.hidden.detach())
            return self.hidden

    return Carrying(), CE, batch()


@right_or_refused(
    "a queue of earlier outputs in the loss (momentum contrast)", f"queue|loss|{FICKLE}"
)
def queue():
    queue = [torch.ones(2, dtype=F64)]

    def loss(o, y):
        e = CE(o, y) + (o @ torch.stack(queue).T).square().mean()
        queue.append(o.detach().mean(0))
        return e

    return net(), loss, batch()


@right("a table made at the first call and kept: it does not change")
def positions_kept():
    class Rotary(Around):
        table = None

        def forward(self, x):
            if self.table is None:
                self.table = torch.arange(len(x), dtype=F64).cos()[:, None]
            return self.net(x * self.table)

    return Rotary(), CE, batch()


@right("a module that only counts, to no effect")
def idle_counter():
    class Counting(Around):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return self.net(x)

    return Counting(), CE, batch()


@right("a module that keeps its last output, for others to see")
def last_output_kept():
    class Showing(Around):
        def forward(self, x):
            self.features = self.net[1](self.net[0](x))
            return self.net[2](self.features)

    model = Showing()
    return model, lambda o, y: CE(o, y) + model.features.square().mean(), batch()


@right("a flag in the training loop that the loss reads")
def closure_flag():
    setting = {"weight": 0.3}
    return net(), lambda o, y: CE(o, y) + setting["weight"] * o.square().mean(), batch()
