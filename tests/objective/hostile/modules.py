"""Changes in place, and precisions."""

import torch
import torch.utils.checkpoint
from torch import nn

from hostile.entry import (
    CE,
    REPEATABLE,
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

# -- changes in place ------------------------------------------------------------------------------


@right("activations changed in place")
def in_place():
    class InPlace(Around):
        def forward(self, x):
            h = self.net[0](x)
            h = h.mul_(0.5).tanh_()
            out = self.net[2](h)
            out[:, 0] += 1
            return out.exp_()

    return InPlace(), CE, batch()


@right("an in-place ReLU as the first layer, on the data themselves", orders=2)
def in_place_on_data():
    return nn.Sequential(nn.ReLU(inplace=True), *net()), CE, batch()


@right("data scaled in place at every call", optimizer=REPEATABLE)
def data_scaled():
    class Scaled(Around):
        def forward(self, x):
            x.mul_(0.5)
            return self.net(x)

    return Scaled(), CE, batch()


@right("data normalised in place, and noted down")
def data_normalised():
    class Normalised(Around):
        def forward(self, x):
            x -= x.mean(0)
            x /= x.std(0)
            return self.net(x * 1.5)

    return Normalised(), CE, batch()


@right("a loss that changes targets and outputs in place", optimizer=REPEATABLE)
def targets_changed():
    def loss(o, y):
        y.mul_(0.5)
        o.sub_(y)
        return o.square().mean()

    return net(), loss, (inputs(), inputs())


@right(
    "a module that pops what it uses from the data's dict",
    call=lambda model, loss, data: loss(model(**data[0]), data[1]),
)
def data_popped():
    class Popping(Around):
        def forward(self, **features):
            return self.net(features.pop("x")) * features.pop("scale")

    return Popping(), CE, ({"x": inputs(), "scale": inputs(12, 1)}, labels())


@right_or_refused(
    "weights clipped in the forward pass", "weight|in place|changed", optimizer=UNASKED
)
def weights_clipped():
    class Clipped(Around):
        def forward(self, x):
            with torch.no_grad():
                self.net[0].weight.clamp_(-0.2, 0.2)
            return self.net(x)

    return Clipped(), CE, batch()


@right_or_refused(
    "weights replaced through .data in the forward pass",
    "weight|in place|changed",
    optimizer=UNASKED,
)
def weights_normalised():
    class Unit(Around):
        def forward(self, x):
            self.net[0].weight.data /= self.net[0].weight.data.norm()
            return self.net(x)

    return Unit(), CE, batch()


@right("a module that switches its own training flag", orders=2)
def own_flags():
    class Switching(Around):
        def __init__(self):
            super().__init__(nn.Dropout(0.5))

        def forward(self, x):
            self.eval()
            return self.net(x)

    return Switching(), CE, batch()


@right_or_refused(
    "a module that freezes and frees its own layers in the forward pass",
    "requires_grad|Freezing|leaf|freez",
)
def own_freezing():
    class Freezing(Around):
        def forward(self, x):
            self.net[2].requires_grad_(False)
            out = self.net(x)
            self.net[2].requires_grad_(True)
            return out.tanh()

    model = Freezing()
    return model, CE, batch()


# -- precisions ------------------------------------------------------------------------------------


def _in_double(model, loss, data):
    return loss(model.double()(data[0].double()), data[1])


def _without_casts(model, loss, data):
    return loss(model.double().net(data[0].double()), data[1])


@right("float32", rtol=2e-5, orders=3, truth=_in_double)
def single():
    model, loss, (x, y) = net().float(), CE, batch()
    return model, loss, (x.float(), y)


HALF = "half|bfloat16|float16|precision|float32"


@refused("parameters in bfloat16: their curvature drowns", HALF, by="hvp", optimizer=error(HALF))
def brain_float():
    model, loss, (x, y) = net().bfloat16(), CE, batch()
    return model, loss, (x.bfloat16(), y)


@refused("parameters in half precision", HALF, by="hvp", optimizer=error(HALF))
def half():
    model, loss, (x, y) = net().half(), CE, batch()
    return model, loss, (x.half(), y)


AUTOCAST = "autocast|bfloat16|precision"


@right_or_refused(
    "autocast inside the forward pass: its rounding looks like curvature",
    AUTOCAST,
    by="hvp",
    rtol=3e-2,
    orders=1,
    truth=_without_casts,
    optimizer=UNASKED,
)
def autocast_inside():
    class Cast(Around):
        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return self.net(x).float()

    model, loss, (x, y) = Cast().float(), CE, batch()
    return model, loss, (x.float(), y)


@right_or_refused(
    "a call under autocast",
    AUTOCAST,
    by="hvp",
    rtol=2e-5,
    orders=2,
    context=lambda: torch.autocast("cpu", torch.bfloat16),
    truth=_in_double,
    optimizer=UNASKED,
)
def called_under_autocast():
    model, loss, (x, y) = net().float(), CE, batch()
    return model, loss, (x.float(), y)


@refused("data in another precision than the parameters", "float32|dtype", optimizer=UNASKED)
def data_precision():
    x, y = batch()
    return net(), CE, (x.float(), y)


@right_or_refused(
    "a float64 network with a float32 part inside",
    "float32|precision|rounding",
    by="hvp",
    rtol=1e-4,
    orders=2,
    truth=lambda model, loss, data: loss(model.net(data[0]) * 1.5, data[1]),
)
def float32_inside():
    class Inside(Around):
        def forward(self, x):
            return self.net(x).float().mul(1.5).double()

    return Inside(), CE, batch()
