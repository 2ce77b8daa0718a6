"""Many paths of a stochastic modified equation, beside a plain loop and torchsde.

    pip install 'gdflows[bench]'
    python benchmarks/bench_paths.py [--paths 10000] [--dim 100] [--steps 1000] [--out FOLDER]
    python benchmarks/bench_paths.py --where [--out FOLDER]

First one call: all paths, all dimensions, all steps. Then Euler-Maruyama at equal step and noise
(additive, isotropic) beside a Python loop over the paths, and torchsde's Euler scheme, taking
turns; torchsde once with the same gradient (torch.func on the loss), and once with a drift written
out by hand. They are given fewer paths or steps, and their times are scaled up to the same work,
which the table says. Last, steps for equal error, in two cases: the mean of θ₁ under two noises
that do not commute, and the mean square under additive noise in many dimensions, where torchsde has
a scheme of higher order too. The reference is the weak second-order scheme with more steps and
paths. With --where, in place of all that: what of the time goes into random numbers and gradients,
which at equal scheme are everybody's. Seconds are those of the processor, on one thread, so that
other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import statistics
import time

import pandas as pd
import torch

import gdflows as gf
from gdflows.objective.batched import Batched
from gdflows.walking.draws import Draws


def problem(dim: int):
    """A loss that is no parabola: Σ λ(x²/2 + x⁴/40), λ from 1 to 2."""
    scale = torch.linspace(1.0, 2.0, dim, dtype=torch.float64)
    return gf.Objective(lambda x: (scale.to(x) * (x**2 / 2 + x**4 / 40)).sum(), dim), scale


def seconds(call) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def ours(dim, paths, steps, dtype, **settings):
    E, _ = problem(dim)
    flow = gf.flows.StochasticModifiedEquation(E, 1e-3, covariance=1.0, order=1)
    start = torch.full((dim,), 0.5, dtype=dtype)

    def call():
        return gf.integrate(
            flow, start, t=1e-3 * steps, paths=paths, keep="moments", progress=False, **settings
        )

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


def with_torchsde(dim, paths, steps, dtype, *, by_hand, method="euler", h=1e-3, size=1e-3):
    """torchsde at the fixed step ``size``: returns the call, which returns the last states."""
    import torchsde

    E, scale = problem(dim)
    scale, batched = scale.to(dtype), Batched(E)

    class Equation(torch.nn.Module):
        noise_type, sde_type = "diagonal", "ito"

        def f(self, t, x):
            return -scale * (x + x**3 / 10) if by_hand else -batched.grad(x)

        def g(self, t, x):
            return torch.full_like(x, h**0.5)

    start = torch.full((paths, dim), 0.5, dtype=dtype)
    ends = torch.tensor([0.0, size * steps], dtype=dtype)

    def call():
        with torch.no_grad():
            return torchsde.sdeint(Equation(), start, ends, dt=size, method=method)[-1]

    return call


def at_equal_scheme(dim, paths, steps, repeats) -> list[dict]:
    found = []
    for dtype in (torch.float64, torch.float32):
        few, short = max(1, paths // 2000), max(1, steps // 100)
        calls = {
            "gdflows": (ours(dim, paths, short, dtype, method="euler-maruyama"), paths * short),
            "plain loop": (plain_loop(dim, few, short, dtype), few * short),
        }
        try:
            import torchsde  # noqa: F401, whether it is there

            for name, by_hand in (("torchsde", False), ("torchsde, drift by hand", True)):
                call = with_torchsde(dim, paths, short, dtype, by_hand=by_hand)
                calls[name] = (call, paths * short)
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


def where(dim, paths, steps, repeats) -> pd.DataFrame:
    """Seconds of all, and of their parts alone: random numbers, and gradients at all paths."""
    rows = []
    for dtype in (torch.float64, torch.float32):
        short = max(1, steps // 100)
        batched = Batched(problem(dim)[0])
        x = torch.full((paths, dim), 0.5, dtype=dtype)
        draws = Draws(0, 0, x, paths, dim)

        def numbers(draws=draws, short=short):
            for _ in range(short):
                draws.normal()

        def gradients(batched=batched, x=x, short=short):
            for _ in range(short):
                batched.grad(x)

        calls = {"gdflows": ours(dim, paths, short, dtype, method="euler-maruyama")}
        calls |= {"random numbers": numbers, "gradients": gradients}
        try:
            import torchsde  # noqa: F401, whether it is there

            calls["torchsde"] = with_torchsde(dim, paths, short, dtype, by_hand=False)
        except ImportError as e:
            print("without torchsde:", e)
        taken = {name: [] for name in calls}
        for _ in range(repeats):
            for name, call in calls.items():
                taken[name].append(seconds(call) * steps / short)
        for name, times in taken.items():
            row = {"dtype": str(dtype).removeprefix("torch."), "part": name}
            rows.append(row | {"seconds for all": statistics.median(times)})
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format="{:.3g}".format))
    return table


def in_one_call(dim, paths, steps) -> list[dict]:
    found = []
    for method in ("euler-maruyama", "weak2"):
        call = ours(dim, paths, steps, torch.float32, method=method)
        found.append(
            {
                "what": f"{paths:,} paths, {dim} dimensions, {steps:,} steps, float32",
                "method": f"gdflows {method}",
                "measured on path-steps": paths * steps,
                "seconds for all": seconds(call),
            }
        )
    return found


def crossed(x):
    """The columns of two noises that do not commute."""
    first = torch.stack([1 + x[1], x[0] / 2])
    return torch.stack([first, torch.stack([0.5 * x[0] - 0.2, 0.5 + x[0]])]) / 2


def crossed_case(paths: int) -> list[dict]:
    E = gf.Objective(lambda x: (x**2).sum() / 2 + x[0] * x[1] ** 2 / 4, 2)
    noise = gf.flows.NoiseFactor(crossed, 2)
    flow = gf.flows.StochasticModifiedEquation(E, 1.0, covariance=noise, order=1)
    start = torch.full((2,), 0.3, dtype=torch.float64)

    def mean(method, steps, many):
        seen = gf.integrate(
            flow, start, t=1.0, step=1 / steps, paths=many, method=method, antithetic=True,
            keep="moments", observe={"x": lambda x: x[:, 0]}, chunk=10_000, progress=False,
        )  # fmt: skip
        return float(seen.observed["x"][-1]), float(seen.observed_error["x"][-1])

    reference, error = mean("weak2", 16, 2 * paths)
    rows = []
    for method, counts in (("weak2", (1, 2, 4, 8)), ("euler-maruyama", (1, 2, 4, 8, 16, 32, 64))):
        for steps in counts:
            begin = time.process_time()
            value, spread = mean(method, steps, paths)
            rows.append(
                {
                    "what": "mean of θ₁, noises that do not commute",
                    "method": f"gdflows {method}",
                    "steps": steps,
                    "error": abs(value - reference),
                    "error of sampling": (spread**2 + error**2) ** 0.5,
                    "seconds for all": time.process_time() - begin,
                }
            )
    return rows


def additive_case(dim: int, paths: int, repeats: int) -> list[dict]:
    """Mean square over all entries at t = 2, h = 0.5, from one half; methods take turns."""
    E, _ = problem(dim)
    h, dtype = 0.5, torch.float64
    flow = gf.flows.StochasticModifiedEquation(E, h, covariance=1.0, order=1)
    start = torch.full((dim,), 0.5, dtype=dtype)

    def own(method):
        def states(steps, many):
            seen = gf.integrate(
                flow, start, t=2.0, step=2.0 / steps, paths=many, method=method, progress=False
            )
            return seen.last

        return states

    def theirs(method):
        def states(steps, many):
            settings = {"by_hand": False, "method": method, "h": h, "size": 2.0 / steps}
            return with_torchsde(dim, many, steps, dtype, **settings)()

        return states

    paths = paths // 2
    few, many = (4, 8, 16), (4, 8, 16, 32, 64, 128)
    methods = {"gdflows weak2": (own("weak2"), few)}
    methods["gdflows euler-maruyama"] = own("euler-maruyama"), many
    try:
        import torchsde  # noqa: F401, whether it is there

        methods |= {f"torchsde {name}": (theirs(name), few) for name in ("euler", "srk")}
    except ImportError as e:
        print("without torchsde:", e)

    def mean(states):
        per_path = (states**2).mean(1)
        return float(per_path.mean()), float(per_path.std()) / len(per_path) ** 0.5

    reference, error = mean(own("weak2")(64, 4 * paths))
    taken: dict[tuple[str, int], list[float]] = {}
    seen = {}
    for _ in range(repeats):
        for name, (states, counts) in methods.items():
            for steps in counts:
                begin = time.process_time()
                seen[name, steps] = mean(states(steps, paths))
                taken.setdefault((name, steps), []).append(time.process_time() - begin)
    return [
        {
            "what": f"mean square in {dim} dimensions, additive noise",
            "method": name,
            "steps": steps,
            "error": abs(value - reference),
            "error of sampling": (spread**2 + error**2) ** 0.5,
            "seconds for all": statistics.median(taken[name, steps]),
        }
        for (name, steps), (value, spread) in seen.items()
    ]


def compare(paths: int, dim: int, steps: int, repeats: int, weak_paths: int) -> pd.DataFrame:
    rows = in_one_call(dim, paths, steps)
    rows += at_equal_scheme(dim, paths, steps, repeats)
    table = pd.DataFrame(rows + crossed_case(weak_paths) + additive_case(dim, paths, repeats))
    print(table.to_string(index=False, float_format="{:.3g}".format, na_rep=""))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--paths", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--weak-paths", type=int, default=100_000)
    parser.add_argument("--where", action="store_true", help="where the time goes, alone")
    parser.add_argument("--out", help="folder for a record of the result")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = {k: v for k, v in vars(options).items() if k not in ("out", "where")}
    made, title = compare, "beside a plain loop and torchsde, and for equal error"
    if options.where:
        made, title = where, "where the time of Euler and Maruyama's scheme goes"
        del config["weak_paths"]
    if options.out:
        kind = "paths, where" if options.where else "paths"
        gf.runs.record(
            options.out, {"benchmark": kind, **config}, lambda: made(**config),
            title=f"Many paths at once: {title}",
        )  # fmt: skip
    else:
        made(**config)


if __name__ == "__main__":
    main()
