"""The best loss in k random coordinates of a quadratic (T5), which depends on how its eigenvectors lie relative to the coordinates.

T1 (`landscape.prediction.quadratic`) holds for subspaces without preferred directions. Coordinates are preferred if eigenvectors are
coherent with them: for a diagonal Hessian, k coordinates gain the share p = k / D of the gap for any spectrum. T5 uses the columns J_j of
J, with H = J'J and one column per coordinate. It equals T1 for incoherent eigenvectors and gives the share p for a diagonal H. T5 was
derived for this project. A step costs 2 m^2 D multiplications, so use it for m up to some thousands.
"""

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from landscape.numerics import FloatArray, find_root

TOLERANCE = 1e-6  # largest relative change of a q_j at which the iteration has converged
MAX_ITER = 1000


@dataclass(frozen=True)
class CoordinateFixedPoint:
    """T5's fixed point for k coordinates of D."""

    k: float
    excess: float  # a'Qa / 2, the expected loss above the quadratic's minimum
    dimension: float  # tr(I - Q) = k less the chosen coordinates that are inactive (J_j = 0)
    change: float  # largest relative change of a q_j in the last step; the iteration has not converged if it exceeds TOLERANCE
    q: FloatArray  # (D,), usable as the start for another k


def coordinate_fixed_point(
    columns: npt.ArrayLike, a: npt.ArrayLike, k: float, start: CoordinateFixedPoint | None = None
) -> CoordinateFixedPoint:
    """Return the solution of Q = (I + p sum_j J_j J_j' / q_j)^-1, q_j = J_j' Q J_j, for p = k / D, 0 <= k < D.

    columns J (m, D) and a (m,) define the quadratic |J d + a|^2 / 2, so H = J'J and g = J'a. Its expected excess over the minimum in k
    random coordinates is a'Qa / 2. The iteration starts from q_j = |J_j|^2, or from `start`. Q = 0 once k reaches the rank of J among
    active coordinates. Raises ValueError for other shapes or k.

    The algorithm differs from plain fixed-point iteration in:

    1. It iterates on log q_j, which keeps q_j positive.
    2. It mixes two steps (Anderson 1965), since plain iteration converges slowly near the rank.
    """
    jacobian, a = np.asarray(columns, np.float64), np.asarray(a, np.float64)
    if jacobian.ndim != 2 or a.shape != jacobian.shape[:1]:
        raise ValueError(f"columns must be (m, D) and a must be (m,), got shapes {jacobian.shape} and {a.shape}")
    m, total = jacobian.shape
    if not 0 <= k < total:
        raise ValueError(f"k must be in 0..{total - 1} (less than D = {total}), got {k}")
    live = (jacobian**2).sum(0) > 0
    j: FloatArray = jacobian[:, live]
    inverse: FloatArray = np.eye(m)
    change = math.inf
    log_q: FloatArray = np.log((j**2).sum(0) if start is None else start.q[live])
    last: tuple[FloatArray, FloatArray] | None = None  # end and displacement of the previous step
    for _ in range(MAX_ITER):
        inverse = _inverse(j, k / total * np.exp(-log_q))
        end: FloatArray = np.log(np.maximum((j * (inverse @ j)).sum(0), np.finfo(float).tiny))
        step = end - log_q
        change = float(np.abs(step).max(initial=0.0))
        if change < TOLERANCE:
            break
        log_q = end if last is None else _accelerated(end, step, *last)
        last = end, step
    q = np.zeros(total)
    q[live] = np.exp(log_q)
    return CoordinateFixedPoint(k, float(a @ inverse @ a) / 2, m - float(np.trace(inverse)), change, q)


def _accelerated(end: FloatArray, step: FloatArray, last_end: FloatArray, last_step: FloatArray) -> FloatArray:
    """Return Anderson's mixture of the ends of two steps: the mixture with the smallest displacement."""
    difference = step - last_step
    share = float(step @ difference) / max(float(difference @ difference), np.finfo(float).tiny)
    return end - share * (end - last_end)


def _inverse(j: FloatArray, weights: FloatArray) -> FloatArray:
    """Return (I + sum_j w_j J_j J_j')^-1."""
    return cast(Any, np.linalg).inv(np.eye(len(j)) + (j * weights) @ j.T)


def coordinate_threshold(columns: npt.ArrayLike, a: npt.ArrayLike, excess: float) -> float | None:
    """Return the k at which T5's expected excess is `excess` >= 0, to a relative accuracy of .1 %.

    columns (m, D) and a (m,) are as for `coordinate_fixed_point`. Returns None if `excess` is at or above |a|^2 / 2, the excess at k = 0,
    or if no k < D reaches it.
    """
    a = np.asarray(a, np.float64)
    total, rank = np.shape(columns)[1], np.linalg.matrix_rank(np.asarray(columns, np.float64))
    if not excess < float(a @ a) / 2:
        return None
    last: list[CoordinateFixedPoint | None] = [None]

    def above(k: float) -> float:
        last[0] = coordinate_fixed_point(columns, a, k, last[0])
        return last[0].excess - excess

    highest = min(float(rank), float(total)) * (1 - 1e-3)
    if above(highest) > 0:
        return None
    last[0] = None
    lowest = min(1.0, highest / 2)
    while above(lowest) < 0:
        lowest /= 4
    return find_root(above, lowest, highest, 1e-3)
