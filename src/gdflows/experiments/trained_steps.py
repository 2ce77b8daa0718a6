"""Does a smaller step change the end? Gradient descent at h, h/2 and h/5 until it has learnt."""

from __future__ import annotations

from typing import Literal

import pandas as pd
import torch
from torch import Tensor, nn

from gdflows import problems
from gdflows.arguments import whole
from gdflows.errors import InputError
from gdflows.experiments.registry import study
from gdflows.experiments.samples import samples
from gdflows.experiments.step_size import small_network
from gdflows.objective import FlatModule
from gdflows.probes import sharpness
from gdflows.runs.progress import Progress
from gdflows.walking import descend

RATIOS = (1, 2, 5)


@study(
    "step-size-trained",
    keys=("seed", "ratio", "step"),
    check=lambda c: {"seeds": 1, "steps": 2 * c["every"]},
)
def trained_steps(
    *,
    network: Literal["fc-linear", "fc-relu", "conv"] = "fc-relu",
    data: str = "gratings",
    n: int = 100,
    scale: float = 0.5,
    lr: float = 0.1,
    steps: int = 200,
    every: int = 20,
    seeds: int = 2,
    device: str = "cpu",
) -> pd.DataFrame:
    """Gradient descent at h against h/2 and h/5 to a trained state, and what switches on the way.

    Parameters
    ----------
    network : {"fc-linear", "fc-relu", "conv"}
        Those of the study step-size.
    data : str
        A data set of images, by its name in :func:`gdflows.problems.load`.
    n : int
        Training samples used, all of them in every step.
    scale : float
        Of the initialisation, times Xavier's.
    lr : float
        The base step h.
    steps : int
        Steps at h; the run at h/r takes r times as many.
    every : int
        Base steps between two rows.
    seeds : int
        Initialisations, from seed 0 on.
    device : str
        Where to compute, in double precision.

    Returns
    -------
    pandas.DataFrame
        A row for each seed, ratio r and time: ``seed``, ``ratio``, ``step`` (in base steps),
        ``t``; of the run at h/r its ``loss``, the share of training samples in ``error``, its
        Euclidean ``distance`` from the start, its ``gap`` to the run at h at the same time, and
        ``x``, the base step times its sharpness. A ReLU is on or off at a sample: of ``pairs``
        of a ReLU and a sample, ``switched`` are not as they were at the start, and ``apart`` are
        not as they are in the run at h.

    Raises
    ------
    InputError
        If the network is unknown, or ``every`` exceeds ``steps``.
    """
    steps, every = whole(steps, "steps"), whole(every, "every")
    if every > steps:
        raise InputError(f"every must be in 1 … steps = {steps}, got {every}.")
    found = samples(data, torch.float64)
    shape, classes = found.x_train.shape[1:], len(found.classes)
    tables = []
    with Progress(sum(RATIOS) * steps * whole(seeds, "seeds")) as shown:
        for seed in range(seeds):
            like = {"scale": scale, "seed": seed, "dtype": torch.float64, "device": device}
            net = small_network(network, shape, classes, init="xavier", **like)
            objective = problems.classification(found, net, n=n)
            view = View(objective, net, *(a[:n].to(device) for a in (found.x_train, found.y_train)))
            start, base = objective.theta0, None
            for ratio in RATIOS:
                path = descend(objective, start, lr / ratio, steps * ratio, every=every * ratio)
                base = path if base is None else base
                looks = [view.look(theta) for theta in path.states]
                if ratio == 1:
                    on_base = [on for on, _ in looks]
                columns = {
                    "seed": seed,
                    "ratio": ratio,
                    "step": [round(float(t) / lr) for t in path.times],
                    "t": path.times,
                    "loss": [float(objective.value(theta)) for theta in path.states],
                    "error": [wrong for _, wrong in looks],
                    "distance": torch.linalg.vector_norm(path.states - start, dim=1).cpu(),
                    "gap": path.distance(base).cpu(),
                    "x": [lr * sharpness(objective.at(theta)) for theta in path.states],
                    "pairs": looks[0][0].numel(),
                    "switched": [int((on != looks[0][0]).sum()) for on, _ in looks],
                    "apart": [
                        int((on != there).sum())
                        for (on, _), there in zip(looks, on_base, strict=True)
                    ],
                }
                tables.append(pd.DataFrame(columns))
                shown.update(ratio * steps)
    return pd.concat(tables, ignore_index=True)


class View:
    """Which ReLUs of a network are on at which samples, and how many samples it gets wrong."""

    def __init__(self, objective: FlatModule, network: nn.Module, x: Tensor, y: Tensor):
        self.objective, self.network, self.x, self.y = objective, network, x, y
        self.relus = [m for m in network.modules() if isinstance(m, nn.ReLU)]

    @torch.no_grad()
    def look(self, theta: Tensor) -> tuple[Tensor, float]:
        """(on or off, flat; share of samples in error) at θ, shape ``(D,)``."""
        seen: list[Tensor] = []
        hooks = [
            m.register_forward_hook(lambda _m, _x, out: seen.append((out > 0).flatten()))
            for m in self.relus
        ]
        try:
            parameters = self.objective.unflatten(theta)
            out = torch.func.functional_call(self.network, parameters, (self.x,))
        finally:
            for hook in hooks:
                hook.remove()
        on = torch.cat(seen) if seen else torch.zeros(0, dtype=torch.bool)
        return on, float((out.argmax(1) != self.y).double().mean())
