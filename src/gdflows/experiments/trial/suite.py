"""The tasks of the tuned trial: what of the old ones two cores bear, larger ones, and new ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from gdflows import problems
from gdflows.errors import InputError
from gdflows.experiments.samples import mark
from gdflows.experiments.trial import tasks
from gdflows.experiments.trial.recurrent import last_character, lstm
from gdflows.experiments.trial.rules import RULES
from gdflows.problems import Dataset, cross_entropy, squared_error

PARTS = 20  # of the judged samples, from whose spread the sampling error is taken
EDGE_BATCHES = 16  # the true edge is that of so many batches of training samples at most


@dataclass(frozen=True, eq=False)
class Judged(tasks.Task):
    """A task with a name, judged with a sampling error.

    Attributes
    ----------
    name : str
        In :data:`SUITE`.
    kind : str
        ``"development"``: settings of AdaEoS were chosen on it, or may be; ``"seen"``: results on
        it were known before the rules; ``"held-out"``.
    """

    name: str = ""
    kind: str = "development"

    def measure(self, network: nn.Module) -> tuple[float, float]:
        """The loss that the target is for, and its standard error as that of a sample.

        In full batch it is the training loss, whose samples are all there are: no error.
        """
        x, y = (
            (self.data.x_test, self.data.y_test)
            if self.batch
            else (self.data.x_train, self.data.y_train)
        )
        sizes, losses = [], []
        with torch.no_grad():
            for a, b in zip(x.chunk(PARTS), y.chunk(PARTS), strict=True):
                sizes.append(len(a))
                losses.append(self.loss(network(a), b).double())
        n, each = torch.tensor(sizes, dtype=torch.float64), torch.stack(losses).cpu()
        mean = (n * each).sum() / n.sum()
        spread = (n * (each - mean) ** 2).sum() / (len(n) - 1) / n.sum()
        return float(mean), float(spread.sqrt()) if self.batch else 0.0

    def for_edge(self) -> tuple[Tensor, Tensor]:
        """The training samples whose curvature is called the true one: all, or sixteen batches."""
        most = EDGE_BATCHES * self.batch or len(self.data.x_train)
        return self.data.x_train[:most], self.data.y_train[:most]


class Entry(NamedTuple):
    """How a task is made: its network, its data, and the sizes that are printed without them."""

    network: Callable[[int], nn.Module]
    data: Callable[[], Dataset]
    loss: Callable
    batch: int
    steps: int
    target: float
    kind: str
    samples: int
    judged: int  # held-out samples that are judged; of a text characters; 0: the training loss
    about: str


def suite_task(name: str, device: str = "cpu") -> Judged:
    """A task by its name.

    Raises
    ------
    InputError
        If there is none, or the data have other sizes than :data:`SUITE` says.
    DataError
        If its data are not at hand.
    """
    if name not in SUITE:
        raise InputError(f"There is no task {name!r}. There are: {', '.join(SUITE)}.")
    entry = SUITE[name]
    data = entry.data()
    mark(data, named=data.name != "regression")
    each = data.y_test[0].numel() if len(data.y_test) and data.y_test.ndim == 2 else 1
    if data.y_test.is_floating_point():
        each = 1
    few = -(-entry.judged // each) or None  # of full batch all, for the accuracy
    data = Dataset(
        data.name, data.x_train.to(device), data.y_train.to(device),
        data.x_test[:few].to(device), data.y_test[:few].to(device), data.classes,
    )  # fmt: skip
    sizes = len(data.x_train), len(data.x_test) * each if entry.judged else 0
    if sizes != (entry.samples, entry.judged):
        raise InputError(
            f"{name} has {sizes[0]} samples and {sizes[1]} to judge, where SUITE says "
            f"{entry.samples} and {entry.judged}."
        )
    return Judged(
        lambda seed: entry.network(seed).to(device), data, entry.loss, entry.batch, entry.steps,
        entry.target, entry.kind == "development", name, entry.kind,
    )  # fmt: skip


def table() -> pd.DataFrame:
    """The tasks: a row each; needs no data."""
    rows = {}
    for name, e in SUITE.items():
        batch = e.batch or e.samples
        rows[name] = {
            "kind": e.kind,
            "parameters": sum(p.numel() for p in e.network(0).parameters()),
            "samples": e.samples, "batch": e.batch or "all", "steps": e.steps,
            "epochs": round(e.steps * batch / e.samples, 1),
            "judged on": e.judged or "training loss", "loss": e.loss.__name__, "target": e.target,
            "seeds": RULES.seeds(e.kind), "about": e.about,
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index")


# -- data ----------------------------------------------------------------------------------------


def _moved(name: str, training: int, pool: int = 1) -> Callable[[], Dataset]:
    """The first samples to train on, all others to be judged; images may be made smaller.

    They are standardised by channel, by the samples that are trained on.
    """

    def load() -> Dataset:
        raw = problems.load(name, standardise="none")
        x, y = torch.cat([raw.x_train, raw.x_test]), torch.cat([raw.y_train, raw.y_test])
        if pool > 1:
            x = nn.functional.avg_pool2d(x, pool)
        mean, std = (getattr(x[:training], f)((0, 2, 3), keepdim=True) for f in ("mean", "std"))
        x = (x - mean) / std
        return Dataset(
            raw.name, x[:training], y[:training], x[training:], y[training:], raw.classes
        )

    return load


def _few(name: str, n: int) -> Callable[[], Dataset]:
    return lambda: problems.load(name).take(n)


def _copied_digits() -> Dataset:
    """A thousand digits to be put out again."""
    raw = problems.load("digits").take(1000)
    x, none = raw.x_train.flatten(1), raw.x_test[:0].flatten(1)
    return Dataset(raw.name, x, x, none, none, ())


def _whole(name: str) -> Callable[[], Dataset]:
    return lambda: problems.load(name)


def _copied() -> Dataset:
    """Images to be put out again, as real numbers from 0 to 1."""
    raw = problems.load("mnist-9k", standardise="none")
    x = torch.cat([raw.x_train, raw.x_test]).flatten(1)
    return Dataset(raw.name, x[:5000], x[:5000], x[5000:], x[5000:], ())


def _windows() -> Dataset:
    """Of each sixteen characters the one that follows."""
    raw = problems.load("shakespeare-16")
    return Dataset(
        raw.name, raw.x_train, raw.y_train[:, -1], raw.x_test, raw.y_test[:, -1], raw.classes
    )


def _made(build: Callable) -> tuple[Callable, Callable]:
    """Network and data of one that the older trial makes; the data only when they are asked for."""
    return lambda seed: build()[0](seed), lambda: build()[1]


def _mlp(*widths: int, activation: str = "tanh"):
    return lambda seed: problems.mlp(widths, activation, seed=seed)


def _gpt(width: float, length: int, depth: int = 3):
    return lambda seed: problems.gpt(width, depth=depth, context=length, seed=seed)


_DIGITS = _mlp(64, 50, 50, 10)
_MNIST = _mlp(784, 128, 10, activation="relu")

#: Targets are those of ``gdflows.experiments.trial.targets``.
SUITE = {
    "deep-linear": Entry(
        *_made(tasks._deep_linear), squared_error, 0, 600, 0.0321, "development", 200, 0,
        "four linear layers on random numbers"),
    "mlp-regression": Entry(
        *_made(tasks._waves), squared_error, 0, 1000, 0.000675, "development", 256, 0,
        "MLP, tanh, a made function"),
    "digits-ce": Entry(
        _DIGITS, _few("digits", 1000), cross_entropy, 0, 300, 0.00404, "development", 1000, 0,
        "MLP, tanh, digits"),
    "digits-mse": Entry(
        _DIGITS, _few("digits", 1000), squared_error, 0, 600, 0.0136, "development", 1000, 0,
        "MLP, tanh, digits"),
    "mnist-full": Entry(
        _MNIST, _moved("mnist-2k", 2000), cross_entropy, 0, 200, 0.00355, "seen", 2000, 0,
        "MLP, ReLU, MNIST"),
    # Full batch and held out: added when the others were on record.
    "copy-full": Entry(
        _mlp(64, 32, 8, 32, 64), _copied_digits, squared_error, 0, 600, 5.53, "held-out", 1000, 0,
        "autoencoder, tanh, digits"),
    "conv-full": Entry(
        lambda seed: problems.conv((8, 16), "gelu", image_size=8, seed=seed),
        _moved("cifar10-1k", 250, 4), cross_entropy, 0, 300, 0.0919, "held-out", 250, 0,
        "3x3 convolutions, GELU, CIFAR-10 at 8x8 pixels"),
    "text-full": Entry(
        _gpt(0.25, 16, depth=2), _few("shakespeare-16", 64), cross_entropy, 0, 400, 0.144,
        "held-out", 64, 0, "GPT, 64 pieces of text"),
    "digits": Entry(
        _DIGITS, _whole("digits"), cross_entropy, 64, 400, 0.0854, "development", 1438, 359,
        "MLP, tanh, digits; no more are held out"),
    "digits-conv": Entry(
        lambda seed: problems.conv((8, 16), "gelu", in_channels=1, image_size=8, seed=seed),
        _whole("digits"), cross_entropy, 64, 400, 0.202, "development", 1438, 359,
        "3x3 convolutions, GELU, digits; no more are held out"),
    "gpt": Entry(
        _gpt(0.5, 32), _whole("shakespeare-32"), cross_entropy, 16, 400, 2.53, "development",
        31371, 4096, "GPT, text"),
    "mnist": Entry(
        _MNIST, _moved("mnist-9k", 5000), cross_entropy, 128, 300, 0.24, "seen", 5000, 2000,
        "MLP, ReLU, MNIST"),
    "vit": Entry(
        lambda seed: problems.vit(0.5, image_size=16, seed=seed), _moved("cifar10-5k", 4000, 2),
        cross_entropy, 64, 300, 1.95, "development", 4000, 2000, "ViT, CIFAR-10 at 16x16 pixels"),
    "gpt-wider": Entry(
        _gpt(1.0, 64), _whole("shakespeare-64"), cross_entropy, 16, 400, 2.56, "seen", 15686, 8192,
        "GPT, text"),
    "gpt-million": Entry(
        _gpt(2.0, 64, depth=5), _whole("shakespeare-64"), cross_entropy, 16, 400, 2.47,
        "development", 15686, 8192, "GPT, text"),
    "resnet-million": Entry(
        lambda seed: problems.resnet18(0.3, seed=seed), _moved("cifar10-5k", 4000, 2),
        cross_entropy, 64, 300, 1.7, "development", 4000, 2000,
        "ResNet-18, CIFAR-10 at 16x16 pixels"),
    "autoencoder": Entry(
        lambda seed: problems.mlp((784, 64, 16, 64, 784), "tanh", seed=seed), _copied,
        squared_error, 64, 600, 11.3, "held-out", 5000, 2000, "autoencoder, tanh, MNIST"),
    "window": Entry(
        lambda seed: last_character(16, seed=seed), _windows, cross_entropy, 64, 2500, 2.23,
        "held-out", 62741, 4000, "MLP on sixteen characters, text"),
    "lstm": Entry(
        lambda seed: lstm(64, seed=seed), _whole("shakespeare-32"), cross_entropy, 16, 400, 2.26,
        "held-out", 31371, 4096, "LSTM, text"),
    "vgg": Entry(
        lambda seed: problems.vgg11(0.125, norm="group", seed=seed), _moved("cifar10-5k", 4000),
        cross_entropy, 64, 300, 1.92, "held-out", 4000, 2000, "VGG-11, group norm, CIFAR-10"),
}  # fmt: skip
