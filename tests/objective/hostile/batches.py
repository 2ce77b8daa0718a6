"""Losses in chunks: they add up, or are refused."""

from functools import partial

import torch
from torch import nn

from hostile.entry import (
    CE,
    F64,
    MSE,
    UNASKED,
    Around,
    batch,
    inputs,
    labels,
    net,
    right,
    right_or_refused,
)

CHUNK = {"options": {"chunk": 6}, "optimizer": UNASKED}
APART = "chunk|reduction|add up|couple|mean|sum"


def sized(n=13):
    return inputs(n), labels(n)


@right("chunks of a mean, the last of one sample", **CHUNK)
def chunks_of_mean():
    return net(), nn.CrossEntropyLoss(), sized()


@right("chunks of a sum that says so", **CHUNK)
def chunks_of_sum():
    return net(), nn.CrossEntropyLoss(reduction="sum"), sized()


@right_or_refused("a sum hidden in a lambda", APART, **CHUNK)
def hidden_sum():
    return net(), lambda o, y: CE(o, y, reduction="sum"), sized()


@right_or_refused("a sum hidden in a partial", APART, **CHUNK)
def partial_sum():
    return net(), partial(CE, reduction="sum"), sized(12)


@right_or_refused("a sum over half the samples' number, a constant", APART, **CHUNK)
def scaled_sum():
    return net(), lambda o, y: CE(o, y, reduction="sum") / 6.5, sized()


@right_or_refused("a mean with class weights, hidden in a lambda", APART + "|weight", **CHUNK)
def hidden_class_weights():
    weight = torch.tensor([1.0, 5.0], dtype=F64)
    return net(), lambda o, y: CE(o, y, weight=weight), sized()


@right_or_refused("a mean with class weights", APART + "|weight", **CHUNK)
def class_weights():
    return net(), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0], dtype=F64)), sized()


@right_or_refused("labels to be ignored", APART + "|ignore|-100", **CHUNK)
def ignored_labels():
    x, y = sized()
    y[:4] = -100
    return net(), nn.CrossEntropyLoss(), (x, y)


@right_or_refused("a whole chunk to be ignored", APART + "|ignore|-100|finite", **CHUNK)
def ignored_chunk():
    x, y = sized()
    y[:6] = -100
    return net(), nn.CrossEntropyLoss(), (x, y)


@right_or_refused(
    "labels to be ignored, by another number, in a lambda", APART + "|ignore", **CHUNK
)
def ignored_in_lambda():
    x, y = sized()
    y[-3:] = 7
    return net(), lambda o, y: CE(o, y, ignore_index=7), (x, y)


@right_or_refused("padded tokens, of another number in each sample", APART + "|ignore", **CHUNK)
def padded_tokens():
    x = torch.arange(36).view(12, 3) % 5
    y = (x + 1) % 2
    y[x > 3] = -100
    model = nn.Sequential(nn.Embedding(5, 2), nn.Tanh(), nn.Linear(2, 2)).to(F64)
    return model, lambda o, y: CE(o.flatten(0, 1), y.flatten()), (x, y)


@right_or_refused("a contrastive loss: samples are compared with one another", APART, **CHUNK)
def contrastive():
    def loss(o, y):
        z = nn.functional.normalize(o, dim=1)
        return CE(z @ z.T / 0.5, torch.arange(len(z)))

    return net(), loss, sized(12)


@right_or_refused("batch normalisation in training mode", APART + "|[Bb]atch", **CHUNK)
def chunks_of_batch_norm():
    return net(nn.BatchNorm1d(3)), CE, sized(12)


@right("batch normalisation in evaluation mode", **CHUNK)
def chunks_of_batch_norm_eval():
    return net(nn.BatchNorm1d(3)).eval(), CE, sized()


@right_or_refused(
    "batch normalisation without running statistics, in evaluation mode",
    APART + "|[Bb]atch",
    **CHUNK,
)
def chunks_of_untracked_batch_norm():
    return net(nn.BatchNorm1d(3, track_running_stats=False)).eval(), CE, sized(12)


@right_or_refused("outputs centred over the batch in the forward pass", APART, **CHUNK)
def centred_outputs():
    class Centred(Around):
        def forward(self, x):
            out = self.net(x)
            return (out - out.mean(0)) * 3

    return Centred(), CE, sized(12)


@right_or_refused("batch normalisation by its function", APART + "|[Bb]atch", **CHUNK)
def batch_norm_function():
    class Normed(Around):
        def forward(self, x):
            return 2 * nn.functional.batch_norm(self.net(x), None, None, training=True)

    return Normed(), CE, sized(12)


@right_or_refused("the root of a mean", APART, **CHUNK)
def root_of_mean():
    return net(), lambda o, y: MSE(o, y).sqrt(), (inputs(12), inputs(12))


@right_or_refused("the worst sample", APART, orders=2, **CHUNK)
def worst_sample():
    return net(), lambda o, y: CE(o, y, reduction="none").max(), sized()


@right("a mean and a penalty", **CHUNK)
def mean_and_penalty():
    model = net()
    return model, lambda o, y: CE(o, y) + sum(p.square().sum() for p in model.parameters()), sized()


@right_or_refused("a sum and a penalty: the penalty is counted once a chunk", APART, **CHUNK)
def sum_and_penalty():
    class Penalised(nn.Module):
        reduction = "sum"

        def forward(self, o, y):
            return CE(o, y, reduction="sum") + sum(p.square().sum() for p in model.parameters())

    model = net()
    return model, Penalised(), sized(12)


@right_or_refused("'batchmean' of Kullback and Leibler", APART, **CHUNK)
def batchmean():
    loss = nn.KLDivLoss(reduction="batchmean")
    model = nn.Sequential(net(), nn.LogSoftmax(1))
    return model, loss, (inputs(13), torch.rand(13, 2, dtype=F64))


@right_or_refused("a covariance of the outputs (redundancy reduction)", APART, **CHUNK)
def covariance():
    def loss(o, y):
        return torch.cov(o.T).square().sum() + CE(o, y)

    return net(), loss, sized(12)


@right_or_refused("weights of the samples, divided by their sum", APART + "|weight", **CHUNK)
def sample_weights():
    def loss(o, target):
        weight = target[:, 1]
        return (weight * CE(o, target[:, 0].long(), reduction="none")).sum() / weight.sum()

    x, y = sized(12)
    return net(), loss, (x, torch.stack([y.to(F64), torch.linspace(1, 5, 12, dtype=F64)], 1))


@right_or_refused("samples along the second axis", APART + "|samples|axis|length|shape", **CHUNK)
def second_axis():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.RNN(2, 2, dtype=F64)

        def forward(self, x):
            return self.cell(x)[0][-1]

    return Last(), CE, (torch.randn(7, 7, 2, dtype=F64), labels(7))


@right_or_refused("a constant inside that depends on the batch's size", APART, **CHUNK)
def temperature_of_size():
    class Sized(Around):
        def forward(self, x):
            return self.net(x) * len(x)

    return Sized(), CE, batch()
