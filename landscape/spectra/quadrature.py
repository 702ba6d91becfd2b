"""Stochastic Lanczos quadrature, and numbers computed from a spectral measure, estimated or exact.

Lanczos with m steps from a vector v gives the Gauss quadrature of v's spectral measure, sum_i (u_i'v)^2 delta(l_i), which is exact for
polynomials up to degree 2 m - 1. The mean over random signs v is the eigenvalue counting measure (Ubaru, Chen & Saad 2017, doi
10.1137/16M1104974), so the trace of every function has a standard error over the probes. Every function below takes a `SpectralMeasure`, so
one run of Lanczos serves them all.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from landscape.curvature import LinearOperator, Progress
from landscape.numerics import FloatArray, dot, leave_one_out_stderr, rademacher, t_quantile
from landscape.spectra.krylov import Deflated, Eigenpairs, Tridiagonal, lanczos, lanczos_many


@dataclass(frozen=True)
class SpectralMeasure:
    """Quadrature rules, one row per starting vector v. The weights of a row sum to |v|^2 (= size for random signs).

    If `exact`, the only row holds all eigenvalues with weight one, and numbers computed from it have no error. `radau` holds the rules with
    a node at zero, if they were computed. The difference between the two rules shows the error of the quadrature (see
    `with_quadrature_error`).
    """

    nodes: FloatArray  # (probes, points)
    weights: FloatArray  # (probes, points), zero for padding if Lanczos ended early
    size: int  # k
    exact: bool = False
    radau: "SpectralMeasure | None" = None

    @classmethod
    def of_eigenvalues(cls, eigenvalues: FloatArray) -> "SpectralMeasure":
        """Return the measure that counts the eigenvalues (k,) of a diagonalised matrix."""
        return cls(np.asarray(eigenvalues, np.float64)[None], np.ones((1, len(eigenvalues))), len(eigenvalues), exact=True)


@dataclass(frozen=True)
class Estimate:
    """A mean over independent terms and its standard error: NaN for a single term, 0 for an exact value."""

    value: float
    stderr: float
    terms: int = 0  # number of averaged terms; 0 means exact

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the t-interval at confidence `level` (0..1); NaN for a single term."""
        if self.terms == 0:
            return self.value, self.value
        half_width = t_quantile(self.terms - 1, level) * self.stderr if self.terms > 1 else math.nan
        return self.value - half_width, self.value + half_width


def mean_of(terms: npt.ArrayLike) -> Estimate:
    """Return the mean of independent terms (count,) with its standard error."""
    terms = np.asarray(terms, np.float64)
    return Estimate(float(terms.mean()), float(_stderr(terms)), len(terms))


def slq(
    operator: LinearOperator,
    probes: int,
    steps: int,
    seed: int = 0,
    *,
    known: Eigenpairs | None = None,
    progress: Progress | None = None,
) -> SpectralMeasure:
    """Return the spectral measure of an operator from probes * min(steps, k) products.

    Each probe is a vector of random signs that `seed` and its number determine, so a larger `probes` keeps the first vectors. All probes
    advance together, so an operator with `matmat` computes their products in one call.

    Converged pairs in `known` (from `eigenpairs`) enter exactly, and only the rest is sampled. If few eigenvalues outweigh all others, this
    removes nearly all of the variance. progress(done, total) counts products. Raises ValueError unless probes >= 1 and steps >= 1.
    """
    if probes < 1:
        raise ValueError(f"slq needs at least one probe, got {probes}")
    values, vectors = _converged(known, operator)
    if len(values) == operator.size:
        return SpectralMeasure.of_eigenvalues(values)
    deflated = Deflated(operator, vectors)
    starts = [deflated.project(rademacher(seed, f"slq/{probe}", operator.size, operator.dtype, operator.device)) for probe in range(probes)]
    steps = min(steps, operator.size - len(values))
    runs = lanczos_many(deflated, starts, steps, progress=progress)
    radau = _measure([run.with_zero() for run in runs], starts, values, operator.size)
    return replace(_measure(runs, starts, values, operator.size), radau=radau)


def _measure(runs: list[Tridiagonal], starts: list[Tensor], values: FloatArray, size: int) -> SpectralMeasure:
    """Return the rules of `runs`, with the known eigenvalues as atoms of weight one.

    Projection changes the squared length of a start from its expected value. This difference counts as the weight of an eigenvalue zero.
    Otherwise, for a function that is not zero there, the noise of the lengths would be most of the error.
    """
    steps = max(len(run.alphas) for run in runs)
    rules = [_gauss(run, dot(start, start), steps) for run, start in zip(runs, starts, strict=True)]
    nodes, weights = (np.stack(rows) for rows in zip(*rules, strict=True))
    if len(values):
        missing = size - len(values) - weights.sum(axis=1, keepdims=True)
        nodes = np.concatenate([nodes, np.tile(np.append(values, 0.0), (len(runs), 1))], axis=1)
        weights = np.concatenate([weights, np.ones((len(runs), len(values))), missing], axis=1)
    return SpectralMeasure(nodes, weights, size)


def with_quadrature_error(measure: SpectralMeasure, f: Callable[[SpectralMeasure], Estimate]) -> Estimate:
    """Return f(measure) with the quadrature error added to its standard error (root of the sum of squares).

    The quadrature error is the difference of f between the Gauss and Gauss-Radau rules. Quadrature is biased if f bends below the smallest
    eigenvalues that Lanczos resolves, and the spread over probes does not show this bias. For N_eff and log-determinants of semidefinite
    matrices the two rules bracket the true value; for other functions they indicate the error.
    """
    estimate = f(measure)
    if measure.radau is None:
        return estimate
    return replace(estimate, stderr=math.hypot(estimate.stderr, estimate.value - f(measure.radau).value))


def spectral_measure(operator: LinearOperator, start: Tensor, steps: int) -> SpectralMeasure:
    """Return the spectral measure of one vector (k,): one row whose weights sum to |start|^2.

    The result is not sampled, so it has no standard error. For the gradient g it is the gradient-weighted measure: trace(measure, f).value
    = g' f(A) g.
    """
    steps = min(steps, operator.size)
    nodes, weights = _gauss(lanczos(operator, start, steps), dot(start, start), steps)
    return SpectralMeasure(nodes[None], weights[None], operator.size)


def trace(measure: SpectralMeasure, f: Callable[[FloatArray], FloatArray] = lambda x: x) -> Estimate:
    """Return the sum of f over the eigenvalues. f acts elementwise (x gives the trace, x**2 the squared Frobenius norm)."""
    terms = (measure.weights * f(measure.nodes)).sum(axis=1)
    return Estimate(float(terms[0]), 0.0) if measure.exact else mean_of(terms)


def effective_dimension(measure: SpectralMeasure, kappa: float) -> Estimate:
    """Return N_eff(kappa) = sum l / (l + kappa) over the positive eigenvalues l. Raises ValueError unless kappa > 0."""
    if not kappa > 0:
        raise ValueError(f"kappa must be positive, got {kappa}")
    return trace(measure, lambda x: np.maximum(x, 0) / (np.maximum(x, 0) + kappa))


def log_determinant(measure: SpectralMeasure, ridge: float) -> Estimate:
    """Return log det(A+ + ridge I), where A+ is A without its negative eigenvalues. Raises ValueError unless ridge > 0."""
    if not ridge > 0:
        raise ValueError(f"the ridge must be positive, got {ridge}")
    return trace(measure, lambda x: np.log(np.maximum(x, 0) + ridge))


def negative_mass(measure: SpectralMeasure) -> Estimate:
    """Return sum |negative eigenvalues| / sum |eigenvalues|, in 0..1; 0 for a zero operator."""
    return jackknifed(measure, lambda x, w: _ratio((w * np.maximum(-x, 0)).sum(), (w * np.abs(x)).sum()))


def participation_ratio(measure: SpectralMeasure) -> Estimate:
    """Return (sum |l|)^2 / sum l^2, in 1..k; 0 for a zero operator.

    A spectrum of this many equal eigenvalues has the same two sums.
    """
    return jackknifed(measure, lambda x, w: _ratio((w * np.abs(x)).sum() ** 2, (w * x**2).sum()))


def effective_rank(measure: SpectralMeasure) -> Estimate:
    """Return the exponential of the entropy of |l| / sum |l|, in 1..k (Roy & Vetterli 2007); 0 for a zero operator."""

    def rank(x: FloatArray, w: FloatArray) -> float:
        total = (w * np.abs(x)).sum()
        share = np.abs(x) / (total or 1.0)
        return float(np.exp(-(w * share * np.log(np.where(share > 0, share, 1.0))).sum())) if total > 0 else 0.0

    return jackknifed(measure, rank)


def outliers(measure: SpectralMeasure) -> tuple[float, Estimate]:
    """Return the edge of the bulk and the number of eigenvalues beyond it in magnitude. The edge is NaN if no eigenvalue lies beyond it.

    The edge is Tukey's outer fence of log |l|: the upper quartile plus three interquartile ranges. Eigenvalues below 1e-5 of the largest
    magnitude are ignored.
    """
    sizes, weights = np.abs(measure.nodes).ravel(), measure.weights.ravel()
    present = (sizes > NOISE * sizes.max(initial=0.0)) & (weights > 0)
    if not present.any():
        return math.nan, trace(measure, np.zeros_like)
    order = np.argsort(sizes[present])
    logs, cumulative = np.log(sizes[present][order]), np.cumsum(weights[present][order])
    low, high = (float(logs[np.searchsorted(cumulative, q * cumulative[-1])]) for q in (0.25, 0.75))
    fence = high + 3 * (high - low)
    edge = math.exp(fence) if fence < logs[-1] else math.inf
    return edge if math.isfinite(edge) else math.nan, trace(measure, lambda x: (np.abs(x) > edge).astype(float))


def decay_exponent(eigenvalues: npt.ArrayLike) -> Estimate:
    """Return s of l_i ~ i^-s for positive eigenvalues (n,), in any order.

    The fit regresses log(rank - 1/2) on log l; s is minus one over the slope. The standard error s sqrt(2 / n) holds if the eigenvalues are
    like independent draws from a power law (Gabaix & Ibragimov 2011, doi 10.1198/jbes.2009.06157). Raises ValueError for n < 3 or an
    eigenvalue that is not positive.
    """
    lam = np.sort(np.asarray(eigenvalues, np.float64))[::-1]
    if len(lam) < 3 or not (lam > 0).all():
        raise ValueError(f"a decay exponent needs at least 3 eigenvalues, all positive, got {len(lam)}")
    x, y = np.log(lam), np.log(np.arange(len(lam)) + 0.5)
    centred = x - x.mean()
    if not (centred**2).sum() > 0:
        return Estimate(0.0, 0.0, len(lam))
    s = -float((centred**2).sum() / (centred * y).sum())
    return Estimate(s, s * math.sqrt(2 / len(lam)), len(lam))


def jackknifed(measure: SpectralMeasure, f: Callable[[FloatArray, FloatArray], float]) -> Estimate:
    """Return f(nodes, weights), both (points,), of the whole measure, with a jackknife standard error over probes.

    Use it for numbers that are not a mean over probes, such as ratios.
    """
    probes = len(measure.nodes)

    def of(rows: npt.NDArray[np.bool_]) -> float:
        return float(f(measure.nodes[rows].ravel(), measure.weights[rows].ravel() / rows.sum()))

    all_rows = np.ones(probes, bool)
    if measure.exact:
        return Estimate(of(all_rows), 0.0)
    if probes == 1:
        return Estimate(of(all_rows), math.nan, 1)
    return Estimate(of(all_rows), leave_one_out_stderr([of(np.arange(probes) != i) for i in range(probes)]), probes)


def spectral_density(measure: SpectralMeasure, grid: FloatArray, sigma: float) -> tuple[FloatArray, FloatArray]:
    """Return the eigenvalue density smoothed by a Gaussian of width sigma > 0 on `grid` (points,), and its standard error.

    Both are (points,), in units of 1 / eigenvalue. The density integrates to 1 over the whole line. Raises ValueError unless sigma > 0.
    """
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    share = measure.weights / measure.weights.sum(axis=1, keepdims=True)
    distance = (np.asarray(grid)[None, :, None] - measure.nodes[:, None, :]) / sigma
    bumps = np.exp(-0.5 * distance**2) / (sigma * math.sqrt(2 * math.pi))
    rows = (bumps * share[:, None, :]).sum(axis=2)
    error = np.zeros_like(rows[0]) if measure.exact else _stderr(rows)
    return rows.mean(axis=0), error


def _gauss(tridiagonal: Tridiagonal, mass: float, steps: int) -> tuple[FloatArray, FloatArray]:
    """Return nodes and weights (steps,) of a start of squared norm `mass`.

    Padding repeats the last node with weight zero, so that f is finite at padded nodes.
    """
    nodes, vectors = tridiagonal.ritz()
    padding = steps - len(nodes)
    return np.pad(nodes, (0, padding), mode="edge"), np.pad(mass * vectors[0] ** 2, (0, padding))


NOISE = 1e-5  # rounding error of a float32 matrix of some thousand columns, relative to the largest eigenvalue
CONVERGED = 1e-3  # residual of a converged pair, relative to the largest eigenvalue


def _converged(known: Eigenpairs | None, operator: LinearOperator) -> tuple[FloatArray, Tensor]:
    """Return the eigenvalues and eigenvectors of `known` that have converged."""
    if known is None:
        return np.empty(0), torch.zeros((operator.size, 0), dtype=operator.dtype, device=operator.device)
    converged = known.residuals <= CONVERGED * np.abs(known.eigenvalues).max(initial=0.0)
    return known.eigenvalues[converged], known.eigenvectors[:, torch.as_tensor(converged)]


def _ratio(a: float, b: float) -> float:
    """Return a / b, or 0 for b = 0."""
    return float(a / b) if b > 0 else 0.0


def _stderr(rows: FloatArray) -> FloatArray:
    """Return the standard error of the mean over axis 0; NaN for a single row."""
    count = len(rows)
    return rows.std(axis=0, ddof=1) / math.sqrt(count) if count > 1 else np.full(rows.shape[1:], math.nan)
