"""The measured threshold: where the signed gap to a target, regressed on log k, crosses zero.

A grid of k and the first success is what peers report; it errs by .4 in log k and is biased by about +30 % (theory.md).
A robust line through the continuous gaps near the crossing uses every run there and needs 8-12 of them for 10 %. A metric that
is saturated has no gaps to speak of: then which runs reach the target decides alone (landscape.measurement.probit).
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from landscape.measurement.probit import WIDE, passage
from landscape.measurement.robust_regression import failed, huber_lines, interval, residual_bootstrap
from landscape.numerics import FloatArray, Stream, generator

Positions = npt.NDArray[np.intp]

REACH, LEAST = 1.3, 7  # the line is through runs within REACH in log k of the crossing, and beyond the LEAST nearest ones
WIDER = 1.3  # how far beyond those, and by how much the reach grows where there is no line
CENTRINGS = 5  # times at most that the runs to use are chosen anew about the line's zero
SURE, ROUND = 2.5, 3  # slope over its standard error that is told from zero even if it turns out a little smaller; fewest runs more
SATURATED = 0.5  # of the runs near the crossing more than this part have one and the same gap


@dataclass(frozen=True)
class Crossing:
    """A measured threshold, with None for what cannot be said where the runs do not bracket it."""

    k_star: float | None
    low: float | None  # None also where the slope is too uncertain for a finite interval; k* above the window: at most its upper end
    high: float | None  # k* below the window: at least its lower end
    slope: float | None  # d gap / d log k at the crossing; of a probit, d probit / d log k
    slope_stderr: float | None
    censored: Literal["above", "below"] | None  # k* lies above / below the window
    runs: int  # runs used
    window: tuple[float, float]  # smallest and largest k used
    level: float  # of the interval
    method: Literal["line", "probit"]
    used: tuple[int, ...] = ()  # positions of the runs used
    lapses: tuple[int, ...] = ()  # positions of runs near the crossing that were set aside as failed trainings


@dataclass(frozen=True)
class Closing:
    """What would close a threshold's open interval: about `runs` more runs, at k from `low` to `high`."""

    runs: int
    low: float
    high: float


def closing(found: Crossing, ks: npt.ArrayLike) -> Closing | None:
    """What would close the interval of `found`, the crossing of runs at `ks` (runs,); None where it is closed or censored.

    A line's end is open where its slope is not told from zero. The slope's variance falls with sum (log k - mean)^2, so runs are added at
    k* / 2 and 2 k* until slope / stderr would be SURE. A probit's end is open where it lies beyond the runs: a round goes there, which
    closes it in at least 70 % of cases (measured from 10 runs on, slopes of 2 and 4 in log k).
    """
    if found.censored or found.k_star is None or (found.low is not None and found.high is not None):
        return None
    if found.method == "probit" or found.slope is None or found.slope_stderr is None:
        low, high = found.window
        return Closing(ROUND, low / 2 if found.low is None else found.k_star, 2 * high if found.high is None else found.k_star)
    x = np.log(np.asarray(ks, np.float64)[list(found.used)])
    lacking = max((SURE * found.slope_stderr / found.slope) ** 2 - 1, 0.0) * float(((x - x.mean()) ** 2).sum())
    return Closing(max(ROUND, math.ceil(lacking / math.log(2) ** 2)), found.k_star / 2, 2 * found.k_star)


def gap_of_loss(loss: float, target: float, clip: float = 1e-6) -> float:
    """log target - log loss, positive where the target is reached; a loss below clip * target, 0 included, counts as that, so that the gap
    stays finite. ValueError unless loss >= 0 and target > 0."""
    if not (loss >= 0 and target > 0):
        raise ValueError(f"a loss must be at least 0 and a target positive, got {loss} and {target}")
    return math.log(target) - math.log(max(loss, clip * target))


def gap_of_accuracy(accuracy: float, target: float, clip: float = 1e-3) -> float:
    """logit accuracy - logit target, both in 0..1 (or ValueError) and clipped to clip..1 - clip to stay finite."""
    if not (0 <= accuracy <= 1 and 0 <= target <= 1):
        raise ValueError(f"accuracy and target must be in 0..1, got {accuracy} and {target}")
    reached, wanted = (min(max(share, clip), 1 - clip) for share in (accuracy, target))
    return math.log(reached / (1 - reached)) - math.log(wanted / (1 - wanted))


def crossing(ks: npt.ArrayLike, gaps: npt.ArrayLike, seed: int = 0, bootstraps: int = 2000, level: float = 0.95) -> Crossing:
    """k* where a robust line of gap on log k crosses zero, with a bootstrap interval at `level`.

    ks (runs,) > 0 and gaps (runs,), positive where the target is reached, hold one entry a run, in any order. Censored "above"
    if k* lies above the largest k, "below" if it lies below the smallest; the interval is then open on that side. Raises
    ValueError for shapes that differ, k <= 0, gaps not finite, fewer than 3 runs to fit, or runs that say nothing. Where most gaps
    near the crossing are equal (a saturated metric), or no line rises through zero there, `method` is "probit".
    """
    k, gap = np.asarray(ks, np.float64), np.asarray(gaps, np.float64)
    if k.ndim != 1 or k.shape != gap.shape or not (k > 0).all() or not np.isfinite(gap).all() or len(k) == 0:
        raise ValueError(f"ks and gaps must be (runs,), k > 0, gaps finite; got shapes {k.shape} and {gap.shape}")
    start = passage(k, gap >= 0).quantile(0.5)
    x = np.log(k)
    if not x.min() <= start <= x.max() or (gap >= 0).all() or (gap < 0).all():
        return _censored("above" if start > x.mean() else "below", k, level)
    if len(k) < 3:
        raise ValueError(f"a line with an interval needs at least 3 runs around the crossing, got {len(k)}")
    if _saturated(gap[np.argsort(np.abs(x - start), kind="stable")[:LEAST]]):
        return _by_signs(k, gap, level)
    found = _by_line(k, gap, start, generator(seed, "crossing"), bootstraps, level)
    return found or _by_signs(k, gap, level)


def _saturated(gap: FloatArray) -> bool:
    """Whether most gaps are one and the same number, as those of a metric at an end of its range."""
    return float(np.unique(gap, return_counts=True)[1].max()) > SATURATED * len(gap)


def _censored(side: Literal["above", "below"], k: FloatArray, level: float) -> Crossing:
    window = float(k.min()), float(k.max())
    low, high = (window[1], None) if side == "above" else (None, window[0])
    return Crossing(None, low, high, None, None, side, len(k), window, level, "line", tuple(range(len(k))))


@dataclass(frozen=True)
class _Line:
    """A line through the runs near a crossing, and its zero there."""

    used: Positions
    weights: FloatArray  # of the used runs: 1 at the crossing, falling to 0 at the reach
    lapses: Positions
    intercept: float
    slope: float
    zero: float


def _by_line(k: FloatArray, gap: FloatArray, start: float, random: Stream, bootstraps: int, level: float) -> Crossing | None:
    """The zero of the line through the runs near it, which are chosen anew about each line's zero; None where no line has one."""
    x, line, centre = np.log(k), None, start
    for _ in range(CENTRINGS):
        line = _line_about(centre, x, gap)
        if line is None or abs(line.zero - centre) < 1e-6:
            break
        centre = line.zero
    if line is None:
        return None
    if len(line.used) < 3:
        raise ValueError(f"a line with an interval needs at least 3 runs around the crossing, got {len(line.used)}")
    there, y = x[line.used], gap[line.used]
    zeros, stderr = residual_bootstrap(there, y, line.weights, line.intercept, line.slope, random, bootstraps)
    low, high = interval(zeros, line.zero, float(line.weights.sum() ** 2 / (line.weights**2).sum()), level)
    return Crossing(
        math.exp(line.zero), low, high, line.slope, stderr, None, len(there), (float(k[line.used].min()), float(k[line.used].max())),
        level, "line", tuple(map(int, line.used)), tuple(map(int, line.lapses)),
    )  # fmt: skip


def _line_about(centre: float, x: FloatArray, gap: FloatArray) -> _Line | None:
    """The local line about `centre`; where it does not rise through zero among its runs, one that reaches further. None if none does."""
    apart = np.abs(x - centre)
    reach = max(REACH, WIDER * float(np.sort(apart)[min(LEAST, len(x)) - 1]))
    while True:
        chosen = np.flatnonzero(apart < reach)
        lapsed = failed(x[chosen], gap[chosen])
        used, lapses = chosen[~lapsed], chosen[lapsed]
        if len(np.unique(x[used])) > 1:
            weights = (1 - (apart[used] / reach) ** 3) ** 3
            intercepts, slopes = huber_lines(x[used], gap[used][None], weights)
            intercept, slope = float(intercepts[0]), float(slopes[0])
            zero = -intercept / slope if slope > 0 else math.nan
            if x[used].min() <= zero <= x[used].max():
                return _Line(used, weights, lapses, intercept, slope, zero)
        if len(chosen) == len(x):
            return None
        reach *= WIDER


def _by_signs(k: FloatArray, gap: FloatArray, level: float) -> Crossing:
    """The posterior's median and central interval, whose ends are open where they lie beyond the runs; censored where the median does."""
    signs, window = passage(k, gap >= 0, WIDE), (float(k.min()), float(k.max()))
    low, middle, high = (math.exp(signs.quantile(q)) for q in ((1 - level) / 2, 0.5, (1 + level) / 2))
    ends = low if low >= window[0] else None, high if high <= window[1] else None
    censored = "below" if middle < window[0] else "above" if middle > window[1] else None
    if censored and ends == (None, None):
        raise ValueError(f"which of the {len(k)} runs reach the target says nothing of where it is crossed")
    return Crossing(
        None if censored else middle, *ends, None if censored else signs.slope, None, censored,
        len(k), window, level, "probit", tuple(range(len(k))),
    )  # fmt: skip
