"""Measure this machine's constants for the choice of kernels (`apet.subspaces.kernel_costs`), and store them in the cache folder.

The constants are measured once for each machine, version of torch and number of threads.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls

from apet.errors import ApetError, UsageError
from apet.files import atomic_path, writing
from apet.subspaces.kernel_costs import SHIPPED, Costs
from apet.subspaces.kernels import sampled_outer_product
from apet.subspaces.sparsity_pattern import KERNELS, SparsityPattern

log = logging.getLogger(__name__)
Case = tuple[str, int, int, int]  # kernel, m, n, k

VARIABLE = "APET_KERNELS"  # environment variable; auto: measured constants; shipped: SHIPPED
CASES = [(512, 512), (1024, 256), (256, 1024)]  # m, n
COUNTS = {
    "gather": (300, 1000, 3000),
    "sampled": (100, 1000, 10_000, 30_000),
    "dense": (100, 1000, 10_000),
}  # values of k for which the kernel can be the fastest
TOKENS, ROUNDS, MORE, SECONDS = 256, 15, 5, 5
STEADY, USABLE = 1.1, 1.5  # largest change (ratio) of a constant by more rounds: to stop early, and to be usable after all rounds
RANGE = 1e4  # largest plausible ratio of two constants


def machine(device: str = "cpu") -> str:
    """Return a name for the machine that constants are valid for: processor, version of torch and, on the CPU, number of threads."""
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"{_processor()}, torch {torch.__version__}, {torch.get_num_threads()} thread(s)"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cache() -> Path:
    """Return the path of the JSON file of measured constants, {machine: constants}."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "apet" / "kernels.json"


def stored(device: str = "cpu") -> Costs | None:
    """Return the constants that were measured on this machine, or None if the file does not hold readable ones."""
    try:
        return Costs(**json.loads(cache().read_text())[machine(device)])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def costs_for_machine(device: str = "cpu", tell: Callable[[str], None] = log.warning) -> tuple[Costs, str]:
    """Return (constants for the choice of kernels, their origin: measured or shipped).

    The first call on a machine measures the constants, which takes some seconds. `tell` receives a message before the measurement and
    after a failed one. After a failure the shipped constants are used, and the next call measures again.
    Raises UsageError unless the environment variable APET_KERNELS is auto, shipped or unset.
    """
    setting = os.environ.get(VARIABLE, "auto")
    if setting not in ("auto", "shipped"):
        raise UsageError(f"{VARIABLE}={setting} is not a valid setting: write auto or shipped")
    if setting == "shipped":
        return SHIPPED, "shipped"
    if costs := stored(device):
        return costs, "measured"
    try:
        with _measuring_alone():
            costs = stored(device)  # another process may have measured them in the meantime
            if costs is None:
                tell(f"measuring kernels on {machine(device)}: about {SECONDS} s, once; {VARIABLE}=shipped skips it")
                costs = _measured(device)
            return costs, "measured"
    except ApetError as error:
        tell(f"{error}; the shipped constants are used, the next run measures again")
        return SHIPPED, "shipped"


def measure(device: str = "cpu") -> Costs:
    """Measure this machine's constants and replace the stored ones. Raises ApetError if the machine is too busy."""
    with _measuring_alone():
        return _measured(device)


def _measured(device: str) -> Costs:
    costs = calibrate(device)
    if costs is None:
        raise ApetError("the times of the kernels vary too much to measure, because other work keeps this machine busy")
    _keep(costs, device)
    return costs


@contextmanager
def _measuring_alone() -> Iterator[None]:
    """Hold a file lock, so that only one process measures at a time: two measurements would disturb each other."""
    with writing(cache()):
        cache().parent.mkdir(parents=True, exist_ok=True)
        file = open(cache().with_suffix(".lock"), "w")  # noqa: SIM115 (closed below)
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _keep(costs: Costs, device: str) -> None:
    try:
        kept_costs = dict(json.loads(cache().read_text()))
    except (OSError, ValueError, TypeError):
        kept_costs = {}
    with atomic_path(cache()) as temporary:
        temporary.write_text(json.dumps(kept_costs | {machine(device): asdict(costs)}, indent=1))


def calibrate(device: str = "cpu") -> Costs | None:
    """Measure the constants until more rounds no longer change them. Return None if they stay unsteady or do not fit the times.

    Each round times every kernel and size once, so that other work on the machine affects all of them. Only the shortest time is used,
    because other work can only lengthen a time.
    """
    work = _work(torch.device(device))
    for _, call in work:
        call()  # the first call warms up
    times = _times(work, device)
    before = costs = fit(_rows(work, times))
    for _ in range(MORE):
        times = list(map(min, times, _times(work, device)))
        before, costs = costs, fit(_rows(work, times))
        if _agree(before, costs, STEADY):
            return costs
    return costs if _agree(before, costs, USABLE) else None


def _agree(one: Costs | None, other: Costs | None, ratio: float) -> bool:
    if one is None or other is None:
        return False
    return all(1 / ratio < value / asdict(other)[name] < ratio for name, value in asdict(one).items())


def _times(work: list[tuple[Case, Callable[[], Any]]], device: str) -> list[float]:
    """Return the shortest time of each item of `work`, in seconds."""
    shortest = [math.inf] * len(work)
    for _ in range(ROUNDS):
        shortest = [min(before, _timed(call, device)) for before, (_, call) in zip(shortest, work, strict=True)]
    return shortest


def _rows(work: list[tuple[Case, Callable[[], Any]]], times: list[float]) -> list[dict[str, Any]]:
    return [
        {"kernel": kernel, "m": m, "n": n, "k": k, "tokens": TOKENS, "sample": seconds}
        for ((kernel, m, n, k), _), seconds in zip(work, times, strict=True)
    ]


def _work(device: Any) -> list[tuple[Case, Callable[[], Any]]]:
    random, work = torch.Generator().manual_seed(0), []
    for m, n in CASES:
        g, x = (torch.randn(TOKENS, width, generator=random).to(device) for width in (m, n))
        for kernel in KERNELS:
            for k in COUNTS[kernel]:
                flat = torch.randperm(m * n, generator=random)[:k].sort().values.to(device)
                work.append(((kernel, m, n, k), partial(sampled_outer_product, g, x, SparsityPattern.at((m, n), flat, kernel))))
    return work


def _timed(call: Callable[[], Any], device: str) -> float:
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - started


def fit(rows: list[dict[str, Any]]) -> Costs | None:
    """Return the constants >= 0 that minimise the squared relative errors of the times `sample` (seconds) in `rows`.

    A row has the keys kernel, m, n, k, tokens and sample. Return None if a constant is zero or the ratio of two constants exceeds RANGE.
    """

    def per(kernel: str, *terms: Callable[[dict[str, Any]], float]) -> list[float]:
        chosen = [row for row in rows if row["kernel"] == kernel]
        design = np.array([[1e-9 * row["tokens"] * term(row) / row["sample"] for term in terms] for row in chosen])
        return [float(value) for value in nnls(design, np.ones(len(chosen)))[0]]

    (gather,) = per("gather", lambda row: row["k"])
    side, sampled = per("sampled", lambda row: row["m"] + row["n"], lambda row: row["k"])
    (dense,) = per("dense", lambda row: row["m"] * row["n"])
    values = (gather, side, sampled, dense)
    return Costs(*values) if min(values) > 0 and max(values) < RANGE * min(values) else None


def kernel_constants(device: str, again: bool = False) -> dict[str, Any]:
    """Return {"machine": its name, "file": cache file, "measured": constants or None (not measured yet), "shipped": constants}.

    With `again` the constants are first measured anew. Raises ApetError if the machine is too busy.
    """
    known = measure(device) if again else stored(device)
    return {"machine": machine(device), "file": str(cache()), "measured": known and asdict(known), "shipped": asdict(SHIPPED)}
