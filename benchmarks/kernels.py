"""Times the kernels of tunable entries beside each other, and the choice among them by measured and by shipped constants.

For matrices like those of a transformer, `sample` (the gradient of z) and `scatter` (the sparse product) with each
kernel, one thread; the smallest of the repetitions. Last line: {"figures": {...}}: the nanoseconds that fit these times (ns_) and those
that `apet.subspaces.kernel_calibration.calibrate` measures in some seconds, by which runs choose (calibrated_ns_); and how much slower the
chosen kernel is than
the best one, at the median and at worst, by the calibrated constants (chosen_over_best_) and by the shipped ones (shipped_over_best_).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SHAPES = [(2048, 512, 1024), (512, 512, 1024), (224, 224, 800), (1024, 512, 64)]  # (m, n, tokens)
COUNTS = [10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000]
MOST = 2e7  # tokens x entries that the gather kernel is tried on


def best(function, seconds: float) -> float:
    function()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(seconds: float) -> list[dict]:
    import torch

    from apet.subspaces import KERNELS, SparsityPattern, sampled_outer_product, sparse_matmul

    torch.set_num_threads(1)
    rows = []
    for m, n, tokens in SHAPES:
        g, x = torch.randn(tokens, m), torch.randn(tokens, n)
        for k in (k for k in COUNTS if 2 * k <= m * n):
            flat, z = torch.randperm(m * n)[:k].sort().values, torch.randn(k)
            for kernel in KERNELS:
                if kernel == "gather" and k * tokens > MOST:
                    continue
                entries = SparsityPattern.at((m, n), flat, kernel)
                rows.append({
                    "m": m, "n": n, "tokens": tokens, "k": k, "kernel": kernel,
                    "sample": best(lambda: sampled_outer_product(g, x, entries), seconds),  # noqa: B023
                    "scatter": best(lambda: sparse_matmul(z, x, entries), seconds),  # noqa: B023
                })  # fmt: skip
    return rows


def regret(rows: list[dict], costs: Any) -> list[float]:
    """Time of the kernel that `costs` choose over the best one's, for every shape and count, ascending."""
    from apet.subspaces import KERNELS

    found = []
    for key in dict.fromkeys((row["m"], row["n"], row["tokens"], row["k"]) for row in rows):
        times = {row["kernel"]: row["sample"] for row in rows if (row["m"], row["n"], row["tokens"], row["k"]) == key}
        chosen = min(KERNELS, key=lambda kernel: costs.of(kernel, key[:2], key[3]))
        if chosen in times:
            found.append(times[chosen] / min(times.values()))
    return sorted(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    parser.add_argument("--json", action="store_true", help="print only the last line")
    options = parser.parse_args()
    rows = measure(0.0 if options.quick else 0.1)
    if not options.json:
        print(f"{'m':>6} {'n':>5} {'tokens':>6} {'k':>7} {'kernel':8} {'sample ms':>9} {'scatter ms':>10}")
        for row in rows:
            print("{m:6} {n:5} {tokens:6} {k:7} {kernel:8} ".format(**row) + f"{1e3 * row['sample']:9.3f} {1e3 * row['scatter']:10.3f}")
    from apet.subspaces import kernel_calibration as costs

    calibrated, fitted, figures = costs.calibrate(), costs.fit(rows), {}
    if calibrated is None:
        print("the machine is too busy to calibrate: chosen_over_best is by the shipped constants", file=sys.stderr)
    for prefix, each in (("ns", fitted), ("calibrated_ns", calibrated)):
        figures |= {f"{prefix}_{name}": value for name, value in (asdict(each) if each else {}).items()}
    for prefix, each in (("chosen", calibrated or costs.SHIPPED), ("shipped", costs.SHIPPED)):
        over = regret(rows, each)
        figures |= {f"{prefix}_over_best_median": over[len(over) // 2], f"{prefix}_over_best_worst": over[-1]}
    from machine import describe

    print(json.dumps({"figures": {name: round(value, 4) for name, value in figures.items()}, **describe()}))


if __name__ == "__main__":
    main()
