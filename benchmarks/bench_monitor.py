"""What the sharpness monitor adds to a training, in time.

    pip install 'gdflows[data]'
    python benchmarks/bench_monitor.py [--n 1000] [--every 100] [--looks 41] [--out FOLDER]

A tanh network with 656,810 parameters on images of CIFAR-10, full batch, in float32, by SGD with
momentum and by Adam. The monitor measures on the training's own batch. Steps and measurements are
timed in one run, by the process's time; the overhead is the median measurement over so many median
steps, and, with all checks and without the first measurement, the mean one likewise.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import pandas as pd
import torch
from bench_curvature import WIDTHS
from tqdm import tqdm

import gdflows as gf

OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.002, momentum=0.9),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=3e-5),
}


def timed(action):
    start = time.process_time()
    result = action()
    return result, time.process_time() - start


def compare(n: int, every: int, looks: int) -> pd.DataFrame:
    rows = []
    for name, make in OPTIMIZERS.items():
        net = gf.problems.mlp(WIDTHS, "tanh", seed=0)
        E = gf.problems.classification("cifar10-5k", net, n=n)
        x, y = E.data
        optimizer = make(net.parameters())
        monitor = gf.SharpnessMonitor(net, E.loss, (x, y), optimizer, every=every)

        def step(net=net, x=x, y=y, loss=E.loss, optimizer=optimizer):
            optimizer.zero_grad()
            loss(net(x), y).backward()
            optimizer.step()

        steps, seen = [], []
        for _ in tqdm(range(looks), name, disable=None):
            steps += [timed(step)[1] for _ in range(every)]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", gf.errors.EdgeWarning)
                look, seconds = timed(monitor.measure)
            seen.append((look.hvps, look.ratio, seconds))
        hvps, ratios, seconds = np.array(seen[1:]).T
        rows.append({
            "optimiser": name, "step": np.median(steps), "first measurement": seen[0][2],
            "measurement": np.median(seconds), "products": hvps.mean(),
            "overhead": np.median(seconds) / (every * np.median(steps)),
            "mean overhead": seconds.mean() / (every * np.mean(steps)),
            "lowest ratio": ratios.min(), "highest ratio": ratios.max(),
        })  # fmt: skip
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format="{:.3g}".format))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--looks", type=int, default=41)
    parser.add_argument("--out", help="folder for a record of the result")
    parser.add_argument("--title", default="", help="of the record")
    options = parser.parse_args()
    config = {k: v for k, v in vars(options).items() if k not in ("out", "title")}
    if options.out:
        recorded = {"benchmark": "monitor", **config}
        gf.runs.record(options.out, recorded, lambda: compare(**config), title=options.title)
    else:
        compare(**config)


if __name__ == "__main__":
    main()
