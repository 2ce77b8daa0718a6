"""Models called in other ways, and data of other forms."""

from types import SimpleNamespace

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from hostile.entry import (
    CE,
    F64,
    UNASKED,
    Around,
    batch,
    inputs,
    labels,
    net,
    refused,
    right,
    right_or_refused,
)


def _unpacked(model, loss, data):
    return loss(model(*data[0]), data[1])


def _named(model, loss, data):
    return loss(model(**data[0]), data[1])


def _without_loss(model, loss, data):
    return sum(len(b[0]) * loss(model(b[0]), b[1]) for b in data) / sum(len(b[0]) for b in data)


class Two(Around):
    def forward(self, x, scale, *, power=2):
        return (self.net(x) * scale).tanh() ** power


@right("a model of two inputs", call=_unpacked)
def two_inputs():
    return Two(), CE, ((inputs(), inputs(12, 1)), labels())


@right("a model of named inputs", call=_named)
def named_inputs():
    return Two(), CE, ({"x": inputs(), "scale": inputs(12, 1)}, labels())


@right("a model of named inputs with a setting among them", call=_named)
def named_setting():
    return Two(), CE, ({"x": inputs(), "scale": inputs(12, 1), "power": 3}, labels())


@right("a model of any named inputs", call=_named)
def any_named_inputs():
    class Any(Around):
        def forward(self, **features):
            return self.net(features["x"]) + features.get("bias", 0)

    return Any(), CE, ({"x": inputs(), "bias": inputs()}, labels())


@right("outputs in a dict, read by the loss")
def outputs_in_dict():
    class Named(Around):
        def forward(self, x):
            return {"logits": self.net(x), "size": len(x)}

    return Named(), lambda o, y: CE(o["logits"], y), batch()


@right("no target", call=lambda model, loss, data: loss(model(data[0]), None))
def no_target():
    return net(), lambda o, y: (o.exp() - o).mean(), (inputs(), None)


@right("targets in a dict")
def targets_in_dict():
    def loss(o, y):
        return CE(o, y["class"]) + (o - y["value"]).square().mean()

    return net(), loss, (inputs(), {"class": labels(), "value": inputs()})


@right(
    "data that are arrays of numpy",
    call=lambda model, loss, data: loss(model(torch.as_tensor(data[0])), torch.as_tensor(data[1])),
)
def arrays():
    return net(), CE, (inputs().numpy(), np.arange(12) % 2)


@right("a list of batches of different sizes, each a mean", call=_without_loss, optimizer=UNASKED)
def list_of_batches():
    x, y = batch(13)
    return net(), CE, [(x[:5], y[:5]), (x[5:12], y[5:12]), (x[12:], y[12:])]


@right(
    "a DataLoader that shuffles: its batches change, their sum does not",
    call=_without_loss,
    optimizer=UNASKED,
)
def shuffling_loader():
    return net(), CE, DataLoader(TensorDataset(*batch(12)), 5, shuffle=True)


class Augmented(Dataset):
    """Another sample each time that it is asked; it notes what it gave."""

    def __init__(self):
        self.x, self.y = batch(13)
        self.given = []

    def __len__(self):
        return 13

    def __getitem__(self, i):
        x = self.x[i] + 0.5 * torch.randn(2, dtype=F64)
        self.given.append((x, self.y[i]))
        return x, self.y[i]


@refused("batches that can be read once only", "once|generator|iterat|again", optimizer=UNASKED)
def generator_of_batches():
    x, y = batch()
    return net(), CE, ((x[i : i + 4], y[i : i + 4]) for i in (0, 4, 8))


@refused("samples and targets of different number", "12.*11|11.*12|samples", optimizer=UNASKED)
def lengths_differ():
    return net(), CE, (inputs(12), labels(11))


@refused("no samples", "empty|no samples", optimizer=UNASKED)
def empty():
    return net(), CE, (inputs(0), labels(0))


@right("one tensor: no target", call=lambda model, loss, data: loss(model(data), None))
def one_tensor():
    return net(), lambda o, y: o.square().mean(), inputs(2)


@right("data that require gradients")
def data_require_gradients():
    x, y = batch()
    return net(), CE, (x.requires_grad_(), y)


@right("data that are the result of a computation with a graph")
def data_with_graph():
    x, y = batch()
    scale = torch.ones(2, dtype=F64, requires_grad=True)
    return net(), CE, ((x * scale).detach() + 0, y)


@right("data expanded from one row, and data in reverse memory")
def expanded():
    x = inputs(1).expand(12, 2)
    return net(), CE, (x, labels())


@refused("a module without trained parameters", "no trainable parameters", optimizer=UNASKED)
def nothing_to_train():
    return net().requires_grad_(False), CE, batch()


@right("targets of probabilities")
def probabilities():
    return net(), CE, (inputs(), torch.rand(12, 2, dtype=F64).softmax(1))


@right_or_refused(
    "a loss in float32 of float64 outputs",
    "float32|precision|rounding",
    by="hvp",
    orders=1,
    optimizer=UNASKED,
)
def loss_in_float32():
    return net(), lambda o, y: CE(o.float(), y).double(), batch()


@right(
    "a model that computes its own loss, of named inputs",
    call=lambda model, loss, data: model(**data).loss,
)
def own_loss_named():
    class Own(Around):
        def forward(self, x, labels=None):
            out = self.net(x)
            return SimpleNamespace(loss=CE(out, labels), logits=out)

    return Own(), None, {"x": inputs(), "labels": labels()}


@right(
    "a model that returns its own loss",
    call=lambda model, loss, data: model(*data),
)
def own_loss_scalar():
    class Own(Around):
        def forward(self, x, y):
            return CE(self.net(x), y)

    return Own(), None, batch()
