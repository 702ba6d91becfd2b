"""The threshold by Gordon's escape theorem for the linearised model, from no Hessian: the bracket's lower end (theory.md, T4).

A uniformly random k-dimensional subspace meets the set where L <= target as soon as it meets the cone C over it, and the number of
dimensions at which it does so with even odds is E dist(h, C)^2 of a standard normal h, within its square root (Amelunxen et al.
2014, arXiv 1303.6672). Directions that J does not see lie in the cone, so h has only the r coordinates of `Linearised`.
"""

import math

import numpy as np
import numpy.typing as npt

from landscape.numerics import FloatArray, generator, root
from landscape.prediction.linearised_classifier import Linearised
from landscape.prediction.moreau import PathPoint, predict_on_path
from landscape.spectra import Estimate, mean_of

ENOUGH = 1e-2  # in log of the scale: the distance is flat around its minimum
FARTHEST = 2.0**12  # of the scale, at which the nearest point is the cone's tip


def gordon_threshold(
    gram: npt.ArrayLike, logits: npt.ArrayLike, labels: npt.ArrayLike, target: float, *, draws: int = 16, seed: int = 0
) -> Estimate | None:
    """E dist(h, cone{L <= target})^2 over `draws` normal h, of the linearised model; None where it has no threshold.

    Arguments as for `gradient_spectrum`; target is an absolute loss. It speaks of uniformly random subspaces (Gaussian, Fastfood),
    not of coordinates.
    """
    found = predict_on_path(gram, logits, labels, target)
    if found.point is None:
        return None
    size = found.point.model.size
    normals = [generator(seed, f"gordon/{number}").standard_normal(size) for number in range(draws)]
    return mean_of([_squared_distance(h, found.point, target) for h in normals])


def _squared_distance(h: FloatArray, start: PathPoint, target: float) -> float:
    """min over t >= 0 and L(w) <= target of |h - t w|^2.

    For a scale c = 1/t the nearest w is the projection of c h on the set {L <= target}, and the best c is where the ray through w
    touches the set: where the gradient at w is orthogonal to w.
    """
    nearest = _Projection(start.model, h, target, start)
    scale = float(np.linalg.norm(start.w)) / math.sqrt(len(h))
    while nearest.slope(scale) < 0:
        scale *= 2
        if scale > FARTHEST * float(np.linalg.norm(start.w)):
            return float(h @ h)
    low = scale / 2
    while nearest.slope(low) > 0:
        low /= 2
    best = root(nearest.slope, low, 2 * low, ENOUGH)
    away = h - nearest.at(best) / best
    return float(away @ away)


class _Projection:
    """The nearest point of {L <= target} to c h, each found from the last one."""

    def __init__(self, model: Linearised, h: FloatArray, target: float, start: PathPoint) -> None:
        self.model, self.h, self.target = model, h, target
        self.w, self.kappa = start.w, start.kappa

    def at(self, scale: float) -> FloatArray:
        centre = scale * self.h
        if self.model.loss(centre) <= self.target:
            return centre

        def over(kappa: float) -> float:
            self.w = self.model.proximal(kappa, centre, self.w)
            return self.model.loss(self.w) - self.target

        low = high = self.kappa
        while over(low) > 0:
            low /= 2
        high = max(high, 2 * low)
        while over(high) < 0:
            high *= 2
        self.kappa = root(over, low, high, 1e-4)
        return self.w

    def slope(self, scale: float) -> float:
        """The sign of d dist / d c: positive where a smaller scale is nearer. The gradient at w points along c h - w."""
        w = self.at(scale)
        return float((scale * self.h - w) @ w)
