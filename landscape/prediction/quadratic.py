"""The threshold k* that the quadratic model at theta0 predicts (T3), and its curve of expected loss against k (T1).

The model is L(d) = L0 + g'd + d'Hd / 2 with H >= 0, eigenpairs (l_i, u_i) and c_i = (u_i'g)^2. A random k-dimensional subspace acts like a
ridge kappa(k) with N_eff(kappa) = sum l_i / (l_i + kappa) = k (Derezinski et al. 2020, arXiv 2006.10653):

    T1: E[min of L over the subspace] = L0 - sum c_i / (l_i + kappa(k)) / 2.
    T3: kappa* solves sum c_i / (l_i + kappa) = 2 (L0 - target); then k* = N_eff(kappa*).

Both need no training.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

from landscape.numerics import FloatArray, IntArray, Stream, find_root
from landscape.spectra import GradientSpectrum, gradient_spectrum, subset_spectrum

# Above this share of the rank ceiling, a prediction depends on the number of examples, not on the model.
CEILING_SHARE = 0.3
# A ridge below this share of the top eigenvalue is rounding error. The quadratic cannot reach a target that needs a smaller ridge.
SMALLEST_RIDGE = 1e-12
HALVES = 15  # number of half-samples for k_half, a median that need not be precise


@dataclass(frozen=True)
class Prediction:
    """A predicted threshold. k is None if the quadratic has no solution, and a bound if it is censored."""

    k: float | None  # N_eff(kappa)
    kappa: float | None
    censored: Literal["above", "below"] | None  # on which side of k the true threshold lies
    rank_ceiling: int
    reason: str  # reason of the censoring, with numbers; empty without censoring


@dataclass(frozen=True)
class PredictionInterval:
    """A prediction with its confidence interval over the choice of examples."""

    prediction: Prediction
    low: float | None  # None if there is no bound
    high: float | None
    k_half: float | None  # median prediction from half of the examples; far from k if the rank ceiling limits k


@dataclass(frozen=True)
class ExampleInterval:
    """The confidence interval of a prediction over the choice of examples."""

    low: float | None
    high: float | None
    k_half: float | None  # median prediction from half of the examples


def predict_threshold(spectrum: GradientSpectrum, target: float) -> Prediction:
    """Return k* = N_eff(kappa*), where kappa* solves sum c_i / (l_i + kappa) = 2 (L0 - target) (T3).

    `target` is an absolute loss. Censored "below" if target >= L0, where no tuning is needed. Censored "above" if the target lies below the
    quadratic's minimum (k is None), or if k* > 0.3 rank_ceiling (k is a lower bound).
    """
    return threshold_by(lambda kappa: n_eff(spectrum.eigenvalues, kappa), spectrum, target)


def threshold_by(dimension: Callable[[float], float], spectrum: GradientSpectrum, target: float) -> Prediction:
    """Return T3's threshold with `dimension` as the function N_eff(kappa).

    `spectrum` holds only the gradient-weighted measure, from any quadrature. The result is censored as by `predict_threshold`.
    """
    ceiling = spectrum.rank_ceiling
    if not target < spectrum.loss:
        return Prediction(None, None, "below", ceiling, f"target {target:.6g} >= initial loss {spectrum.loss:.6g}")
    gap = 2 * (spectrum.loss - target)
    lam, c = spectrum.eigenvalues, spectrum.projections
    smallest = SMALLEST_RIDGE * float(lam.max())
    if not smallest > 0 or _explained(lam, c, smallest) < gap:
        lowest = spectrum.loss - (_explained(lam, c, smallest) / 2 if smallest > 0 else 0.0)
        return Prediction(None, None, "above", ceiling, f"target {target:.6g} < quadratic's minimum {lowest:.6g}")
    # sum c / (l + kappa) <= sum c / kappa bounds kappa* from above.
    largest = max(float(c.sum()) / gap, smallest)
    kappa = _solve(lambda ridge: _explained(lam, c, ridge) - gap, smallest, largest)
    k = dimension(kappa)
    if k > CEILING_SHARE * ceiling:
        reason = f"k* = {k:.4g} > {CEILING_SHARE} x rank ceiling {ceiling}: more examples are needed"
        return Prediction(k, kappa, "above", ceiling, reason)
    return Prediction(k, kappa, None, ceiling, "")


def expected_loss(spectrum: GradientSpectrum, k: float) -> float:
    """Return the expected minimum over a random k-dimensional subspace, k >= 0: L0 - sum c_i / (l_i + kappa(k)) / 2 (T1).

    kappa(k) solves N_eff(kappa) = k. The result is L0 at k = 0 and the quadratic's minimum at k >= rank. Raises ValueError for k < 0.
    """
    if not k >= 0:
        raise ValueError(f"k must be at least 0, got {k}")
    lam, c = spectrum.eigenvalues, spectrum.projections
    smallest = SMALLEST_RIDGE * float(lam.max())
    if k == 0 or not smallest > 0:
        return spectrum.loss
    # N_eff <= sum l / kappa bounds kappa(k) from above.
    largest = max(float(lam.sum()) / k, smallest)
    short = n_eff(lam, smallest) <= k
    kappa = smallest if short else _solve(lambda ridge: n_eff(lam, ridge) - k, smallest, largest)
    return spectrum.loss - _explained(lam, c, kappa) / 2


def predict_with_interval(
    gram: npt.ArrayLike,
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    target: float,
    *,
    resamples: int = 100,
    seed: int = 0,
    level: float = 0.95,
) -> PredictionInterval:
    """Return T3's threshold from a Gram matrix, with a confidence interval at `level` over the draw of the n >= 4 examples.

    gram (m, m), logits (n, C) and labels (n,) are as for `gradient_spectrum`; `target` is an absolute loss on all examples. Each resample
    aims at the same fraction of its initial loss. `high` is None if a resample has no solution. `seed` determines the resamples. Raises
    ValueError for n < 4, for resamples < 2, and for all inputs that `gradient_spectrum` refuses.

    The interval differs from a bootstrap over examples: resamples leave out n / 8 examples (the delete-d jackknife, Shao & Wu 1989, doi
    10.1214/aos/1176347263). A repeated example adds no rank, so bootstrapped log k would be too low. Half-samples are too small to
    represent n examples, and the cost of leave-one-out grows with n.
    """
    full = gradient_spectrum(gram, logits, labels)
    n = len(np.asarray(labels))
    if n < 4 or resamples < 2:
        raise ValueError(f"an interval needs at least 4 examples and 2 resamples, got {n} and {resamples}")
    prediction = predict_threshold(full, target)
    if prediction.k is None:
        return PredictionInterval(prediction, None, None, None)

    def k_of(examples: IntArray) -> float | None:
        part = subset_spectrum(gram, logits, labels, examples)
        return predict_threshold(part, target / full.loss * part.loss).k

    interval = example_interval(k_of, prediction.k, n, resamples=resamples, seed=seed, level=level)
    return PredictionInterval(prediction, interval.low, interval.high, interval.k_half)


def example_interval(
    k_of: Callable[[IntArray], float | None], k: float, n: int, *, resamples: int, seed: int, level: float = 0.95
) -> ExampleInterval:
    """Return the delete-d jackknife interval of a prediction k from n examples.

    k_of(examples) returns the prediction from some of the examples (integers in 0..n - 1), or None without a solution. See
    `predict_with_interval`.
    """

    def log_k(role: str, number: int, size: int) -> float:
        resampled = k_of(Stream(seed, f"predict/{role}/{number}").permutation(n)[:size])
        return math.inf if resampled is None else math.log(resampled)

    # In simulations, 95 % intervals covered 89-99 % with n / 8 left out, like leave-one-out, and 80-95 % from half-samples.
    left_out = max(n // 8, 1)
    logs = np.array([log_k("jackknife", number, n - left_out) for number in range(resamples)])
    low, high = _jackknife_bounds(k, logs, math.sqrt((n - left_out) / left_out), level)
    half = float(np.median([log_k("half", number, n // 2) for number in range(HALVES)]))
    return ExampleInterval(low, high, math.exp(half) if math.isfinite(half) else None)


def _jackknife_bounds(k: float, logs: FloatArray, inflation: float, level: float) -> tuple[float | None, float | None]:
    """Return k divided by and multiplied by exp(quantile * standard error), from resampled log k (inf without a solution)."""
    solved = logs[np.isfinite(logs)]
    if len(solved) < 2:
        return None, None
    factor = math.exp(NormalDist().inv_cdf((1 + level) / 2) * inflation * float(solved.std(ddof=1)))
    return k / factor, k * factor if len(solved) == len(logs) else None


def larsen_threshold(spectrum: GradientSpectrum, target: float) -> float | None:
    """Return D - sum r_i^2 / (R^2 + r_i^2), r_i^2 = 2 eps / l_i (Larsen et al. 2021, arXiv 2107.05802), for comparison with T3.

    The result equals N_eff(2 eps / R^2), where eps = target - L* is the slack above the quadratic's minimum L*, and R the distance to that
    minimum. The result is never less than T3's k. Returns None unless L* < target < L0.
    """
    positive = spectrum.eigenvalues > SMALLEST_RIDGE * float(spectrum.eigenvalues.max())
    lam, c = spectrum.eigenvalues[positive], spectrum.projections[positive]
    eps = target - spectrum.loss + float((c / lam).sum()) / 2
    if not (eps > 0 and target < spectrum.loss):
        return None
    return n_eff(lam, 2 * eps / float((c / lam**2).sum()))


def _explained(lam: FloatArray, c: FloatArray, kappa: float) -> float:
    """Return g'(H + kappa)^-1 g = sum c_i / (l_i + kappa), twice the drop of loss at this ridge."""
    return float((c / (lam + kappa)).sum())


def n_eff(eigenvalues: FloatArray, kappa: float) -> float:
    """Return N_eff(kappa) = sum l / (l + kappa) over all eigenvalues (m,), kappa > 0."""
    return float((eigenvalues / (eigenvalues + kappa)).sum())


def _solve(f: Callable[[float], float], low: float, high: float) -> float:
    """Return the root of a decreasing function of kappa, or an end of the interval if rounding hides the change of sign."""
    if f(low) <= 0:
        return low
    if f(high) >= 0:
        return high
    return find_root(f, low, high)
