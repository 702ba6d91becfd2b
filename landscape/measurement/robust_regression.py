"""Lines through few and unruly runs: Huber's regression, failed trainings set aside, the zero's residual bootstrap."""

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs]

from landscape.numerics import FloatArray, Stream

Mask = npt.NDArray[np.bool_]

HUBER = 1.345  # residuals beyond this many robust standard deviations count less; 95 % efficient on Gaussian noise
FAILED = 5.0  # robust standard deviations below the line, beyond which a run is a failed training


def failed(x: FloatArray, y: FloatArray) -> Mask:
    """Which of the runs (runs,) must be failed trainings: far below the repeated-median line (Siegel 1982), and below a run of
    no larger x, which no curve that only rises explains.

    Only below: a run may fail to learn, but does not learn by chance. Up to half of the runs may be such.
    """
    apart = x - x[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.where(apart == 0, math.nan, (y - y[:, None]) / apart)
    if np.isnan(slopes).all(axis=1).any():
        return np.zeros(len(x), np.bool_)
    slope = float(np.median(np.nanmedian(slopes, axis=1)))
    residuals = y - slope * x
    residuals -= np.median(residuals)
    outdone = ((apart <= 0) & (y > y[:, None])).any(axis=1)
    return outdone & (residuals < -FAILED * 1.4826 * np.median(np.abs(residuals)))


def huber_lines(x: FloatArray, y: FloatArray, base: FloatArray, iterations: int = 20) -> tuple[FloatArray, FloatArray]:
    """Intercepts and slopes (lines,) of Huber regressions of y (lines, runs) on x (runs,), by reweighting.

    `base` (runs,) > 0 are weights of the runs beside those that their residuals give them.
    """
    intercept, slope = _weighted_lines(x, y, np.broadcast_to(base, y.shape))
    for _ in range(iterations):
        residuals = np.abs(y - intercept[:, None] - slope[:, None] * x)
        # Never zero beside a larger residual, or runs that happen to agree at one k would leave no line.
        least = 1e-6 * residuals.max(axis=1, keepdims=True)
        limit = np.maximum(HUBER * 1.4826 * np.median(residuals, axis=1, keepdims=True), least)
        weights = np.where(residuals <= limit, 1.0, limit / np.maximum(residuals, np.finfo(float).tiny))
        intercept, slope = _weighted_lines(x, y, base * weights)
    return intercept, slope


def _weighted_lines(x: FloatArray, y: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Intercepts and slopes (lines,) of least squares with weights (lines, runs)."""
    share = weights / weights.sum(axis=1, keepdims=True)
    mean_x, mean_y = (share * x).sum(axis=1), (share * y).sum(axis=1)
    apart = x - mean_x[:, None]
    slope = (share * apart * y).sum(axis=1) / (share * apart**2).sum(axis=1)
    return mean_y - slope * mean_x, slope


def residual_bootstrap(
    x: FloatArray, y: FloatArray, base: FloatArray, intercept: float, slope: float, random: Stream, bootstraps: int
) -> tuple[FloatArray, float]:
    """Zeros (bootstraps,) of lines refitted to redrawn residuals, NaN where the slope is not positive; slope's stderr.

    A residual is redrawn as often as its run weighs, and divided by sqrt(1 - leverage), as a least-squares line pulls it in.
    Redrawing the runs of each k fails at one run a k.
    """
    share = base / base.sum()
    apart = x - (share * x).sum()
    leverage = share + share * apart**2 / (share * apart**2).sum()
    residuals = (y - intercept - slope * x) / np.sqrt(np.maximum(1 - leverage, 1e-2))
    draws = random.choice(residuals - (share * residuals).sum(), (bootstraps, len(x)), p=share)
    intercepts, slopes = huber_lines(x, intercept + slope * x + draws, base)
    zeros = np.full(bootstraps, math.nan)
    np.divide(-intercepts, slopes, out=zeros, where=slopes > 0)
    return zeros, float(slopes.std(ddof=1))


def interval(zeros: FloatArray, zero: float, runs: float, level: float) -> tuple[float | None, float | None]:
    """(low, high) in k of a zero in log k, from its bootstrap (bootstraps,) over so many runs (those of
    little weight count in part).

    Residuals of few runs: Student's quantile in place of the normal's, about the centre, as for a mean. An end is None if more
    than a tail of the slopes was not positive.
    """
    tail = (1 - level) / 2
    stretch = float(stdtrit(max(runs - 2, 1.0), 1 - tail)) / NormalDist().inv_cdf(1 - tail)
    low, high = (_bound(zeros, zero, q, stretch) for q in (tail, 1 - tail))
    return low, high


def _bound(zeros: FloatArray, zero: float, q: float, stretch: float) -> float | None:
    if np.isnan(zeros).mean() > min(q, 1 - q):
        return None
    deviation = float(np.nanquantile(zeros, q)) - zero
    return math.exp(min(zero + stretch * deviation, 700.0))
