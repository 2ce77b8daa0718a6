"""Gradients changed by hooks; forward passes that are recomputed, compiled or wrapped."""

import copy
import os
import warnings
import weakref

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
    inputs,
    net,
    refused,
    right,
    right_or_refused,
)

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
