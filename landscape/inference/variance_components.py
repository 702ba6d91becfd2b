"""Variance components of a crossed design, and their change with a covariate.

The score of position seed i and train seed j, each pair with one run, is

    score_ij = mean + a_i + b_j + e_ij,    a ~ N(0, sd_a^2), b ~ N(0, sd_b^2), e ~ N(0, sd_e^2)

All inference on sd_a uses the restricted likelihood, maximised over sd_b and sd_e. For complete tables it depends only on the three mean
squares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import chdtri, ndtri  # pyright: ignore[reportMissingTypeStubs]

from landscape.inference.censored_regression import Estimate, ends
from landscape.numerics import FloatArray

GRID = 241  # points of log sd_a on which a profile is tabulated
NOISE_GRID = 241
LOWEST, HIGHEST = 1e-3, 1e2  # range of sd_a, in units of the root of the mean square of rows


@dataclass(frozen=True)
class Crossed:
    """A complete table of scores (rows, columns), such as position seeds by train seeds.

    Raises ValueError for fewer than 2 rows or columns, for missing scores, and for scores that are all equal.
    """

    scores: FloatArray

    def __post_init__(self) -> None:
        if self.scores.ndim != 2 or min(self.scores.shape) < 2:
            raise ValueError(f"variance components need at least 2 rows and 2 columns (got: {self.scores.shape})")
        if not np.isfinite(self.scores).all():
            raise ValueError("variance components need a complete table of finite scores")
        if np.ptp(self.scores) == 0:
            raise ValueError("all scores are equal")

    @cached_property
    def mean_squares(self) -> tuple[float, float, float]:
        """Mean squares of rows, columns and residuals. Their expectations are sd_e^2 + columns sd_a^2, sd_e^2 + rows sd_b^2 and sd_e^2."""
        scores, (m, n) = self.scores, self.scores.shape
        row, column = scores.mean(1) - scores.mean(), scores.mean(0) - scores.mean()
        residual = scores - scores.mean() - row[:, None] - column
        return n * float(row @ row) / (m - 1), m * float(column @ column) / (n - 1), float((residual**2).sum()) / ((m - 1) * (n - 1))

    @property
    def degrees(self) -> tuple[int, int, int]:
        """Degrees of freedom of the mean squares."""
        m, n = self.scores.shape
        return m - 1, n - 1, (m - 1) * (n - 1)

    @property
    def of_rows(self) -> float:
        """Restricted maximum-likelihood estimate of sd_a: 0 if rows differ by no more than residuals do."""
        rows, _, residual = self.mean_squares
        return math.sqrt(max(0.0, (rows - residual) / self.scores.shape[1]))

    @property
    def of_columns(self) -> float:
        """Standard deviation of one score over columns at a fixed row: sqrt(sd_b^2 + sd_e^2), without bias in its square."""
        _, columns, residual = self.mean_squares
        m = self.scores.shape[0]
        return math.sqrt((columns + (m - 1) * residual) / m)

    def of_columns_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the interval of `of_columns` by Satterthwaite's approximation (1946, doi 10.2307/3002019)."""
        _, columns, residual = self.mean_squares
        m = self.scores.shape[0]
        parts = np.array([columns / m, (m - 1) * residual / m])
        dof = parts.sum() ** 2 / (parts**2 / np.array(self.degrees[1:])).sum()
        tails = chdtri(dof, [(1 - level) / 2, (1 + level) / 2])
        low, high = (math.sqrt(dof * parts.sum() / tail) for tail in tails)
        return low, high

    @cached_property
    def profile(self) -> tuple[FloatArray, FloatArray]:
        """log sd_a on a grid (GRID,), and the restricted log-likelihood maximised over sd_b and sd_e (GRID,)."""
        (rows, columns, residual), (m1, n1, e1) = self.mean_squares, self.degrees
        unit = math.sqrt((rows * m1 + residual * e1) / ((m1 + e1) * self.scores.shape[1]))
        log_sd = math.log(unit) + np.linspace(math.log(LOWEST), math.log(HIGHEST), GRID)
        largest = max(rows, columns, residual)
        noise = np.exp(np.linspace(math.log(1e-6 * largest), math.log(1e2 * largest), NOISE_GRID))  # sd_e^2
        expected = noise + self.scores.shape[1] * np.exp(2 * log_sd)[:, None]  # of the mean square of rows
        both = np.maximum(columns, noise)  # the best sd_e^2 + m sd_b^2
        terms = m1 * (np.log(expected) + rows / expected) + n1 * (np.log(both) + columns / both) + e1 * (np.log(noise) + residual / noise)
        return log_sd, -0.5 * terms.min(1)

    def log_likelihood(self, log_sd: FloatArray) -> FloatArray:
        """Return the profile at any log sd_a: constant below the grid, and falling as it does at the grid's upper end above it."""
        at, value = self.profile
        beyond = np.maximum(log_sd - at[-1], 0.0)
        return np.interp(log_sd, at, value) - beyond * self.degrees[0]


def row_spread(table: Crossed, level: float = 0.95) -> Estimate:
    """Return sd_a with the interval of its restricted profile likelihood. The lower end is 0 if the data permit sd_a = 0."""
    at, value = table.profile
    best = float(value.max())
    centre = float(at[int(value.argmax())])

    def signed_root(bound: float) -> float:
        log_bound = math.log(bound) if bound > 0 else float(at[0])
        return math.copysign(math.sqrt(max(0.0, 2 * (best - float(table.log_likelihood(np.array(log_bound)))))), centre - log_bound)

    critical = float(ndtri((1 + level) / 2))
    inside = at[2 * (best - value) <= critical**2]
    low = 0.0 if inside[0] == at[0] else math.exp(float(inside[0]))
    return Estimate(table.of_rows, low, math.exp(float(inside[-1])), math.inf, signed_root)


def spread_slope(tables: Sequence[Crossed], x: FloatArray, block: Sequence[int], level: float = 0.95) -> Estimate:
    """Return the slope b of log sd_a = c_block + b x over tables, with the interval and test of its profile likelihood.

    tables: n tables of independent runs. x: (n,) covariate, such as log model size. block: (n,) numbers of blocks that share an
    intercept c, such as tasks. Scores over rows and columns are the only noise: sd_a is taken to follow the line.

    Raises ValueError if x is constant within every block.
    """
    blocks = [np.flatnonzero(np.asarray(block) == number) for number in sorted(set(block))]
    blocks = [members for members in blocks if float(x[members].max()) > float(x[members].min())]
    if not blocks:
        raise ValueError("a slope needs two different values of x in a block")
    known: dict[float, float] = {}

    def profile(slope: float) -> float:
        if slope not in known:
            known[slope] = sum(_best_intercept([tables[int(i)] for i in members], slope * x[members]) for members in blocks)
        return known[slope]

    widest = max(float(x[members].max() - x[members].min()) for members in blocks)
    slopes = np.linspace(-8 / widest, 8 / widest, 49)
    centre = _refined(profile, slopes, np.array([profile(float(slope)) for slope in slopes]))
    best = profile(centre)

    def signed_root(bound: float) -> float:
        return math.copysign(math.sqrt(max(0.0, 2 * (best - profile(bound)))), centre - bound)

    low, high = ends(signed_root, centre, 1 / widest, float(ndtri((1 + level) / 2)), 30 / widest)
    return Estimate(centre, low, high, math.inf, signed_root)


def _best_intercept(tables: list[Crossed], offsets: FloatArray) -> float:
    """Return the largest sum of log-likelihoods over a common intercept of log sd_a = intercept + offset."""
    grids = [table.profile[0] - offset for table, offset in zip(tables, offsets, strict=True)]
    candidates: FloatArray = np.linspace(min(float(grid[0]) for grid in grids), max(float(grid[-1]) for grid in grids), 2 * GRID)
    total = np.zeros(len(candidates))
    for table, offset in zip(tables, offsets, strict=True):
        total += table.log_likelihood(candidates + offset)
    return float(total.max())


def _refined(function: Callable[[float], float], points: FloatArray, values: FloatArray) -> float:
    """Return the position of the maximum near the best of `points`, by golden-section search between its neighbours."""
    best = int(values.argmax())
    low, high = float(points[max(best - 1, 0)]), float(points[min(best + 1, len(points) - 1)])
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(20):
        one, other = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, other) if function(one) >= function(other) else (one, high)
    return (low + high) / 2
