"""The posterior of log k* from hits and misses alone, on a grid.

The method does not use the size of a gap, so it holds for a saturated metric. A run at k reaches the target with probability

    g + (1 - g - l) Phi((log k - log k*) / s)

- s: standard deviation of log k* over seeds;
- l: share of runs far above k* that miss the target (lapses: failed trainings);
- g: share of runs far below k* that reach the target by luck (guesses).

All three are unknown; the prior states their possible values.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr  # pyright: ignore[reportMissingTypeStubs]

from landscape.numerics import FloatArray

MARGIN, POINTS = 1.0, 1201  # the grid's margin beyond the runs' log k, and its number of points


@dataclass(frozen=True)
class Prior:
    """A uniform prior over the spreads s and over the pairs (g, l) of guesses and lapses. The prior of log k* is flat."""

    spreads: FloatArray
    errors: tuple[tuple[float, float], ...]


# SHARP chooses the next k and serves runs whose gaps are known. No run reaches a target loss by luck, so hits at small k alone mean failed
# trainings at large k.
SHARP = Prior(np.geomspace(0.05, 0.8, 7), ((0.0, 0.05),))
# WIDE gives intervals, which must hold if k* varies widely over seeds and if a few examples are answered by luck. In simulations its 95 %
# interval covers k* in 94 to 98 % of cases, and the interval of SHARP in 78 to 93 % (k uniform over 4.2 in log k, a logistic curve of slope
# 2 or 4, with and without 5 % guesses and lapses, 10 or 24 runs, 600 trials each).
WIDE = Prior(np.geomspace(0.1, 3.0, 8), tuple((guesses, lapses) for guesses in (0.0, 0.05, 0.1) for lapses in (0.0, 0.05, 0.1)))


@dataclass(frozen=True)
class ThresholdPosterior:
    """The posterior of log k*."""

    log_k: FloatArray  # (points,), ascending
    mass: FloatArray  # (points,), sums to 1
    slope: float  # posterior mean of 1 / s, the probit's slope in log k

    def quantile(self, q: float) -> float:
        """Return the log k below which a share q (0..1) of the posterior lies."""
        return float(np.interp(q, np.cumsum(self.mass) - self.mass / 2, self.log_k))


def probit_posterior(ks: npt.ArrayLike, reached: npt.ArrayLike, prior: Prior = SHARP) -> ThresholdPosterior:
    """Return the posterior of log k* from ks (runs,) > 0 and `reached` (runs,), booleans."""
    x, hit = np.log(np.asarray(ks, np.float64)), np.asarray(reached, np.bool_)
    grid: FloatArray = np.linspace(float(x.min()) - MARGIN, float(x.max()) + MARGIN, POINTS)
    cdf = np.asarray(ndtr((x - grid[:, None]) / prior.spreads[:, None, None]), np.float64)  # (spreads, points, runs)
    logs = np.stack([_log_likelihood(cdf[..., hit], cdf[..., ~hit], *errors) for errors in prior.errors])
    joint = np.exp(logs - logs.max())
    joint /= joint.sum()
    return ThresholdPosterior(grid, joint.sum(axis=(0, 1)), float((joint.sum(axis=(0, 2)) / prior.spreads).sum()))


def _log_likelihood(hits: FloatArray, misses: FloatArray, guesses: float, lapses: float) -> FloatArray:
    """Return the log likelihood (spreads, points) from Phi at the hits and at the misses, (spreads, points, runs) each."""
    range_ = 1 - guesses - lapses
    with np.errstate(divide="ignore"):  # log 0 = -inf: an impossible outcome has no weight
        return np.log(guesses + range_ * hits).sum(axis=2) + np.log1p(-guesses - range_ * misses).sum(axis=2)
