"""Progressive sharpening and the edge of stability: training with an eye on the curvature."""

from __future__ import annotations

from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from gdflows import parallel
from gdflows.arguments import number
from gdflows.curvature import Tracker
from gdflows.errors import InputError, NonFiniteError
from gdflows.experiments.registry import study
from gdflows.experiments.samples import samples
from gdflows.experiments.training_loss import LARGE, training_loss
from gdflows.objective import FlatModule
from gdflows.optim import preconditioner, stability_edge
from gdflows.runs import Log, Run
from gdflows.runs.progress import progress

# name: network, default widths
KINDS = {"mlp": ("mlp", "32-32"), "fc": ("mlp", "200-200"), "cnn": ("conv", "32-32")}
OPTIMISERS = {
    "gd": lambda p, lr, beta: torch.optim.SGD(p, lr=lr),
    "heavy-ball": lambda p, lr, beta: torch.optim.SGD(p, lr=lr, momentum=beta),
    "nesterov": lambda p, lr, beta: torch.optim.SGD(p, lr=lr, momentum=beta, nesterov=True),
    "adam": lambda p, lr, beta: torch.optim.Adam(p, lr=lr, betas=(beta, 0.999)),
    "rmsprop": lambda p, lr, beta: torch.optim.RMSprop(p, lr=lr, alpha=0.99),
}


def draw(figure, runs: list[Run]) -> None:
    """The loss, and the sharpness in units of the edge."""
    from gdflows.plotting import against_edge  # a machine that only computes needs no matplotlib

    above, below = figure.subplots(2, 1, sharex=True)
    for run in runs:
        table = run.table
        above.semilogy(table.step, table.loss, label=run.name)
        against_edge(below, table.step, table.ratio)
    above.set_ylabel("training loss")
    below.set(ylabel="sharpness / edge", ylim=(0, None))
    if len(runs) > 1:
        above.legend(fontsize=8)


@study(
    "eos", keys=("step",), check=lambda c: {"steps": 2 * c["every"]}, resumable=True, picture=draw
)
def eos(
    log: Log,
    *,
    data: str = "gratings",
    network: str = "mlp-tanh",
    widths: str = "",
    loss: Literal["mse", "cross-entropy"] = "mse",
    n: int = 0,
    optimizer: Literal["gd", "heavy-ball", "nesterov", "adam", "rmsprop"] = "gd",
    lr: float = 0.4,
    drop_at: int = 0,
    drop_to: float = 0.0,
    beta: float = 0.9,
    steps: int = 400,
    every: int = 5,
    top: int = 2,
    tol: float = 1e-3,
    init: Literal["default", "xavier", "he", "orthogonal"] = "default",
    scale: float = 1.0,
    chunk: int = 0,
    test: int = 0,
    until: float = 0.0,
    seed: int = 0,
    dtype: Literal["float32", "float64"] = "float32",
    device: str = "cpu",
) -> pd.DataFrame:
    """Train with the full batch and follow the sharpness to the optimiser's stability edge.

    Parameters
    ----------
    log : Log
        Where the run is kept on the way.
    data : str
        A data set's name in :func:`gdflows.problems.load`.
    network : str
        ``"mlp-tanh"``, ``"fc-relu"``, ``"cnn-elu"``, …: a kind (mlp: hidden layers of 32 and 32;
        fc: 200 and 200; cnn: convolutions of 32 and 32 channels) and an activation; or
        ``"vgg11"``, ``"resnet18"``, ``"vit"``, ``"gpt"`` (data ``"shakespeare-64"``).
    widths : str
        Other hidden widths, as in ``"100-50"``; for the last four a factor, as in ``"0.5"``.
    loss : {"mse", "cross-entropy"}
        See :func:`gdflows.problems.classification`.
    n : int
        Training samples used, all of them in every step; 0 for all there are.
    optimizer : {"gd", "heavy-ball", "nesterov", "adam", "rmsprop"}
        torch's.
    lr : float
        Learning rate h.
    drop_at, drop_to : int, float
        The step at which the learning rate changes, and what it changes to; 0 for never.
    beta : float
        Momentum, where there is one.
    steps : int
        Steps.
    every : int
        Steps between two rows.
    top : int
        Eigenvalues followed.
    tol : float
        Their relative accuracy.
    init, scale
        Of the weights, see :func:`gdflows.problems.mlp`.
    chunk : int
        Samples evaluated at a time, where memory is short; 0 for all.
    test : int
        Of the data set's test samples, which are never trained on, so many are classified at each
        row; 0 for none.
    until : float
        A training loss at which the run has reached its goal and ends; 0 for none.
    seed : int
        Of the initialisation.
    dtype : {"float32", "float64"}
        Of the parameters.
    device : str
        Where to compute.

    Returns
    -------
    pandas.DataFrame
        A row every so many steps: ``step``; ``loss`` and ``gradient_norm`` there; ``rises``, in
        how many of the steps since the last row the loss rose; ``ratio``, the largest
        (preconditioned) eigenvalue times h over the optimiser's edge; ``eigenvalue_1``, … of
        the Hessian as the optimiser preconditions it, times h; their largest ``residual``;
        ``hvps`` spent; and where asked for, ``test_accuracy``, the share of the test samples (of
        a text: of its places) that is classified rightly. A run that reaches its goal ends with
        a row there.

    Raises
    ------
    InputError
        For names and numbers that cannot be used.

    References
    ----------
    Cohen et al. (2021), "Gradient descent on neural networks typically occurs at the edge of
    stability"; Cohen et al. (2022), "Adaptive gradient methods at the edge of stability".
    """
    if every < 1 or steps < 1 or top < 1:
        raise InputError("steps, every and top must be at least 1.")
    number(lr, "The learning rate lr", positive=True)
    if optimizer not in OPTIMISERS:
        raise InputError(f"optimizer must be one of {', '.join(OPTIMISERS)}, got {optimizer!r}.")
    if until < 0:
        raise InputError(f"until must be a loss above 0, or 0 for no goal, got {until}.")
    held_out = _held_out(data, test, dtype, device) if test else None
    E = _objective(network, widths, data, loss, n, init, scale, chunk, seed, dtype, device)
    p = torch.nn.Parameter(E.theta0.clone())
    walker = OPTIMISERS[optimizer]([p], lr, beta)
    tracker = Tracker(E, top, tol=tol)
    before, rises, start = float("inf"), 0, 0
    if log.state is not None:
        with torch.no_grad():
            p.copy_(log.state["theta"])
        walker.load_state_dict(log.state["walker"])
        tracker.load_state_dict(log.state["tracker"])
        before, rises, start = log.state["before"], log.state["rises"], log.state["step"]

    def state() -> dict:
        return {
            "theta": p.detach(),
            "walker": walker.state_dict(),
            "tracker": tracker.state_dict(),
            "before": before,
            "rises": rises,
            "step": step,
        }

    rest = range(start, steps + 1)
    for step in progress(rest, initial=start, quiet=not parallel.first()):
        log.checkpoint(step, state, now=step == 0)
        if drop_at and step == drop_at:
            walker.param_groups[0]["lr"] = drop_to
        seen = step % every == 0
        try:
            if seen:
                point = E.at(p.detach().clone())
                value, p.grad = float(point.value), point.grad
            else:
                value, p.grad = E.value_and_grad(p.detach())
                value = float(value)
            rises += value > before
            before = value
            reached = until > 0 and value <= until
            if reached and not seen:
                point, seen = E.at(p.detach().clone()), True
            if not seen:
                walker.step()
                continue
            row = {"step": step, "loss": value, "gradient_norm": float(point.grad.norm())}
            row["rises"], rises = rises, 0
            # An adaptive optimiser has no preconditioner before its first step.
            if step > 0 or optimizer not in ("adam", "rmsprop"):
                scale_now = preconditioner(walker, [p]).sqrt()
                pairs = tracker.update(point, scale=scale_now)
                row["ratio"] = float(pairs.values[0]) / stability_edge(walker)
                row |= {f"eigenvalue_{i + 1}": float(v) for i, v in enumerate(pairs.values)}
                row["residual"], row["hvps"] = float(pairs.residuals.max()), pairs.hvps
            if held_out is not None:
                row["test_accuracy"] = _accuracy(E, p.detach(), *held_out)
        except NonFiniteError as e:
            log.ended = f"diverged at step {step}: {e}"
            break
        log.rows.append(row)
        if reached:
            log.ended = f"reached the loss {until:g} at step {step}"
            break
        walker.step()
    return log.table()


def _held_out(data: str, test: int, dtype: str, device: str) -> tuple[Tensor, Tensor]:
    """The first so many test samples, as the network takes them."""
    found = samples(data, getattr(torch, dtype))
    if not found.classes:
        raise InputError(f"{data} has no classes, so nothing is classified: leave test out.")
    if not 1 <= test <= len(found.x_test):
        raise InputError(f"{data} has {len(found.x_test)} test samples, not test = {test}.")
    return found.x_test[:test].to(device), found.y_test[:test].to(device)


def _accuracy(E: FlatModule, theta: Tensor, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        guessed = torch.func.functional_call(E.model, E.unflatten(theta), (x,)).argmax(-1)
    return float((guessed == y).double().mean())


def _objective(network, widths, data, loss, n, init, scale, chunk, seed, dtype, device):
    if network in LARGE:
        kind, activation, usual = network, "relu", "1"
    else:
        name, _, activation = network.partition("-")
        if name not in KINDS or not activation:
            raise InputError(
                f"network must be one of {', '.join(LARGE)}, or {', '.join(KINDS)} with an "
                f"activation, as in 'fc-tanh'; got {network!r}."
            )
        kind, usual = KINDS[name]
    rest = {"loss": loss, "dtype": dtype, "init": init, "chunk": chunk or None}
    return training_loss(
        kind, widths or usual, activation, scale, data, n or None, seed, device, **rest
    )
