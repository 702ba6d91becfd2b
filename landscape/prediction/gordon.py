"""A lower bound on the threshold from Gordon's escape theorem (T4) for the linearised classifier, without a Hessian.

A uniformly random k-dimensional subspace meets the set {L <= target} as soon as it meets the cone C over the set. It meets C with
probability 1/2 at k = E dist(h, C)^2, up to the square root of this number, for a standard normal h (Amelunxen et al. 2014, arXiv
1303.6672). Directions that J maps to zero lie in the cone, so h has only the r coordinates of `LinearisedClassifier`.
"""

import math

import numpy as np
import numpy.typing as npt

from landscape.numerics import FloatArray, Stream, find_root
from landscape.prediction.linearised_classifier import LinearisedClassifier
from landscape.prediction.moreau import MoreauPoint, predict_on_path
from landscape.spectra import Estimate, mean_of

TOLERANCE = 1e-2  # in log scale; it may be coarse, since the distance is flat around its minimum
MAX_SCALE = 2.0**12  # relative scale beyond which the tip of the cone is the nearest point


def gordon_threshold(
    gram: npt.ArrayLike, logits: npt.ArrayLike, labels: npt.ArrayLike, target: float, *, draws: int = 16, seed: int = 0
) -> Estimate | None:
    """Return the mean of dist(h, cone{L <= target})^2 over `draws` normal h, for the linearised classifier; None without a threshold.

    Gram, logits and labels are as for `gradient_spectrum`. `target` is an absolute loss; `seed` determines the draws. The bound holds for
    uniformly random subspaces (Gaussian, Fastfood), not for coordinates.
    """
    prediction = predict_on_path(gram, logits, labels, target)
    if prediction.point is None:
        return None
    size = prediction.point.model.size
    normals = [Stream(seed, f"gordon/{number}").standard_normal(size) for number in range(draws)]
    return mean_of([_squared_distance(h, prediction.point, target) for h in normals])


def _squared_distance(h: FloatArray, start: MoreauPoint, target: float) -> float:
    """Return min over t >= 0 and L(w) <= target of |h - t w|^2.

    At a scale c = 1/t the nearest w is the projection of c h on the set {L <= target}. At the best c the ray through w is tangent to the
    set, so the gradient at w is orthogonal to w.
    """
    nearest = _Projection(start.model, h, target, start)
    scale = float(np.linalg.norm(start.w)) / math.sqrt(len(h))
    while nearest.slope(scale) < 0:
        scale *= 2
        if scale > MAX_SCALE * float(np.linalg.norm(start.w)):
            return float(h @ h)
    low = scale / 2
    while nearest.slope(low) > 0:
        low /= 2
    best = find_root(nearest.slope, low, 2 * low, TOLERANCE)
    offset = h - nearest.at(best) / best
    return float(offset @ offset)


class _Projection:
    """The nearest point of {L <= target} to c h. Each search starts from the last result."""

    def __init__(self, model: LinearisedClassifier, h: FloatArray, target: float, start: MoreauPoint) -> None:
        self.model, self.h, self.target = model, h, target
        self.w, self.kappa = start.w, start.kappa

    def at(self, scale: float) -> FloatArray:
        centre = scale * self.h
        if self.model.loss(centre) <= self.target:
            return centre

        def excess(kappa: float) -> float:
            self.w = self.model.proximal(kappa, centre, self.w)
            return self.model.loss(self.w) - self.target

        low = high = self.kappa
        while excess(low) > 0:
            low /= 2
        high = max(high, 2 * low)
        while excess(high) < 0:
            high *= 2
        self.kappa = find_root(excess, low, high, 1e-4)
        return self.w

    def slope(self, scale: float) -> float:
        """Return a number with the sign of d dist / d c: positive if a smaller scale is nearer. The gradient at w points along c h - w."""
        w = self.at(scale)
        return float((scale * self.h - w) @ w)
