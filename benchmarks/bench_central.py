"""What the critical eigenpairs cost along the central flow, in Hessian-vector products.

    pip install 'gdflows[data]'
    python benchmarks/bench_central.py [--n 1000] [--lr 0.015] [--steps 15] [--out FOLDER]
    python benchmarks/bench_central.py --data digits --n 300 --lr 0.2 --starts 60,100,140 \\
        --steps 6 [--out FOLDER]

A tanh network with 656,810 parameters on images of CIFAR-10, in float32, from places on gradient
descent's path where one eigenvalue is at the edge; or one with 3,466 parameters on the digits, in
float64, where more are. The flow takes four Euler substeps a step, as its authors' code does, and
in each substep the eigenpairs at the edge, and one more to know that they are all, are asked for
with the same accuracy: by the tracker, by LOBPCG started from the last substep's eigenvectors (as
that code does; here scipy's, told how many iterations it needs), and by a search from scratch.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import pandas as pd
import scipy.sparse.linalg
import torch
from tqdm import tqdm

import gdflows as gf

SUBSTEPS, TOL = 4, 1e-3


def warm_lobpcg(point, before: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Vectors as rows, and the products spent on eigenvalues as exact as asked for.

    The fewest iterations that do are found by trying, and only their products are counted: each
    call begins anew, since one that goes on from another's result has lost the directions between.
    """
    spent = 0

    def product(columns):
        nonlocal spent
        rows = torch.from_numpy(np.ascontiguousarray(columns.T)).to(point.theta)
        spent += len(rows)
        return point.hvp(rows).numpy().T

    start = before.numpy().T
    operator = scipy.sparse.linalg.LinearOperator(
        (point.theta.numel(),) * 2, product, matmat=product, dtype=start.dtype
    )
    for iterations in range(1, 101):
        spent = 0
        with warnings.catch_warnings():  # that the accuracy of its default was not reached
            warnings.simplefilter("ignore", UserWarning)
            values, columns = scipy.sparse.linalg.lobpcg(
                operator, start, largest=True, maxiter=iterations, tol=1e-30
            )
        if np.all(np.abs(np.sort(values)[::-1] / wanted.numpy() - 1) < TOL):
            break
    return torch.from_numpy(np.ascontiguousarray(columns.T)), spent


def problem(data: str, n: int):
    if data == "digits":
        net = gf.problems.mlp([64, 32, 32, 10], "tanh", seed=0, dtype=torch.float64)
    else:
        net = gf.problems.mlp([3072, 200, 200, 10], "tanh", seed=0, init="default")
    return gf.problems.classification(data, net, n=n)


def compare(n: int, lr: float, starts: str, steps: int, data: str = "cifar10-5k") -> pd.DataFrame:
    E = problem(data, n)
    theta, done, rows = E.theta0, 0, []
    for start in sorted(int(s) for s in starts.split(",")):
        theta = gf.descend(E, theta, lr, start - done, every=start).states[-1]
        done, flow, c = start, gf.flows.CentralFlow(E, lr, tol=TOL), theta
        c, _ = flow.start(c)
        before = None
        for i in tqdm(range(SUBSTEPS * steps), f"from step {start}", disable=None):
            point, spent = E.at(c), E.cost["hvps"]
            seen = flow._oscillation(point)
            tracked = E.cost["hvps"] - spent
            k = len(seen.values)
            exact = gf.curvature.top_eigenpairs(E, c, k + 1, tol=1e-5)
            cold = gf.curvature.top_eigenpairs(E, c, k + 1, tol=TOL).hvps
            if before is None or len(before) != k + 1:
                before, lobpcg = exact.vectors, np.nan
            else:
                before, lobpcg = warm_lobpcg(point, before, exact.values)
            rows.append({"start": start, "substep": i, "critical": k, "tracked": tracked,
                         "warm LOBPCG": lobpcg, "from scratch": cold,
                         "error": float((seen.values / exact.values[:k] - 1).abs().max())
                         if k else 0.0})  # fmt: skip
            c = c - lr / SUBSTEPS * (point.grad + seen.pull)
    table = pd.DataFrame(rows)
    print(table.groupby(["start", "critical"]).mean(numeric_only=True).to_string())
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", default="cifar10-5k", choices=["cifar10-5k", "digits"])
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--lr", type=float, default=0.015)
    parser.add_argument("--starts", default="700,850")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--out", help="folder for a record of the result")
    parser.add_argument("--title", default="", help="of the record")
    options = parser.parse_args()
    config = {k: v for k, v in vars(options).items() if k not in ("out", "title")}
    if options.out:
        recorded = {"benchmark": "central", **config}
        gf.runs.record(options.out, recorded, lambda: compare(**config), title=options.title)
    else:
        compare(**config)


if __name__ == "__main__":
    main()
