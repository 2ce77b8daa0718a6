"""A training run with minibatches, and what may be asked of it on the way."""

from __future__ import annotations

import copy
from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from gdflows import problems
from gdflows.arguments import numbers, wholes
from gdflows.errors import InputError
from gdflows.experiments.registry import study
from gdflows.experiments.samples import samples
from gdflows.noise import GradientNoise
from gdflows.objective import Objective
from gdflows.optim import stability_edge
from gdflows.problems import Dataset, cross_entropy
from gdflows.runs.progress import Progress
from gdflows.training import SharpnessMonitor, explain_spike, suggest_lr, try_rates

OPTIMISERS = {
    "adamw": lambda p, lr: torch.optim.AdamW(p, lr=lr),
    "momentum": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9),
}
OTHERS = 8  # batches that stand in for a suspect, and that losses are judged on
STRANGE = 10**6  # steps from which the batches are numbered that the run never sees


class Course:
    """What is trained, and on which batch in which step.

    The batch is a function of seed and step, so that each step can be taken again.
    """

    def __init__(self, data: Dataset, batch: int, seed: int):
        self.data, self.size, self.seed = data, batch, seed

    def batch(self, step: int, size: int | None = None) -> tuple[Tensor, Tensor]:
        """That of a step, drawn from the training samples."""
        generator = torch.Generator().manual_seed(100_003 * self.seed + step)
        rows = torch.randint(len(self.data.x_train), (size or self.size,), generator=generator)
        return self.data.x_train[rows], self.data.y_train[rows]

    def held_out(self) -> list[tuple[Tensor, Tensor]]:
        """The first test samples, in as many batches as there are stand-ins."""
        x, y = (t[: OTHERS * self.size] for t in (self.data.x_test, self.data.y_test))
        return list(zip(x.chunk(OTHERS), y.chunk(OTHERS), strict=True))

    def broken(self, kind: str, step: int) -> tuple[Tensor, Tensor]:
        """A batch as it should not be: wrong labels, or nothing but padding."""
        x, y = self.batch(step)
        if kind == "labels":
            return x, (y + 1) % len(self.data.classes)
        return torch.zeros_like(x), torch.zeros_like(y)


@study(
    "practice", keys=("seed", "part", "step", "what"),
    check=lambda c: {"steps": 10, "seeds": 1, "at": ""},
)  # fmt: skip
def practice(
    *,
    data: str = "numerals-32",
    network: Literal["gpt", "conv"] = "gpt",
    optimizer: Literal["adamw", "momentum"] = "adamw",
    lr: float = 3e-3,
    warmup: int = 40,
    batch: int = 16,
    steps: int = 200,
    every: int = 50,
    measured: int = 64,
    at: str = "200",
    horizons: str = "20-80",
    stretch: int = 3,
    wrong: str = "0.5-4",
    seeds: int = 1,
    tol: float = 0.05,
) -> pd.DataFrame:
    """Train with minibatches, watch the sharpness, try other rates, and explain made spikes.

    Parameters
    ----------
    data : str
        A data set's name in :func:`gdflows.problems.load`; for ``"gpt"`` a text in sequences.
    network : {"gpt", "conv"}
        Two blocks of 32 dimensions and two heads; or convolutions of 8 and 16 channels (GELU).
    optimizer : {"adamw", "momentum"}
        torch's, with their usual settings; SGD with momentum 0.9.
    lr : float
        Learning rate after the warm-up.
    warmup : int
        Steps over which it rises in a straight line.
    batch : int
        Samples in a step.
    steps : int
        Steps.
    every : int
        Steps between two looks; one more is after ten steps.
    measured : int
        Training samples on which sharpness and noise are measured.
    at : str
        Steps, joined by hyphens, after which rates are tried and spikes are made; "" for none.
    horizons : str
        For how many steps the rates are tried.
    stretch : int
        Steps of a made spike.
    wrong : str
        The rates of the spikes that are made by the rate, in units of the largest stable one.
    seeds : int
        Initialisations, each with its own batches.
    tol : float
        Relative accuracy of the sharpness.

    Returns
    -------
    pandas.DataFrame
        By ``seed``, ``part``, ``step`` and ``what``. Part run: ``train``, the mean loss of the
        batches since the last look, ``loss``, that on held-out samples, ``ratio`` of the
        sharpness to the edge, and ``spike``, the largest of the batches' losses over the mean of
        the twenty before it. Part look: ``suggested`` over the rate in use, by as many samples as
        measured, and ``suggested_batch``, by a batch; ``noise_scale`` tr S/|g|². Part rate: by
        horizon and factor ``loss``, ``gain`` over the factor 1 and its ``error``. Part spike: by
        kind ``before``, ``rise``, ``share``, ``shorter``, ``slope``, ``bend`` and the ``cause``,
        all of :class:`gdflows.replay.Spike`; ``least`` and ``most``, the ends of its ``others``;
        and ``plain``, the share of them that is at least half of ``rise``, not in the logarithm.

    Raises
    ------
    InputError
        For names and numbers that cannot be used.
    """
    if optimizer not in OPTIMISERS or network not in ("gpt", "conv"):
        raise InputError(
            f"optimizer is one of {', '.join(OPTIMISERS)}, network gpt or conv; got "
            f"{optimizer!r} and {network!r}."
        )
    if min(batch, steps, every, measured, stretch, seeds) < 1 or warmup < 0:
        raise InputError("All counts must be at least 1, and warmup not negative.")
    looks = wholes(at, "at", separator="-") if at else []
    if looks and max(looks) > steps:
        raise InputError(f"at = {at} is beyond the run's {steps} steps.")
    found, rows = samples(data), []
    if not found.classes:
        raise InputError(f"{data} has no classes, and the loss is the cross-entropy.")
    if len(found.x_test) < 2 * OTHERS:
        raise InputError(f"{data} has {len(found.x_test)} test samples; {2 * OTHERS} are needed.")
    with Progress(seeds, "run") as shown:
        for seed in range(seeds):
            course = Course(found, batch, seed)
            model = _network(network, found, seed)
            walker = OPTIMISERS[optimizer](model.parameters(), lr)
            own = {"seed": seed}
            for step, row in _train(model, walker, course, lr, warmup, steps, every, measured, tol):
                rows.append(own | {"part": "run", "step": step, "what": None} | row)
                if step in looks:
                    asked = _ask(
                        model, walker, course, step, measured, tol,
                        wholes(horizons, "horizons", separator="-"), stretch,
                        numbers(wrong, "wrong", separator="-"),
                    )  # fmt: skip
                    rows += [own | {"step": step} | row for row in asked]
            shown.update()
    return pd.DataFrame(rows)


def _network(kind: str, data: Dataset, seed: int) -> torch.nn.Module:
    shape, classes = data.x_train.shape[1:], len(data.classes)
    if kind == "gpt":
        if len(shape) != 1 or data.x_train.is_floating_point():
            raise InputError(f"A gpt reads a text in sequences, such as numerals-32: {data.name}.")
        return problems.gpt(0.5, depth=2, heads=2, context=shape[0], classes=classes, seed=seed)
    if len(shape) != 3:
        raise InputError(f"A convolutional network sees images, such as digits: {data.name}.")
    return problems.conv(
        (8, 16), "gelu", in_channels=shape[0], image_size=shape[-1], classes=classes, seed=seed
    )


def _train(model, walker, course: Course, lr, warmup, steps, every, measured, tol):
    """The plain loop; a row at each look, and the state as it is then."""
    watched = course.batch(STRANGE, measured)
    monitor = SharpnessMonitor(model, cross_entropy, watched, walker, every=every, tol=tol)
    losses, since, worst = [], 0, 0.0
    for step in range(1, steps + 1):
        for group in walker.param_groups:
            group["lr"] = lr * min(1.0, step / warmup) if warmup else lr
        x, y = course.batch(step)
        walker.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        walker.step()
        losses.append(float(loss.detach()))
        if len(losses) > 20:
            worst = max(worst, losses[-1] / (sum(losses[-21:-1]) / 20))
        seen = monitor.step()
        if seen is not None or step in (10, steps):
            ratio = (seen or monitor.measure()).ratio
            with torch.no_grad():
                held_out = [float(cross_entropy(model(x), y)) for x, y in course.held_out()]
            row = {
                "train": sum(losses[since:]) / (step - since),
                "loss": sum(held_out) / len(held_out),
                "ratio": ratio,
                "spike": worst,
            }
            since = step
            yield step, row


def _ask(model, walker, course: Course, step, measured, tol, horizons, stretch, wrong):
    """All the questions, at one state."""
    now = float(walker.param_groups[0]["lr"])
    watched = course.batch(STRANGE, measured)
    E = Objective.from_module(model, cross_entropy, watched)
    g = E.grad(E.theta0)
    noise = GradientNoise(E, E.theta0)
    look = {"part": "look", "what": None, "noise_scale": float(noise.trace() / (g @ g))}
    for name, batch in (("suggested", watched), ("suggested_batch", course.batch(step))):
        look[name] = suggest_lr(model, cross_entropy, batch, walker, tol=tol).lr / now
    look["edge"] = stability_edge(walker)
    rows = [look]
    following = [course.batch(step + 1 + k) for k in range(max(*horizons, stretch))]
    for horizon in horizons:
        tried = try_rates(model, cross_entropy, walker, following[:horizon], course.held_out())
        for row in tried.itertuples():
            what = f"{horizon}:{row.factor:g}"
            kept = {"loss": row.loss, "gain": row.gain, "error": row.error}
            rows.append({"part": "rate", "what": what} | kept)
    others = [course.batch(2 * STRANGE + k) for k in range(OTHERS)]
    first, rest = following[0], following[1:stretch]
    made = {"none": (1.0, first)}
    made |= {kind: (1.0, course.broken(kind, step + 1)) for kind in ("labels", "padding")}
    made |= {f"rate {x:g}": (x * look["suggested"], first) for x in wrong}
    for kind, (factor, suspect) in made.items():
        copied, other = copy.deepcopy((model, walker))
        for group in other.param_groups:
            group["lr"] = factor * group["lr"]
        seen = explain_spike(copied, cross_entropy, other, [suspect, *rest], others)
        kept = {
            k: getattr(seen, k) for k in ("before", "rise", "share", "shorter", "slope", "bend")
        }
        kept |= {"least": min(seen.others), "most": max(seen.others)}
        kept["plain"] = sum(one >= 0.5 * seen.rise for one in seen.others) / len(seen.others)
        rows.append({"part": "spike", "what": kind, "cause": seen.cause} | kept)
    return rows
