"""Times of a projection's product with z on 2^24 floats, compared with a copy of as many and with a transform by chunks and concatenation.

The benchmark uses one thread and d = 1000. Repetitions are interleaved, and the figures are ratios of their medians. Block Fastfood and
count-sketch generate their numbers again in every product, as at any size. The Fastfood by chunk and concatenation, the usual form in
public code, is one block. It keeps its diagonals and its permutation, which do not count.

`state_mb_*` is the largest growth of the process beyond z and a tensor. The process lifts and pulls tensors of 2^22 entries at the
beginning, the middle and the end of a space of 3e9.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

D, MOST, TENSOR = 1000, 3 * 10**9, 2**22
KINDS = ("fastfood", "countsketch")


def chunk_and_cat(x):
    """Return the Walsh-Hadamard transform of x (n,), computed one axis of size 2 at a time."""
    import torch

    n = len(x)
    x = x.view([2] * (n.bit_length() - 1))
    for axis in range(x.dim()):
        low, high = torch.chunk(x, 2, dim=axis)
        x = torch.cat([low + high, low - high], dim=axis)
    return x.reshape(n)


def products(n: int) -> dict[str, Callable]:
    """Return the works to be timed, by name."""
    import torch

    from apet.projections import hadamard, project
    from apet.subspaces import ParameterSpace

    space = ParameterSpace((("w", (n,)),), (frozenset(["weights"]),))
    generator = torch.Generator().manual_seed(0)
    z, w, out = (torch.randn(size, generator=generator) for size in (D, n, n))
    signs, gains = torch.randint(0, 2, (n,), generator=generator) * 2.0 - 1, torch.randn(n, generator=generator)
    order = torch.randperm(n, generator=generator)
    padded = torch.cat([z, torch.zeros(n - D)])
    works: dict[str, Callable] = {"memcpy": lambda: out.copy_(w)}
    for kind in KINDS:
        made = project(kind, space, D, 0)
        works[f"{kind} lift"] = lambda made=made: made.lift_one(z, 0)
        works[f"{kind} pull"] = lambda made=made: made.pull_one(w, 0, z)
    works["transform"] = lambda: hadamard(w)
    works["cat transform"] = lambda: chunk_and_cat(w)
    works["cat fastfood"] = lambda: chunk_and_cat(chunk_and_cat(padded * signs)[order] * gains)
    return works


def medians(timed: dict[str, Callable], repetitions: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(repetitions):
        for name, function in timed.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def state_mb(kind: str) -> float:
    """Return the growth of a new process's peak memory beyond a tensor of the same size and its gradient, in MB."""
    import resource

    import psutil
    import torch

    from apet.projections import project
    from apet.subspaces import ParameterSpace

    torch.set_num_threads(1)
    gap = MOST // 2 - TENSOR
    sizes = (TENSOR, gap, TENSOR, MOST - 3 * TENSOR - gap, TENSOR)
    space = ParameterSpace(tuple((f"t{i}", (n,)) for i, n in enumerate(sizes)), (frozenset(["weights"]),) * len(sizes))
    z = torch.randn(D)
    small = project(kind, ParameterSpace((("w", (64,)),), (frozenset(["weights"]),)), 8, 0)  # loads everything that is loaded at first use
    small.pull_one(small.lift_one(torch.randn(8), 0), 0, z)
    tensor = torch.randn(TENSOR)
    unit = 1 if sys.platform == "darwin" else 1024
    before = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ballast = torch.ones(
        max(0, before - psutil.Process().memory_info().rss) // 4
    )  # fills the memory up to the peak of the start, so that growth is visible
    projection = project(kind, space, D, 0)
    for i in (0, 2, 4):
        tensor.copy_(projection.lift_one(z, i))
        projection.pull_one(tensor, i, z)
    grown = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    del ballast
    return (grown - 4 * TENSOR) / 1e6  # without the lifted tensor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2^22 floats")
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--state", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.state:
        print(state_mb(options.state))
        return
    import torch

    torch.set_num_threads(1)
    n = 2**23 if options.quick else 2**24
    seconds = medians(products(n), 3)
    run = [sys.executable, __file__, "--state"]
    states = {kind: float(subprocess.run([*run, kind], capture_output=True, text=True, check=True).stdout) for kind in KINDS}
    if not options.json:
        print(f"{'2^' + str(n.bit_length() - 1) + ' floats':16} {'ms':>9} {'x memcpy':>9}")
        for name, median in seconds.items():
            print(f"{name:16} {1e3 * median:9.1f} {median / seconds['memcpy']:9.1f}")
        for kind, state in states.items():
            print(f"{kind}: {state:.0f} MB of state at D = {MOST:,}")
    figures = {
        "cat_over_ours_fastfood": seconds["cat fastfood"] / seconds["fastfood lift"],
        "fastfood_over_memcpy": seconds["fastfood lift"] / seconds["memcpy"],
        "fastfood_pull_over_memcpy": seconds["fastfood pull"] / seconds["memcpy"],
        "countsketch_over_memcpy": seconds["countsketch lift"] / seconds["memcpy"],
        "countsketch_pull_over_memcpy": seconds["countsketch pull"] / seconds["memcpy"],
        "cat_over_ours_transform": seconds["cat transform"] / seconds["transform"],
        **{f"state_mb_{kind}": state for kind, state in states.items()},
    }
    from machine import describe

    print(json.dumps({"figures": {name: round(value, 3) for name, value in figures.items()}, **describe()}))


if __name__ == "__main__":
    main()
