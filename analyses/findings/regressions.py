"""Regressions over models and tasks: a slope over log model size, a mean, and a spread, of values that may be censored.

Every case of a claim is one of these. Models are the random groups of a slope and of a mean, because the question is about models in
general: more tasks on the same models do not replace more models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.findings.claims import counted
from analyses.store import statuses

if TYPE_CHECKING:
    from landscape.inference import Estimate, Observations

Z = 1.959964  # half-width of a normal 95 % interval in standard errors


@dataclass(frozen=True)
class Point:
    """A value on one model and task: exact (low = high, with a standard error), or known to lie between low and high.

    A value without a bound (both infinite) says nothing. Estimates leave it out, and `described` counts it.
    """

    family: str
    model: str
    task: str
    low: float
    high: float
    stderr: float = 0.0

    @property
    def is_censored(self) -> bool:
        return self.low != self.high

    @property
    def is_bounded(self) -> bool:
        return math.isfinite(self.low) or math.isfinite(self.high)


def threshold_point(family: str, row: Any) -> Point:
    """Return the point of log k for the row of a threshold.

    The 95 % interval gives the standard error of log k. A threshold with a single known end counts as censored at this end. If the untuned
    model reaches the target, k is below 1.
    """
    value, low, high = (math.log(end) if end > 0 else math.nan for end in (row.value, row.low, row.high))
    whose = family, row.model, row.task
    if math.isfinite(value) and math.isfinite(low) and math.isfinite(high):
        return Point(*whose, value, value, (high - low) / (2 * Z))
    if row.status == statuses.BELOW:
        low, high = -math.inf, high if math.isfinite(high) else 0.0
    low = low if math.isfinite(low) else -math.inf
    high = high if math.isfinite(high) and row.status != statuses.ABOVE else math.inf
    return Point(*whose, low, high)


def _bounded(points: Sequence[Point]) -> list[Point]:
    """Return the points with a bound. Raises ValueError if there is none."""
    if not (known := [point for point in points if point.is_bounded]):
        raise ValueError("no value has a known bound")
    return known


def slope(points: Sequence[Point], size: Mapping[str, float]) -> Estimate:
    """Return the slope of the values over log size, with an intercept per family and task and a random effect per model.

    Raises ValueError, with the reason, if the points do not determine it.
    """
    points = [point for point in _bounded(points) if point.model in size]
    _need(len({point.model for point in points}), 3, "model size", "a slope and its scatter")
    log_size = np.log([size[point.model] for point in points])
    data = _observations(points, lambda point: (point.family, point.task), lambda point: point.model, log_size - log_size.mean())
    from landscape.inference import coefficient

    return coefficient(data, column=0, between_columns=between_columns(data))


def between_columns(data: Observations) -> int:
    """Return how many coefficients the differences between groups determine, rather than the differences within them."""
    means = (data.membership / data.membership.sum(0)) @ (data.membership.T @ data.design)
    rank = np.linalg.matrix_rank
    return int(rank(data.design) - rank(data.design - means))


def through_origin(points: Sequence[Point], x: Sequence[float]) -> Estimate:
    """Return the slope of the values over x on a line through zero, with every point as a separate group.

    Raises ValueError for fewer than three points.
    """
    from landscape.inference import Observations, coefficient

    _need(len(points), 3, "pair of models", "a slope and its scatter")
    design, group = np.array(x, float)[:, None], np.arange(len(points))
    return coefficient(Observations(*_bounds(points), design, group), column=0, between_columns=1)


def mean(points: Sequence[Point]) -> Estimate:
    """Return the mean of the values, with a random effect per model. Raises ValueError for fewer than three models."""
    from landscape.inference import Observations, coefficient

    models = sorted({point.model for point in points})
    _need(len(models), 3, "model", "a mean over models and its scatter")
    group = np.array([models.index(point.model) for point in points])
    return coefficient(Observations(*_bounds(points), np.ones((len(points), 1)), group), column=0, between_columns=1)


def spread(points: Sequence[Point], within: str, over: str) -> Estimate:
    """Return the standard deviation of the values over one of "model" and "task" within the other. Raises ValueError for a single one."""
    from landscape.inference import total_spread

    points = _bounded(points)
    _need(len({getattr(point, over) for point in points}), 2, over, "a spread")
    data = _observations(points, lambda point: getattr(point, within), lambda point: getattr(point, over))
    return total_spread(data)


def _observations(
    points: Sequence[Point], intercept: Callable[[Point], Any], group: Callable[[Point], Any], x: np.ndarray | None = None
) -> Observations:
    """Return the points as observations, with one intercept column per value of `intercept`, after the column x if it is given.

    Points whose intercept has only values censored on one side say nothing and are left out. Raises ValueError if none remains.
    """
    from landscape.inference import Observations, informative

    labels = sorted({intercept(point) for point in points})
    number = np.array([labels.index(intercept(point)) for point in points])
    columns = [np.eye(len(labels))[number]] if x is None else [x[:, None], np.eye(len(labels))[number]]
    shift = 0 if x is None else 1
    groups = sorted({group(point) for point in points})
    design, members = np.hstack(columns), np.array([groups.index(group(point)) for point in points])
    data = Observations(*_bounds(points), design, members)
    keep = informative(data, np.arange(shift, shift + len(labels)))
    if not keep.any():
        raise ValueError("all values are censored on the same side")
    used = np.r_[np.ones(shift, bool), [bool((keep & (number == i)).any()) for i in range(len(labels))]]
    renumbered = np.unique(members[keep], return_inverse=True)[1]
    return Observations(data.low[keep], data.high[keep], data.stderr[keep], design[keep][:, used], renumbered)


def _bounds(points: Sequence[Point]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return low, high and stderr (n,). The bound of a censored value is taken to be as uncertain as the median of the other values."""
    low, high, stderr = np.array([(point.low, point.high, point.stderr) for point in points]).T
    known = [point.stderr for point in points if not point.is_censored]
    return low, high, np.where(low == high, stderr, np.median(known) if known else 0.0)


def _need(found: int, least: int, noun: str, what: str) -> None:
    if found < least:
        raise ValueError(f"there {'is' if found == 1 else 'are'} {counted(found, noun)}, and {what} need at least {least}")


def described(points: Sequence[Point]) -> str:
    """Return what a case rests on, such as "5 models, 2 tasks, 10 values (3 censored)"."""
    open_values = sum(not point.is_bounded for point in points)
    points = [point for point in points if point.is_bounded]
    censored = sum(point.is_censored for point in points)
    notes = [f"{censored} censored"] * (censored > 0) + [f"{open_values} more without a bound left out"] * (open_values > 0)
    values = counted(len(points), "value") + (f" ({', '.join(notes)})" if notes else "")
    return f"{counted(len({p.model for p in points}), 'model')}, {counted(len({p.task for p in points}), 'task')}, {values}"
