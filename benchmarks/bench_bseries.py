"""How long does the modified equation of explicit Euler take, by order, beside kauri?

    pip install "gdflows[bench]"
    python benchmarks/bench_bseries.py [--largest 10] [--repeats 5] [--out FOLDER]

Each measurement is a fresh process on one thread (both libraries cache), the two libraries take
turns, and the ratio is that of the medians. The coefficients of both are compared, too. Order n
means all trees of up to n vertices, powers of h up to n - 1.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from importlib.util import find_spec

import pandas as pd

import gdflows as gf

OURS = """
import json, sys, time
n = int(sys.argv[1])
from gdflows.bseries import modified_equation, rooted_trees
start = time.perf_counter()
series = modified_equation("explicit-euler", n - 1)
seconds = time.perf_counter() - start
values = sorted(float(b) for b in series.b.values())
print(json.dumps([seconds, values, len(series)]))
"""
KAURI = """
import json, sys, time
n = int(sys.argv[1])
import kauri
start = time.perf_counter()
field = kauri.euler.modified_equation_map()
values = [float(field(t)) for t in kauri.trees_up_to_order(n) if t.nodes() > 0]
seconds = time.perf_counter() - start
print(json.dumps([seconds, sorted(values), sum(v != 0 for v in values)]))
"""


def measure(code: str, order: int, limit: float) -> list | None:
    """[seconds, coefficients, how many are not zero], or None past the time limit."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(order)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=limit, check=True
        )
    except subprocess.TimeoutExpired:
        return None
    return json.loads(done.stdout)


def compare(largest: int, repeats: int, limit: float) -> pd.DataFrame:
    """One row an order: trees, terms, and the median seconds of each library."""
    libraries = {"gdflows": OURS}
    if find_spec("kauri"):
        libraries["kauri"] = KAURI
    else:
        print("kauri is not installed: gdflows alone (pip install 'gdflows[bench]')")
    rows = []
    for order in range(2, largest + 1):
        seconds: dict[str, list[float]] = {name: [] for name in libraries}
        seen = {}
        for _ in range(repeats):
            for name, code in list(libraries.items()):
                result = measure(code, order, limit)
                if result is None:
                    print(f"{name}: over {limit:.0f} s at order {order}, left out from here")
                    del libraries[name]
                    continue
                seconds[name].append(result[0])
                seen[name] = result[1:]
        values, terms = seen["gdflows"]
        row = {"order": order, "trees": len(values), "terms": terms}
        for name in libraries:
            row[name] = statistics.median(seconds[name])
        if "kauri" in libraries:
            gap = max(abs(a - b) for a, b in zip(values, seen["kauri"][0], strict=True))
            assert gap < 1e-9, f"the two disagree at order {order} by {gap}"
            row["ratio"] = row["kauri"] / row["gdflows"]
        rows.append(row)
        print("  ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=10, help="largest number of vertices")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for one measurement")
    parser.add_argument("--out", help="folder for a record of the result")
    options = parser.parse_args()
    config = {k: v for k, v in vars(options).items() if k != "out"}
    if options.out:
        gf.runs.record(options.out, {"benchmark": "bseries", **config}, lambda: compare(**config))
    else:
        compare(**config)


if __name__ == "__main__":
    main()
