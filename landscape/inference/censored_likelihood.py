"""The likelihood of exact and censored values with a normal random effect per group, and its derivatives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from scipy.special import log_ndtr  # pyright: ignore[reportMissingTypeStubs]

from landscape.numerics import FloatArray, IntArray

NODES = 20  # quadrature nodes of a random effect; 3 are exact without censored values
SMALLEST = 1e-3  # standard deviations below this count as 0


@dataclass(frozen=True)
class Observations:
    """n values, each known as a number (low = high) or to lie between low and high (which may be infinite), up to its standard error.

    low, high, stderr: (n,). design: (n, p) regressors. group: (n,) numbers of the groups, from 0. Raises ValueError for an interval that is
    empty or unbounded on both sides, and for a standard error that is negative or not finite.
    """

    low: FloatArray
    high: FloatArray
    stderr: FloatArray
    design: FloatArray
    group: IntArray

    def __post_init__(self) -> None:
        if not (self.low <= self.high).all() or (np.isinf(self.low) & np.isinf(self.high)).any():
            raise ValueError("every observation needs low <= high and a finite bound")
        if not (np.isfinite(self.stderr) & (self.stderr >= 0)).all():
            raise ValueError("every standard error must be finite and at least 0")

    @cached_property
    def exact(self) -> np.ndarray:
        """Whether each value is known as a number."""
        return self.low == self.high

    @cached_property
    def membership(self) -> FloatArray:
        """1 where a value belongs to a group, else 0, (n, groups)."""
        return np.eye(int(self.group.max()) + 1)[self.group]

    @property
    def has_several(self) -> bool:
        """Whether some group has several values, so that `between` differs from `within`."""
        return len(self.group) > len(np.unique(self.group))


@dataclass(frozen=True)
class Likelihood:
    """The log-likelihood of all groups at means (n,), standard deviations within and between groups, and its derivatives.

    value: a number. score: (p,) and hessian: (p, p), in the coefficients of the regressors. within, between: derivatives in the standard
    deviations.
    """

    value: float
    score: FloatArray
    hessian: FloatArray
    within: float
    between: float


def likelihood(data: Observations, design: FloatArray, mean: FloatArray, within: float, between: float) -> Likelihood:
    """Return the likelihood at the means (n,), with derivatives in the coefficients of `design` (n, p).

    Derivatives are expectations over each group's effect given its values (Fisher's identity, and Louis 1982).
    """
    nodes, log_weights = _nodes(data, mean, within, between)
    log_p, score, curvature, widening = _values(data, mean + nodes[:, data.group], within)
    log_terms = log_weights + log_p @ data.membership
    top = log_terms.max(0)
    posterior = np.exp(log_terms - top)
    sums = posterior.sum(0)
    posterior /= sums
    weights = posterior[:, data.group]
    by_group = score[:, None, :] * data.membership.T @ design  # (nodes, groups, p)
    average = (posterior[:, :, None] * by_group).sum(0)
    spread = np.tensordot(posterior[:, :, None] * by_group, by_group, axes=([0, 1], [0, 1])) - average.T @ average
    second = float((posterior * nodes**2).sum()) - between**2 * nodes.shape[1]
    return Likelihood(
        float((top + np.log(sums)).sum()), average.sum(0), (design.T * (weights * curvature).sum(0)) @ design + spread,
        float((weights * widening).sum()), second / between**3 if between >= SMALLEST else 0.0,
    )  # fmt: skip


def _nodes(data: Observations, mean: FloatArray, within: float, between: float) -> tuple[FloatArray, FloatArray]:
    """Return nodes (nodes, groups) of the effects, and log weights such that sum exp(log weight) p(values | node) is a group's likelihood.

    The nodes follow the distribution of the effect given the exact values of its group.
    """
    groups = data.membership.shape[1]
    if between < SMALLEST:
        return np.zeros((1, groups)), np.zeros((1, groups))
    inverse = np.where(data.exact, 1 / (within**2 + data.stderr**2), 0.0)
    precision = 1 / between**2 + inverse @ data.membership
    centre = (np.where(data.exact, data.low - mean, 0.0) * inverse) @ data.membership / precision
    points, weights = _quadrature(3 if data.exact.all() else NODES)
    nodes = centre + points[:, None] / np.sqrt(precision)
    log_density = 0.5 * points[:, None] ** 2 - 0.5 * (nodes / between) ** 2 - np.log(between) - 0.5 * np.log(precision)
    return nodes, log_density + np.log(weights)[:, None]


@lru_cache
def _quadrature(count: int) -> tuple[FloatArray, FloatArray]:
    """Return the nodes and weights (sum 1) of Gauss-Hermite quadrature for a standard normal variable."""
    points, weights = hermegauss(count)
    return points, weights / weights.sum()


def _values(data: Observations, mean: FloatArray, within: float) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return log p of every value, its two derivatives in the mean, and its derivative in `within`; each like mean (nodes, n)."""
    exact, variance = data.exact, within**2 + data.stderr**2
    log_p, score, curvature, widening = (np.empty_like(mean) for _ in range(4))
    gap, own = (data.low - mean)[:, exact], variance[exact]
    log_p[:, exact] = -0.5 * (gap**2 / own + np.log(2 * math.pi * own))
    score[:, exact], curvature[:, exact] = gap / own, -1 / own
    widening[:, exact] = within * ((gap / own) ** 2 - 1 / own)
    sd = np.sqrt(variance[~exact])
    log_p[:, ~exact], score[:, ~exact], curvature[:, ~exact], in_sd = _interval_values(
        data.low[~exact], data.high[~exact], mean[:, ~exact], sd
    )
    widening[:, ~exact] = in_sd * within / sd
    return log_p, score, curvature, widening


def _interval_values(
    low: FloatArray, high: FloatArray, mean: FloatArray, sd: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return log P(low < y < high) for y ~ N(mean, sd^2), its first and second derivative in the mean, and its derivative in sd."""
    a, b = (low - mean) / sd, (high - mean) / sd
    flip = a > 0  # the upper tail is computed as the lower tail of -y, which keeps its digits
    lower, upper = np.where(flip, -b, a), np.where(flip, -a, b)
    log_upper = log_ndtr(upper)
    log_p = log_upper + np.log1p(-np.exp(np.minimum(log_ndtr(lower) - log_upper, -1e-300)))
    density_a, density_b = (np.exp(-0.5 * bound**2 - 0.5 * math.log(2 * math.pi) - log_p) for bound in (a, b))
    tilt_a, tilt_b = (
        np.where(np.isfinite(bound), bound, 0.0) * density for bound, density in ((a, density_a), (b, density_b))
    )  # the density is 0 at an infinite bound
    score, tilt = (density_a - density_b) / sd, tilt_a - tilt_b
    return log_p, score, tilt / sd**2 - score**2, tilt / sd
