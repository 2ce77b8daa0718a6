"""Normalisation: torch's third derivatives of several layers are wrong."""

import torch
import torch.utils.checkpoint
from torch import nn

from hostile.entry import (
    CE,
    F64,
    Around,
    batch,
    net,
    right,
    right_or_refused,
)


def normed(layer):
    return net(layer), CE, batch()


@right("layer normalisation")
def layer_norm():
    return normed(nn.LayerNorm(3))


@right("layer normalisation without weights, by its function")
def layer_norm_function():
    class Normed(Around):
        def forward(self, x):
            h = nn.functional.layer_norm(self.net[0](x), (3,))
            return self.net[2](h.tanh())

    return Normed(), CE, batch()


@right("layer normalisation without a bias")
def layer_norm_unbiased():
    return normed(nn.LayerNorm(3, bias=False))


@right_or_refused(
    "layer normalisation called through torch's lower names", "norm|third", by="third"
)
def layer_norm_native():
    class Normed(Around):
        def forward(self, x):
            h = torch.native_layer_norm(self.net[0](x), (3,), None, None, 1e-5)[0]
            return self.net[2](torch.layer_norm(h.tanh(), (3,)))

    return Normed(), CE, batch()


@right("batch normalisation in training mode")
def batch_norm():
    return normed(nn.BatchNorm1d(3))


@right("batch normalisation in evaluation mode")
def batch_norm_eval():
    model, loss, data = normed(nn.BatchNorm1d(3))
    model[2].running_mean += 0.3
    return model.eval(), loss, data


@right("batch normalisation with a cumulative average")
def batch_norm_cumulative():
    return normed(nn.BatchNorm1d(3, momentum=None))


@right("batch normalisation without running statistics, in evaluation mode")
def batch_norm_untracked():
    model, loss, data = normed(nn.BatchNorm1d(3, track_running_stats=False))
    return model.eval(), loss, data


@right("batch normalisation of which a part is in evaluation mode")
def batch_norm_partly_eval():
    model = net(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    model[2].eval()
    return model, CE, batch()


class Sequences(nn.Module):
    """Twelve parameters before and eight after a layer on tensors (N, 3, 4)."""

    def __init__(self, layer):
        super().__init__()
        self.first, self.layer = nn.Linear(2, 12, dtype=F64), layer.to(F64)
        self.last = nn.Linear(3, 2, dtype=F64)

    def forward(self, x):
        h = self.layer(self.first(x).view(-1, 3, 4)).tanh()
        return self.last(h.square().mean(2))


@right("instance normalisation")
def instance_norm():
    return Sequences(nn.InstanceNorm1d(3, affine=True)), CE, batch(6)


@right("instance normalisation with running statistics")
def instance_norm_tracked():
    return Sequences(nn.InstanceNorm1d(3, track_running_stats=True)), CE, batch(6)


@right("group normalisation")
def group_norm():
    return Sequences(nn.GroupNorm(1, 3)), CE, batch(6)


@right("local response normalisation")
def local_response_norm():
    return Sequences(nn.LocalResponseNorm(2, alpha=0.5)), CE, batch(6)


@right("root mean square normalisation")
def rms_norm():
    return normed(nn.RMSNorm(3))


@right("vectors of length one")
def unit_vectors():
    class Unit(Around):
        def forward(self, x):
            return 3 * nn.functional.normalize(self.net(x) + 1.5, dim=1)

    return Unit(), CE, batch()
