"""Sharpness, basin width and roughness of a loss around a point, each with its standard error.

Displacements d have a fixed length. Results are comparable between models if the length has a common unit (|theta| of the tuned entries).
Random directions are uniform on the sphere and determined by a seed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.curvature import LinearOperator, Objective
from landscape.numerics import FloatArray, leave_one_out_stderr, norm, normal
from landscape.spectra import Estimate, eigenpairs, mean_of

Loss = Callable[[Tensor], float]  # z (k,) -> the mean loss

HALVINGS = 20  # number of bisections of a bracket: accuracy of a millionth


@dataclass(frozen=True)
class WorstCaseSharpness:
    """The highest loss found in a ball: a lower bound on the maximum."""

    rise: float  # highest loss less the loss at the centre, at least 0; NaN if no start has a finite loss
    displacement: Tensor  # (k,), at most the radius long
    rises: FloatArray  # (starts,) the rise that each start reached; a wide spread means an unreliable ascent


@dataclass(frozen=True)
class BasinWidth:
    """Distances along random rays at which the loss has risen by a level."""

    mean: Estimate  # over rays; censored rays count as the reach, so the mean is then a lower bound
    widths: FloatArray  # (rays,), infinite if the level was not reached within the reach
    censored: int  # number of rays that did not reach the level


def average_sharpness(loss: Loss, z: Tensor, radius: float, rays: int, seed: int = 0) -> Estimate:
    """Return the mean rise of the loss at |d| = radius over `rays` >= 2 random directions; radius^2 tr(H) / 2k on a quadratic.

    Each direction is evaluated with both signs, which cancels the gradient. A loss that is not finite makes the mean not finite. Raises
    ValueError unless radius > 0.
    """
    _positive(radius, "radius")
    base = loss(z)
    rises = [sum(loss(z + sign * radius * ray) for sign in (1, -1)) / 2 - base for ray in unit_rays(z, rays, seed, "average")]
    return mean_of(rises)


def worst_case_sharpness(
    objective: Objective[Any], z: Tensor, radius: float, steps: int = 20, starts: int = 3, seed: int = 0
) -> WorstCaseSharpness:
    """Return the highest rise found within |d| <= radius, by projected ascent from random directions.

    On a quadratic without gradient the maximum is radius^2 l_max / 2. A step goes to the ball's farthest point along the gradient (Frank &
    Wolfe 1956, doi 10.1002/nav.3800030109). It needs no step size and never falls on a convex loss. Each start takes `steps` gradients. The
    result is the best of all points evaluated. Raises ValueError unless radius > 0.
    """
    _positive(radius, "radius")
    base = objective.loss(z)
    ends = [_ascend(objective, z, radius * ray, radius, steps) for ray in unit_rays(z, starts, seed, "worst")]
    rises = np.array([loss - base for loss, _ in ends])
    best = int(np.argmax(np.where(np.isnan(rises), -math.inf, rises)))
    if np.isnan(rises).all():
        return WorstCaseSharpness(math.nan, torch.zeros_like(z), rises)
    if not rises[best] > 0:
        return WorstCaseSharpness(0.0, torch.zeros_like(z), rises)
    return WorstCaseSharpness(float(rises[best]), ends[best][1], rises)


def _ascend(objective: Objective[Any], z: Tensor, d: Tensor, radius: float, steps: int) -> tuple[float, Tensor]:
    """Return the highest loss on the path of the ascent from d, and its displacement."""
    best = objective.loss(z + d), d
    for _ in range(steps):
        gradient = objective.gradient(z + d)
        length = norm(gradient)
        if not 0 < length < math.inf:
            break
        d = gradient * (radius / length)
        loss = objective.loss(z + d)
        if loss > best[0] or math.isnan(best[0]):
            best = loss, d
    return best


def basin_width(loss: Loss, z: Tensor, level: float, reach: float, rays: int, seed: int = 0) -> BasinWidth:
    """Return the distance along each of `rays` random rays at which the loss first exceeds loss(z) + level, up to `reach`.

    On a quadratic without gradient the distance is sqrt(2 level / u'Hu). Steps outwards begin at reach / 64 and double; the last step is
    bisected. A rise and fall between two steps is not detected. A NaN loss counts as exceeding the level. Raises ValueError unless level >
    0 and reach > 0.
    """
    _positive(level, "level")
    _positive(reach, "reach")
    ceiling = loss(z) + level
    widths = np.array([_width(lambda t, ray=ray: not loss(z + t * ray) <= ceiling, reach) for ray in unit_rays(z, rays, seed, "width")])
    finite = widths[np.isfinite(widths)]
    mean = mean_of(np.where(np.isfinite(widths), widths, reach)) if len(finite) else Estimate(math.nan, math.nan, 1)
    return BasinWidth(mean, widths, len(widths) - len(finite))


def _width(exceeds: Callable[[float], bool], reach: float) -> float:
    low, high = 0.0, reach / 64
    while not exceeds(high):
        if high >= reach:
            return math.inf
        low, high = high, min(2 * high, reach)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if exceeds(middle) else (middle, high)
    return (low + high) / 2


def roughness(values: FloatArray, model: FloatArray, weights: FloatArray) -> Estimate:
    """Return the root mean squared difference of a slice from its quadratic model, as a fraction of the slice's range.

    values and model (points..., m) are the losses and the quadratic models of the same data: sums over each of m examples, or of m random
    groups of examples. `weights` (m,) are the weights of the groups. Points that are not finite are ignored.

    All points share the examples, whose noise mostly cancels in the difference. The standard error therefore leaves out one example (or
    group) at a time from all points at once (jackknife, Efron & Stein 1981, doi 10.1214/aos/1176345462). It holds for fixed directions and
    grid.

    The result is NaN if fewer than two points are finite or the slice is flat. The standard error alone is NaN for m < 2.
    """
    finite = np.isfinite(values).all(-1) & np.isfinite(model).all(-1)
    values, model, count = values[finite], model[finite], len(weights)
    if len(values) < 2:
        return Estimate(math.nan, math.nan, 1)
    rough = float(_rough(values.sum(-1, keepdims=True) / weights.sum(), model.sum(-1, keepdims=True) / weights.sum())[0])
    if count < 2 or not math.isfinite(rough):
        return Estimate(rough, math.nan, 1)
    remaining = weights.sum() - weights
    without = _rough((values.sum(-1, keepdims=True) - values) / remaining, (model.sum(-1, keepdims=True) - model) / remaining)
    return Estimate(rough, leave_one_out_stderr(without), count)


def _rough(values: FloatArray, model: FloatArray) -> FloatArray:
    """Return the relative difference of each column of values and model (points, columns), (columns,); NaN for a flat column."""
    spread = np.ptp(values, axis=0)
    return np.sqrt(((values - model) ** 2).mean(0)) / np.where(spread > 0, spread, math.nan)


def hessian_ratio(operator: LinearOperator, steps: int = 20, seed: int = 0) -> tuple[float, float]:
    """Return |l_min / l_max| at one point and its error from the residuals (Li et al. 2018, arXiv 1712.09913).

    The ratio is 0 if the loss is convex at the point, and NaN for an all-zero Hessian. It takes two Lanczos runs of `steps` products each.
    For a map, call the function at every point.
    """
    steps = min(steps, operator.size)
    low, high = (eigenpairs(operator, 1, steps, which=which, seed=seed, rounds=1) for which in ("SA", "LA"))
    smallest, largest = float(low.eigenvalues[0]), float(high.eigenvalues[0])
    size = max(abs(smallest), abs(largest))
    if not size > 0:
        return math.nan, math.nan
    ratio = abs(min(smallest, 0.0)) / abs(largest) if largest != 0 else math.inf
    return ratio, float(low.residuals[0] + ratio * high.residuals[0]) / abs(largest) if largest != 0 else math.inf


def unit_rays(z: Tensor, count: int, seed: int, role: str) -> list[Tensor]:
    """Return `count` >= 1 uniform unit vectors (k,), determined by (seed, role). A larger count keeps the first vectors."""
    if count < 1:
        raise ValueError(f"the number of rays must be at least 1, got {count}")
    drawn = [normal(seed, f"{role}/{i}", len(z), torch.float64, torch.device("cpu")) for i in range(count)]
    return [(ray / norm(ray)).to(z) for ray in drawn]


def _positive(number: float, name: str) -> None:
    if not 0 < number < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {number}")
