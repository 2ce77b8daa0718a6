"""Every entry of the zoo under every consumer: right, or refused by name; nothing is touched."""

import random
import re
import warnings
from functools import cached_property, lru_cache

import numpy as np
import pytest
import torch
from hostile import ZOO, Hostile, draws
from hostile.calls import Augmented
from torch import Tensor, nn
from torch.utils.data import DataLoader

import gdflows as gf
from gdflows.errors import GdflowsError

F64 = torch.float64
LR = 0.05
CAP = 1e3
EVERY = pytest.mark.parametrize("entry", ZOO.values(), ids=ZOO)


@pytest.fixture(autouse=True)
def _quiet():
    draws.SEEN.clear(), draws.REPLAY.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    draws.SEEN.clear(), draws.REPLAY.clear()


# -- the truth: plain backward on the user's module, and differences -------------------------------


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


@lru_cache
def truth_of(name: str) -> Truth:
    return Truth(ZOO[name])


def truth(entry: Hostile, strict: bool = True) -> Truth:
    """With what was drawn since the last time, which must be one draw."""
    drawn = draws.settled(strict)
    draws.SEEN.clear()
    return Truth(entry, tuple(drawn.items())) if drawn else truth_of(entry.name)


def close(got: Tensor, true: Tensor, rtol: float, floor: float, what: str) -> None:
    got = torch.as_tensor(got).detach().as_subclass(Tensor).to(F64)
    gap, size = float((got - true).norm()), float(true.norm())
    assert gap <= rtol * size + floor, f"{what}: off by {gap:.3g} of {size:.3g}: {got} for {true}"


# -- what must not be touched ----------------------------------------------------------------------


def _tensors(thing, name="", seen=None):
    """Every tensor that a model, a loss or data hold, by where."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield name, thing
    elif isinstance(thing, nn.Module):
        for n, t in [*thing.named_parameters(), *thing.named_buffers()]:
            yield f"{name}.{n}", t
    elif isinstance(thing, dict):
        for key, part in thing.items():
            yield from _tensors(part, f"{name}.{key}", seen)
    elif isinstance(thing, (list, tuple)):
        for i, part in enumerate(thing):
            yield from _tensors(part, f"{name}[{i}]", seen)


def _flags(thing):
    """Training flags, hooks and generators of a model or a loss."""
    modules = thing.modules() if isinstance(thing, nn.Module) else [thing]
    for i, module in enumerate(modules):
        for name, value in getattr(module, "__dict__", {}).items():
            if isinstance(value, torch.Generator):
                yield f"{i}.{name}", value.get_state().tolist()
            elif isinstance(value, np.random.Generator):
                yield f"{i}.{name}", repr(value.bit_generator.state)
            elif name == "training":
                yield f"{i}.{name}", value
            elif "hooks" in name and isinstance(value, dict):
                yield f"{i}.{name}", list(value)


class Untouched:
    """A picture of all that the user owns, to be compared with a later one."""

    def __init__(self, model, loss, data):
        self.owned = {"model": model, "loss": loss, "data": data}
        self.before = self.picture()

    def picture(self) -> dict:
        seen = {
            "random": random.getstate(),
            "numpy": [str(part) for part in np.random.get_state()],  # noqa: NPY002
            "torch": torch.get_rng_state().tolist(),
            "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
                      torch.is_autocast_enabled("cpu"), torch.get_default_dtype()),
        }  # fmt: skip
        for name, t in _tensors(self.owned):
            raw = isinstance(t, nn.parameter.UninitializedParameter)
            values = None if raw else t.detach().clone()
            # Inference tensors have no version, which in-place changes would raise.
            version = None if raw or t.is_inference() else t._version
            grad = None if not t.is_leaf or t.grad is None else (id(t.grad), t.grad.clone())
            seen[name] = values, version, t.requires_grad, grad
        for name in ("model", "loss"):
            seen |= {f"{name}:{n}": value for n, value in _flags(self.owned[name])}
        return seen

    def check(self) -> None:
        after = self.picture()
        for name, was in self.before.items():
            assert _same(after.get(name), was), (
                f"{name} was changed: {was} before, {after.get(name)}"
            )


def _same(a, b) -> bool:
    if isinstance(b, Tensor):
        return isinstance(a, Tensor) and torch.equal(a.nan_to_num(), b.nan_to_num())
    if isinstance(b, tuple):
        return isinstance(a, tuple) and len(a) == len(b) and all(map(_same, a, b))
    return a == b


def with_gradients(model):
    """As in the middle of training: the gradients of the last step are still there."""
    for p in trained(model):
        if p.layout == torch.strided and not isinstance(p, nn.parameter.UninitializedParameter):
            p.grad = torch.full_like(p, 0.25).detach()


# -- verdicts --------------------------------------------------------------------------------------


class Case:
    """One entry under one consumer: runs stages, compares at once what each returns."""

    def __init__(self, entry: Hostile, consumer: str):
        self.entry, self.verdict = entry, entry.verdicts[consumer]
        if self.verdict is None:
            pytest.skip("means nothing here")
        self.model, self.loss, self.data = made(entry)
        self.refusal = None

    def run(self, stages) -> None:
        """``stages`` yields ``(what, compute, compare)``; ``compute`` may be refused."""
        with self.entry.context():
            for what, compute, compare in stages:
                draws.SEEN.clear()
                try:
                    got = compute()
                except GdflowsError as error:
                    self.refusal = what, str(error)
                    break
                if self.verdict.numbers:
                    with torch.inference_mode(False), torch.enable_grad():
                        compare(got)
        self.judge()

    def judge(self) -> None:
        naming = self.verdict.naming
        if self.refusal is None:
            assert self.verdict.numbers, f"not refused: {self.entry.kind}"
            return
        what, message = self.refusal
        assert naming is not None, f"refused at {what}: {message}"
        assert re.search(naming, message), f"{what}: the message names no {naming!r}: {message}"


def objective_of(case: Case):
    return gf.Objective.from_module(case.model, case.loss, case.data, **case.entry.options)


# -- consumers -------------------------------------------------------------------------------------


@EVERY
def test_objective(entry):
    case = Case(entry, "objective")
    with_gradients(case.model)
    untouched = Untouched(case.model, case.loss, case.data)
    case.run(_derivatives(case))
    untouched.check()


def _derivatives(case: Case):
    entry, kept = case.entry, {}
    within, rtol = entry.within, entry.rtol

    def make():
        kept["E"] = objective_of(case)
        assert kept["E"].theta0.dtype == trained(case.model)[0].dtype
        return kept["E"].theta0

    yield "construction", make, lambda got: close(got, truth_of(entry.name).theta0, 0, 0, "theta0")
    E, dtype = kept["E"], kept["E"].theta0.dtype
    # A refused entry has no truth; its directions are its own.
    g = torch.Generator().manual_seed(2)
    u, v = (within(w / w.norm()) for w in torch.randn(2, len(E.theta0), generator=g, dtype=F64))
    a, b = u.to(dtype), v.to(dtype)
    for label in ("theta0", "theta1"):
        theta = E.theta0.as_subclass(Tensor).to(F64)
        if label == "theta1" and case.verdict.numbers:
            theta = truth_of(entry.name).theta1
        t = theta.to(dtype)

        def compare(name, t=theta, label=label):
            def against(got):
                true = truth(entry)
                value, grad = true(t)
                size = float(grad.norm())
                what = f"{name} at {label}"
                got = got if isinstance(got, dict) else {name: got}
                if "value" in got:
                    close(got["value"], value, rtol, 0, f"value, {what}")
                if "grad" in got:
                    close(got["grad"], grad, rtol, 1e-14 * float(value.abs()), f"grad, {what}")
                if "hvp" in got and entry.orders >= 2:
                    product = within(true.hvp(t, v))
                    close(within(got["hvp"]), product, rtol, 1e-9 * size, f"hvp, {what}")
                if "third" in got and entry.orders >= 3:
                    bent, error = true.third(t, u, v)
                    floor = error + 1e-7 * size
                    assert error < 1e-3 * float(bent.norm()) + floor - error, "coarse differences"
                    close(within(got["third"]), within(bent), 20 * rtol, floor, f"third, {what}")
                if "hessian" in got and entry.orders >= 2:
                    h = within(within(got["hessian"]).T)
                    close(h, true.hessian, rtol, 1e-8 * size, "hessian")

            return against

        def at(t=t):
            point = E.at(t)
            seen = {"value": point.value, "grad": point.grad, "hvp": point.hvp(b)}
            return seen | ({"third": point.third(a, b)} if entry.orders >= 3 else {})

        yield f"value at {label}", lambda t=t: E.value(t), compare("value")
        yield f"grad at {label}", lambda t=t: E.grad(t), compare("grad")
        if entry.by == "grad" and not case.verdict.numbers:
            return
        yield f"hvp at {label}", lambda t=t: E.hvp(t, b), compare("hvp")
        if not case.verdict.numbers and entry.by == "hvp":
            return
        yield f"point at {label}", at, compare("point")
        if entry.orders >= 3:
            yield f"third at {label}", lambda t=t: E.third(t, a, b), compare("third")
        if label == "theta0" and entry.orders >= 2:
            yield "hessian", lambda t=t: E.hessian(t), compare("hessian")
    first = E.value(E.theta0)
    same = lambda got: close(got, first, 0, 0, "same θ, same value")  # noqa: E731
    yield "value again", lambda: E.value(E.theta0), same


@EVERY
def test_monitor(entry):
    case = Case(entry, "monitor")
    optimizer = torch.optim.SGD(trained(case.model) or [torch.zeros(1)], lr=LR)
    with_gradients(case.model)
    untouched = Untouched(case.model, case.loss, case.data)

    def measure():
        return gf.SharpnessMonitor(
            case.model, case.loss, case.data, optimizer, tol=1e-6, **entry.options
        ).measure()

    def compare(seen):
        true = truth(entry, strict=False)  # checks before the measurement have drawn too
        value, grad = true(true.theta0)
        close(torch.tensor(seen.loss), value, entry.rtol, 0, "loss")
        top = float(torch.linalg.eigvalsh(true.hessian)[-1])
        floor = 1e-8 * float(grad.norm())
        close(torch.tensor(seen.ratio), torch.tensor(LR * top / 2), 10 * entry.rtol, floor, "ratio")

    if entry.orders >= 2 or not case.verdict.numbers:
        case.run([("measure", measure, compare)])
        untouched.check()


@EVERY
def test_suggestion(entry):
    case = Case(entry, "suggestion")
    optimizer = torch.optim.SGD(trained(case.model) or [torch.zeros(1)], lr=LR)
    untouched = Untouched(case.model, case.loss, case.data)

    def suggest():
        try:
            options = {"tol": 1e-6, **entry.options}
            return gf.suggest_lr(case.model, case.loss, case.data, optimizer, **options)
        except gf.errors.InputError as error:
            if "curves upwards" in str(error) and case.verdict.numbers:
                return None
            raise

    def compare(said):
        true = truth(entry, strict=False)
        top = float(torch.linalg.eigvalsh(true.hessian)[-1])
        if said is None:
            assert top < 1e-8 * (1 + float(true(true.theta0)[1].norm())), f"{top} curves upwards"
        else:
            close(torch.tensor(said.lr), torch.tensor(2 / top), 10 * entry.rtol, 0, "lr")

    if entry.orders >= 2 or not case.verdict.numbers:
        case.run([("suggest", suggest, compare)])
        untouched.check()


@EVERY
def test_optimizer(entry):
    """One step of DAL: θ moves by −min(2/‖Hĝ‖, cap) g."""
    case = Case(entry, "optimizer")
    before = flat(trained(case.model)) if case.verdict.numbers else None

    def step():
        optimizer = gf.optim.DAL(trained(case.model), cap=CAP)
        value = optimizer.step(lambda: entry.call(case.model, case.loss, case.data))
        # Differences of gradients, where a network has no second derivative, are coarser.
        return value, (1 if optimizer.hvp != "difference" else 1e3) * entry.rtol

    def compare(got):
        value, rtol = got
        true = truth(entry)
        e, g = true(before)
        close(value, e, entry.rtol, 0, "loss")
        close(flat(p.grad for p in trained(case.model)), g, entry.rtol, 0, "gradient")
        if entry.orders < 2:
            return
        bend = float(true.hvp(before, g / g.norm()).norm())
        rate = min(2 / bend, CAP) if bend > 1e-8 * float(g.norm()) else CAP
        close(flat(trained(case.model)) - before, -rate * g, 10 * rtol, 1e-15, "step")

    case.run([("step", step, compare)])
    if case.refusal is None:
        _left_as_by_a_plain_step(case)


def _left_as_by_a_plain_step(case: Case) -> None:
    """What the forward pass notes down it has noted once; flags are the user's."""
    model, loss, data = made(case.entry)
    if case.entry.verdicts["objective"] != case.entry.verdicts["optimizer"] or draws.SEEN:
        return
    case.entry.call(model, loss, data).sum().backward()
    left, plain = dict(case.model.named_buffers()), dict(model.named_buffers())
    for name, buffer in plain.items():
        assert torch.equal(left[name], buffer), f"{name} after a step: {left[name]}, not {buffer}"
    for one, other in zip(case.model.modules(), model.modules(), strict=True):
        assert one.training == other.training


@pytest.mark.parametrize("how", [{}, {"shuffle": True}, {"shuffle": True, "drop_last": True}])
def test_batches_that_differ_each_time(how):
    """A loader that gives other samples at each pass: one pass is kept, or it is refused."""
    model, loss, _ = made(ZOO["list_of_batches"])
    dataset = Augmented()
    try:
        E = gf.Objective.from_module(model, loss, DataLoader(dataset, 5, **how))
    except GdflowsError as error:
        assert re.search("differ|random|same|twice", str(error))
        return
    count = 10 if "drop_last" in how else 13
    x, y = (torch.stack(part) for part in zip(*dataset.given[:count], strict=True))
    true = gf.Objective.from_module(model, loss, (x, y))
    for theta in (E.theta0, E.theta0 + 0.1):
        close(E.value(theta), true.value(theta), 1e-12, 0, "value")
        close(E.grad(theta), true.grad(theta), 1e-10, 0, "gradient")
        close(E.hessian(theta), true.hessian(theta), 1e-10, 0, "Hessian")


def test_the_zoo_is_large_and_small():
    assert len(ZOO) >= 40
    for entry in ZOO.values():
        model = made(entry)[0]
        lazy = any(isinstance(p, nn.parameter.UninitializedParameter) for p in model.parameters())
        assert lazy or sum(p.numel() for p in model.parameters()) < 100, entry.name
