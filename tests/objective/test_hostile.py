"""Every entry of the zoo under every consumer: right, or refused by name; nothing is touched."""

import re
import warnings

import pytest
import torch
from hostile import ZOO, Hostile, draws
from hostile.calls import Augmented
from hostile.truth import close, flat, made, trained, truth, truth_of
from hostile.untouched import Untouched, with_gradients
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
    with_gradients(trained(case.model))
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
        # Differences for it are dear; an entry that has no truth must be refused at once.
        third = entry.orders >= 3 and (label == "theta1" or not case.verdict.numbers)

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

        def at(t=t, third=third):
            point = E.at(t)
            seen = {"value": point.value, "grad": point.grad, "hvp": point.hvp(b)}
            return seen | ({"third": point.third(a, b)} if third else {})

        yield f"value at {label}", lambda t=t: E.value(t), compare("value")
        yield f"grad at {label}", lambda t=t: E.grad(t), compare("grad")
        if entry.by == "grad" and not case.verdict.numbers:
            return
        yield f"hvp at {label}", lambda t=t: E.hvp(t, b), compare("hvp")
        if not case.verdict.numbers and entry.by == "hvp":
            return
        yield f"point at {label}", at, compare("point")
        if third:
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
    with_gradients(trained(case.model))
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
