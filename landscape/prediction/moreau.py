"""The Moreau path of the linearised classifier, and the threshold k* on it (T2), for losses that are not quadratic.

The best loss in a random k-dimensional subspace is the Moreau envelope at the ridge kappa(k), which solves N_eff(kappa) = k:

    M(kappa) = min over d of L(d) + kappa |d|^2 / 2

For a quadratic this is exactly T1. For other losses the curvature in N_eff is a choice: m0 takes the Gauss-Newton matrix at d = 0, m1 takes
it at the proximal point, and gm = sqrt(m0 m1). The target is compared with the envelope, penalty included, not with the loss at the
proximal point. Use this module for label words, where the Gram matrix fits in memory (n (C - 1) up to some thousands). For the path of the
model itself use `landscape.prediction.proximal`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from landscape.numerics import FloatArray, IntArray, find_root
from landscape.prediction.linearised_classifier import LinearisedClassifier
from landscape.prediction.quadratic import CEILING_SHARE, SMALLEST_RIDGE, ExampleInterval, example_interval, n_eff
from landscape.spectra import GradientSpectrum, gradient_spectrum, subset_of_examples

RIDGE_FACTOR = 4.0  # factor by which kappa falls from one proximal point to the next


@dataclass(frozen=True)
class MoreauPoint:
    """The proximal point argmin L(w) + kappa |w|^2 / 2 of a linearised classifier."""

    model: LinearisedClassifier
    kappa: float
    w: FloatArray  # (r,) in the coordinates of `model`
    loss: float  # L(w), without the penalty

    @property
    def envelope(self) -> float:
        """The loss with the penalty: the expected best loss in a random subspace of dimension k(kappa)."""
        return self.loss + self.kappa / 2 * float(self.w @ self.w)

    @cached_property
    def m0(self) -> float:
        """N_eff(kappa) with the Gauss-Newton matrix at w = 0."""
        model = self.model
        return n_eff(gradient_spectrum(model.gram, model.logits, model.labels).eigenvalues, self.kappa)

    @cached_property
    def m1(self) -> float:
        """N_eff(kappa) with the Gauss-Newton matrix at the proximal point."""
        return n_eff(self.quadratic.eigenvalues, self.kappa)

    @property
    def gm(self) -> float:
        """The geometric mean sqrt(m0 m1)."""
        return math.sqrt(self.m0 * self.m1)

    @cached_property
    def quadratic(self) -> GradientSpectrum:
        """The quadratic tangent to the loss at the proximal point. T3's ridge on it is `kappa` again, and T3's threshold is m1."""
        model = self.model
        return gradient_spectrum(model.gram, model.logits, model.labels, model.logits_at(self.w))


@dataclass(frozen=True)
class MoreauPrediction:
    """A threshold predicted along the path. `point` is None if there is no solution; k is a bound if it is censored."""

    point: MoreauPoint | None
    censored: Literal["above", "below"] | None
    rank_ceiling: int
    reason: str  # reason of the censoring, with numbers; empty without censoring

    @property
    def k(self) -> float | None:
        """The point's gm; None without a point."""
        return self.point.gm if self.point else None


def predict_on_path(gram: npt.ArrayLike, logits: npt.ArrayLike, labels: npt.ArrayLike, target: float) -> MoreauPrediction:
    """Return the point of the path whose envelope is the absolute loss `target`; the other arguments are as for `gradient_spectrum`.

    Censored "below" if target >= L0. Censored "above" if no ridge above rounding error reaches the target (then without a point), or if k >
    0.3 rank_ceiling.
    """
    model = LinearisedClassifier(gram, logits, labels)
    ceiling, initial = len(model.gram), model.loss(np.zeros(model.size))
    if not target < initial:
        return MoreauPrediction(None, "below", ceiling, f"target {target:.6g} >= initial loss {initial:.6g}")
    above: MoreauPoint | None = None
    lowest: MoreauPoint | None = None
    for point in _descend(model, initial - target):
        lowest = point
        if point.envelope <= target:
            break
        above = point
    if lowest is None or lowest.envelope > target:
        reached = initial if lowest is None else lowest.envelope
        return MoreauPrediction(None, "above", ceiling, f"target {target:.6g} < {reached:.6g}, the lowest loss of the linearised model")
    point = _between(above, lowest, target) if above else lowest
    if point.gm > CEILING_SHARE * ceiling:
        reason = f"k = {point.gm:.4g} > {CEILING_SHARE} x rank ceiling {ceiling}: more examples are needed"
        return MoreauPrediction(point, "above", ceiling, reason)
    return MoreauPrediction(point, None, ceiling, "")


def moreau_path(gram: npt.ArrayLike, logits: npt.ArrayLike, labels: npt.ArrayLike, lowest: float) -> list[MoreauPoint]:
    """Return points whose kappa falls by a factor 2 per point, starting just below the initial loss, until the envelope is below `lowest` >
    0.
    """
    model = LinearisedClassifier(gram, logits, labels)
    initial, points = model.loss(np.zeros(model.size)), list[MoreauPoint]()
    for point in _descend(model, 0.02 * initial, 2.0):
        points.append(point)
        if point.envelope < lowest:
            break
    return points


def predict_on_path_with_interval(
    gram: npt.ArrayLike, logits: npt.ArrayLike, labels: npt.ArrayLike, target: float, *, resamples: int = 40, seed: int = 0
) -> tuple[MoreauPrediction, ExampleInterval]:
    """Return `predict_on_path` with a 95 % jackknife interval over examples, as in `predict_with_interval`.

    Raises ValueError for fewer than 4 examples or 2 resamples.
    """
    prediction, n = predict_on_path(gram, logits, labels, target), len(np.asarray(labels))
    if n < 4 or resamples < 2:
        raise ValueError(f"an interval needs at least 4 examples and 2 resamples, got {n} and {resamples}")
    if prediction.k is None:
        return prediction, ExampleInterval(None, None, None)
    full = gradient_spectrum(gram, logits, labels)

    def k_of(examples: IntArray) -> float | None:
        part = subset_of_examples(gram, logits, labels, examples)
        return predict_on_path(*part, target / full.loss * gradient_spectrum(*part).loss).k

    return prediction, example_interval(k_of, prediction.k, n, resamples=resamples, seed=seed)


def _descend(model: LinearisedClassifier, gap: float, factor: float = RIDGE_FACTOR) -> Iterator[MoreauPoint]:
    """Yield proximal points of falling ridge. Each search starts from the last point.

    The envelope of the first point is at most `gap` below the initial loss.
    """
    if model.size == 0:
        return
    w = np.zeros(model.size)
    initial = model.at(w)
    smallest = SMALLEST_RIDGE * float(np.linalg.eigvalsh(initial.hessian)[-1])
    # By convexity the envelope is at least L0 - |g|^2 / (2 kappa).
    kappa = float(initial.gradient @ initial.gradient) / (2 * gap)
    while kappa > smallest:
        w = model.proximal(kappa, start=w)
        yield MoreauPoint(model, kappa, w, model.loss(w))
        kappa /= factor


def _between(above: MoreauPoint, below: MoreauPoint, target: float) -> MoreauPoint:
    """Return the point between two others whose envelope is `target`. The envelope rises with kappa."""
    last = below

    def at(kappa: float) -> MoreauPoint:
        nonlocal last
        w = last.model.proximal(kappa, start=last.w)
        last = MoreauPoint(last.model, kappa, w, last.model.loss(w))
        return last

    return at(find_root(lambda kappa: at(kappa).envelope - target, below.kappa, above.kappa, 1e-10))
