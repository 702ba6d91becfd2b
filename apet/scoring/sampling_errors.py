"""Standard errors over examples: of means by formulas, of other metrics by a bootstrap with a fixed seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from apet.random_numbers import generator

RESAMPLES, SEED = 1000, 20261129  # of the bootstrap
MOST_NUMBERS = 2**22  # in the resamples that are computed at once
Z = 1.96  # normal quantile of a 95 % interval, for which Agresti and Coull chose the number of added scores


@dataclass(frozen=True)
class Score:
    """A number over examples, its standard error, and a remark on a special case.

    A loss is in nats (for a regression, in units of the variance of the standardised targets). The standard error of a loss or a
    correlation is NaN for a single example. The standard error of any other metric is never 0.
    """

    value: float
    stderr: float
    remark: str = ""


def mean_score(scores: Sequence[float] | np.ndarray) -> Score:
    """Return the mean of scores in 0..1, one per example, with `stderr_of_mean`."""
    return Score(float(np.mean(scores)), float(stderr_of_mean(scores)))


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


def stderr_of_counts(metric: Callable[[np.ndarray], np.ndarray], counts: np.ndarray) -> float:
    """Return the bootstrap standard error of `metric`, a function of confusion matrices (..., C, C), at `counts` (C, C).

    Z^2 / 2 right and Z^2 / 2 wrong answers are added, spread evenly over the cells, as in `stderr_of_mean`, so the result is never 0.
    """
    classes, right = len(counts), np.eye(len(counts))
    smoothed = counts + Z**2 / 2 * (right / classes + (1 - right) / (classes * (classes - 1)))
    draw, total = generator(SEED), smoothed.sum()
    parts = [
        metric(draw.multinomial(round(total), (smoothed / total).ravel(), size=size).reshape(size, classes, classes).astype(np.float64))
        for size in _sizes(classes**2)
    ]
    return float(np.concatenate(parts).std(ddof=1))


def stderr_of_correlation(metric: Callable[[np.ndarray, np.ndarray], np.ndarray], x: np.ndarray, y: np.ndarray) -> float:
    """Return the bootstrap standard error of `metric`, a correlation of x and y (..., n), at x and y (n,); NaN for a single example.

    If all resamples give one value (constant predictions, a perfect correlation), the result is 1 / sqrt(n - 1), the standard deviation of
    the correlation of independent numbers.
    """
    n, draw = len(x), generator(SEED)
    if n < 2:
        return float("nan")
    drawn = (draw.integers(n, size=(size, n)) for size in _sizes(n))
    spread = float(np.concatenate([metric(x[index], y[index]) for index in drawn]).std(ddof=1))
    return spread if spread > 1e-12 else (n - 1) ** -0.5


def _sizes(numbers: int) -> list[int]:
    """Return the sizes of the parts of RESAMPLES resamples of `numbers` numbers each, with at most MOST_NUMBERS numbers per part."""
    most = max(1, MOST_NUMBERS // numbers)
    return [min(most, RESAMPLES - start) for start in range(0, RESAMPLES, most)]
