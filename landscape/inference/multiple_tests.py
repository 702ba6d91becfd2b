"""Correction of p values for several tests."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from landscape.numerics import FloatArray


def holm(p_values: npt.ArrayLike) -> FloatArray:
    """Return p values (n,) corrected by Holm's method (1979), in the order given.

    Rejecting where the corrected value is at most alpha makes any false rejection with a probability of at most alpha, whatever the
    dependence of the tests. NaN stands for a test that was not made and does not count.
    """
    p = np.asarray(p_values, np.float64)
    made = np.flatnonzero(~np.isnan(p))
    order = made[np.argsort(p[made], kind="stable")]
    corrected = np.full(len(p), np.nan)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * (len(order) - np.arange(len(order)))))
    return corrected
