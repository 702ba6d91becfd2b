"""The Moreau path of the linearised model, and the thresholds k read off it (theory.md, T2): for losses that are no quadratics.

The best loss in a random k-dimensional subspace is the Moreau envelope min_d { L(d) + kappa |d|^2 / 2 } at the ridge kappa(k), and
of a quadratic k = N_eff(kappa). Which curvature N_eff takes elsewhere is a choice: m0 that at d = 0, m1 that at the proximal point, and
gm = sqrt(m0 m1) between. The target is compared with the envelope, its penalty included, not with the loss at the proximal point.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from landscape.numerics import FloatArray, IntArray, root
from landscape.prediction.linearised_classifier import Linearised
from landscape.prediction.quadratic import CEILING_SHARE, SMALLEST_RIDGE, ExampleInterval, jackknife, n_eff
from landscape.spectra import GradientSpectrum, gradient_spectrum, subset

DOWN = 4.0  # by which kappa falls from one proximal point to the next, each found from the one before


@dataclass(frozen=True)
class PathPoint:
    """The proximal point at `kappa` of a linearised model."""

    model: Linearised
    kappa: float
    w: FloatArray  # (r,) where it is, in the coordinates of `model`
    loss: float  # there, without the penalty

    @property
    def envelope(self) -> float:
        """The loss with the penalty: the best that a random subspace of dimension k(kappa) is expected to reach."""
        return self.loss + self.kappa / 2 * float(self.w @ self.w)

    @cached_property
    def m0(self) -> float:
        """N_eff(kappa) with the Gauss-Newton matrix at d = 0."""
        model = self.model
        return n_eff(gradient_spectrum(model.gram, model.logits, model.labels).eigenvalues, self.kappa)

    @cached_property
    def m1(self) -> float:
        """N_eff(kappa) with the Gauss-Newton matrix at the proximal point."""
        return n_eff(self.quadratic.eigenvalues, self.kappa)

    @property
    def gm(self) -> float:
        """sqrt(m0 m1)."""
        return math.sqrt(self.m0 * self.m1)

    @cached_property
    def quadratic(self) -> GradientSpectrum:
        """The quadratic that touches the loss at the proximal point: T3's ridge on it is `kappa` again, and its threshold m1."""
        model = self.model
        return gradient_spectrum(model.gram, model.logits, model.labels, model.moved(self.w))


@dataclass(frozen=True)
class PathPrediction:
    """A threshold predicted along the path; `point` is None where there is no solution, and k not to be trusted where censored."""

    point: PathPoint | None
    censored: Literal["above", "below"] | None
    rank_ceiling: int
    reason: str  # of the censoring, with its numbers

    @property
    def k(self) -> float | None:
        """The point's gm."""
        return self.point.gm if self.point else None


def predict_on_path(gram: npt.ArrayLike, logits: npt.ArrayLike, labels: npt.ArrayLike, target: float) -> PathPrediction:
    """The point of the path whose envelope is the absolute loss `target`; arguments as for `gradient_spectrum`.

    Censored "below" at target >= L0; "above" where no ridge that is more than rounding reaches it (no point), and where k is over
    0.3 rank_ceiling.
    """
    model = Linearised(gram, logits, labels)
    ceiling, initial = len(model.gram), model.loss(np.zeros(model.size))
    if not target < initial:
        return PathPrediction(None, "below", ceiling, f"target {target:.6g} >= initial loss {initial:.6g}")
    above: PathPoint | None = None
    lowest: PathPoint | None = None
    for point in _falling(model, initial - target):
        lowest = point
        if point.envelope <= target:
            break
        above = point
    if lowest is None or lowest.envelope > target:
        reached = initial if lowest is None else lowest.envelope
        return PathPrediction(None, "above", ceiling, f"target {target:.6g} < {reached:.6g}, what the linearised model reaches")
    found = _between(above, lowest, target) if above else lowest
    if found.gm > CEILING_SHARE * ceiling:
        reason = f"k = {found.gm:.4g} > {CEILING_SHARE} x rank ceiling {ceiling}: more examples are needed"
        return PathPrediction(found, "above", ceiling, reason)
    return PathPrediction(found, None, ceiling, "")


def moreau_path(gram: npt.ArrayLike, logits: npt.ArrayLike, labels: npt.ArrayLike, lowest: float) -> list[PathPoint]:
    """Points of falling kappa, a factor 2 apart, from next to the initial loss until the envelope is below `lowest` > 0."""
    model = Linearised(gram, logits, labels)
    initial, points = model.loss(np.zeros(model.size)), list[PathPoint]()
    for point in _falling(model, 0.02 * initial, 2.0):
        points.append(point)
        if point.envelope < lowest:
            break
    return points


def predict_on_path_with_interval(
    gram: npt.ArrayLike, logits: npt.ArrayLike, labels: npt.ArrayLike, target: float, *, resamples: int = 40, seed: int = 0
) -> tuple[PathPrediction, ExampleInterval]:
    """The same with the 95 % jackknife interval over examples of `predict_with_interval`, for n >= 4 examples."""
    found, n = predict_on_path(gram, logits, labels, target), len(np.asarray(labels))
    if n < 4 or resamples < 2:
        raise ValueError(f"an interval needs at least 4 examples and 2 resamples, got {n} and {resamples}")
    if found.k is None:
        return found, ExampleInterval(None, None, None)
    whole = gradient_spectrum(gram, logits, labels)

    def k_of(examples: IntArray) -> float | None:
        part = subset(gram, logits, labels, examples)
        return predict_on_path(*part, target / whole.loss * gradient_spectrum(*part).loss).k

    return found, jackknife(k_of, found.k, n, resamples=resamples, seed=seed)


def _falling(model: Linearised, gap: float, factor: float = DOWN) -> Iterator[PathPoint]:
    """Proximal points from a ridge whose envelope is at most `gap` below the initial loss on, each found from the one before."""
    if model.size == 0:
        return
    w = np.zeros(model.size)
    here = model.at(w)
    smallest = SMALLEST_RIDGE * float(np.linalg.eigvalsh(here.hessian)[-1])
    # By convexity the envelope is at least L0 - |g|^2 / (2 kappa).
    kappa = float(here.gradient @ here.gradient) / (2 * gap)
    while kappa > smallest:
        w = model.proximal(kappa, start=w)
        yield PathPoint(model, kappa, w, model.loss(w))
        kappa /= factor


def _between(above: PathPoint, below: PathPoint, target: float) -> PathPoint:
    """The point between two whose envelope is `target`: the envelope rises with kappa."""
    last = below

    def at(kappa: float) -> PathPoint:
        nonlocal last
        w = last.model.proximal(kappa, start=last.w)
        last = PathPoint(last.model, kappa, w, last.model.loss(w))
        return last

    return at(root(lambda kappa: at(kappa).envelope - target, below.kappa, above.kappa, 1e-10))
