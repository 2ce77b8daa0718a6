"""Random forward passes. What was drawn is noted, so that the truth can be computed with it.

A draw is noted under the batch that it was made for. At one point all draws for one batch must be
the same; the truth is then plain ``backward`` with that draw put in place of chance.
"""

import random

import numpy as np
import torch
from torch import Tensor, nn

from hostile.entry import (
    CE,
    F64,
    UNASKED,
    Around,
    batch,
    inputs,
    labels,
    net,
    right,
    right_or_refused,
)

SEEN: dict[tuple, list[Tensor]] = {}
REPLAY: dict[tuple, Tensor] = {}


def key(x: Tensor) -> tuple:
    return len(x), float(x.flatten()[0])


def note(x: Tensor, draw: Tensor) -> None:
    SEEN.setdefault(key(x), []).append(draw.detach().clone())


def settled(strict: bool) -> dict[tuple, Tensor]:
    """The draw for each batch; where strict, there must have been one only."""
    for draws in SEEN.values() if strict else ():
        for other in draws[1:]:
            torch.testing.assert_close(other, draws[0], rtol=1e-9, atol=1e-9)
    return {batch: draws[-1] for batch, draws in SEEN.items()}


class Factor(nn.Module):
    """A network whose hidden layer some ``noise`` multiplies by a random factor."""

    def __init__(self, noise):
        super().__init__()
        self.net, self.noise = net(), noise

    def forward(self, x):
        h = self.net[1](self.net[0](x))
        if REPLAY:
            h = h * REPLAY[key(x)]
        else:
            out = self.noise(h)
            note(x, out / h)
            h = out
        return self.net[2](h)


@right("dropout")
def dropout():
    return Factor(nn.Dropout(0.5)), CE, batch()


def _in_chunks(model, loss, data):
    """Each chunk with its own draw."""
    x, y = data
    parts = zip(x.split(5), y.split(5), strict=True)
    return sum(len(a) * loss(model(a), b) for a, b in parts) / len(x)


@right(
    "dropout by its function, in chunks", options={"chunk": 5}, truth=_in_chunks, optimizer=UNASKED
)
def dropout_in_chunks():
    return Factor(lambda h: nn.functional.dropout(h, 0.5, training=True)), CE, batch()


@right("dropout of whole features")
def feature_dropout():
    return Factor(lambda h: torch.feature_dropout(h, 0.5, True)), CE, batch()


@right("a leaky ReLU with random slopes", orders=2)
def random_slopes():
    return Factor(nn.RReLU(0.1, 0.9)), CE, batch()


@right("layers skipped at random")
def stochastic_depth():
    return Factor(lambda h: h * (0.5 + torch.bernoulli(torch.tensor(0.5)).item())), CE, batch()


@right("noise with a seed set in the forward pass")
def seeded_inside():
    def noise(h):
        torch.manual_seed(7)
        return h * torch.rand_like(h)

    return Factor(noise), CE, batch()


@right("random numbers drawn before the forward pass, by a hook")
def drawn_by_hook():
    model = Factor(lambda h: h * model.level)

    def draw(module, args):
        module.level = torch.rand(()).item() + 0.1

    model.register_forward_pre_hook(draw)
    return model, CE, batch()


CHANCE = "random|differ|same|state|generator|draw|numpy"


@right_or_refused("a torch.Generator of the module's own", CHANCE)
def own_generator():
    generator = torch.Generator().manual_seed(3)

    class Owning(Factor):
        def __init__(self):
            super().__init__(lambda h: h * torch.rand(h.shape, generator=generator, dtype=F64))
            self.generator = generator

    return Owning(), CE, batch()


@right_or_refused("a torch.Generator in a closure", CHANCE)
def hidden_generator():
    generator = torch.Generator().manual_seed(3)
    return Factor(lambda h: h * torch.rand(3, generator=generator, dtype=F64)), CE, batch()


@right_or_refused("numpy's global random numbers", CHANCE)
def numpys_random():
    return Factor(lambda h: h * torch.from_numpy(np.random.rand(3))), CE, batch()  # noqa: NPY002


@right_or_refused("a numpy generator of the module's own", CHANCE)
def numpys_generator():
    generator = np.random.default_rng(0)
    return Factor(lambda h: h * torch.from_numpy(generator.random(3))), CE, batch()


@right_or_refused("Python's random numbers", CHANCE)
def pythons_random():
    return Factor(lambda h: h * (0.5 + random.random())), CE, batch()


@right("Gumbel noise, softened")
def gumbel():
    class Gumbel(Around):
        def forward(self, x):
            logits = self.net(x)
            if REPLAY:
                return (2 * (logits + REPLAY[key(x)])).softmax(1)
            out = nn.functional.gumbel_softmax(logits, tau=0.5)
            draw = out.log() / 2 - logits
            note(x, draw - draw.mean(1, keepdim=True))
            return out

    return Gumbel(), CE, batch()


@right("a variational layer: weights drawn about their means")
def variational():
    class Bayes(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean, self.spread = (nn.Parameter(torch.randn(2, 2, dtype=F64)) for _ in "ab")

        def forward(self, x):
            noise = REPLAY[key(x)] if REPLAY else torch.randn_like(self.mean)
            note(x, noise)
            return (x @ (self.mean + self.spread.exp() * noise)).tanh()

    return Bayes(), CE, batch()


@right("random augmentation in the loss")
def noisy_loss():
    x = inputs()

    def loss(o, y):
        noise = REPLAY[key(x)] if REPLAY else 0.3 * torch.randn_like(o)
        note(x, noise)
        return CE(o + noise, y) + (o * noise).square().mean()

    return net(), loss, (x, labels())


@right("dropout inside activation checkpointing, recomputed with the same mask")
def checkpointed_dropout():
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(Factor):
        def forward(self, x):
            return checkpoint(super().forward, x, use_reentrant=False)

    return Checkpointed(nn.Dropout(0.5)), CE, batch()
