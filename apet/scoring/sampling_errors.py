"""Standard errors of means over examples."""

from __future__ import annotations

from typing import Any

import numpy as np

Z = 1.96  # normal quantile of a 95 % interval, for which Agresti and Coull chose the number of added scores


def stderr_of_mean(scores: Any) -> Any:
    """Return the standard error (...,) of the mean of scores (..., n) in 0..1, after adding Z^2 / 2 zeros and Z^2 / 2 ones.

    The result is never 0, because 6 right answers of 6 are weaker evidence than 600 of 600. For right and wrong answers it equals
    sqrt(p~ (1 - p~) / n~), the standard error of Agresti and Coull (1998, doi 10.1080/00031305.1998.10480550). For a few similar scores
    it is larger than the scores' own spread would give.
    """
    scores = np.asarray(scores, np.float64)
    total = scores.shape[-1] + Z**2
    mean, square = (((scores**power).sum(-1) + Z**2 / 2) / total for power in (1, 2))
    return np.sqrt((square - mean**2) / total)


def stderr_of_ratio(sums: np.ndarray, weights: np.ndarray) -> float:
    """Return the standard error of the ratio sum(sums) / sum(weights) by linearisation (NaN for a single example).

    `sums` and `weights` have shape (n,).
    """
    n = len(sums)
    if n < 2:
        return float("nan")
    spread = (sums - sums.sum() / weights.sum() * weights).std(ddof=1)
    return float(spread / (weights.mean() * n**0.5))
