"""Slices: a function of z on lines, planes and grids of more dimensions through a point, at true coordinates.

A slice has a centre, directions, and one axis of coordinates per direction. Axes are symmetric with an odd number of points. The centre is
therefore bitwise one of the points, and the slice shows the reported loss there. Values are indexed in the order of the axes ('ij'):
`values[i, j]` belongs to `centre + axes[0][i] * directions[0] + axes[1][j] * directions[1]`.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from landscape.curvature import Progress
from landscape.numerics import FloatArray
from landscape.surfaces.directions import ROWS, gram, nonzero

Evaluate = Callable[[Tensor], npt.ArrayLike]  # z (k,) -> numbers (m,), for instance the loss of every example, or one number

MAX_BYTES = 2**31  # largest size of a slice's numbers
MIN_ULPS = 8  # smallest move of an entry, in units in the last place, with a rounding error of only a few per cent


@dataclass(frozen=True)
class Slice:
    """m numbers at every point of a grid."""

    axes: tuple[FloatArray, ...]  # coordinates along each direction
    numbers: FloatArray  # (len of each axis..., m), may be NaN or infinite
    gram: FloatArray  # (n, n), d_i'd_j; the identity if coordinates are displacements

    def displacements(self) -> FloatArray:
        """Return |delta| = sqrt(a' gram a) at every point a of the grid."""
        grid = np.stack(np.meshgrid(*self.axes, indexing="ij"), axis=-1)
        return np.sqrt(np.maximum(np.einsum("...i,ij,...j->...", grid, self.gram, grid), 0.0))


@dataclass(frozen=True)
class StepRounding:
    """The rounding error of a displacement of weights in low precision."""

    share: float  # fraction of the moved entries that move by less than MIN_ULPS units in the last place
    error: float  # |actual move - displacement| / |displacement|


def step_rounding(weights: Tensor, centre: Tensor, direction: Tensor, step: float) -> StepRounding:
    """Return the rounding error of a step along `direction` (k,) from `centre` (k,).

    The entries of the model are `weights` + z, in the dtype of the weights. Sums are in float64. Raises ValueError for a displacement of
    length zero.
    """
    too_small = moved = 0
    squared_error = squared_length = 0.0
    for start in range(0, len(centre), ROWS):
        theta, z, d = (vector[start : start + ROWS] for vector in (weights, centre, direction))
        before, after = theta + z, theta + torch.add(z, d, alpha=step)
        step_vector = d.double() * step
        unit = torch.nextafter(before.abs(), torch.full_like(before, math.inf)) - before.abs()
        too_small += int(((step_vector != 0) & (step_vector.abs() < MIN_ULPS * unit.double())).sum())
        moved += int((step_vector != 0).sum())
        squared_error += float((after.double() - before.double() - step_vector).square().sum())
        squared_length += float(step_vector.square().sum())
    if not squared_length > 0:
        raise ValueError("the displacement has length zero")
    return StepRounding(too_small / moved, math.sqrt(squared_error / squared_length))


def symmetric_axis(reach: float, points: int) -> FloatArray:
    """Return `points` evenly spaced coordinates from -reach to reach, symmetric, with an exact zero.

    Raises ValueError for an even number of points, or unless 0 < reach < inf.
    """
    if points < 1 or points % 2 == 0:
        raise ValueError(f"an axis needs an odd number of points, so that the centre is one of them, got {points}")
    if not 0 < reach < math.inf:
        raise ValueError(f"the reach of an axis must be positive and finite, got {reach}")
    half = points // 2
    side = reach * np.arange(1, half + 1) / max(1, half)
    return np.concatenate([-side[::-1], [0.0], side])


def evaluate_slice(
    evaluate: Evaluate,
    centre: Tensor,
    directions: Tensor,
    axes: Sequence[FloatArray],
    *,
    at_once: int = 1,
    progress: Progress | None = None,
) -> Slice:
    """Return a function's numbers on the grid of `axes` along `directions` (k, n) through `centre` (k,).

    evaluate(z) returns the numbers (m,) at one point. It must not keep z, because its memory is reused for the next point. With `at_once` >
    1 and a method evaluate.many(points (n, k)) -> (n, m), up to `at_once` points are evaluated per call. Points come in the order of the
    grid, the last axis fastest, so an `evaluate` that stores its results makes an interrupted slice resumable. progress(done, points) is
    called after each chunk.

    Raises ValueError for axes that do not fit the directions, a direction that is zero, or numbers of more than 2 GiB. The size is checked
    before the first point if `evaluate` has a `size` (its m; otherwise m = 1 is assumed), and again after it.
    """
    nonzero(directions)
    if len(axes) != directions.shape[1] or len(centre) != len(directions):
        raise ValueError(
            f"{len(axes)} axes and a centre ({len(centre)},) do not fit directions {tuple(directions.shape)}; pass one axis per direction"
        )
    shape = tuple(len(axis) for axis in axes)
    _check_memory(shape, getattr(evaluate, "size", 1))
    numbers: list[FloatArray] = []
    done = 0
    for points in _chunks(_points(centre, directions, axes), at_once):
        numbers += _evaluated(evaluate, points, at_once)
        _check_memory(shape, len(numbers[0]))
        done += len(points)
        if progress:
            progress(done, math.prod(shape))
    coordinates = tuple(np.asarray(axis, np.float64) for axis in axes)
    return Slice(coordinates, np.stack(numbers).reshape(*shape, -1), gram(directions).cpu().numpy())


def _check_memory(shape: tuple[int, ...], size: int) -> None:
    """Raise ValueError if `size` numbers per point of the grid take more than 2 GiB."""
    total = 8 * size * math.prod(shape)
    if total > MAX_BYTES:
        raise ValueError(
            f"a grid of {' x '.join(map(str, shape))} points with {size} number{'s' if size > 1 else ''} each takes "
            f"{total / 2**30:.1f} GiB, more than {MAX_BYTES / 2**30:.0f} GiB: take fewer points"
        )


def quadratic_model(loss: float, gradient: Tensor, products: Tensor, directions: Tensor, axes: Sequence[FloatArray]) -> FloatArray:
    """Return L0 + g'd + d'Hd / 2 on the grid of `axes`, with d = sum_i a_i d_i.

    `loss`, `gradient` (k,) and `products` H d_i (k, n) are taken at the centre.
    """
    wide = directions.double()
    slopes = (wide.T @ gradient.double()).cpu().numpy()
    forms = (wide.T @ products.double()).cpu().numpy()
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    return loss + grid @ slopes + np.einsum("...i,ij,...j->...", grid, (forms + forms.T) / 2, grid) / 2


def refined_axes(axes: Sequence[FloatArray], values: FloatArray, most: int) -> tuple[FloatArray, ...]:
    """Return each axis with at most `most` points added, in pairs, where linear interpolation between the values has the largest error.

    `values` lie on the grid of the axes. The error of an interval is estimated from the second differences at its ends. Intervals with one
    finite end come first. The axes stay symmetric and keep their points, so no point is computed twice.
    """
    return tuple(_refined(axis, np.moveaxis(values, i, 0).reshape(len(axis), -1), most) for i, axis in enumerate(axes))


def _refined(axis: FloatArray, values: FloatArray, most: int) -> FloatArray:
    """Return one axis with the midpoints of its intervals of largest error added, symmetrically."""
    if len(axis) < 3 or most < 2:
        return axis
    errors = _interval_errors(axis, values)
    errors = np.maximum(errors, errors[::-1])[: len(errors) // 2]  # intervals come in symmetric pairs
    chosen = np.argsort(-errors, kind="stable")[: most // 2]
    middles = (axis[:-1] + axis[1:])[chosen[errors[chosen] > 0]] / 2
    return np.sort(np.concatenate([axis, middles, -middles]))


def _interval_errors(axis: FloatArray, values: FloatArray) -> FloatArray:
    """Return |f''| h^2 / 8 of each interval: the largest over the columns of values (points, columns).

    The error is infinite for an interval with one finite end.
    """
    steps = np.diff(axis)
    finite = np.isfinite(values)
    slopes = np.diff(np.where(finite, values, 0.0), axis=0) / steps[:, None]
    complete = finite[:-2] & finite[1:-1] & finite[2:]
    curvatures = np.abs(np.where(complete, np.diff(slopes, axis=0), 0.0)) * 2 / (steps[:-1] + steps[1:])[:, None]
    ends = (np.pad(curvatures, ((1, 0), (0, 0))) + np.pad(curvatures, ((0, 1), (0, 0)))) / 2
    errors = ends * (steps**2 / 8)[:, None]
    return np.where(finite[:-1] != finite[1:], math.inf, errors).max(1)


def _points(centre: Tensor, directions: Tensor, axes: Sequence[FloatArray]) -> Iterator[Tensor]:
    """Yield the points of the grid, all in one tensor that is overwritten.

    The sums over outer axes are kept, so a point takes one pass over k numbers. A point on an axis is bitwise equal to the point of a slice
    along that axis alone.
    """
    rows = directions.T.contiguous().to(centre)
    sums = [centre, *(torch.empty_like(centre) for _ in axes)]
    previous: tuple[float, ...] = (math.nan,) * len(axes)
    for point in itertools.product(*axes):
        changed = next((i for i, (a, b) in enumerate(zip(point, previous, strict=True)) if a != b), 0)
        for i in range(changed, len(axes)):
            if point[i]:
                torch.add(sums[i], rows[i], alpha=float(point[i]), out=sums[i + 1])
            else:
                sums[i + 1].copy_(sums[i])
        previous = point
        yield sums[-1]


def _chunks(points: Iterator[Tensor], size: int) -> Iterator[list[Tensor]]:
    """Yield lists of `size` points. The points are copies unless size is 1."""
    if size <= 1:
        yield from ([point] for point in points)
        return
    while chunk := [point.clone() for point in itertools.islice(points, size)]:
        yield chunk


def _evaluated(evaluate: Evaluate, points: list[Tensor], at_once: int) -> list[FloatArray]:
    many: Callable[[Tensor], Any] | None = getattr(evaluate, "many", None) if at_once > 1 else None
    results = [evaluate(point) for point in points] if many is None else list(many(torch.stack(points)))
    return [np.atleast_1d(np.asarray(numbers, np.float64)) for numbers in results]
