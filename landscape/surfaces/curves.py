"""Paths between two points: the straight line, its barrier, and a curve that bends where the loss is low.

Two optima joined by a path without a barrier lie in one valley. A curve is trained in the same subspace that was tuned, so it says
something of that subspace and not of the whole model.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.curvature import Objective
from landscape.numerics import FloatArray, generator
from landscape.spectra import Estimate


@dataclass(frozen=True)
class Bezier:
    """The quadratic Bezier curve from `start` by `bend` to `end`: (1 - t)^2 start + 2 t (1 - t) bend + t^2 end."""

    start: Tensor  # (k,)
    bend: Tensor  # (k,)
    end: Tensor  # (k,)

    def at(self, t: float) -> Tensor:
        """The point at t in 0..1."""
        return (1 - t) ** 2 * self.start + 2 * t * (1 - t) * self.bend + t**2 * self.end


def straight(start: Tensor, end: Tensor) -> Bezier:
    """The straight line, as the curve whose bend is its middle."""
    return Bezier(start, (start + end) / 2, end)


def barrier(values: FloatArray, weights: FloatArray, places: FloatArray) -> Estimate:
    """How far a path's loss rises above the straight line between the losses of its ends, at most; 0 where it nowhere does.

    values (places, examples) are what each example adds to the loss, weights (examples,) what that is over, places (places,) the t in
    0..1 from the first to the last. The standard error is that of the difference at the highest place, paired over examples; that the
    place is the highest of several makes the barrier a little too high. Infinite where a loss on the path is not finite. ValueError unless
    places run from 0 to 1.
    """
    if len(places) < 3 or places[0] != 0 or places[-1] != 1:
        raise ValueError(f"a path needs its two ends and places between, from 0 to 1, got {len(places)} from {places[0]} to {places[-1]}")
    ends = np.outer(1 - places, values[0]) + np.outer(places, values[-1])
    above = values - ends
    rises = above.sum(1) / weights.sum()
    if not np.isfinite(rises).all():
        return Estimate(math.inf, math.nan, len(weights))
    highest = int(np.argmax(rises))
    rest = above[highest] - rises[highest] * weights
    count = len(weights)
    error = math.sqrt(count / (count - 1) * float((rest**2).sum())) / float(weights.sum()) if count > 1 else math.nan
    return Estimate(max(0.0, float(rises[highest])), error, count)


def low_curve(
    objective: Objective[Any], start: Tensor, end: Tensor, steps: int = 100, rate: float | None = None, seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Bezier:  # fmt: skip
    """A curve along which the mean loss is low (Garipov et al. 2018, arXiv 1802.10026): its bend trained by Adam, from the straight line.

    Each of `steps` steps takes one gradient, at a t drawn uniformly from 0..1 by `seed`. `rate` is Adam's, by default 1/50 of the
    points' largest difference in one coordinate, so that the bend can go as far as they are apart; it falls linearly to zero.
    Raises ValueError where the points are one.
    """
    if torch.equal(start, end):
        raise ValueError("the two points are one: there is no path between them")
    curve = straight(start, end)
    bend = torch.nn.Parameter(curve.bend.clone())
    rate = float((end - start).abs().max()) / 50 if rate is None else rate
    optimizer: Any = torch.optim.Adam([bend], lr=rate)
    random = generator(seed, "curve")
    for step in range(steps):
        t = float(random.random())
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        bend.grad = (2 * t * (1 - t) * objective.gradient(Bezier(start, bend.detach(), end).at(t))).to(bend)
        optimizer.step()
        if progress:
            progress(step + 1, steps)
    return Bezier(start, bend.detach().clone(), end)
