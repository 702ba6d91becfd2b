"""How wide a set of low loss is, as seen from a point: the Gaussian width of the directions that lead into it, by search.

From z0 the set S = {z: L(z) <= level} covers the directions C = {(z - z0) / |z - z0|: z in S} of the unit sphere. Its width
w = E_h max_{u in C} h'u over standard normal h gives the local angular dimension w^2 <= k, and by Gordon's escape theorem (1988, doi
10.1007/BFb0081737) a uniformly random subspace of more than about k - w^2 dimensions through z0 meets S (Larsen et al. 2021, arXiv
2107.05802). Where a quadratic gives N_eff (`landscape.spectra.quadrature`) this takes the loss as it is, by its gradients alone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from scipy.optimize import minimize  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from scipy.special import gammaln  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from torch import Tensor

from landscape.curvature import Objective
from landscape.numerics import FloatArray
from landscape.spectra import Estimate, mean_of
from landscape.surfaces.basin import unit_rays

ROUNDS = 4  # of the multiplier's updates
STIFFER = 4.0  # the penalty, from a round to the next where the level was exceeded by more than SLACK gaps
SLACK = 0.05
BISECTIONS = 8  # back into the set, losses alone
BEYOND = 1e6  # gaps: what is over the level where there is no finite loss


@dataclass(frozen=True)
class Angular:
    """The width of the directions into a set, from below: each draw's maximum is what a local search found."""

    width: Estimate  # w, over draws
    cosines: FloatArray  # (draws,) h'u / |h| at the best u found, in -1..1
    inside: int  # draws whose viewpoint lies in the set itself, from which all directions lead into it: cosine 1

    @property
    def dimension(self) -> Estimate:
        """w^2, its standard error by the delta method; 0 for a negative w, of a set narrower than the draws can tell."""
        w, error = max(self.width.value, 0.0), self.width.stderr
        return Estimate(w**2, 2 * w * error, self.width.terms)


def angular_width(
    objective: Objective[Any], start: Tensor, level: float, viewpoints: Sequence[Tensor], steps: int = 40, seed: int = 0
) -> Angular:
    """The width of {z: L(z) <= level} as seen from `viewpoints`, (k,) each and one a draw: the same one for one place, or several.

    `start` (k,) is a point of the set, L(start) < level, for instance where descent ended. For each draw h'(z - z0) / |z - z0| is
    raised from there and from z0 + |start - z0| h / |h| by about `steps` gradients (L-BFGS on an augmented Lagrangian, Nocedal & Wright
    2006, algorithm 17.4). What counts is the best point whose loss was seen to be within the level, so w is a lower bound but for the
    error of sampling, which the standard error tells: exact where the set is convex and the steps suffice, and where the loss is rough
    more steps find more. |h| is independent of h / |h|, so its mean is put in exactly, and directions alone are sampled. Raises
    ValueError unless L(start) < level.
    """
    low = objective.loss(start)
    if not low < level:
        raise ValueError(f"the search starts within the set: the loss there is {low}, not below the level {level}")
    normals = unit_rays(start.double(), len(viewpoints), seed, "angular")
    draws, inside = np.zeros((len(viewpoints), 3)), 0
    for i, (h, viewpoint) in enumerate(zip(normals, viewpoints, strict=True)):
        if objective.loss(viewpoint) <= level:
            inside, draws[i] = inside + 1, (1.0, 0.0, 0.0)
        else:
            search = _Search(objective, viewpoint, start, h, low, level)
            draws[i] = search.best(steps), search.lean, search.ahead
    mean, length = mean_of(_steadied(*draws.T)), mean_length(len(start))
    return Angular(Estimate(length * mean.value, length * mean.stderr, mean.terms), draws[:, 0], inside)


def _steadied(cosines: FloatArray, leans: FloatArray, ahead: FloatArray) -> FloatArray:
    """(draws,) of the same mean and less spread: less b h'u0, whose mean is 0, u0 the direction of the start.

    The best b is the mean of u'u0 over the maximisers u, the gradient of the maximum in h; the other draws alone give it, without bias.
    """
    count = len(leans)
    return cosines - (leans.sum() - leans) / (count - 1) * ahead if count > 1 else cosines


def around(centre: Tensor, distance: float, count: int, seed: int = 0) -> list[Tensor]:
    """`count` viewpoints (k,) at a distance from the centre, in random directions; more keep the first ones."""
    return [centre + distance * ray for ray in unit_rays(centre, count, seed, "viewpoint")]


def mean_length(k: int) -> float:
    """E |h| of a standard normal h (k,), sqrt(2) G((k + 1) / 2) / G(k / 2): the width of the whole sphere, nearly sqrt(k - 1/2)."""
    return math.sqrt(2) * math.exp(float(gammaln((k + 1) / 2) - gammaln(k / 2)))


class _Search:
    """One draw. Lengths are in units of |start - viewpoint| and losses of level - L(start), so that no step size needs tuning."""

    def __init__(self, objective: Objective[Any], viewpoint: Tensor, start: Tensor, h: Tensor, low: float, level: float) -> None:
        self.objective, self.viewpoint, self.h = objective, viewpoint, h.cpu().numpy()
        self.level, self.gap = level, level - low
        ahead = (start - viewpoint).double().cpu().numpy()
        self.unit = float(np.linalg.norm(ahead))
        self.towards = self.anchor = ahead / self.unit  # in the set
        self.found = self.ahead = float(self.h @ self.towards)
        self.multiplier, self.stiffness = 0.0, 1.0

    def best(self, steps: int) -> float:
        """The highest cosine from two starts: the point of the set, and the place as far away along h, from where the set is entered."""
        for y in (self.anchor, self.h):
            self._raise(y, max(ROUNDS, steps // 2))
        return self.found

    @property
    def lean(self) -> float:
        """How far the best direction is that of the start: their cosine."""
        return float(self.towards @ self.anchor) / float(np.linalg.norm(self.anchor))

    def _raise(self, y: FloatArray, steps: int) -> None:
        self.multiplier, self.stiffness = 0.0, 1.0
        for _ in range(ROUNDS):
            y = _lowest(self._lagrangian, y, steps // ROUNDS)
            over = self._over(y)
            self.multiplier = max(0.0, self.multiplier + self.stiffness * over)
            if over > SLACK:
                self.stiffness *= STIFFER
        self._back(y)

    def _lagrangian(self, y: FloatArray) -> tuple[float, FloatArray]:
        """-h'y / |y| + ((m + p over)_+^2 - m^2) / 2p and its gradient."""
        over = self._over(y)
        length = float(np.linalg.norm(y))
        cosine = float(self.h @ y) / length
        slope = -(self.h - cosine * y / length) / length
        pull = max(0.0, self.multiplier + self.stiffness * over)
        if pull > 0:
            gradient = self.objective.gradient(self._point(y)).double().cpu().numpy()
            slope = slope + pull * self.unit / self.gap * np.nan_to_num(gradient, posinf=0.0, neginf=0.0)
        return -cosine + (pull**2 - self.multiplier**2) / (2 * self.stiffness), slope

    def _over(self, y: FloatArray) -> float:
        """By how many gaps the loss is over the level; a place within it that is farther along h is kept."""
        over = (self.objective.loss(self._point(y)) - self.level) / self.gap
        cosine = float(self.h @ y) / float(np.linalg.norm(y))
        if over <= 0 and cosine > self.found:
            self.found, self.anchor = cosine, y.copy()
        return over if math.isfinite(over) else BEYOND

    def _point(self, y: FloatArray) -> Tensor:
        return self.viewpoint + torch.as_tensor(self.unit * y).to(self.viewpoint)

    def _back(self, y: FloatArray) -> None:
        """The last point where the segment from y to the best one known enters the set."""
        outside, within, known = 0.0, 1.0, self.anchor
        for _ in range(BISECTIONS):
            middle = (outside + within) / 2
            outside, within = (outside, middle) if self._over(y + middle * (known - y)) <= 0 else (middle, within)


def _lowest(f: Callable[[FloatArray], tuple[float, FloatArray]], y: FloatArray, evaluations: int) -> FloatArray:
    """Where L-BFGS ends from y; f gives a value and its gradient."""
    found = cast(Any, minimize)(f, y, jac=True, method="L-BFGS-B", options={"maxfun": evaluations, "maxcor": 20})
    return cast(FloatArray, found.x)
