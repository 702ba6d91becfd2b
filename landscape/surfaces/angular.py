"""The Gaussian width of the directions that lead from a point into a set of low loss, by search.

From z0, the set S = {z: L(z) <= level} covers the directions C = {(z - z0) / |z - z0|: z in S} of the unit sphere. Its width is w = E_h max
over u in C of h'u for standard normal h. The local angular dimension is w^2 <= k. By Gordon's escape theorem (1988, doi
10.1007/BFb0081737), a uniformly random subspace of more than about k - w^2 dimensions through z0 meets S (Larsen et al. 2021, arXiv
2107.05802). For a quadratic, N_eff gives w^2 (`landscape.spectra.quadrature`). This module uses the loss itself, by gradients alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import gammaln  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from torch import Tensor

from landscape.curvature import Objective
from landscape.numerics import FloatArray, lbfgs
from landscape.spectra import Estimate, mean_of
from landscape.surfaces.basin import unit_rays

ROUNDS = 4  # updates of the Lagrange multiplier
PENALTY_GROWTH = 4.0  # factor on the penalty after a round that exceeds the level by more than SLACK gaps
SLACK = 0.05
BISECTIONS = 8  # number of bisections on the way back into the set, by losses alone
INFEASIBLE = 1e6  # excess over the level, in gaps, assigned to a point without a finite loss
PAIRS = 20  # history of L-BFGS


@dataclass(frozen=True)
class AngularWidth:
    """The width of the directions into a set: a lower bound, because each draw's maximum comes from a local search."""

    width: Estimate  # w, over draws
    cosines: FloatArray  # (draws,) h'u / |h| at the best u found, in -1..1
    inside: int  # number of draws whose viewpoint lies in the set: all directions lead into the set, so the cosine is 1

    @property
    def dimension(self) -> Estimate:
        """w^2, with its standard error by the delta method. The value is 0 for a negative w (if the set is narrower than the draws
        resolve).
        """
        w, error = max(self.width.value, 0.0), self.width.stderr
        return Estimate(w**2, 2 * w * error, self.width.terms)


def angular_width(
    objective: Objective[Any], start: Tensor, level: float, viewpoints: Sequence[Tensor], steps: int = 40, seed: int = 0
) -> AngularWidth:
    """Return the width of {z: L(z) <= level} as seen from `viewpoints`, (k,) each: one viewpoint z0 per draw, equal or different.

    `start` (k,) is a point of the set, L(start) < level, for instance the final point of a run. Each draw maximises h'(z - z0) / |z - z0|
    from two points: `start` and z0 + |start - z0| h / |h|. A search takes about `steps` gradients (L-BFGS on an augmented Lagrangian,
    Nocedal & Wright 2006, algorithm 17.4). `seed` determines the draws h. Raises ValueError unless L(start) < level.

    Only points whose evaluated loss is within the level count, so w is a lower bound up to the sampling error, which the standard error
    states. The width is exact if the set is convex and the steps suffice. On a rough loss, more steps find a larger width.

    The estimator differs from the average of h'u in:

    1. |h| is independent of h / |h|, so its mean enters exactly and only directions are sampled.
    2. The direction u0 of `start` serves as a control variate.
    """
    low = objective.loss(start)
    if not low < level:
        raise ValueError(f"the loss at the start is {low}, but it must be below the level {level}")
    normals = unit_rays(start.double(), len(viewpoints), seed, "angular")
    draws, inside = np.zeros((len(viewpoints), 3)), 0
    for i, (h, viewpoint) in enumerate(zip(normals, viewpoints, strict=True)):
        if objective.loss(viewpoint) <= level:
            inside, draws[i] = inside + 1, (1.0, 0.0, 0.0)
        else:
            search = _Search(objective, viewpoint, start, h, low, level)
            draws[i] = search.best_cosine(steps), search.cosine_to_start, search.projection_on_start
    mean, length = mean_of(_with_control_variate(*draws.T)), mean_length(len(start))
    return AngularWidth(Estimate(length * mean.value, length * mean.stderr, mean.terms), draws[:, 0], inside)


def _with_control_variate(cosines: FloatArray, cosines_to_start: FloatArray, projections: FloatArray) -> FloatArray:
    """Return the cosines (draws,) minus b h'u0, which has mean 0: an equal mean with less variance. u0 is the direction of the start.

    The best b is the mean of u'u0 over the maximisers u, because u is the gradient of the maximum in h. Each draw takes b from the other
    draws, so the result is unbiased.
    """
    count = len(cosines_to_start)
    if count == 1:
        return cosines
    coefficients = (cosines_to_start.sum() - cosines_to_start) / (count - 1)
    return cosines - coefficients * projections


def viewpoints_on_sphere(centre: Tensor, distance: float, count: int, seed: int = 0) -> list[Tensor]:
    """Return `count` points (k,) at `distance` from the centre in random directions. A larger count keeps the first points."""
    return [centre + distance * ray for ray in unit_rays(centre, count, seed, "viewpoint")]


def mean_length(k: int) -> float:
    """Return E|h| = sqrt(2) G((k + 1) / 2) / G(k / 2) of a standard normal h (k,), the width of the whole sphere (G: gamma function)."""
    return math.sqrt(2) * math.exp(float(gammaln((k + 1) / 2) - gammaln(k / 2)))


class _Search:
    """The search of one draw.

    Lengths have the unit |start - viewpoint| and losses the unit level - L(start), so no step size needs tuning.
    """

    def __init__(self, objective: Objective[Any], viewpoint: Tensor, start: Tensor, h: Tensor, low: float, level: float) -> None:
        self.objective, self.viewpoint, self.h = objective, viewpoint, h.cpu().numpy()
        self.level, self.gap = level, level - low
        to_start = (start - viewpoint).double().cpu().numpy()
        self.unit = float(np.linalg.norm(to_start))
        self.start_direction = self.best_point = to_start / self.unit  # both lie in the set and are relative to the viewpoint
        self.highest = self.projection_on_start = float(self.h @ self.start_direction)
        self.multiplier, self.penalty = 0.0, 1.0

    def best_cosine(self, steps: int) -> float:
        """Search from the start and from the point at the same distance along h. Return the higher of the two cosines."""
        for y in (self.best_point, self.h):
            self._maximise(y, max(ROUNDS, steps // 2))
        return self.highest

    @property
    def cosine_to_start(self) -> float:
        """The cosine between the best direction and the direction of the start."""
        return float(self.start_direction @ self.best_point) / float(np.linalg.norm(self.best_point))

    def _maximise(self, y: FloatArray, steps: int) -> None:
        self.multiplier, self.penalty = 0.0, 1.0
        for _ in range(ROUNDS):
            y = lbfgs(self._lagrangian, y, history=PAIRS, maxfun=steps // ROUNDS)
            excess = self._excess(y)
            self.multiplier = max(0.0, self.multiplier + self.penalty * excess)
            if excess > SLACK:
                self.penalty *= PENALTY_GROWTH
        self._bisect_into_set(y)

    def _lagrangian(self, y: FloatArray) -> tuple[float, FloatArray]:
        """Return -h'y / |y| + ((m + p excess)_+^2 - m^2) / 2p and its gradient, where m is the multiplier and p the penalty."""
        excess = self._excess(y)
        length = float(np.linalg.norm(y))
        cosine = float(self.h @ y) / length
        slope = -(self.h - cosine * y / length) / length
        pull = max(0.0, self.multiplier + self.penalty * excess)
        if pull > 0:
            gradient = self.objective.gradient(self._point(y)).double().cpu().numpy()
            slope = slope + pull * self.unit / self.gap * np.nan_to_num(gradient, posinf=0.0, neginf=0.0)
        return -cosine + (pull**2 - self.multiplier**2) / (2 * self.penalty), slope

    def _excess(self, y: FloatArray) -> float:
        """Return the loss at y above the level, in gaps. Keep y as the best point if it lies in the set and has a larger cosine with h."""
        excess = (self.objective.loss(self._point(y)) - self.level) / self.gap
        cosine = float(self.h @ y) / float(np.linalg.norm(y))
        if excess <= 0 and cosine > self.highest:
            self.highest, self.best_point = cosine, y.copy()
        return excess if math.isfinite(excess) else INFEASIBLE

    def _point(self, y: FloatArray) -> Tensor:
        return self.viewpoint + torch.as_tensor(self.unit * y).to(self.viewpoint)

    def _bisect_into_set(self, y: FloatArray) -> None:
        """Bisect the segment from y to the best point for its entry into the set. `_excess` keeps the best of the evaluated points."""
        outside, within, best_point = 0.0, 1.0, self.best_point
        for _ in range(BISECTIONS):
            middle = (outside + within) / 2
            outside, within = (outside, middle) if self._excess(y + middle * (best_point - y)) <= 0 else (middle, within)
