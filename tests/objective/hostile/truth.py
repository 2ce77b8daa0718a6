"""The truth about an entry: plain backward on the user's own module, and differences of it."""

from functools import cached_property, lru_cache

import torch
from torch import Tensor, nn

from hostile import ZOO, Hostile, draws

F64 = torch.float64


def made(entry: Hostile):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return entry.make()


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def flat(tensors) -> Tensor:
    return torch.cat([t.detach().as_subclass(Tensor).reshape(-1).to(F64) for t in tensors])


def write(parameters, theta: Tensor) -> None:
    with torch.no_grad():
        for p, part in zip(parameters, theta.split([p.numel() for p in parameters]), strict=True):
            p.copy_(part.view(p.shape))


class Truth:
    """Value, gradient, Hessian and third derivative of an entry, independent of the package.

    The parameters of a fresh module are overwritten in place, and ``backward`` gives the gradient;
    all else is differences of it, in float64.
    """

    def __init__(self, entry: Hostile, replay: tuple = ()):
        self.entry, self.replay, self.seen = entry, dict(replay), {}

    def __call__(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and gradient at θ."""
        key = theta.numpy().tobytes()
        if key not in self.seen:
            self.seen[key] = self.evaluate(theta)
        return self.seen[key]

    def evaluate(self, theta: Tensor, parts: tuple | None = None) -> tuple[Tensor, Tensor]:
        model, loss, data = parts or self.reusable or made(self.entry)
        if self.entry.truth is not None:
            model.to(F64)
        parameters = trained(model)
        write(parameters, theta)
        for p in parameters:
            p.grad = None
        draws.REPLAY.update(self.replay)
        try:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                e = (self.entry.truth or self.entry.call)(model, loss, data)
                e.sum().backward()
        finally:
            draws.REPLAY.clear()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad.to_dense() for p in parameters]
        return flat([e.sum()])[0], flat(grads)

    @cached_property
    def reusable(self) -> tuple | None:
        """One module for all evaluations, if it is seen to forget the one before."""
        parts = made(self.entry)
        self.evaluate(self.theta0, parts)
        try:
            used, fresh = (self.evaluate(self.theta1, p) for p in (parts, made(self.entry)))
        except RuntimeError:  # it has kept a graph that is gone
            return None
        return parts if all(map(torch.equal, used, fresh)) else None

    @cached_property
    def theta0(self) -> Tensor:
        return flat(trained(made(self.entry)[0]))

    @cached_property
    def theta1(self) -> Tensor:
        """A little way off."""
        g = torch.Generator().manual_seed(1)
        theta = self.theta0
        return (theta + 0.1 * torch.randn(len(theta), generator=g, dtype=F64)).float().to(F64)

    def hvp(self, theta: Tensor, v: Tensor, h: float = 1e-4) -> Tensor:
        """By four gradients, good to h⁴."""

        def central(h):
            return (self(theta + h * v)[1] - self(theta - h * v)[1]) / (2 * h)

        return (4 * central(h / 2) - central(h)) / 3

    def third(self, theta: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, float]:
        """By mixed differences of gradients, and by how much finer steps have changed it."""

        def mixed(h):
            def g(a, b):
                return self(theta + a * h * u + b * h * v)[1]

            return (g(1, 1) - g(1, -1) - g(-1, 1) + g(-1, -1)) / (4 * h * h)

        coarse, middle, fine = mixed(4e-3), mixed(2e-3), mixed(1e-3)
        found = (4 * fine - middle) / 3
        return found, float((found - (4 * middle - coarse) / 3).norm())

    @cached_property
    def hessian(self) -> Tensor:
        """At θ₀, in the directions in which the parameters move."""
        within, h = self.entry.within, 1e-5
        rows = [
            within(self(self.theta0 + h * e)[1] - self(self.theta0 - h * e)[1]) / (2 * h)
            for e in within(torch.eye(len(self.theta0), dtype=F64))
        ]
        return (torch.stack(rows) + torch.stack(rows).T) / 2


WITH_DRAWS: dict[tuple, Truth] = {}


@lru_cache
def truth_of(name: str) -> Truth:
    return Truth(ZOO[name])


def truth(entry: Hostile, strict: bool = True) -> Truth:
    """With what was drawn since the last time, which must be one draw."""
    drawn = draws.settled(strict)
    draws.SEEN.clear()
    key = tuple((batch, tuple(draw.flatten().tolist())) for batch, draw in drawn.items())
    if (entry.name, key) not in WITH_DRAWS:
        WITH_DRAWS[entry.name, key] = Truth(entry, tuple(drawn.items()))
    return WITH_DRAWS[entry.name, key] if drawn else truth_of(entry.name)


def close(got: Tensor, true: Tensor, rtol: float, floor: float, what: str) -> None:
    got = torch.as_tensor(got).detach().as_subclass(Tensor).to(F64)
    gap, size = float((got - true).norm()), float(true.norm())
    assert gap <= rtol * size + floor, f"{what}: off by {gap:.3g} of {size:.3g}: {got} for {true}"
