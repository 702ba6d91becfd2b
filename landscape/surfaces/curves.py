"""Curves between two points: the straight line, its loss barrier, and a curve along which the loss is low.

Two optima joined by a path without a barrier lie in one valley (linear mode connectivity, Frankle et al. 2020, arXiv 1912.05671). A curve
is trained in the tuned subspace, so a result holds for that subspace, not for the whole model.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.curvature import Objective
from landscape.numerics import FloatArray, Stream, ratio_stderr
from landscape.spectra import Estimate


@dataclass(frozen=True)
class Bezier:
    """The quadratic Bezier curve (1 - t)^2 start + 2 t (1 - t) bend + t^2 end."""

    start: Tensor  # (k,)
    bend: Tensor  # (k,)
    end: Tensor  # (k,)

    def at(self, t: float) -> Tensor:
        """Return the point (k,) at t in 0..1."""
        return (1 - t) ** 2 * self.start + 2 * t * (1 - t) * self.bend + t**2 * self.end


def straight_line(start: Tensor, end: Tensor) -> Bezier:
    """Return the straight line from `start` to `end` as the curve whose bend is its midpoint."""
    return Bezier(start, (start + end) / 2, end)


def loss_barrier(values: FloatArray, weights: FloatArray, t: FloatArray) -> Estimate:
    """Return the largest height of a path's loss above the straight line between the losses of its ends; 0 if it never rises above.

    values (points, examples) are the examples' summed losses, weights (examples,) their weights, t (points,) the positions from 0 to 1. The
    standard error belongs to the difference at the highest point, paired over examples. Taking the highest of several points makes the
    barrier slightly too high. The barrier is infinite if a loss on the path is not finite. Raises ValueError unless t runs from 0 to 1 over
    at least 3 points.
    """
    if len(t) < 3 or t[0] != 0 or t[-1] != 1:
        raise ValueError(f"a path needs at least 3 points, at t from 0 to 1, got {len(t)} from {t[0]} to {t[-1]}")
    chord = np.outer(1 - t, values[0]) + np.outer(t, values[-1])
    above = values - chord
    rises = above.sum(1) / weights.sum()
    if not np.isfinite(rises).all():
        return Estimate(math.inf, math.nan, len(weights))
    highest = int(np.argmax(rises))
    error = ratio_stderr(above[highest], weights, rises[highest])
    return Estimate(max(0.0, float(rises[highest])), error, len(weights))


def low_loss_curve(
    objective: Objective[Any], start: Tensor, end: Tensor, steps: int = 100, rate: float | None = None, seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Bezier:  # fmt: skip
    """Return a curve along which the mean loss is low: its bend is trained from the straight line by Adam (Garipov et al. 2018, arXiv
    1802.10026).

    Each of `steps` steps takes one gradient at a t that is drawn uniformly from 0..1 with `seed`. `rate` is Adam's learning rate, which
    decays linearly to zero. By default it is 1/50 of the points' largest difference in one coordinate, so that the bend can move as far as
    the points are apart. Raises ValueError if the points are equal.
    """
    if torch.equal(start, end):
        raise ValueError("the two points are equal, so there is no curve between them")
    curve = straight_line(start, end)
    bend = torch.nn.Parameter(curve.bend.clone())
    rate = float((end - start).abs().max()) / 50 if rate is None else rate
    optimizer: Any = torch.optim.Adam([bend], lr=rate)
    random = Stream(seed, "curve")
    for step in range(steps):
        t = float(random.random())
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        bend.grad = (2 * t * (1 - t) * objective.gradient(Bezier(start, bend.detach(), end).at(t))).to(bend)
        optimizer.step()
        if progress:
            progress(step + 1, steps)
    return Bezier(start, bend.detach().clone(), end)
