"""Standard errors by the jackknife, from what a number becomes where a part of the data is left out.

Leaving out one of n at a time, each once: (n - 1) times the mean squared deviation (Tukey 1958). Leaving out d of n, in subsets drawn at
random: (n - d) / d times that of the draws (Shao and Wu 1989, doi 10.1214/aos/1176347263).
"""

import math

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs]


def leave_one_out(replicates: npt.ArrayLike) -> float:
    """The standard error from the n numbers that leaving out each one gives, (n,); NaN for fewer than two."""
    n = len(np.asarray(replicates))
    return leave_out(replicates, n, 1) if n > 1 else math.nan


def leave_out(replicates: npt.ArrayLike, n: int, left_out: int) -> float:
    """The standard error from the numbers that some subsets without `left_out` of the `n` give, (draws,)."""
    return math.sqrt((n - left_out) / left_out * float(np.var(np.asarray(replicates, np.float64))))


def freedom(n: int, draws: int | None = None) -> float:
    """Degrees of freedom of a jackknife variance: n - 1, as of a sample variance of n; with `draws`, fewer.

    Subsets that were drawn (not all of them used) estimate the variance over subsets like draws - 1 degrees of freedom do. Its relative
    variance 2 / (draws - 1) adds to 2 / (n - 1) of the jackknife itself, so 1 / freedom = 1 / (n - 1) + 1 / (draws - 1). They are not
    the number of draws, which share most of their data: no number of draws says more than the n do.
    """
    return n - 1.0 if draws is None else 1 / (1 / (n - 1) + 1 / (draws - 1))


def student(freedom: float, level: float = 0.95) -> float:
    """How many standard errors Student's interval reaches each way: the quantile of t with these degrees of freedom."""
    return float(stdtrit(freedom, (1 + level) / 2))
