"""Autograd functions of one's own: right, wrong, or differentiable once."""

import torch
import torch.utils.checkpoint
from torch import nn
from torch.autograd import Function

from hostile.entry import (
    CE,
    F64,
    UNASKED,
    Around,
    batch,
    either,
    refused,
    right,
    right_or_refused,
)


def through(function):
    class Through(Around):
        def forward(self, x):
            return function.apply(self.net(x))

    return Through(), CE, batch()


@right("an autograd Function that is right")
def own_function():
    class Sine(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return g * x.cos()

    return through(Sine)


@right_or_refused(
    "a Function whose second derivative is wrong: it saves what it computed",
    "Function|Sine|differ|symmetr|second",
    by="hvp",
    optimizer=either("differ|second|Sine"),
)
def own_function_second_wrong():
    class Sine(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.slope = x.cos()
            return x.sin()

        @staticmethod
        def backward(ctx, g):
            return g * ctx.slope

    return through(Sine)


@right_or_refused(
    "a Function whose third derivative is wrong",
    "Function|Sine|third|differ",
    by="third",
    optimizer=UNASKED,
)
def own_function_third_wrong():
    class Bend(Function):
        @staticmethod
        def forward(ctx, x, g):
            ctx.save_for_backward(x, g)
            return g * x.cos()

        @staticmethod
        def backward(ctx, h):
            x, g = ctx.saved_tensors
            return -h * g * x.detach().sin(), h * x.cos()

    class Sine(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx, g):
            return Bend.apply(ctx.saved_tensors[0], g)

    return through(Sine)


@refused(
    "a Function that can be differentiated once only",
    "once",
    by="hvp",
    optimizer=either("once"),
    rtol=1e-4,
)
def once():
    class Sine(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):
            return g * ctx.saved_tensors[0].cos()

    return through(Sine)


@right_or_refused(
    "a Function whose first derivative is another function's (a surrogate)",
    "Spike|Function|differ|symmetr",
    by="hvp",
    optimizer=UNASKED,
)
def surrogate():
    class Spike(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sign()

        @staticmethod
        def backward(ctx, g):
            return g / (1 + ctx.saved_tensors[0].square())

    return through(Spike)


@right_or_refused(
    "a layer that reverses gradients",
    "Reverse|Function|differ|symmetr",
    by="hvp",
    optimizer=UNASKED,
)
def reversal():
    class Reverse(Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return -g

    class Adversary(Around):
        def __init__(self):
            super().__init__()
            self.domain = nn.Linear(2, 2, dtype=F64)

        def forward(self, x):
            out = self.net(x).tanh()
            return out + self.domain(Reverse.apply(out)).tanh()

    return Adversary(), CE, batch()


@right("a Function with a forward-mode rule and non-tensor arguments")
def own_function_modern():
    class Power(Function):
        @staticmethod
        def forward(x, n):
            return x**n

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.n = inputs[1]
            ctx.save_for_backward(inputs[0])

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return g * ctx.n * x ** (ctx.n - 1), None

    class Cubed(Around):
        def forward(self, x):
            return Power.apply(self.net(x), 3)

    return Cubed(), CE, batch()
