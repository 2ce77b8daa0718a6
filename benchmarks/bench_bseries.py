"""How long does the modified equation of explicit Euler take, by order, beside kauri?

    pip install "gdflows[bench]"
    python benchmarks/bench_bseries.py [--largest 10] [--repeats 5]

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=10, help="largest number of vertices")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for one measurement")
    options = parser.parse_args()
    libraries = {"gdflows": OURS}
    if find_spec("kauri"):
        libraries["kauri"] = KAURI
    else:
        print("kauri is not installed: gdflows alone (pip install 'gdflows[bench]')")
    print(f"{'order':>5} {'trees':>6} {'terms':>6} {'gdflows':>9}   {'kauri':>9}  kauri/gdflows")
    slow = set()
    for order in range(2, options.largest + 1):
        seconds: dict[str, list[float]] = {name: [] for name in libraries}
        seen = {}
        for _ in range(options.repeats):
            for name, code in libraries.items():
                if name in slow:
                    continue
                result = measure(code, order, options.limit)
                if result is None:
                    slow.add(name)
                    continue
                seconds[name].append(result[0])
                seen[name] = result[1:]
        values, terms = seen["gdflows"]
        if "kauri" in seen and "kauri" not in slow:
            gap = max(abs(a - b) for a, b in zip(values, seen["kauri"][0], strict=True))
            assert gap < 1e-9, f"the two disagree at order {order} by {gap}"
        median = {name: statistics.median(s) for name, s in seconds.items() if s}
        line = f"{order:5d} {len(values):6d} {terms:6d} {median['gdflows']:8.4f}s"
        if "kauri" in slow:
            line += f"   > {options.limit:.0f} s"
        elif "kauri" in median:
            line += f"   {median['kauri']:8.4f}s  {median['kauri'] / median['gdflows']:8.1f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
