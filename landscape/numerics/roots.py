"""Roots of functions of one positive number, by Brent's method in its logarithm."""

import math
from collections.abc import Callable
from typing import cast

from scipy.optimize import brentq  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]


def find_root(f: Callable[[float], float], low: float, high: float, tol: float = 1e-12) -> float:
    """Return the x in low..high (both > 0) where f changes sign, to `tol` in log x.

    If f has equal signs at both ends, as when rounding hides the change of sign, the result is the end with the smaller |f|.
    """
    at_low, at_high = f(low), f(high)
    if at_low * at_high >= 0:
        return low if abs(at_low) < abs(at_high) else high

    ends = {math.log(low): at_low, math.log(high): at_high}  # used again, since a second evaluation might differ by rounding

    def of_log(log_x: float) -> float:
        return ends[log_x] if log_x in ends else f(math.exp(log_x))

    return math.exp(cast(float, brentq(of_log, *ends, xtol=tol)))
