"""The sharpness at every step: what each way of looking costs, and how far off it is.

    pip install 'gdflows[data]'
    python benchmarks/bench_looks.py [--widths 16-16] [--lr 0.2] [--start 100] [--out FOLDER]

Two small networks (tanh, ELU) on the digits, in float64, along gradient descent at the edge, where
three eigenvalues stand close together. At each step all take their turn: the tracker for one and
for three eigenvalues; a search from scratch; the power iteration from the last step's vector, with
one product a step and with four; LOBPCG from the last step's vectors, which is told the truth and
stops where it is as exact as the tracker is asked to be; the same tracker and power iteration on
the Hessian as Adam would precondition it here; and the critical sharpness, 2/η for the smallest η
at which a step along the negative gradient no longer lowers the loss, from values of the loss
alone. The dense Hessian's eigenvalues are the truth. Seconds are of the process.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd
import scipy.sparse.linalg
import torch
from tqdm import tqdm

import gdflows as gf

TOL = 1e-3
BETA, EPS = 0.999, 1e-8  # Adam's


def power_iteration(point, v, products: int, scale):
    """The Rayleigh quotient of the last vector but one, and the last vector."""
    value = torch.nan
    for _ in range(products):
        w = scale * point.hvp(scale * v)
        value, v = float(v @ w), w / torch.linalg.vector_norm(w)
    return [value], v


def warm_lobpcg(point, rows, truth):
    """Eigenvalues and vectors once they are as exact as asked for, or after 50 rounds."""

    def product(columns):
        return point.hvp(torch.from_numpy(np.ascontiguousarray(columns.T))).numpy().T

    operator = scipy.sparse.linalg.LinearOperator(
        (point.theta.numel(),) * 2, product, matmat=product, dtype=np.float64
    )
    columns, k = rows.numpy().T, len(rows)
    for _ in range(50):
        values, columns = scipy.sparse.linalg.lobpcg(operator, columns, largest=True, maxiter=1)
        values = np.sort(values)[::-1]
        if np.all(np.abs(values / truth[:k] - 1) < TOL):
            break
    return list(values), torch.from_numpy(np.ascontiguousarray(columns.T))


def critical_sharpness(E, point, guess: float, accuracy: float = 0.01):
    """2/η for the smallest η with E(θ − η g) ≥ E(θ), by doubling and bisection."""
    value, grad = float(point.value), point.grad

    def rises(eta: float) -> bool:
        return float(E.value(point.theta - eta * grad)) >= value

    low, high = guess / 2, guess
    while rises(low):
        low, high = low / 2, low
    while not rises(high):
        low, high = high, 2 * high
    while high / low > 1 + accuracy:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if rises(middle) else (middle, high)
    return 2 / (low * high) ** 0.5


def along(E, name: str, lr: float, start: int, steps: int) -> list[dict]:
    states = gf.descend(E, E.theta0, lr, start + steps - 1).states
    squares = torch.zeros_like(E.theta0)  # as Adam would have averaged them on this path
    for theta in states[:start]:
        squares = BETA * squares + (1 - BETA) * E.grad(theta) ** 2
    one = torch.ones_like(E.theta0)
    trackers = {k: gf.curvature.Tracker(E, k, tol=TOL) for k in (1, 3)}
    adam = gf.curvature.Tracker(E, 1, tol=TOL)
    g = torch.Generator().manual_seed(0)
    v = torch.randn(E.dim, generator=g, dtype=torch.float64)
    vectors = {n: v / v.norm() for n in ("power 1", "power 4", "Adam, power 4")}
    blocks = {
        k: torch.linalg.qr(torch.randn(E.dim, k, generator=g, dtype=torch.float64))[0].T
        for k in (1, 3)
    }
    guess, rows = lr, []
    for step, theta in enumerate(tqdm(states[start:], name, disable=None)):
        squares = BETA * squares + (1 - BETA) * E.grad(theta) ** 2
        unbiased = squares / (1 - BETA ** (start + step + 1))
        scale = (lr / (unbiased.sqrt() + EPS)).sqrt()
        dense = E.hessian(theta)
        truth = torch.linalg.eigvalsh(dense).flip(0).numpy()
        truth_adam = torch.linalg.eigvalsh(scale[:, None] * dense * scale).flip(0).numpy()
        ways = {
            "Tracker, 1": lambda p: (trackers[1].update(p).values.tolist(), None),
            "Tracker, 3": lambda p: (trackers[3].update(p).values.tolist(), None),
            "from scratch, 1": lambda p: (
                gf.curvature.top_eigenpairs(E, p.theta, 1, tol=TOL).values.tolist(), None),
            "from scratch, 3": lambda p: (
                gf.curvature.top_eigenpairs(E, p.theta, 3, tol=TOL).values.tolist(), None),
            "power 1": lambda p: power_iteration(p, vectors["power 1"], 1, one),
            "power 4": lambda p: power_iteration(p, vectors["power 4"], 4, one),
            "LOBPCG, 1": lambda p, t=truth: warm_lobpcg(p, blocks[1], t),
            "LOBPCG, 3": lambda p, t=truth: warm_lobpcg(p, blocks[3], t),
            "Adam, Tracker": lambda p, s=scale: (adam.update(p, scale=s).values.tolist(), None),
            "Adam, power 4": lambda p, s=scale: power_iteration(p, vectors["Adam, power 4"], 4, s),
            "critical sharpness": lambda p, e=guess: ([critical_sharpness(E, p, e)], None),
        }  # fmt: skip
        for method, look in ways.items():
            exact = truth_adam if method.startswith("Adam") else truth
            point, before, began = E.at(theta), dict(E.cost), time.process_time()
            point.grad  # noqa: B018  the graph that all products share, paid for by training
            values, after = look(point)
            seconds = time.process_time() - began
            if method in vectors:
                vectors[method] = after
            if method.startswith("LOBPCG"):
                blocks[len(after)] = after
            if method == "critical sharpness":
                guess = 2 / values[0]
            off = np.asarray(values) / exact[: len(values)] - 1
            rows.append({
                "network": name, "step": start + step, "method": method,
                "hvps": E.cost["hvps"] - before["hvps"],
                "losses": E.cost["values"] - before.get("values", 0),
                "error": off[np.abs(off).argmax()], "seconds": seconds,
                "h_lambda": lr * exact[0], "third": exact[2] / exact[0],
            })  # fmt: skip
    return rows


def compare(widths: str, n: int, lr: float, start: int, steps: int) -> pd.DataFrame:
    rows = []
    for name in ("tanh", "elu"):
        hidden = [int(w) for w in widths.split("-")]
        net = gf.problems.mlp([64, *hidden, 10], name, seed=0, dtype=torch.float64)
        rows += along(gf.problems.classification("digits", net, n=n), name, lr, start, steps)
    table = pd.DataFrame(rows)
    first = table.groupby(["network", "method"]).cumcount() == 0  # all begin from scratch
    grouped = table[~first].assign(error=table.error.abs()).groupby(["network", "method"])
    print(grouped[["hvps", "losses"]].mean().join(grouped.error.agg(["median", "max"])).to_string())
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--widths", default="16-16")
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--lr", type=float, default=0.2)
    parser.add_argument("--start", type=int, default=100)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--out", help="folder for a record of the result")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = {k: v for k, v in vars(options).items() if k != "out"}
    if options.out:
        gf.runs.record(options.out, {"benchmark": "looks", **config}, lambda: compare(**config))
    else:
        compare(**config)


if __name__ == "__main__":
    main()
