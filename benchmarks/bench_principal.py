"""One evaluation of the principal flow's field: matrix-free beside the whole Hessian.

    python benchmarks/bench_principal.py [--repeats 3] [--largest-dense 5000] [--out FOLDER]

A tanh network on the digits after 100 steps of gradient descent, at h = 2.2 / sharpness, in float64
on one thread; the two take turns and the medians are compared. Dense means Hessian, ``eigh``, and
the sum over eigenvectors, as the formula is written.
"""

from __future__ import annotations

import argparse
import statistics
import time

import pandas as pd
import torch
from tqdm import tqdm

import gdflows as gf

NETWORKS = ("13", "28", "57", "100-30", "300-250", "1000-900")
TOLERANCE = 1e-6


def measure(widths: str, repeats: int, largest_dense: int) -> dict:
    hidden = [int(w) for w in widths.split("-")]
    net = gf.problems.mlp(
        [64, *hidden, 10], "tanh", init="xavier", scale=0.3, seed=0, dtype=torch.float64
    )
    E = gf.problems.classification("digits", net, n=500)
    lr = 1.5 / gf.probes.sharpness(E.at(E.theta0))
    theta = gf.descend(E, E.theta0, lr, steps=100, every=100).states[-1]
    h = 2.2 / gf.probes.sharpness(E.at(theta))
    methods = ["krylov", "dense"] if E.dim <= largest_dense else ["krylov"]
    seconds = {name: [] for name in methods}
    fields, hvps = {}, {}
    for _ in range(repeats):
        for name in methods:
            flow = gf.flows.PrincipalFlow(E, h, tol=TOLERANCE, method=name)
            before, start = E.cost["hvps"], time.perf_counter()
            fields[name] = flow.vector_field(theta)
            seconds[name].append(time.perf_counter() - start)
            hvps[name] = E.cost["hvps"] - before
    row = {"parameters": E.dim, "hvps": hvps["krylov"]}
    row |= {name: statistics.median(values) for name, values in seconds.items()}
    if "dense" in fields:
        gap = torch.linalg.vector_norm(fields["krylov"] - fields["dense"])
        row["error"] = float(gap / torch.linalg.vector_norm(fields["dense"]))
        row["ratio"] = row["dense"] / row["krylov"]
    return row


def compare(repeats: int, largest_dense: int) -> pd.DataFrame:
    rows = [measure(w, repeats, largest_dense) for w in tqdm(NETWORKS, disable=None)]
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format="{:.3g}".format))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--largest-dense", type=int, default=5000)
    parser.add_argument("--out", help="folder for a record of the result")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = {k: v for k, v in vars(options).items() if k != "out"}
    if options.out:
        config_recorded = {"benchmark": "principal", **config}
        gf.runs.record(options.out, config_recorded, lambda: compare(**config))
    else:
        compare(**config)


if __name__ == "__main__":
    main()
