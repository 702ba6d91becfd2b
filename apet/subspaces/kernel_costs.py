"""The constants that determine the choice of kernels for tuned entries (`apet.subspaces.sparsity_pattern.cheapest`).

`apet.subspaces.kernel_calibration` measures the constants. They change results only by rounding errors. Equal constants give bitwise
equal results, so a run keeps the constants of its start.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Costs:
    """Costs in nanoseconds. For T tokens and k entries of an (m, n) matrix, the three kernels take

        gather T k,    side T (m + n) + sampled T k,    dense T m n.

    Only the ratios of the constants matter, and only if two kernels take about the same time.
    """

    gather: float
    side: float
    sampled: float
    dense: float

    def of(self, kernel: str, shape: tuple[int, int], k: int) -> float:
        """Return the time of `kernel` for k entries of a matrix of `shape`, in nanoseconds per token."""
        m, n = shape
        return {"gather": self.gather * k, "sampled": self.side * (m + n) + self.sampled * k, "dense": self.dense * m * n}[kernel]


SHIPPED = Costs(gather=3.0, side=0.57, sampled=0.06, dense=0.02)  # measured on one CPU thread
_current = SHIPPED


def current_costs() -> Costs:
    """Return the constants that are in use for the choice of kernels."""
    return _current


@contextmanager
def using_costs(costs: Costs) -> Iterator[None]:
    """Use `costs` for the choice of kernels inside the `with` block."""
    global _current
    before, _current = _current, costs
    try:
        yield
    finally:
        _current = before
