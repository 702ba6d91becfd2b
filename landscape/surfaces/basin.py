"""How sharp, how wide and how rough a loss is about a point: numbers without a picture, each with its standard error.

All are of displacements d of a given length, so that they compare over models once the length is told in a unit that does (|theta| of
what is tuned). Random directions are uniform on the sphere, named by a seed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.curvature import LinearOperator, Objective
from landscape.numerics import FloatArray, normal
from landscape.spectra import Estimate, eigenpairs, mean_of

Loss = Callable[[Tensor], float]  # z (k,) -> the mean loss

HALVINGS = 20  # of a bracket: a width to a millionth


@dataclass(frozen=True)
class Worst:
    """The highest loss found in a ball, a lower bound of the highest there is."""

    rise: float  # loss there less the loss at the centre, at least 0; NaN where no start has a loss
    displacement: Tensor  # (k,), at most the radius long
    rises: FloatArray  # (starts,) what each start reached: their spread says how far the ascent is to be trusted


@dataclass(frozen=True)
class Width:
    """How far one can go along random rays before the loss has risen by a level."""

    mean: Estimate  # over rays; a lower bound where some are censored, which count as long as they were followed
    widths: FloatArray  # (rays,), infinite where the level was not met within reach
    censored: int  # rays that did not meet it


def sharpness_average(loss: Loss, z: Tensor, radius: float, rays: int, seed: int = 0) -> Estimate:
    """The mean rise of the loss at |d| = radius over `rays` >= 2 random directions; on a quadratic radius^2 tr(H) / 2k.

    Each direction is gone both ways, which takes the gradient out. A loss that is not finite makes the mean not finite.
    """
    _positive(radius, "radius")
    base = loss(z)
    rises = [sum(loss(z + sign * radius * ray) for sign in (1, -1)) / 2 - base for ray in unit_rays(z, rays, seed, "average")]
    return mean_of(rises)


def sharpness_worst(objective: Objective[Any], z: Tensor, radius: float, steps: int = 20, starts: int = 3, seed: int = 0) -> Worst:
    """The highest rise within |d| <= radius, by projected ascent from random directions; on a quadratic without slope radius^2 l_max / 2.

    A step goes to the point of the ball that is farthest along the gradient (Frank & Wolfe 1956, doi 10.1002/nav.3800030109): it needs no
    step size, and where the loss is convex it never falls. `steps` gradients a start; the best point seen counts.
    """
    _positive(radius, "radius")
    base = objective.loss(z)
    found = [_ascend(objective, z, radius * ray, radius, steps) for ray in unit_rays(z, starts, seed, "worst")]
    rises = np.array([each[0] - base for each in found])
    best = int(np.argmax(np.where(np.isnan(rises), -math.inf, rises)))
    if np.isnan(rises).all():
        return Worst(math.nan, torch.zeros_like(z), rises)
    if not rises[best] > 0:
        return Worst(0.0, torch.zeros_like(z), rises)
    return Worst(float(rises[best]), found[best][1], rises)


def _ascend(objective: Objective[Any], z: Tensor, d: Tensor, radius: float, steps: int) -> tuple[float, Tensor]:
    best = objective.loss(z + d), d
    for _ in range(steps):
        gradient = objective.gradient(z + d)
        length = _length(gradient)
        if not 0 < length < math.inf:
            break
        d = gradient * (radius / length)
        loss = objective.loss(z + d)
        if loss > best[0] or math.isnan(best[0]):
            best = loss, d
    return best


def basin_width(loss: Loss, z: Tensor, level: float, reach: float, rays: int, seed: int = 0) -> Width:
    """The distance along each of `rays` random rays at which the loss first exceeds loss(z) + level; `reach` is the farthest looked at.

    A ray is gone outwards in steps that double, from reach / 64, and the last one is bisected; of a loss that rises and falls between two
    steps the rise is not seen. A loss that is NaN counts as exceeding. On a quadratic without slope sqrt(2 level / u'Hu).
    """
    _positive(level, "level")
    _positive(reach, "reach")
    ceiling = loss(z) + level
    widths = np.array([_width(lambda t, ray=ray: not loss(z + t * ray) <= ceiling, reach) for ray in unit_rays(z, rays, seed, "width")])
    within = widths[np.isfinite(widths)]
    mean = mean_of(np.where(np.isfinite(widths), widths, reach)) if len(within) else Estimate(math.nan, math.nan, 1)
    return Width(mean, widths, len(widths) - len(within))


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
    """The root mean squared difference of a slice from its quadratic model, as a part of the slice's range.

    values and model (points..., m) are sums over each of m examples, or groups of them that were drawn by chance, of which `weights` (m,)
    are the masses: the loss and the quadratic of the same examples. All points have the same examples, whose noise is shared and mostly
    cancels in the difference; so the standard error leaves out one unit at a time from all points at once (jackknife, Efron & Stein 1981,
    doi 10.1214/aos/1176345462), for the directions and the grid as they are. Points that are not finite are left out. NaN where fewer than
    two points are finite or the slice is flat, the error alone where m < 2.
    """
    kept = np.isfinite(values).all(-1) & np.isfinite(model).all(-1)
    values, model, count = values[kept], model[kept], len(weights)
    if len(values) < 2:
        return Estimate(math.nan, math.nan, 1)
    found = _rough(values.sum(-1, keepdims=True) / weights.sum(), model.sum(-1, keepdims=True) / weights.sum())[0]
    if count < 2 or not math.isfinite(found):
        return Estimate(float(found), math.nan, 1)
    left = weights.sum() - weights
    without = _rough((values.sum(-1, keepdims=True) - values) / left, (model.sum(-1, keepdims=True) - model) / left)
    return Estimate(float(found), float(np.sqrt((count - 1) * without.var())), count)


def _rough(values: FloatArray, model: FloatArray) -> FloatArray:
    """(columns,) of (points, columns) each; NaN for a flat one."""
    spread = np.ptp(values, axis=0)
    return np.sqrt(((values - model) ** 2).mean(0)) / np.where(spread > 0, spread, math.nan)


def hessian_ratio(operator: LinearOperator, steps: int = 20, seed: int = 0) -> tuple[float, float]:
    """(|l_min / l_max|, the error that the residuals allow) at one point (Li et al. 2018, arXiv 1712.09913): 0 where a loss is convex.

    Two Lanczos runs of `steps` products each; of a map, ask at every point. NaN for an all-zero Hessian.
    """
    steps = min(steps, operator.size)
    low, high = (eigenpairs(operator, 1, steps, which=which, seed=seed, rounds=1) for which in ("bottom", "top"))
    smallest, largest = float(low.eigenvalues[0]), float(high.eigenvalues[0])
    size = max(abs(smallest), abs(largest))
    if not size > 0:
        return math.nan, math.nan
    ratio = abs(min(smallest, 0.0)) / abs(largest) if largest != 0 else math.inf
    return ratio, float(low.residuals[0] + ratio * high.residuals[0]) / abs(largest) if largest != 0 else math.inf


def unit_rays(z: Tensor, count: int, seed: int, role: str) -> list[Tensor]:
    """Unit vectors (k,), uniform on the sphere; more keep the first ones."""
    if count < 1:
        raise ValueError(f"at least one ray is needed, got {count}")
    drawn = [normal(seed, f"{role}/{i}", len(z), torch.float64, torch.device("cpu")) for i in range(count)]
    return [(ray / _length(ray)).to(z) for ray in drawn]


def _positive(number: float, name: str) -> None:
    if not 0 < number < math.inf:
        raise ValueError(f"{name} = {number} must be positive")


def _length(vector: Tensor) -> float:
    return math.sqrt(float(vector.double() @ vector.double()))
