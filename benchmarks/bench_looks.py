"""The sharpness at every step of gradient descent: what each way of looking costs, and its error.

    pip install 'gdflows[data,bench]'
    git show a2f704a:src/gdflows/curvature/tracking.py > former.py
    python benchmarks/bench_looks.py [--former former.py] [--out FOLDER]

The network, the data and the two places of ``bench_curvature.py``: step 1250, and step 1700, where
three eigenvalues within three per cent are above the edge; in float32. At every step all ways take
their turn, each at a point whose gradient is already paid for; the truth is a search from scratch
in float64. Everyone is given the true eigenvectors of the step before the first, which the trackers
find themselves, and the first step is not counted.

- the tracker, for one and for three eigenvalues, and a former one, from its file in git;
- a search from scratch, at every fifth step; hessian-eigenthings, where it is installed, likewise,
  by as many Lanczos steps as the settings say;
- the power iteration, from the last step's vector;
- LOBPCG (scipy's), from the last step's vectors, with so many iterations a step;
- the tracker and the power iteration for the Hessian as Adam would precondition it here;
- the critical sharpness, 2/η for the smallest η at which a step along the negative gradient no
  longer lowers the loss (arXiv 2601.16979), by doubling and bisection from the last η: values of
  the loss alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from bench_curvature import WIDTHS
from scipy.sparse.linalg import LinearOperator, lobpcg
from tqdm import tqdm

import gdflows as gf

TOL, SELDOM = 1e-3, 5
EXACT = 1e-30  # LOBPCG does all its iterations: its default, D√ε, is 200 here
BETA, EPS = 0.999, 1e-8  # Adam's


def rayleigh(point, rows, scale) -> list[float]:
    """The eigenvalues in the space of some orthonormal rows."""
    images = scale * point.hvp(scale * rows)
    return torch.linalg.eigvalsh((rows @ images.T).double()).flip(0).tolist()


def power_iteration(vector: torch.Tensor, products: int) -> Callable:
    def look(point, scale):
        nonlocal vector
        for _ in range(products):  # the last product gives the quotient and the next vector
            image = scale * point.hvp(scale * vector)
            value, vector = float(vector @ image), image / torch.linalg.vector_norm(image)
        return [value]

    return look


def warm_lobpcg(rows: torch.Tensor, iterations: int) -> Callable:
    columns = rows.numpy().T.copy()

    def look(point, scale):
        nonlocal columns

        def product(x):
            x = torch.from_numpy(np.ascontiguousarray(x.T)).to(point.theta)
            return point.hvp(x).numpy().T

        size = (columns.shape[0],) * 2
        operator = LinearOperator(size, product, matmat=product, dtype=columns.dtype)
        with warnings.catch_warnings():  # that the accuracy of its default was not reached
            warnings.simplefilter("ignore", UserWarning)
            values, columns = lobpcg(operator, columns, largest=True, maxiter=iterations, tol=EXACT)
        return np.sort(values)[::-1].tolist()

    return look


def critical_sharpness(E, eta: float, accuracy: float) -> Callable:
    def look(point, scale):
        nonlocal eta
        value, grad = float(point.value), point.grad

        def rises(step):
            return float(E.value(point.theta - step * grad)) >= value

        if rises(eta):
            low, high = eta / 2, eta
            while rises(low):
                low, high = low / 2, low
        else:
            low, high = eta, 2 * eta
            while not rises(high):
                low, high = high, 2 * high
        while high > (1 + accuracy) * low:
            middle = (low * high) ** 0.5
            low, high = (low, middle) if rises(middle) else (middle, high)
        eta = (low * high) ** 0.5
        return [2 / eta]

    return look


def former_tracker(path: str):
    spec = importlib.util.spec_from_file_location("former_tracking", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module.Tracker


def eigenthings(E, net, k: int, steps: int) -> Callable | None:
    try:
        import hessian_eigenthings as he
    except ImportError:
        return None
    operator = he.HessianOperator(net, [E.data], he.supervised_loss(E.loss))

    def look(point, scale):
        E.write(point.theta)
        found = he.lanczos(operator, k=k, max_iter=steps, which="LA", seed=0, tol=1e-6)
        rows = torch.as_tensor(found.eigenvectors).to(point.theta)
        rows = rows if rows.shape[1] == E.dim else rows.T
        return rayleigh(point, torch.linalg.qr(rows.T)[0].T, scale)

    return look


def ways(E, net, lr: float, vectors, adams, former: str | None) -> dict[tuple[str, str], Callable]:
    """(method, setting): a look at a point under a scale; the eigenvalues, in descending order."""

    def tracked(make, k):
        tracker = make(E, k, tol=TOL)
        return lambda point, scale: tracker.update(point, scale=scale).values.tolist()

    def scratch(k):
        return lambda point, scale: gf.curvature.top_eigenpairs(
            E, point.theta, k, tol=TOL
        ).values.tolist()

    found = {}
    for k in (1, 3):
        found["Tracker", f"k={k}"] = tracked(gf.curvature.Tracker, k)
        if former:
            found["former Tracker", f"k={k}"] = tracked(former_tracker(former), k)
        found["from scratch", f"k={k}"] = scratch(k)
        for m in (2, 5):
            found["warm LOBPCG", f"k={k}, {m} iterations"] = warm_lobpcg(vectors[:k], m)
        for steps in (12, 16, 20, 28):
            if look := eigenthings(E, net, k, steps):
                found["hessian-eigenthings", f"k={k}, {steps} steps"] = look
    for m in (1, 4):
        found["warm power iteration", f"k=1, {m} products"] = power_iteration(vectors[0], m)
    for accuracy in (1 / 16, 0.01):
        look = critical_sharpness(E, lr, accuracy)
        found["critical sharpness", f"k=1, to {accuracy:g}"] = look
    found["Tracker", "k=1, Adam's"] = tracked(gf.curvature.Tracker, 1)
    for m in (1, 4):
        look = power_iteration(adams[0], m)
        found["warm power iteration", f"k=1, Adam's, {m} products"] = look
    return found


def along(E, E64, net, place: str, states, squares, done: int, lr: float, former) -> list[dict]:
    looks, seen, one = None, [], torch.ones_like(states[0])
    for step, theta in enumerate(tqdm(states, place, disable=None)):
        squares = BETA * squares + (1 - BETA) * E.grad(theta) ** 2
        unbiased = squares / (1 - BETA ** (done + step + 1))
        adam = (lr / (unbiased.sqrt() + EPS)).sqrt()
        solve, wide = gf.curvature.top_eigenpairs, theta.double()
        pairs = solve(E64, wide, 3, tol=1e-4)
        adams = solve(E64, wide, 1, tol=1e-4, scale=adam.double())
        if looks is None:
            print(f"{place}: hλ of the first three {lr * pairs.values}", flush=True)
            looks = ways(E, net, lr, pairs.vectors.float(), adams.vectors.float(), former)
            E.hvp(theta, one)  # the checks of its derivatives, made once
        for method, setting in looks if step % 2 else reversed(looks):
            seldom = method in ("from scratch", "hessian-eigenthings")
            if seldom and step % SELDOM != 1:
                continue
            scale = adam if "Adam" in setting else one
            exact = adams.values if "Adam" in setting else pairs.values
            point = E.at(theta)  # with the graph that all products share
            before, began = dict(E.cost), time.process_time()
            values = looks[method, setting](point, scale)
            seconds = time.process_time() - began
            error = float((torch.tensor(values, dtype=torch.float64) / exact[: len(values)] - 1)
                          .abs().max())  # fmt: skip
            hvps = E.cost["hvps"] - before.get("hvps", 0)
            if method == "hessian-eigenthings":  # products of its own: as many as steps
                hvps = int(setting.split()[1])
            losses = E.cost["values"] - before.get("values", 0)
            seen.append({"place": place, "method": method, "setting": setting, "step": step,
                         "products": hvps, "losses": losses, "error": error,
                         "seconds": seconds})  # fmt: skip
    return seen


def compare(n: int, lr: float, starts: str, steps: str, former: str | None) -> pd.DataFrame:
    net = gf.problems.mlp(WIDTHS, "tanh", seed=0)
    E = gf.problems.classification("cifar10-5k", net, n=n)
    wide = gf.problems.mlp(WIDTHS, "tanh", seed=0, dtype=torch.float64)
    E64 = gf.problems.classification("cifar10-5k", wide, n=n)
    theta, squares, done, rows = E.theta0, torch.zeros_like(E.theta0), 0, []
    for start, many in zip(starts.split(","), steps.split(","), strict=True):
        for _ in tqdm(range(done, int(start)), f"to {start}", disable=None):
            grad = E.grad(theta)
            squares = BETA * squares + (1 - BETA) * grad**2  # as Adam would average them here
            theta = theta - lr * grad
        done = int(start)
        states = gf.descend(E, theta, lr, int(many)).states
        rows += along(E, E64, net, f"step {start}", states, squares, done, lr, former)
    table = pd.DataFrame(rows)
    groups = table[table.step > 0].groupby(["place", "method", "setting"], sort=False)
    summary = groups.agg(
        looks=("error", "size"), products=("products", "mean"), losses=("losses", "mean"),
        median_error=("error", "median"), largest_error=("error", "max"),
        seconds=("seconds", "median"),
    ).reset_index()  # fmt: skip
    summary.columns = [name.replace("_", " ") for name in summary.columns]
    print(summary.to_string(index=False, float_format="{:.2g}".format))
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--lr", type=float, default=0.015)
    parser.add_argument("--starts", default="1250,1700")
    parser.add_argument("--steps", default="52,30")
    parser.add_argument("--former", help="tracking.py of an earlier commit, to run beside")
    parser.add_argument("--out", help="folder for a record of the result")
    parser.add_argument("--title", default="", help="of the record")
    options = parser.parse_args()
    config = {k: v for k, v in vars(options).items() if k not in ("out", "title")}
    if options.out:
        recorded = {"benchmark": "looks", **config}
        gf.runs.record(options.out, recorded, lambda: compare(**config), title=options.title)
    else:
        compare(**config)


if __name__ == "__main__":
    main()
