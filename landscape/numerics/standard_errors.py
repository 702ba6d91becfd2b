"""Standard errors by the jackknife and of a ratio, and Student's quantiles.

The jackknife recomputes a statistic with parts of the data left out:

- each of n data left out in turn: the variance is (n - 1) times the mean squared deviation (Tukey 1958);
- random subsets of d data left out: the variance is (n - d) / d times the mean squared deviation of the draws (Shao & Wu 1989, doi
  10.1214/aos/1176347263).
"""

import math

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs]

from landscape.numerics.arrays import FloatArray


def leave_one_out_stderr(replicates: npt.ArrayLike) -> float:
    """Return the standard error from the n values (n,) of a statistic with each datum left out in turn; NaN for n < 2."""
    n = len(np.asarray(replicates))
    return leave_out_stderr(replicates, n, 1) if n > 1 else math.nan


def leave_out_stderr(replicates: npt.ArrayLike, n: int, left_out: int) -> float:
    """Return the standard error from the values (draws,) of a statistic with random subsets of `left_out` out of `n` data left out."""
    return math.sqrt((n - left_out) / left_out * float(np.var(np.asarray(replicates, np.float64))))


def ratio_stderr(values: FloatArray, weights: FloatArray, ratio: float) -> float:
    """Return the standard error of `ratio` = sum(values) / sum(weights) over independent examples (n,); NaN for n < 2.

    The first-order (delta) formula is sqrt(n / (n - 1) sum (v_i - ratio w_i)^2) / sum w_i.
    """
    n, residuals = len(weights), values - ratio * weights
    return math.sqrt(n / (n - 1) * float((residuals**2).sum())) / float(weights.sum()) if n > 1 else math.nan


def degrees_of_freedom(n: int, draws: int | None = None) -> float:
    """Return the degrees of freedom of a jackknife variance over n data: n - 1, or fewer if only `draws` random subsets were used.

    The variance over random subsets has a relative variance of 2 / (draws - 1), which adds to the jackknife's own 2 / (n - 1):

        1 / degrees = 1 / (n - 1) + 1 / (draws - 1)

    The draws share most of their data, so the result never exceeds n - 1.
    """
    return n - 1.0 if draws is None else 1 / (1 / (n - 1) + 1 / (draws - 1))


def t_quantile(degrees: float, level: float = 0.95) -> float:
    """Return the half-width of Student's two-sided interval at `level` (0..1), in standard errors."""
    return float(stdtrit(degrees, (1 + level) / 2))
