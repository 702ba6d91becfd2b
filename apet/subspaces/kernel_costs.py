"""The constants by which the kernels of tuned entries are chosen (`apet.subspaces.kernels.cheapest`).

`apet.subspaces.kernel_calibration` measures them. Results agree to rounding for any constants, and bitwise for equal ones: a run keeps
the constants that it began with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Costs:
    """Nanoseconds for T tokens and k entries of an (m, n) matrix: gather T k, side T (m + n) + sampled T k, dense T m n.

    Only their ratios matter, and only where two kernels are close.
    """

    gather: float
    side: float
    sampled: float
    dense: float

    def of(self, kernel: str, shape: tuple[int, int], k: int) -> float:
        """Nanoseconds a token."""
        m, n = shape
        return {"gather": self.gather * k, "sampled": self.side * (m + n) + self.sampled * k, "dense": self.dense * m * n}[kernel]


SHIPPED = Costs(gather=3.0, side=0.57, sampled=0.06, dense=0.02)  # of one CPU thread
_current = SHIPPED


def current_costs() -> Costs:
    """Return the constants that kernels are chosen by now."""
    return _current


@contextmanager
def using_costs(costs: Costs) -> Iterator[None]:
    """Choose kernels by `costs` while the block lasts."""
    global _current
    before, _current = _current, costs
    try:
        yield
    finally:
        _current = before
