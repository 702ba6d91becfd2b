"""Where runs pass from missing a target to reaching it, from which of them did alone: a posterior of log k* on a grid.

It needs no size of a gap, so it holds where a metric is saturated, and a failed training (a lapse) far above k* does not
mislead it: a run misses the target for no good reason once in a while, but does not reach it for none.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr  # pyright: ignore[reportMissingTypeStubs]

FloatArray = npt.NDArray[np.float64]

LAPSES = 0.05  # of runs beyond k* miss the target all the same
SPREADS = np.geomspace(0.05, 0.8, 7)  # what the seeds' standard deviation of log k* may be, each as likely
BEYOND, POINTS = 1.0, 1201  # the grid reaches so far beyond the runs' log k; its points


@dataclass(frozen=True)
class Passage:
    """The posterior of log k*, flat before the runs."""

    log_k: FloatArray  # (points,), ascending
    mass: FloatArray  # (points,), sums to 1
    slope: float  # of the probit in log k, posterior mean

    def quantile(self, q: float) -> float:
        """The log k below which a part q (0..1) of the posterior lies."""
        return float(np.interp(q, np.cumsum(self.mass) - self.mass / 2, self.log_k))


def passage(ks: npt.ArrayLike, reached: npt.ArrayLike) -> Passage:
    """P(reached at k) = (1 - LAPSES) Phi((log k - log k*) / s), every s of SPREADS; ks (runs,) > 0, reached (runs,) booleans."""
    x, hit = np.log(np.asarray(ks, np.float64)), np.asarray(reached, np.bool_)
    grid: FloatArray = np.linspace(float(x.min()) - BEYOND, float(x.max()) + BEYOND, POINTS)
    z: FloatArray = (x - grid[:, None]) / SPREADS[:, None, None]  # (spreads, points, runs)
    reaching = math.log1p(-LAPSES) + np.asarray(log_ndtr(z), np.float64)
    logs = np.where(hit, reaching, np.log(-np.expm1(reaching))).sum(axis=2)
    joint = np.exp(logs - logs.max())
    joint /= joint.sum()
    return Passage(grid, joint.sum(axis=0), float((joint.sum(axis=1) / SPREADS).sum()))
