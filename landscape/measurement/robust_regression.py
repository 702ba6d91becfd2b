"""Robust lines through few runs: Huber regression, detection of failed trainings, and a residual bootstrap of the line's zero."""

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs]

from landscape.numerics import FloatArray, Stream

Mask = npt.NDArray[np.bool_]

HUBER = 1.345  # number of robust standard deviations beyond which residuals count less; 95 % efficient for Gaussian noise
FAILED = 5.0  # number of robust standard deviations below the line beyond which a run is a failed training


def failed(x: FloatArray, y: FloatArray) -> Mask:
    """Return a mask (runs,) of the failed trainings: runs far below the repeated-median line, and below a run of no larger x.

    The repeated-median line (Siegel 1982) tolerates failures of up to half of the runs. Only runs below the line can have failed, because a
    run may fail to learn but does not learn by chance. The second condition holds because a rising curve cannot explain a run that lies
    below another run of no larger x.
    """
    differences = x - x[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.where(differences == 0, math.nan, (y - y[:, None]) / differences)
    if np.isnan(slopes).all(axis=1).any():
        return np.zeros(len(x), np.bool_)
    slope = float(np.median(np.nanmedian(slopes, axis=1)))
    residuals = y - slope * x
    residuals -= np.median(residuals)
    below_another = ((differences <= 0) & (y > y[:, None])).any(axis=1)
    return below_another & (residuals < -FAILED * 1.4826 * np.median(np.abs(residuals)))


def huber_lines(x: FloatArray, y: FloatArray, base: FloatArray, iterations: int = 20) -> tuple[FloatArray, FloatArray]:
    """Return intercepts and slopes (lines,) of Huber regressions of y (lines, runs) on x (runs,), by iterative reweighting.

    `base` (runs,) > 0 are weights that multiply the weights from the residuals.
    """
    intercept, slope = _weighted_lines(x, y, np.broadcast_to(base, y.shape))
    for _ in range(iterations):
        residuals = np.abs(y - intercept[:, None] - slope[:, None] * x)
        # Without this floor, runs that happen to agree at one k would give a scale of zero and leave no line.
        least = 1e-6 * residuals.max(axis=1, keepdims=True)
        limit = np.maximum(HUBER * 1.4826 * np.median(residuals, axis=1, keepdims=True), least)
        weights = np.where(residuals <= limit, 1.0, limit / np.maximum(residuals, np.finfo(float).tiny))
        intercept, slope = _weighted_lines(x, y, base * weights)
    return intercept, slope


def _weighted_lines(x: FloatArray, y: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return intercepts and slopes (lines,) of least-squares fits of y (lines, runs) on x (runs,) with weights (lines, runs)."""
    share = weights / weights.sum(axis=1, keepdims=True)
    mean_x, mean_y = (share * x).sum(axis=1), (share * y).sum(axis=1)
    centred = x - mean_x[:, None]
    slope = (share * centred * y).sum(axis=1) / (share * centred**2).sum(axis=1)
    return mean_y - slope * mean_x, slope


def residual_bootstrap(
    x: FloatArray, y: FloatArray, base: FloatArray, intercept: float, slope: float, random: Stream, bootstraps: int
) -> tuple[FloatArray, float]:
    """Return the zeros (bootstraps,) of lines refitted to resampled residuals, and the standard error of the slope.

    A zero is NaN if the slope is not positive. A residual is drawn with a probability proportional to its run's weight, and is divided by
    sqrt(1 - leverage), because a least-squares line shrinks it. Resampling the runs themselves fails with one run per k.
    """
    share = base / base.sum()
    centred = x - (share * x).sum()
    leverage = share + share * centred**2 / (share * centred**2).sum()
    residuals = (y - intercept - slope * x) / np.sqrt(np.maximum(1 - leverage, 1e-2))
    draws = random.choice(residuals - (share * residuals).sum(), (bootstraps, len(x)), p=share)
    intercepts, slopes = huber_lines(x, intercept + slope * x + draws, base)
    zeros = np.full(bootstraps, math.nan)
    np.divide(-intercepts, slopes, out=zeros, where=slopes > 0)
    return zeros, float(slopes.std(ddof=1))


def interval(zeros: FloatArray, zero: float, runs: float, level: float) -> tuple[float | None, float | None]:
    """Return (low, high) in k for a zero in log k, from its bootstrap replicates (bootstraps,).

    `runs` is the effective number of runs. The deviations are widened from the normal quantile to Student's. An end is None if the share of
    slopes that are not positive exceeds the tail probability.
    """
    tail = (1 - level) / 2
    widening = float(stdtrit(max(runs - 2, 1.0), 1 - tail)) / NormalDist().inv_cdf(1 - tail)
    low, high = (_bound(zeros, zero, q, widening) for q in (tail, 1 - tail))
    return low, high


def _bound(zeros: FloatArray, zero: float, q: float, widening: float) -> float | None:
    if np.isnan(zeros).mean() > min(q, 1 - q):
        return None
    deviation = float(np.nanquantile(zeros, q)) - zero
    return math.exp(min(zero + widening * deviation, 700.0))
