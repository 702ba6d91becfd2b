"""The best loss in k random coordinates of a quadratic, whose eigenvectors may lie along them: theory.md's T5.

T1 speaks of subspaces that no direction is special to. Coordinates are, where eigenvectors are coherent with them: of a diagonal
Hessian a share p = k / D of the gap is gained whatever the spectrum. T5 asks the columns J_j of H = J'J, one a coordinate.
"""

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from landscape.numerics import FloatArray, root

TOLERANCE = 1e-6  # of every q_j, relative, by which the fixed point is over
MOST_STEPS = 1000


@dataclass(frozen=True)
class CoordinatePoint:
    """T5's fixed point at k coordinates of D."""

    k: float
    excess: float  # a'Qa / 2, the expected loss above the quadratic's minimum
    dimension: float  # tr(I - Q): k less the chosen coordinates that are dead (J_j = 0)
    change: float  # the largest relative change of a q_j in the last step: above TOLERANCE it has not converged
    q: FloatArray  # (D,), where to begin at another k


def coordinate_point(columns: npt.ArrayLike, a: npt.ArrayLike, k: float, start: CoordinatePoint | None = None) -> CoordinatePoint:
    """Solve Q = (I + p sum_j J_j J_j' / q_j)^-1, q_j = J_j' Q J_j for p = k / D, 0 <= k < D [derived for this project].

    columns J (m, D) and a (m,) make the quadratic |J d + a|^2 / 2, so H = J'J and g = J'a. Iterated from q_j = |J_j|^2 or from `start`;
    a step costs 2 m^2 D multiplications. As many live coordinates as J has rank reach the minimum: there Q is zero. Raises ValueError
    for other shapes or k.
    """
    jacobian, a = np.asarray(columns, np.float64), np.asarray(a, np.float64)
    if jacobian.ndim != 2 or a.shape != jacobian.shape[:1]:
        raise ValueError(f"columns must be (m, D) and a (m,), got {jacobian.shape} and {a.shape}")
    m, total = jacobian.shape
    if not 0 <= k < total:
        raise ValueError(f"k must be in 0..{total} (D, excluded), got {k}")
    live = (jacobian**2).sum(0) > 0
    j: FloatArray = jacobian[:, live]
    inverse: FloatArray = np.eye(m)
    change = math.inf
    log_q: FloatArray = np.log((j**2).sum(0) if start is None else start.q[live])
    last: tuple[FloatArray, FloatArray] | None = None  # the step before: its end, and how far it went
    for _ in range(MOST_STEPS):
        inverse = _inverse(j, k / total * np.exp(-log_q))
        end: FloatArray = np.log(np.maximum((j * (inverse @ j)).sum(0), np.finfo(float).tiny))
        step = end - log_q
        change = float(np.abs(step).max(initial=0.0))
        if change < TOLERANCE:
            break
        log_q = end if last is None else _accelerated(end, step, *last)
        last = end, step
    every = np.zeros(total)
    every[live] = np.exp(log_q)
    return CoordinatePoint(k, float(a @ inverse @ a) / 2, m - float(np.trace(inverse)), change, every)


def _accelerated(end: FloatArray, step: FloatArray, last_end: FloatArray, last_step: FloatArray) -> FloatArray:
    """Anderson's mixture of two steps' ends, whose steps cancel as well as they can: near the rank plain iteration gains little."""
    apart = step - last_step
    share = float(step @ apart) / max(float(apart @ apart), np.finfo(float).tiny)
    return end - share * (end - last_end)


def _inverse(j: FloatArray, weights: FloatArray) -> FloatArray:
    """(I + sum_j w_j J_j J_j')^-1."""
    return cast(Any, np.linalg).inv(np.eye(len(j)) + (j * weights) @ j.T)


def coordinate_threshold(columns: npt.ArrayLike, a: npt.ArrayLike, excess: float) -> float | None:
    """The k at which T5's excess is `excess` >= 0: None at or above |a|^2 / 2, the excess at k = 0, and where no k < D reaches it."""
    a = np.asarray(a, np.float64)
    total, rank = np.shape(columns)[1], np.linalg.matrix_rank(np.asarray(columns, np.float64))
    if not excess < float(a @ a) / 2:
        return None
    last: list[CoordinatePoint | None] = [None]

    def above(k: float) -> float:
        last[0] = coordinate_point(columns, a, k, last[0])
        return last[0].excess - excess

    highest = min(float(rank), float(total)) * (1 - 1e-3)
    if above(highest) > 0:
        return None
    last[0] = None
    lowest = min(1.0, highest / 2)
    while above(lowest) < 0:
        lowest /= 4
    return root(above, lowest, highest, 1e-3)
