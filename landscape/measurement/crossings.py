"""The measured threshold k*: where the signed gap to a target, regressed on log k, crosses zero.

The usual report, the first success on a grid of k, errs by .4 in log k and is biased by about +30 %. A robust line through the continuous
gaps near the crossing uses every run there: 8 to 12 runs give 10 %. The gaps of a saturated metric are not informative. The threshold then
follows from which runs reach the target (`landscape.measurement.probit`).

The method differs from ordinary regression with the line's zero as the estimate in:

1. Only runs near the crossing count, with tricube weights as in LOESS (Cleveland 1979). The window is centred again at each line's zero.
2. Runs far below the repeated-median line are set aside as failed trainings. Runs far above it are always kept.
3. The line is Huber's, and the interval is a residual bootstrap widened to Student's quantiles.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from landscape.measurement.probit import WIDE, probit_posterior
from landscape.measurement.robust_regression import failed, huber_lines, interval, residual_bootstrap
from landscape.numerics import FloatArray, Stream

Positions = npt.NDArray[np.intp]

BANDWIDTH = 1.3  # smallest half-width of the window in log k
NEAREST = 7  # smallest number of runs that the window covers, if they are near
FAR = 3.0  # a half-width beyond this (a factor of 20 in k) covers only FEWEST runs, because gaps are not linear over so wide a range
FEWEST = 5
WIDENING = 1.3  # factor by which the window exceeds the nearest runs, and by which it grows if its line has no zero
MAX_CENTRINGS = 5  # number of times that the window is centred again
SIGNIFICANT_SLOPE = 2.5  # slope over its standard error that closes an interval, with a margin
MIN_NEW_RUNS = 3  # closes a probit's interval in at least 70 % of cases (simulated with 10 and more runs, slopes of 2 and 4 in log k)
SATURATED = 0.5  # share of equal gaps among the nearest runs above which the metric is saturated


@dataclass(frozen=True)
class Crossing:
    """A measured threshold. Fields are None if the runs do not determine them."""

    k_star: float | None
    low: float | None  # None also if the slope is too uncertain for a finite interval; the window's upper end if censored "above"
    high: float | None  # None as for `low`; the window's lower end if censored "below"
    slope: float | None  # d gap / d log k at the crossing; for a probit, d probit / d log k
    slope_stderr: float | None
    censored: Literal["above", "below"] | None  # on which side of the window k* lies
    runs: int  # runs used
    window: tuple[float, float]  # smallest and largest k used
    level: float  # of the interval
    method: Literal["line", "probit"]
    used: tuple[int, ...] = ()  # positions of the runs used
    lapses: tuple[int, ...] = ()  # positions of runs near the crossing that were set aside as failed trainings


@dataclass(frozen=True)
class RunsNeeded:
    """An estimate: about `runs` more runs, at k from `low` to `high`, close the open interval of a threshold."""

    runs: int
    low: float
    high: float


def runs_needed(crossing: Crossing, ks: npt.ArrayLike) -> RunsNeeded | None:
    """Return the runs that would close the interval of `crossing`, fitted to runs at ks (runs,); None if it is closed or censored.

    The interval of a line is open if its slope is not significant. The variance of the slope falls with sum (log k - mean)^2, so runs are
    added at k* / 2 and 2 k* until slope / stderr would be 2.5. The interval of a probit is open on a side if it extends beyond the runs.
    Three runs on that side usually close it.
    """
    if crossing.censored or crossing.k_star is None or (crossing.low is not None and crossing.high is not None):
        return None
    if crossing.method == "probit" or crossing.slope is None or crossing.slope_stderr is None:
        low, high = crossing.window
        return RunsNeeded(
            MIN_NEW_RUNS, low / 2 if crossing.low is None else crossing.k_star, 2 * high if crossing.high is None else crossing.k_star
        )
    x = np.log(np.asarray(ks, np.float64)[list(crossing.used)])
    missing = max((SIGNIFICANT_SLOPE * crossing.slope_stderr / crossing.slope) ** 2 - 1, 0.0) * float(((x - x.mean()) ** 2).sum())
    return RunsNeeded(max(MIN_NEW_RUNS, math.ceil(missing / math.log(2) ** 2)), crossing.k_star / 2, 2 * crossing.k_star)


def loss_gap(loss: float, target: float, clip: float = 1e-6) -> float:
    """Return log target - log loss, which is positive if the target is reached.

    A loss below clip * target (also 0) counts as clip * target, so the gap is finite. Raises ValueError unless loss >= 0 and target > 0.
    """
    if not (loss >= 0 and target > 0):
        raise ValueError(f"a loss must be at least 0 and a target positive, got {loss} and {target}")
    return math.log(target) - math.log(max(loss, clip * target))


def accuracy_gap(accuracy: float, target: float, clip: float = 1e-3, lowest: float = 0.0) -> float:
    """Return logit accuracy - logit target, which is positive if the target is reached.

    `accuracy` may be any score in lowest..1, which is mapped to 0..1 first. For a correlation r (lowest = -1), logit((1 + r) / 2) is twice
    Fisher's transform of r. Both numbers are clipped to clip..1 - clip, so the gap is finite. Raises ValueError unless both are in
    lowest..1.
    """
    if not (lowest <= accuracy <= 1 and lowest <= target <= 1):
        raise ValueError(f"accuracy and target must be in {lowest:g}..1, got {accuracy} and {target}")
    shares = ((score - lowest) / (1 - lowest) for score in (accuracy, target))
    clipped, clipped_target = (min(max(share, clip), 1 - clip) for share in shares)
    return math.log(clipped / (1 - clipped)) - math.log(clipped_target / (1 - clipped_target))


def fit_crossing(ks: npt.ArrayLike, gaps: npt.ArrayLike, seed: int = 0, bootstraps: int = 2000, level: float = 0.95) -> Crossing:
    """Return k*, where a robust line of gap on log k crosses zero, with a bootstrap interval at `level`.

    ks (runs,) > 0 and gaps (runs,), positive if the target is reached, have one entry per run, in any order. The result is censored "above"
    if k* lies above the largest k, and "below" if it lies below the smallest k. The interval is then open on that side. `method` is
    "probit" if most gaps near the crossing are equal (a saturated metric), or if no line rises through zero there. `seed` determines the
    bootstrap draws.

    Raises ValueError for shapes that differ, k <= 0, gaps that are not finite, fewer than 3 runs near the crossing, or runs that do not
    determine a side.
    """
    k, gap = np.asarray(ks, np.float64), np.asarray(gaps, np.float64)
    if k.ndim != 1 or k.shape != gap.shape or not (k > 0).all() or not np.isfinite(gap).all() or len(k) == 0:
        raise ValueError(f"ks and gaps must be (runs,) with k > 0 and finite gaps, at least one run; got shapes {k.shape} and {gap.shape}")
    start = probit_posterior(k, gap >= 0).quantile(0.5)
    x = np.log(k)
    if not x.min() <= start <= x.max() or (gap >= 0).all() or (gap < 0).all():
        return _censored("above" if start > x.mean() else "below", k, level)
    if len(k) < 3:
        raise ValueError(f"a line with an interval needs at least 3 runs around the crossing, got {len(k)}")
    if _saturated(gap[np.argsort(np.abs(x - start), kind="stable")[:NEAREST]]):
        return _by_signs(k, gap, level)
    return _by_line(k, gap, start, Stream(seed, "crossing"), bootstraps, level) or _by_signs(k, gap, level)


def _saturated(gap: FloatArray) -> bool:
    """Return whether most gaps are equal, as for a metric at an end of its range."""
    return float(np.unique(gap, return_counts=True)[1].max()) > SATURATED * len(gap)


def _censored(side: Literal["above", "below"], k: FloatArray, level: float) -> Crossing:
    window = float(k.min()), float(k.max())
    low, high = (window[1], None) if side == "above" else (None, window[0])
    return Crossing(None, low, high, None, None, side, len(k), window, level, "line", tuple(range(len(k))))


@dataclass(frozen=True)
class _Line:
    """A line through the runs near a crossing, and its zero."""

    used: Positions
    weights: FloatArray  # of the used runs: 1 at the crossing, falling to 0 at the window's ends
    lapses: Positions
    intercept: float
    slope: float
    zero: float


def _by_line(k: FloatArray, gap: FloatArray, start: float, random: Stream, bootstraps: int, level: float) -> Crossing | None:
    """Return the crossing of the line through the runs near its zero; None if no line has a zero among its runs."""
    x, line, centre = np.log(k), None, start
    for _ in range(MAX_CENTRINGS):
        line = _line_about(centre, x, gap)
        if line is None or abs(line.zero - centre) < 1e-6:
            break
        centre = line.zero
    if line is None:
        return None
    if len(line.used) < 3:
        raise ValueError(f"a line with an interval needs at least 3 runs around the crossing, got {len(line.used)}")
    x_used, y_used = x[line.used], gap[line.used]
    zeros, stderr = residual_bootstrap(x_used, y_used, line.weights, line.intercept, line.slope, random, bootstraps)
    low, high = interval(zeros, line.zero, float(line.weights.sum() ** 2 / (line.weights**2).sum()), level)
    return Crossing(
        math.exp(line.zero), low, high, line.slope, stderr, None, len(x_used), (float(k[line.used].min()), float(k[line.used].max())),
        level, "line", tuple(map(int, line.used)), tuple(map(int, line.lapses)),
    )  # fmt: skip


def _line_about(centre: float, x: FloatArray, gap: FloatArray) -> _Line | None:
    """Return the local line about `centre`. The window is widened until the line rises through zero among its runs; None if no window
    suffices.
    """
    distance = np.abs(x - centre)
    half_width = _half_width(distance)
    while True:
        chosen = np.flatnonzero(distance < half_width)
        is_lapse = failed(x[chosen], gap[chosen])
        used, lapses = chosen[~is_lapse], chosen[is_lapse]
        if len(np.unique(x[used])) > 1:
            weights = (1 - (distance[used] / half_width) ** 3) ** 3
            intercepts, slopes = huber_lines(x[used], gap[used][None], weights)
            intercept, slope = float(intercepts[0]), float(slopes[0])
            zero = -intercept / slope if slope > 0 else math.nan
            if x[used].min() <= zero <= x[used].max():
                return _Line(used, weights, lapses, intercept, slope, zero)
        if len(chosen) == len(x):
            return None
        half_width *= WIDENING


def _half_width(distance: FloatArray) -> float:
    """Return the half-width in log k of a window from whose centre the runs have these distances."""
    of_nearest, of_fewest = (WIDENING * float(np.sort(distance)[min(count, len(distance)) - 1]) for count in (NEAREST, FEWEST))
    return max(BANDWIDTH, min(of_nearest, max(FAR, of_fewest)))


def _by_signs(k: FloatArray, gap: FloatArray, level: float) -> Crossing:
    """Return the probit posterior's median and central interval.

    An end of the interval that lies beyond the runs is open. The crossing is censored if the median lies beyond the runs.
    """
    posterior, window = probit_posterior(k, gap >= 0, WIDE), (float(k.min()), float(k.max()))
    low, median, high = (math.exp(posterior.quantile(q)) for q in ((1 - level) / 2, 0.5, (1 + level) / 2))
    ends = low if low >= window[0] else None, high if high <= window[1] else None
    censored = "below" if median < window[0] else "above" if median > window[1] else None
    if censored and ends == (None, None):
        raise ValueError(f"the {len(k)} runs do not determine where the target is reached: hits and misses do not depend on k")
    return Crossing(
        None if censored else median, *ends, None if censored else posterior.slope, None, censored,
        len(k), window, level, "probit", tuple(range(len(k))),
    )  # fmt: skip
