"""Where runs pass from missing a target to reaching it, from which of them did alone: a posterior of log k* on a grid.

It needs no size of a gap, so it holds where a metric is saturated. A run at k reaches the target with probability
g + (1 - g - l) Phi((log k - log k*) / s): s is the seeds' standard deviation of log k*, l the part of runs far beyond k* that miss the
target all the same (failed trainings, lapses), g the part far below that reach it by luck (guesses). None of the three is known, and the
prior says what they may be.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr  # pyright: ignore[reportMissingTypeStubs]

from landscape.numerics import FloatArray

BEYOND, POINTS = 1.0, 1201  # the grid reaches so far beyond the runs' log k; its points


@dataclass(frozen=True)
class Prior:
    """Every spread s, and every pair (g, l) of guesses and lapses, is as likely as the others; log k* is flat."""

    spreads: FloatArray
    errors: tuple[tuple[float, float], ...]


# Where to look, and for runs whose gaps are known: no run reaches a target on the loss by luck, so that successes at small k alone are
# failed trainings at the large ones.
SHARP = Prior(np.geomspace(0.05, 0.8, 7), ((0.0, 0.05),))
# For an interval: it has to hold where seeds spread much, and where a few examples are answered by luck. Where k is uniform in log k over
# 4.2 and runs reach the target by a logistic curve of slope 2 or 4 in log k, with 5 % guesses and lapses or without, its 95 % interval
# covers k* in 95 to 98 % of cases with 10 runs and in 94 % with 24 (600 trials each); that of SHARP in 78 to 93 %, and in 84 to 93 %.
WIDE = Prior(np.geomspace(0.1, 3.0, 8), tuple((guesses, lapses) for guesses in (0.0, 0.05, 0.1) for lapses in (0.0, 0.05, 0.1)))


@dataclass(frozen=True)
class Passage:
    """The posterior of log k*."""

    log_k: FloatArray  # (points,), ascending
    mass: FloatArray  # (points,), sums to 1
    slope: float  # of the probit in log k, 1 / s: posterior mean

    def quantile(self, q: float) -> float:
        """The log k below which a part q (0..1) of the posterior lies."""
        return float(np.interp(q, np.cumsum(self.mass) - self.mass / 2, self.log_k))


def passage(ks: npt.ArrayLike, reached: npt.ArrayLike, prior: Prior = SHARP) -> Passage:
    """The posterior from ks (runs,) > 0 and reached (runs,), booleans."""
    x, hit = np.log(np.asarray(ks, np.float64)), np.asarray(reached, np.bool_)
    grid: FloatArray = np.linspace(float(x.min()) - BEYOND, float(x.max()) + BEYOND, POINTS)
    inside = np.asarray(ndtr((x - grid[:, None]) / prior.spreads[:, None, None]), np.float64)  # (spreads, points, runs)
    logs = np.stack([_log_likelihood(inside[..., hit], inside[..., ~hit], *errors) for errors in prior.errors])
    joint = np.exp(logs - logs.max())
    joint /= joint.sum()
    return Passage(grid, joint.sum(axis=(0, 1)), float((joint.sum(axis=(0, 2)) / prior.spreads).sum()))


def _log_likelihood(hits: FloatArray, misses: FloatArray, guesses: float, lapses: float) -> FloatArray:
    """(spreads, points) from Phi of the runs that reached the target and of those that missed it, (spreads, points, runs) each."""
    steep = 1 - guesses - lapses
    with np.errstate(divide="ignore"):  # log 0 = -inf: what is impossible has no weight
        return np.log(guesses + steep * hits).sum(axis=2) + np.log1p(-guesses - steep * misses).sum(axis=2)
