"""Times of the kernels of tuned entries, and the choice among them by measured and by shipped constants.

For matrices as in a transformer, each kernel computes `sample` (the gradient of z) and `scatter` (the sparse product) with one thread; the
smallest time of the repetitions counts. The last line is {"figures": {...}}, with:

- ns_*: the nanoseconds that fit these times;
- calibrated_ns_*: the nanoseconds that `apet.subspaces.kernel_calibration.calibrate` measures within seconds and runs use for their choice;
- chosen_over_best_*: the time of the kernel chosen by the calibrated constants over the best kernel's time, at the median and at worst;
- shipped_over_best_*: the ratio for the shipped constants.
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
MOST = 2e7  # largest tokens x entries for which the gather kernel is tried


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
    """Return the time of the kernel that `costs` chooses over the best kernel's time, for every shape and count, ascending."""
    from apet.subspaces import KERNELS

    ratios = []
    for key in dict.fromkeys((row["m"], row["n"], row["tokens"], row["k"]) for row in rows):
        times = {row["kernel"]: row["sample"] for row in rows if (row["m"], row["n"], row["tokens"], row["k"]) == key}
        chosen = min(KERNELS, key=lambda kernel: costs.of(kernel, key[:2], key[3]))
        if chosen in times:
            ratios.append(times[chosen] / min(times.values()))
    return sorted(ratios)


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
        print("the machine is too busy to calibrate: chosen_over_best uses the shipped constants", file=sys.stderr)
    for prefix, constants in (("ns", fitted), ("calibrated_ns", calibrated)):
        figures |= {f"{prefix}_{name}": value for name, value in (asdict(constants) if constants else {}).items()}
    for prefix, constants in (("chosen", calibrated or costs.SHIPPED), ("shipped", costs.SHIPPED)):
        over = regret(rows, constants)
        figures |= {f"{prefix}_over_best_median": over[len(over) // 2], f"{prefix}_over_best_worst": over[-1]}
    from machine import describe

    print(json.dumps({"figures": {name: round(value, 4) for name, value in figures.items()}, **describe()}))


if __name__ == "__main__":
    main()
