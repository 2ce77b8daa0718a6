"""What the optimisers are tried on: a network, data, a loss, a budget of steps and a target."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gdflows import problems
from gdflows.errors import InputError
from gdflows.experiments.samples import mark
from gdflows.problems import Dataset, cross_entropy, squared_error

_MADE = "regression"  # data that are made here


@dataclass(frozen=True, eq=False)
class Task:
    """One problem to train on.

    Attributes
    ----------
    network : callable
        A fresh network from a seed.
    data : Dataset
        Training samples, and those that ``judge`` looks at.
    loss : callable
        Of outputs and targets.
    batch : int
        Samples in a step; 0 for all.
    steps : int
        The budget, also of the schedules.
    target : float
        To be reached by ``judge``: by the training loss in full batch, else by the test loss.
    chosen_on : bool
        Whether settings of AdaEoS were chosen on this task.
    """

    network: Callable[[int], nn.Module]
    data: Dataset
    loss: Callable[[Tensor, Tensor], Tensor]
    batch: int
    steps: int
    target: float
    chosen_on: bool

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Without end; epochs in random order."""
        x, y = self.data.x_train, self.data.y_train
        if not self.batch:
            while True:
                yield x, y
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(len(x), generator=generator).to(x.device)
            for part in order.split(self.batch):
                if len(part) == self.batch:
                    yield x[part], y[part]

    def judge(self, network: nn.Module) -> float:
        """The loss on the test samples, with minibatches; else on all there are to train on."""
        x, y = self.data.x_train, self.data.y_train
        if self.batch:
            x, y = self.data.x_test, self.data.y_test
        with torch.no_grad():
            return float(self.loss(network(x), y))

    def accuracy(self, network: nn.Module) -> float:
        """The part of the test samples (of a text: of its places) that is classified rightly."""
        x, y = self.data.x_test, self.data.y_test
        if y.is_floating_point():
            return float("nan")
        with torch.no_grad():
            return float((network(x).argmax(-1) == y).double().mean())


def task(name: str, device: str = "cpu", judged: int = 300) -> Task:
    """A task by its name; those that settings were chosen on come first in :data:`TASKS`.

    Parameters
    ----------
    name : str
        See :data:`TASKS`.
    device : str
        Where data and networks live.
    judged : int
        The most test samples that are looked at; of a text a third as many sequences.

    Returns
    -------
    Task

    Raises
    ------
    InputError
        If there is no such task.
    DataError
        If its data are not at hand.
    """
    if name not in TASKS:
        raise InputError(f"There is no task {name!r}. There are: {', '.join(TASKS)}.")
    build, loss, batch, steps, target, chosen_on = TASKS[name]
    network, data = build()
    mark(data, named=data.name != _MADE)
    few = judged // 3 if data.y_test.ndim == 2 else judged
    data = Dataset(
        data.name,
        *(t.to(device) for t in (data.x_train, data.y_train)),
        *(t[:few].to(device) for t in (data.x_test, data.y_test)),
        data.classes,
    )
    return Task(lambda seed: network(seed).to(device), data, loss, batch, steps, target, chosen_on)


def _regression(x: Tensor, y: Tensor) -> Dataset:
    return Dataset(_MADE, x, y, x[:0], y[:0], ())


def _deep_linear():
    g = torch.Generator().manual_seed(9)
    x, w = torch.randn(200, 10, generator=g), torch.randn(10, 5, generator=g)

    def network(seed: int) -> nn.Module:
        return problems.deep_linear([10, 10, 10, 10, 5], init="default", seed=seed)

    return network, _regression(x, x @ w)


def _waves():
    g = torch.Generator().manual_seed(9)
    x = torch.randn(256, 5, generator=g)
    y = torch.sin(x.sum(1, keepdim=True)) + x[:, :1] * x[:, 1:2]
    return lambda seed: problems.mlp([5, 50, 50, 1], "tanh", seed=seed), _regression(x, y)


def _images(data: str, network, n: int | None = None):
    def build():
        found = problems.load(data)
        return network, found if n is None else found.take(n)

    return build


def _shrunk(data: str, pool: int, network):
    """Images whose pixels are means of the squares of so many."""

    def build():
        d = problems.load(data)
        x, z = (nn.functional.avg_pool2d(images, pool) for images in (d.x_train, d.x_test))
        return network, replace(d, x_train=x, x_test=z)

    return build


def _text(length: int, width: float):
    def build():
        data = problems.load(f"shakespeare-{length}")
        return lambda seed: problems.gpt(width, context=length, seed=seed), data

    return build


def _mlp(*widths: int, activation: str = "tanh"):
    return lambda seed: problems.mlp(widths, activation, seed=seed)


def _conv(channels: tuple[int, ...], activation: str, **image):
    return lambda seed: problems.conv(channels, activation, seed=seed, **image)


#: name: how network and data are made, loss, batch (0: all), budget, target, chosen on.
#: The targets of the others were set by one run of AdamW, on a seed that no trial uses.
TASKS = {
    "deep-linear": (_deep_linear, squared_error, 0, 600, 2.5e-3, True),
    "mlp-regression": (_waves, squared_error, 0, 1000, 5e-3, True),
    "gratings-ce": (_images("gratings", _mlp(64, 50, 50, 10), 500), cross_entropy, 0, 300, 1e-2,
                    False),
    "digits-ce": (_images("digits", _mlp(64, 50, 50, 10), 1000), cross_entropy, 0, 300, 1e-2, True),
    "digits-mse": (_images("digits", _mlp(64, 50, 50, 10), 1000), squared_error, 0, 600, 5e-3,
                   True),
    "digits-batches": (_images("digits", _mlp(64, 50, 50, 10)), cross_entropy, 64, 400, 0.15, True),
    "conv-batches": (_images("digits", _conv((8, 16), "gelu", in_channels=1, image_size=8)),
                     cross_entropy, 64, 400, 0.15, True),
    "gpt-batches": (_text(32, 0.5), cross_entropy, 16, 400, 2.55, True),
    "mnist-mlp": (_images("mnist-5k", _mlp(784, 128, 10, activation="relu")), cross_entropy, 128,
                  300, 0.22, False),
    "mnist-full": (_images("mnist-2k", _mlp(784, 128, 10, activation="relu")), cross_entropy, 0,
                   200, 1e-2, False),
    "cifar-conv": (_images("cifar10-5k", _conv((16, 32), "relu")), cross_entropy, 128, 300, 1.5,
                   False),
    "cifar-mlp": (_images("cifar10-1k", _mlp(3072, 100, 10)), cross_entropy, 0, 300, 1e-1, False),
    "cifar8-conv": (_shrunk("cifar10-5k", 4, _conv((8, 16), "relu", image_size=8)), cross_entropy,
                    128, 500, 1.66, False),
    "cifar8-mlp": (_shrunk("cifar10-5k", 4, _mlp(192, 50, 10)), cross_entropy, 128, 500, 1.81,
                   False),
    "cifar-resnet": (_images("cifar10-5k", lambda seed: problems.resnet18(0.125, seed=seed)),
                     cross_entropy, 64, 300, 1.85, False),
    "cifar-vit": (_images("cifar10-5k", lambda seed: problems.vit(0.5, seed=seed)), cross_entropy,
                  64, 300, 1.8, True),
    "shakespeare-gpt": (_text(64, 1.0), cross_entropy, 16, 400, 2.5, False),
}  # fmt: skip
