"""Many paths of a stochastic modified equation, beside a plain loop and torchsde.

    pip install 'gdflows[bench]'
    python benchmarks/bench_paths.py [--paths 10000] [--dim 100] [--steps 1000] [--out FOLDER]

First one call: all paths, all dimensions, all steps. Then Euler-Maruyama at equal step and noise
(additive, isotropic) beside a Python loop over the paths, and torchsde's Euler scheme, taking
turns; both are given fewer paths or steps, and their times are scaled up to the same work, which
the table says. Last, steps for equal error: the mean of θ₁θ₂ under two noises that do not commute,
each scheme against the weak second-order one at eight times as many steps with four times as many
paths.
"""

from __future__ import annotations

import argparse
import statistics
import time

import pandas as pd
import torch

import gdflows as gf


def problem(dim: int):
    """A loss that is no parabola: Σ λ(x²/2 + x⁴/40), λ from 1 to 2."""
    scale = torch.linspace(1.0, 2.0, dim, dtype=torch.float64)
    return gf.Objective(lambda x: (scale.to(x) * (x**2 / 2 + x**4 / 40)).sum(), dim), scale


def seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def ours(dim, paths, steps, dtype, **settings):
    E, _ = problem(dim)
    flow = gf.flows.StochasticModifiedEquation(E, 1e-3, covariance=1.0, order=1)
    start = torch.full((dim,), 0.5, dtype=dtype)

    def call():
        return gf.integrate(flow, start, t=1e-3 * steps, paths=paths, keep="moments", **settings)

    return call


def plain_loop(dim, paths, steps, dtype):
    """One path after another, as it is written first: autograd, and a draw a step."""
    _, scale = problem(dim)
    scale, generator = scale.to(dtype), torch.Generator().manual_seed(0)

    def call():
        for _ in range(paths):
            x = torch.full((dim,), 0.5, dtype=dtype)
            for _ in range(steps):
                x.requires_grad_()
                loss = (scale * (x**2 / 2 + x**4 / 40)).sum()
                (g,) = torch.autograd.grad(loss, x)
                noise = torch.randn(dim, generator=generator, dtype=dtype)
                x = x.detach() - 1e-3 * g + 1e-3 * noise

    return call


def with_torchsde(dim, paths, steps, dtype):
    """torchsde's Euler scheme at the same fixed step; its drift is the gradient in closed form."""
    import torchsde

    _, scale = problem(dim)
    scale = scale.to(dtype)

    class Equation(torch.nn.Module):
        noise_type, sde_type = "diagonal", "ito"

        def f(self, t, x):
            return -scale * (x + x**3 / 10)

        def g(self, t, x):
            return torch.full_like(x, 1e-3**0.5)

    start = torch.full((paths, dim), 0.5, dtype=dtype)
    ends = torch.tensor([0.0, 1e-3 * steps], dtype=dtype)

    def call():
        with torch.no_grad():
            torchsde.sdeint(Equation(), start, ends, dt=1e-3, method="euler")

    return call


def at_equal_scheme(dim, paths, steps, repeats) -> list[dict]:
    found = []
    for dtype in (torch.float64, torch.float32):
        few, short = max(1, paths // 2000), max(1, steps // 20)
        calls = {
            "gdflows": (ours(dim, paths, short, dtype, method="euler-maruyama"), paths * short),
            "plain loop": (plain_loop(dim, few, short, dtype), few * short),
        }
        try:
            import torchsde  # noqa: F401, whether it is there

            calls["torchsde"] = (with_torchsde(dim, paths, short, dtype), paths * short)
        except ImportError as e:
            print("without torchsde:", e)
        taken = {name: [] for name in calls}
        for _ in range(repeats):
            for name, (call, work) in calls.items():
                taken[name].append(seconds(call) / work * paths * steps)
        base = statistics.median(taken["gdflows"])
        for name, times in taken.items():
            found.append(
                {
                    "what": f"Euler-Maruyama, {str(dtype).removeprefix('torch.')}",
                    "method": name,
                    "measured on path-steps": calls[name][1],
                    "seconds for all": statistics.median(times),
                    "ratio": statistics.median(times) / base,
                }
            )
    return found


def in_one_call(dim, paths, steps) -> list[dict]:
    found = []
    for method in ("euler-maruyama", "weak2"):
        for increments in ("gaussian", "three-point"):
            call = ours(
                dim, paths, steps, torch.float32, method=method, increments=increments
            )
            found.append(
                {
                    "what": f"{paths:,} paths, {dim} dimensions, {steps:,} steps, float32",
                    "method": f"{method}, {increments}",
                    "measured on path-steps": paths * steps,
                    "seconds for all": seconds(call),
                }
            )
    return found


def crossed(x):
    """The columns of two noises that do not commute."""
    first = torch.stack([1 + x[1], x[0] / 2])
    return torch.stack([first, torch.stack([0.5 * x[0] - 0.2, 0.5 + x[0]])]) / 2


def steps_for_equal_error(paths: int) -> list[dict]:
    E = gf.Objective(lambda x: (x**2).sum() / 2 + x[0] * x[1] ** 2 / 4, 2)
    noise = gf.flows.NoiseFactor(crossed, 2)
    flow = gf.flows.StochasticModifiedEquation(E, 1.0, covariance=noise, order=1)
    start = torch.full((2,), 0.3, dtype=torch.float64)

    def mean(method, steps, many):
        seen = gf.integrate(
            flow, start, t=1.0, step=1 / steps, paths=many, method=method, antithetic=True,
            keep="moments", observe={"xy": lambda x: x.prod(1)},
        )  # fmt: skip
        return float(seen.observed["xy"][-1]), float(seen.observed_error["xy"][-1])

    reference, error = mean("weak2", 32, 4 * paths)
    rows = []
    for method in ("weak2", "euler-maruyama"):
        for steps in (2, 4, 8, 16, 32):
            start_time = time.perf_counter()
            value, spread = mean(method, steps, paths)
            rows.append(
                {
                    "what": "mean of θ₁θ₂, noises that do not commute",
                    "method": f"{method}, {steps} steps",
                    "error": abs(value - reference),
                    "error of sampling": (spread**2 + error**2) ** 0.5,
                    "seconds for all": time.perf_counter() - start_time,
                }
            )
    return rows


def compare(paths: int, dim: int, steps: int, repeats: int, weak_paths: int) -> pd.DataFrame:
    rows = in_one_call(dim, paths, steps)
    rows += at_equal_scheme(dim, paths, steps, repeats)
    table = pd.DataFrame(rows + steps_for_equal_error(weak_paths))
    print(table.to_string(index=False, float_format="{:.3g}".format, na_rep=""))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--paths", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--weak-paths", type=int, default=1_000_000)
    parser.add_argument("--out", help="folder for a record of the result")
    options = parser.parse_args()
    config = {k: v for k, v in vars(options).items() if k != "out"}
    if options.out:
        gf.runs.record(options.out, {"benchmark": "paths", **config}, lambda: compare(**config))
    else:
        compare(**config)


if __name__ == "__main__":
    main()
