"""Parameters that are made of others: parametrizations, properties, wrappers."""

import warnings

import torch
import torch.utils.checkpoint
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from hostile.entry import (
    CE,
    F64,
    UNASKED,
    Around,
    batch,
    net,
    right,
    right_or_refused,
)


@right("an orthogonal parametrization")
def orthogonal():
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)).to(F64)
    parametrizations.orthogonal(model[0])
    return model, CE, batch()


@right("spectral norm in evaluation mode")
def spectral_norm_eval():
    model = net()
    parametrizations.spectral_norm(model[0])
    return model.eval(), CE, batch()


# What its product should be depends on whether the vectors are held.
@right_or_refused(
    "spectral norm in training mode, whose vectors move at every call",
    "spectral|_u|_v|parametriz|state|differ",
    by="hvp",
    optimizer=UNASKED,
)
def spectral_norm():
    model = net()
    parametrizations.spectral_norm(model[0])
    return model, CE, batch()


@right_or_refused(
    "the old spectral norm, by a hook, in training mode",
    "spectral|_u|_v|weight|state|differ",
    by="hvp",
    optimizer=UNASKED,
)
def old_spectral_norm():
    model = net()
    nn.utils.spectral_norm(model[0])
    return model, CE, batch()


@right_or_refused("weight norm", "weight.?norm", by="hvp")
def weight_norm():
    model = net()
    parametrizations.weight_norm(model[0])
    return model, CE, batch()


@right_or_refused(
    "the old weight norm, by a hook that leaves a tensor behind", "weight.?norm", by="hvp"
)
def old_weight_norm():
    model = net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(model[0])
    return model, CE, batch()


@right("a parametrization of one's own")
def positive_weights():
    class Positive(nn.Module):
        def forward(self, w):
            return nn.functional.softplus(w)

    model = net()
    parametrize.register_parametrization(model[0], "weight", Positive())
    return model, CE, batch()


@right("a parametrization that is cached for the length of a forward pass")
def cached_parametrization():
    class Symmetric(nn.Module):
        def forward(self, w):
            return w.triu() + w.triu(1).T

    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2, dtype=F64)
            parametrize.register_parametrization(self.layer, "weight", Symmetric())

        def forward(self, x):
            with parametrize.cached():
                return self.layer(self.layer(x).tanh())

    return Cached(), CE, batch()


@right("pruning by a mask, with a hook")
def pruned():
    from torch.nn.utils import prune

    model = net()
    prune.random_unstructured(model[0], "weight", amount=2)
    return model, CE, batch()


@right("weights made by another network")
def hypernetwork():
    class Hyper(nn.Module):
        def __init__(self):
            super().__init__()
            self.maker = nn.Linear(3, 4, dtype=F64)
            self.register_buffer("code", torch.randn(3, dtype=F64))

        def forward(self, x):
            return (x @ self.maker(self.code).view(2, 2)).tanh()

    return Hyper(), CE, batch()


@right("ParameterList and ParameterDict, nested")
def parameter_containers():
    class Contained(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows = nn.ParameterList([torch.randn(2, dtype=F64) for _ in range(3)])
            self.named = nn.ParameterDict({"out": torch.randn(3, 2, dtype=F64)})

        def forward(self, x):
            return (x @ torch.stack(list(self.rows), 1)).tanh() @ self.named["out"]

    return Contained(), CE, batch()


@right("a weight that is a property")
def property_weight():
    class Low(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.Parameter(torch.randn(2, dtype=F64)) for _ in "ab")

        @property
        def weight(self):
            return torch.outer(self.a, self.b)

        def forward(self, x):
            return (x @ self.weight).tanh()

    model = Low()
    return model, lambda o, y: CE(o, y) + model.weight.square().sum(), batch()


@right("a module with slots and a parameter set past the registration")
def slots():
    class Slotted(Around):
        __slots__ = ("fast",)

        def __init__(self):
            super().__init__()
            object.__setattr__(self, "fast", self.net[0].weight)

        def forward(self, x):
            return self.net(x) + (x @ self.fast.T).tanh()[:, :2]

    return Slotted(), CE, batch()


@right("a wrapper whose __getattr__ answers for what it wraps")
def delegating():
    class Wrapper(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(self.inner, name)

        def forward(self, x):
            return self.inner(x) + self.bottleneck.weight.sum()

    inner = net()
    inner.bottleneck = nn.Identity()
    inner.bottleneck.weight = nn.Parameter(torch.ones(2, dtype=F64))
    return Wrapper(inner), CE, batch()


@right("a parameter of a class of its own")
def parameter_subclass():
    class Mine(nn.Parameter):
        pass

    model = net()
    model[0].weight = Mine(model[0].weight.detach().clone())
    return model, CE, batch()


@right_or_refused("a parameter that is a tensor with __torch_function__", "Tagged|subclass")
def tensor_subclass():
    class Tagged(torch.Tensor):
        pass

    model = net()
    model[0].weight = nn.Parameter(model[0].weight.detach().clone().as_subclass(Tagged))
    return model, CE, batch()
