"""Slices: what a function of z is along lines, planes and more through a point, at true coordinates.

A slice is asked for as centre, directions and one axis of coordinates a direction. Axes are symmetric with an odd number of places, so that
the centre is one of them, bitwise: what a slice shows there is the loss that was reported. Values are indexed as the axes are given
('ij'): values[i, j] belongs to centre + axes[0][i] d_0 + axes[1][j] d_1.
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

Evaluate = Callable[[Tensor], npt.ArrayLike]  # a point (k,) -> numbers (m,), for instance every example's loss, or one number

MOST_BYTES = 2**31  # of a slice's numbers
ULPS = 8  # units in the last place: below, an entry's move is rounded by more than a few per cent


@dataclass(frozen=True)
class Slice:
    """m numbers at every point of a grid."""

    axes: tuple[FloatArray, ...]  # coordinates along each direction
    numbers: FloatArray  # (len of each axis..., m), NaN or infinite where they are
    gram: FloatArray  # (n, n), d_i'd_j: the identity where coordinates are displacements

    def displacements(self) -> FloatArray:
        """|delta| at every point of the grid: sqrt(a' gram a)."""
        places = np.stack(np.meshgrid(*self.axes, indexing="ij"), axis=-1)
        return np.sqrt(np.maximum(np.einsum("...i,ij,...j->...", places, self.gram, places), 0.0))


@dataclass(frozen=True)
class Rounding:
    """What becomes of a displacement in weights of few digits."""

    share: float  # of the entries that it moves: those that it moves by less than ULPS units in their last place
    error: float  # |what the weights moved by - the displacement| / |displacement|


def rounding(weights: Tensor, centre: Tensor, direction: Tensor, step: float) -> Rounding:
    """Of a step along `direction` (k,) from `centre` (k,), where a model's entries are `weights` + z in the weights' own type.

    Sums are in float64. ValueError for a displacement of no length.
    """
    few = moved = 0
    missed = length = 0.0
    for start in range(0, len(centre), ROWS):
        theta, z, d = (each[start : start + ROWS] for each in (weights, centre, direction))
        before, after = theta + z, theta + torch.add(z, d, alpha=step)
        wanted = d.double() * step
        unit = torch.nextafter(before.abs(), torch.full_like(before, math.inf)) - before.abs()
        few += int(((wanted != 0) & (wanted.abs() < ULPS * unit.double())).sum())
        moved += int((wanted != 0).sum())
        missed += float((after.double() - before.double() - wanted).square().sum())
        length += float(wanted.square().sum())
    if not length > 0:
        raise ValueError("the displacement has no length")
    return Rounding(few / moved, math.sqrt(missed / length))


def axis(reach: float, points: int) -> FloatArray:
    """`points` places from -reach to reach, evenly, symmetric, with an exact zero. ValueError for an even number, or a reach not > 0."""
    if points < 1 or points % 2 == 0:
        raise ValueError(f"an axis needs an odd number of points, so that the centre is one of them, got {points}")
    if not 0 < reach < math.inf:
        raise ValueError(f"an axis reaches a positive distance, got {reach}")
    half = points // 2
    side = reach * np.arange(1, half + 1) / max(1, half)
    return np.concatenate([-side[::-1], [0.0], side])


def slice_of(
    evaluate: Evaluate,
    centre: Tensor,
    directions: Tensor,
    axes: Sequence[FloatArray],
    *,
    at_once: int = 1,
    progress: Progress | None = None,
) -> Slice:
    """Evaluate a function on the grid of `axes` along `directions` (k, n) through `centre` (k,).

    evaluate(z) gives the numbers (m,) at one point, and must not keep z, which becomes the next one. With `at_once` > 1 so many points at
    a time are asked of its `many(points (n, k))`, which returns (n, m). Points come in the order of the grid, the last axis fastest, so an
    `evaluate` that keeps what it has computed makes a killed slice resumable; `progress(done, points)` is called after each. Raises
    ValueError for axes that do not fit the directions, a direction that is zero, or numbers beyond 2 GiB: before any point where
    `evaluate` has a `size`, the m of its numbers (else one is counted), or after the first.
    """
    nonzero(directions)
    if len(axes) != directions.shape[1] or len(centre) != len(directions):
        raise ValueError(f"{len(axes)} axes and a centre ({len(centre)},) do not fit directions {tuple(directions.shape)}")
    shape = tuple(len(each) for each in axes)
    _fits(shape, getattr(evaluate, "size", 1))
    found: list[FloatArray] = []
    done = 0
    for points in _chunks(_points(centre, directions, axes), at_once):
        found += _evaluated(evaluate, points, at_once)
        _fits(shape, len(found[0]))
        done += len(points)
        if progress:
            progress(done, math.prod(shape))
    places = tuple(np.asarray(each, np.float64) for each in axes)
    return Slice(places, np.stack(found).reshape(*shape, -1), gram(directions).cpu().numpy())


def _fits(shape: tuple[int, ...], size: int) -> None:
    """ValueError where `size` numbers a point of the grid are too many."""
    total = 8 * size * math.prod(shape)
    if total > MOST_BYTES:
        raise ValueError(
            f"a grid of {' x '.join(map(str, shape))} points with {size} number{'s' if size > 1 else ''} each takes "
            f"{total / 2**30:.1f} GiB, over {MOST_BYTES / 2**30:.0f}: take fewer points"
        )


def quadratic(loss: float, gradient: Tensor, products: Tensor, directions: Tensor, axes: Sequence[FloatArray]) -> FloatArray:
    """L0 + g'd + d'Hd / 2 on the grid, for d = sum_i a_i d_i; gradient (k,) and products H d_i (k, n) at the centre."""
    wide = directions.double()
    slopes = (wide.T @ gradient.double()).cpu().numpy()
    forms = (wide.T @ products.double()).cpu().numpy()
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    return loss + places @ slopes + np.einsum("...i,ij,...j->...", places, (forms + forms.T) / 2, places) / 2


def refined(axes: Sequence[FloatArray], values: FloatArray, most: int) -> tuple[FloatArray, ...]:
    """Each axis with places added where straight lines between the values (the axes' grid) err most, at most `most` of them, by pairs.

    An interval's error is estimated from the bends at its ends; one with a value that is not finite at one end alone comes first, and the
    places stay symmetric. The old places are kept, so nothing is computed twice.
    """
    return tuple(_refined(each, np.moveaxis(values, i, 0).reshape(len(each), -1), most) for i, each in enumerate(axes))


def _refined(places: FloatArray, values: FloatArray, most: int) -> FloatArray:
    if len(places) < 3 or most < 2:
        return places
    errors = _interval_errors(places, values)
    errors = np.maximum(errors, errors[::-1])[: len(errors) // 2]  # both sides alike: an odd number of places has an even one of intervals
    chosen = np.argsort(-errors, kind="stable")[: most // 2]
    middles = (places[:-1] + places[1:])[chosen[errors[chosen] > 0]] / 2
    return np.sort(np.concatenate([places, middles, -middles]))


def _interval_errors(places: FloatArray, values: FloatArray) -> FloatArray:
    """(intervals,) |f''| h^2 / 8, the largest over the columns of values (places, columns); infinite at an edge of what is finite."""
    steps = np.diff(places)
    finite = np.isfinite(values)
    slopes = np.diff(np.where(finite, values, 0.0), axis=0) / steps[:, None]
    known = finite[:-2] & finite[1:-1] & finite[2:]
    bends = np.abs(np.where(known, np.diff(slopes, axis=0), 0.0)) * 2 / (steps[:-1] + steps[1:])[:, None]
    ends = (np.pad(bends, ((1, 0), (0, 0))) + np.pad(bends, ((0, 1), (0, 0)))) / 2
    errors = ends * (steps**2 / 8)[:, None]
    return np.where(finite[:-1] != finite[1:], math.inf, errors).max(1)


def _points(centre: Tensor, directions: Tensor, axes: Sequence[FloatArray]) -> Iterator[Tensor]:
    """The points of the grid, in one tensor that is written anew for each.

    What the outer axes add is kept, so that a point takes one pass over k numbers; and a place on an axis is bitwise the point of the
    slice along that axis alone.
    """
    rows = directions.T.contiguous().to(centre)
    sums = [centre, *(torch.empty_like(centre) for _ in axes)]
    before: tuple[float, ...] = (math.nan,) * len(axes)
    for place in itertools.product(*axes):
        changed = next((i for i, (a, b) in enumerate(zip(place, before, strict=True)) if a != b), 0)
        for i in range(changed, len(axes)):
            if place[i]:
                torch.add(sums[i], rows[i], alpha=float(place[i]), out=sums[i + 1])
            else:
                sums[i + 1].copy_(sums[i])
        before = place
        yield sums[-1]


def _chunks(points: Iterator[Tensor], size: int) -> Iterator[list[Tensor]]:
    if size <= 1:
        yield from ([point] for point in points)
    while chunk := [point.clone() for point in itertools.islice(points, size)]:
        yield chunk


def _evaluated(evaluate: Evaluate, points: list[Tensor], at_once: int) -> list[FloatArray]:
    many: Callable[[Tensor], Any] | None = getattr(evaluate, "many", None) if at_once > 1 else None
    numbers = [evaluate(point) for point in points] if many is None else list(many(torch.stack(points)))
    return [np.atleast_1d(np.asarray(each, np.float64)) for each in numbers]
