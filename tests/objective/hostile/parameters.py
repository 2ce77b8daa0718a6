"""Parameters that are reached, shared, made or masked in ways of their own."""

import copy
import os
import warnings
import weakref
from dataclasses import dataclass
from functools import partial

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
    either,
    error,
    inputs,
    labels,
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


# -- made ------------------------------------------------------------------------------------------


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


# -- hooks -----------------------------------------------------------------------------------------


@right_or_refused(
    "a mask on a parameter's gradient",
    "hook",
    within=lambda v: torch.cat([torch.zeros_like(v[..., :2]), v[..., 2:]], -1),
)
def masked_gradient():
    model = net()
    mask = torch.ones(3, 2, dtype=F64)
    mask[0] = 0
    model[0].weight.register_hook(lambda g: g * mask)
    return model, CE, batch()


@right_or_refused(
    "a hook that clips a parameter's gradient",
    "hook|differ|symmetr",
    optimizer=UNASKED,
)
def clipped_gradient():
    model = net()
    model[0].weight.register_hook(lambda g: g.clamp(-0.01, 0.01))
    return model, CE, batch()


@right_or_refused(
    "a hook that halves a parameter's gradient",
    "hook|differ|symmetr",
    optimizer=UNASKED,
)
def halved_gradient():
    model = net()
    model[0].weight.register_hook(lambda g: g / 2)
    return model, CE, batch()


@right_or_refused("a hook that only looks at a gradient", "hook")
def watched_gradient():
    model, seen = net(), []
    model[0].weight.register_hook(lambda g: seen.append(float(g.norm())))
    return model, CE, batch()


@right_or_refused(
    "a hook that changes .grad after it is accumulated", "hook", optimizer=either("hook|accumulat")
)
def after_accumulation():
    model = net()

    def halve(p):
        p.grad /= 2

    model[0].weight.register_post_accumulate_grad_hook(halve)
    return model, CE, batch()


@right("a backward hook of a module that only looks")
def watching_module():
    model, seen = net(), []
    model[0].register_full_backward_hook(lambda m, into, out: seen.append(float(out[0].norm())))
    return model, CE, batch()


@right_or_refused(
    "a backward hook that reverses what flows into a layer",
    "hook|differ|symmetr",
    by="hvp",
    optimizer=UNASKED,
)
def reversing_module():
    model = net()
    model[1].register_full_backward_hook(lambda m, into, out: (-into[0],))
    return model, CE, batch()


@right_or_refused(
    "a hook on an activation that halves what flows back",
    "hook|differ|symmetr",
    by="hvp",
    optimizer=UNASKED,
)
def activation_hook():
    class Damped(Around):
        def forward(self, x):
            h = self.net[1](self.net[0](x))
            if h.requires_grad:
                h.register_hook(lambda g: g / 2)
            return self.net[2](h)

    return Damped(), CE, batch()


@right("forward hooks: one changes the output, one keeps it")
def forward_hooks():
    model, kept = net(), {}
    model[0].register_forward_hook(lambda m, x, out: out * 2 + m.weight.sum())
    model[1].register_forward_hook(lambda m, x, out: kept.update(features=out))
    loss = lambda o, y: CE(o, y) + kept["features"].square().mean()  # noqa: E731
    return model, loss, batch()


# -- recomputed or compiled ------------------------------------------------------------------------


class Checkpointed(Around):
    def __init__(self, **how):
        super().__init__()
        self.how = how

    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(self.net, x, **self.how)


@right("activation checkpointing")
def checkpointed():
    return Checkpointed(use_reentrant=False), CE, batch()


@right_or_refused(
    "activation checkpointing, reentrant",
    "checkpoint|reentrant",
    optimizer=either("checkpoint|reentrant"),
)
def checkpointed_reentrant():
    model, loss, (x, y) = Checkpointed(use_reentrant=True), CE, batch()
    return model, loss, (x.requires_grad_(), y)


@right_or_refused(
    "activation checkpointing of half a network, reentrant",
    "checkpoint|reentrant",
    optimizer=either("checkpoint|reentrant"),
)
def checkpointed_tail_reentrant():
    class Half(Around):
        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(
                self.net[1:], self.net[0](x), use_reentrant=True
            )

    return Half(), CE, batch()


@right("activation checkpointing of half a network, with early layers outside")
def checkpointed_tail():
    class Half(Around):
        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(
                self.net[1:], self.net[0](x), use_reentrant=False
            )

    return Half(), CE, batch()


def _not_compiled(model, loss, data):
    return loss(model._orig_mod(data[0]), data[1])


@right("torch.compile, whose backend keeps torch's graph", truth=_not_compiled)
def compiled_eager():
    torch._dynamo.reset()
    return torch.compile(net(), backend="eager"), CE, batch()


@right_or_refused(
    "torch.compile, whose backward cannot be differentiated",
    "compile|second",
    by="hvp",
    rtol=1e-4,
    orders=2,
    truth=_not_compiled,
)
def compiled_aot():
    torch._dynamo.reset()
    return torch.compile(net(), backend="aot_eager"), CE, batch()


@right_or_refused("a scripted module", "[Ss]cript")
def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(net()), CE, batch()


@right_or_refused("a traced module", "[Ss]cript|trac|Traced|Top")
def traced():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(net(), inputs(), check_trace=False), CE, batch()


@right("torch.func.functional_call inside the model")
def functional_call_inside():
    class Inner(Around):
        def forward(self, x):
            doubled = {n: 2 * p for n, p in self.net.named_parameters()}
            return torch.func.functional_call(self.net, doubled, (x,))

    return Inner(), CE, batch()


@right_or_refused(
    "a copy of a layer made in the forward pass", "deepcopy|copied", optimizer=UNASKED
)
def copied_inside():
    class Copying(Around):
        def forward(self, x):
            frozen = copy.deepcopy(self.net).requires_grad_(False)
            return self.net(x) - 0 * frozen(x)

    return Copying(), CE, batch()


@right("a loss that clears the model's gradients")
def zero_grad_inside():
    model = net()

    def loss(o, y):
        model.zero_grad()
        return CE(o, y)

    return model, loss, batch()


@refused("parameters on the meta device", "meta", optimizer=UNASKED)
def meta():
    with torch.device("meta"):
        model = nn.Linear(2, 2, dtype=F64)
    return model, CE, batch()


@right("a model in a DataParallel wrapper")
def data_parallel():
    return nn.DataParallel(net()), CE, batch()


@right("a module that cannot be copied")
def uncopyable():
    class Locked(Around):
        def __init__(self):
            super().__init__()
            self.log = open(os.devnull)
            weakref.finalize(self, self.log.close)

        def __deepcopy__(self, memo):
            raise TypeError("cannot be copied")

    return Locked(), CE, batch()
