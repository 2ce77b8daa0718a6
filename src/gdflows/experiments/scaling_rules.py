"""How should a learning rate follow the size of the batches, and how far does the rule reach?"""

from __future__ import annotations

from typing import Literal, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from gdflows import flows
from gdflows.arguments import chosen, number, whole, wholes
from gdflows.errors import InputError, IntegrationError
from gdflows.experiments.registry import study
from gdflows.experiments.training_loss import training_loss
from gdflows.objective.batched import Batched
from gdflows.runs import Run
from gdflows.runs.progress import progress
from gdflows.walking import adaptive_sgd, sgd

RULES = ("linear", "sqrt", "sqrt-lr", "none")


def draw(figure, runs: list[Run]) -> None:
    """The loss after the same samples against the size of the batch, a line for each rule."""
    table = runs[0].table
    last = table[(table.samples == table.samples.max()) & (table.svag == 1)]
    ax = figure.subplots()
    for rule, own in last.groupby("rule", sort=False):
        mean = own.groupby("batch").loss.mean()
        ax.loglog(mean.index, mean, "o-", label=rule)
    ax.set(xlabel="batch size", ylabel="loss")
    ax.legend()


class Settings(NamedTuple):
    """What an optimiser is told at one size of the batches."""

    lr: float
    beta1: float
    beta2: float
    eps: float


def scaled(base: Settings, rule: str, kappa: float) -> Settings | None:
    """The settings for batches κ times as large; None where there are none."""
    lr, beta1, beta2, eps = base
    if rule == "none":
        return base
    if rule == "linear":
        return base._replace(lr=lr * kappa)
    if rule == "sqrt-lr":
        return base._replace(lr=lr * kappa**0.5)
    beta1, beta2 = (1 - kappa * (1 - b) if b else 0.0 for b in (beta1, beta2))
    if min(beta1, beta2) < 0:
        return None
    return Settings(lr * kappa**0.5, beta1, beta2, eps / kappa**0.5)


@study(
    "scaling-rules",
    keys=("rule", "batch", "svag", "samples", "seed"),
    check=lambda c: {
        "samples": c["every"], "batches": c["batches"].split(",")[-1],
        "rules": c["rules"].split(",")[0], "svag": "", "svag_at": "",
    },
    picture=draw,
)  # fmt: skip
def run(
    *,
    network: Literal["mlp", "conv"] = "mlp",
    widths: str = "6",
    activation: str = "tanh",
    scale: float = 1.0,
    data: str = "gratings",
    loss: Literal["mse", "cross-entropy"] = "mse",
    n: int = 64,
    optimizer: Literal["sgd", "rmsprop", "adam"] = "sgd",
    rules: str = "linear,none",
    lr: float = 0.05,
    beta1: float = 0.9,
    beta2: float = 0.99,
    eps: float = 1e-8,
    base: int = 8,
    wait: int = 0,
    keep: bool = False,
    batches: str = "32,8",
    svag: str = "",
    svag_at: str = "",
    samples: int = 512,
    every: int = 256,
    paths: int = 2,
    seeds: int = 1,
    device: str = "cpu",
) -> pd.DataFrame:
    """What training reaches after the same samples, by batch size and scaling rule.

    Parameters
    ----------
    network : {"mlp", "conv"}
        Fully connected, or 3x3 convolutions with average pooling.
    widths : str
        Hidden widths or channels, as in ``"32-32"``.
    activation : str
        As in :func:`gdflows.problems.mlp`.
    scale : float
        Of the initialisation, times Xavier's.
    data : str
        A data set, by its name in :func:`gdflows.problems.load`.
    loss : {"mse", "cross-entropy"}
        The loss.
    n : int
        Training samples used.
    optimizer : {"sgd", "rmsprop", "adam"}
        What trains.
    rules : str
        How the settings follow the batch, joined by commas: "linear", the rate in proportion;
        "sqrt", by Malladi et al., which for SGD is the rate by the root; "sqrt-lr", the rate by
        the root and nothing else; "none".
    lr : float
        The learning rate h at batches of ``base``.
    beta1, beta2, eps : float
        Adam's at batches of ``base``; RMSProp has ``beta2`` and ``eps``.
    base : int
        The batch size at which the settings are given.
    wait : int
        Samples that are seen at batches of ``base`` before all that.
    keep : bool
        RMSProp and Adam keep their averages from the wait, and scale them; see Notes.
    batches : str
        Batch sizes, joined by commas. Samples are drawn with replacement.
    svag : str
        Also walk SVAG with these l, joined by commas.
    svag_at : str
        At these batch sizes, joined by commas, with the settings that the linear rule gives, of
        RMSProp and Adam the rule "sqrt".
    samples : int
        Samples that are seen.
    every : int
        Samples between two rows.
    paths : int
        Runs for each seed.
    seeds : int
        Initialisations 0, 1, ….
    device : str
        Where to compute.

    Returns
    -------
    pandas.DataFrame
        A row for each rule, batch size, l of SVAG, number of samples seen and seed. Columns:
        ``lr``; ``loss``, the full one, ``gradient``, its squared length, and ``noise``, the total
        variance of a single sample's gradient, each a mean over the runs; ``failure``, why there
        are none.

    Notes
    -----
    RMSProp and Adam start with averages of their own, after a wait too: ν is what it would settle
    on there at batches of the size, the squared gradient and its variance, in the mean over all
    runs; Adam's m is zero, and nothing is corrected. With ``keep`` each run has its own m and ν
    from the end of the wait. The rule "sqrt" then keeps the equation's state, which is m
    and ν over the variance of a batch's gradient: ν is divided by κ where batches are κ times as
    large. The other rules leave it as it is.
    """
    wanted, sizes = chosen(rules, "rule", RULES), wholes(batches, "batches")
    ls, at = wholes(svag, "svag"), wholes(svag_at, "svag_at")
    if bool(ls) != bool(at):
        raise InputError("svag and svag_at go together: which l, and at which batch sizes.")
    base, every, samples = whole(base, "base"), whole(every, "every"), whole(samples, "samples")
    for size in (*sizes, *at):
        if every % size:
            raise InputError(f"every must be a multiple of each batch size, got {every} of {size}.")
    wait = whole(wait, "wait", 0)
    if wait % base:
        raise InputError(f"wait must be a multiple of base = {base}, got {wait}.")
    if keep and (optimizer == "sgd" or not wait):
        raise InputError("keep is for RMSProp and Adam after a wait: give wait.")
    if samples % every:
        raise InputError(f"samples must be a multiple of every = {every}, got {samples}.")
    first = Settings(lr, beta1 if optimizer == "adam" else 0.0, beta2, number(eps, "eps"))
    setting = (network, widths, activation, scale, data, n)
    losses = [
        training_loss(*setting, seed, device, loss=loss) for seed in range(whole(seeds, "seeds"))
    ]
    seen = _Seen(losses, whole(paths, "paths"), optimizer, list(range(0, samples + 1, every)))
    if wait:
        seen.wait(base, first, wait, keep=keep)
    rows = []
    for rule in progress(wanted, "rule"):
        for size in progress(sizes, "batch size"):
            seen.scale = base / size if rule == "sqrt" else 1.0
            rows += seen.rows(rule, size, 1, scaled(first, rule, size / base))
    own = "linear" if optimizer == "sgd" else "sqrt"
    for size in progress(at, "batch size of SVAG"):
        for m in progress(ls, "l of SVAG"):
            seen.scale = base / size
            rows += seen.rows("svag", size, m, scaled(first, own, size / base))
    return pd.DataFrame(rows)


class _Seen:
    """What an optimiser reaches from the starts of all seeds, which are paths of one walk."""

    def __init__(self, losses, paths: int, optimizer: str, looks: list[int]):
        self.E, self.paths, self.optimizer, self.looks = losses[0], paths, optimizer, looks
        self.start = torch.stack([E.theta0 for E in losses for _ in range(paths)])
        self.single = flows.PerSampleNoise(self.E, 1, replacement=True)
        self.batched = Batched(self.E)
        #: m and ν of each run at the end of the wait, if kept, and what ν is multiplied by.
        self.kept: tuple[Tensor, Tensor] | None = None
        self.scale = 1.0

    def wait(self, size: int, settings: Settings, samples: int, *, keep: bool) -> None:
        """Begin where the optimiser is after so many samples; each run where it is itself."""
        states, memory, failure = self.walked(size, 1, settings, [0, samples], seed=1)
        if failure:
            raise InputError(f"The optimiser ends in a {failure} while it waits: lower lr.")
        self.start = states[-1]
        if keep:
            self.kept = memory[:, : self.E.dim], memory[:, self.E.dim : 2 * self.E.dim]

    def averages(self, size: int) -> flows.Averages:
        if self.kept is not None:
            first, second = self.kept
            return flows.Averages(first, self.scale * second, 10**6)
        squares = self.batched.grad(self.start) ** 2
        squares = squares + self.single.variances(self.start) / size
        mean = squares.mean(0)
        return flows.Averages(torch.zeros_like(mean), mean, 10**6)

    def walked(
        self, size: int, svag: int, settings: Settings, looks: list[int], seed: int = 0
    ) -> tuple[Tensor, Tensor | None, str]:
        """States ``(T, P, D)`` as far as they are finite, and what is remembered at the end."""
        noise = flows.PerSampleNoise(self.E, size, replacement=True)
        steps = [k // size for k in looks]
        given = {"covariance": noise, "noise": "batches", "svag": svag, "paths": len(self.start)}
        given |= {"at": steps, "keep": "paths", "seed": seed, "progress": False}
        if self.optimizer != "sgd":
            given |= {"optimizer": self.optimizer, "eps": settings.eps}
            given["averages"] = self.averages(size)
            betas = (settings.beta1, settings.beta2)
            given |= {"betas": betas} if self.optimizer == "adam" else {"beta": settings.beta2}
        try:
            walk = sgd if self.optimizer == "sgd" else adaptive_sgd
            found = walk(self.E, self.start, settings.lr, steps[-1], **given)
            return found.states, found.memory, ""
        except IntegrationError as e:
            if e.partial is None or e.partial.states is None:
                return self.start[None], None, e.cause
            return e.partial.states, None, e.cause

    def rows(self, rule: str, size: int, svag: int, settings: Settings | None) -> list[dict]:
        row = {"rule": rule, "batch": size, "svag": svag}
        if settings is None:
            why = "1 − β would be above 1"
            seeds = range(len(self.start) // self.paths)
            return [{**row, "samples": k, "seed": s, "failure": why}
                    for k in self.looks for s in seeds]  # fmt: skip
        states, _, failure = self.walked(size, svag, settings, self.looks)
        rows = []
        for samples, x in zip(self.looks, states, strict=False):
            found = {
                "loss": self.batched.value(x),
                "gradient": (self.batched.grad(x) ** 2).sum(1),
                "noise": self.single.variances(x).sum(1),
            }
            means = {name: v.reshape(-1, self.paths).mean(1) for name, v in found.items()}
            for seed in range(len(x) // self.paths):
                numbers = {name: float(v[seed]) for name, v in means.items()}
                rows.append({**row, "samples": samples, "seed": seed, "lr": settings.lr,
                             **numbers, "failure": failure})  # fmt: skip
        return rows
