"""Stochastic Lanczos quadrature, and what is read off a spectral measure, whether estimated or exact.

Lanczos from a vector v gives the Gauss quadrature of v's spectral measure, sum_i (u_i'v)^2 delta(l_i): exact for
polynomials up to degree 2 m - 1. Over random signs v its mean is the eigenvalue counting measure (Ubaru, Chen & Saad
2017, doi 10.1137/16M1104974), so every trace of a function comes with a standard error over the probes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from landscape.curvature import LinearOperator, Progress
from landscape.numerics import FloatArray, leave_one_out, rademacher, student
from landscape.spectra.krylov import Deflated, Eigenpairs, Tridiagonal, lanczos, lanczos_many


@dataclass(frozen=True)
class SpectralMeasure:
    """Quadrature rules, one row a starting vector v; the weights of a row sum to |v|^2 (= size for random signs).

    `exact`: the one row holds all eigenvalues with weight one, and what is computed from it has no error. `radau` are the rules with
    a node at zero, if there are any: what differs between the two is not resolved (see `resolved`).
    """

    nodes: FloatArray  # (probes, points)
    weights: FloatArray  # (probes, points), zero where Lanczos ended early
    size: int  # k
    exact: bool = False
    radau: "SpectralMeasure | None" = None

    @classmethod
    def of_eigenvalues(cls, eigenvalues: FloatArray) -> "SpectralMeasure":
        """The measure that counts the eigenvalues (k,) of a matrix that could be diagonalised."""
        return cls(np.asarray(eigenvalues, np.float64)[None], np.ones((1, len(eigenvalues))), len(eigenvalues), exact=True)


@dataclass(frozen=True)
class Estimate:
    """A mean over independent terms and its standard error: NaN for a single term, 0 where nothing was sampled."""

    value: float
    stderr: float
    terms: int = 0  # how many were averaged, 0: exact

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The t-interval at `level`, 0..1; NaN for a single term."""
        if self.terms == 0:
            return self.value, self.value
        reach = student(self.terms - 1, level) * self.stderr if self.terms > 1 else math.nan
        return self.value - reach, self.value + reach


def mean_of(terms: npt.ArrayLike) -> Estimate:
    """The mean of independent terms (count,) with its standard error."""
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
    """The spectral measure of an operator from probes x min(steps, k) products.

    Each probe is a vector of random signs named by (seed, its number): more probes keep the first ones. All go in step, so that
    an operator with `matmat` serves them together. Pairs that are `known` and have converged are taken as they are, and only
    the rest is sampled: where few eigenvalues outweigh all others, nearly all of the variance is theirs. `progress(done, total)`
    counts products. Raises ValueError unless probes >= 1 and steps >= 1.
    """
    if probes < 1:
        raise ValueError(f"slq needs at least one probe, got {probes}")
    values, vectors = _converged(known, operator)
    if len(values) == operator.size:
        return SpectralMeasure.of_eigenvalues(values)
    rest = Deflated(operator, vectors)
    starts = [rest.project(rademacher(seed, f"slq/{probe}", operator.size, operator.dtype, operator.device)) for probe in range(probes)]
    steps = min(steps, operator.size - len(values))
    runs = lanczos_many(rest, starts, steps, progress=progress)
    radau = _measure([run.with_zero() for run in runs], starts, values, operator.size)
    return replace(_measure(runs, starts, values, operator.size), radau=radau)


def _measure(runs: list[Tridiagonal], starts: list[Tensor], values: FloatArray, size: int) -> SpectralMeasure:
    """The rules of `runs`, with the known eigenvalues as atoms of weight one.

    What a projected start's squared length lacks of its mean counts as an eigenvalue of zero: of a function that is not zero
    there, its noise would be most of the error.
    """
    steps = max(len(run.alphas) for run in runs)
    rules = [_gauss(run, _square(start), steps) for run, start in zip(runs, starts, strict=True)]
    nodes, weights = (np.stack(each) for each in zip(*rules, strict=True))
    if len(values):
        missing = size - len(values) - weights.sum(axis=1, keepdims=True)
        nodes = np.concatenate([nodes, np.tile(np.append(values, 0.0), (len(runs), 1))], axis=1)
        weights = np.concatenate([weights, np.ones((len(runs), len(values))), missing], axis=1)
    return SpectralMeasure(nodes, weights, size)


def resolved(measure: SpectralMeasure, f: Callable[[SpectralMeasure], Estimate]) -> Estimate:
    """f(measure), its standard error widened by what f changes between the Gauss and the Gauss-Radau rules.

    Quadrature is biased where f bends below the smallest eigenvalues that Lanczos resolves, and no spread over probes shows it. For
    N_eff and log-determinants of semidefinite matrices the two rules lie on either side of the truth, for others they indicate.
    """
    found = f(measure)
    if measure.radau is None:
        return found
    return replace(found, stderr=math.hypot(found.stderr, found.value - f(measure.radau).value))


def spectral_measure(operator: LinearOperator, start: Tensor, steps: int) -> SpectralMeasure:
    """The measure of one vector, shape (k,): one row whose weights sum to |start|^2; no sampling, so no standard error.

    From the gradient it is the g-weighted measure: trace(measure, f).value = g' f(A) g.
    """
    steps = min(steps, operator.size)
    nodes, weights = _gauss(lanczos(operator, start, steps), _square(start), steps)
    return SpectralMeasure(nodes[None], weights[None], operator.size)


def trace(measure: SpectralMeasure, f: Callable[[FloatArray], FloatArray] = lambda x: x) -> Estimate:
    """The sum of f over the eigenvalues; f acts elementwise (x -> x: the trace, x**2: the squared Frobenius norm)."""
    terms = (measure.weights * f(measure.nodes)).sum(axis=1)
    return Estimate(float(terms[0]), 0.0) if measure.exact else mean_of(terms)


def effective_dimension(measure: SpectralMeasure, kappa: float) -> Estimate:
    """N_eff(kappa) = sum l / (l + kappa) over the positive eigenvalues, kappa > 0 (theory.md, T1 and pitfall 6)."""
    if not kappa > 0:
        raise ValueError(f"kappa must be positive, got {kappa}")
    return trace(measure, lambda x: np.maximum(x, 0) / (np.maximum(x, 0) + kappa))


def log_determinant(measure: SpectralMeasure, ridge: float) -> Estimate:
    """log det(A+ + ridge I), ridge > 0, where A+ is A without its negative eigenvalues."""
    if not ridge > 0:
        raise ValueError(f"the ridge must be positive, got {ridge}")
    return trace(measure, lambda x: np.log(np.maximum(x, 0) + ridge))


def negative_mass(measure: SpectralMeasure) -> Estimate:
    """sum |negative eigenvalues| / sum |eigenvalues|, in 0..1; 0 for a zero operator."""
    return pooled(measure, lambda x, w: _over((w * np.maximum(-x, 0)).sum(), (w * np.abs(x)).sum()))


def participation_ratio(measure: SpectralMeasure) -> Estimate:
    """(sum |l|)^2 / sum l^2, in 1..k: how many eigenvalues a flat spectrum of the same two moments has; 0 for a zero operator."""
    return pooled(measure, lambda x, w: _over((w * np.abs(x)).sum() ** 2, (w * x**2).sum()))


def effective_rank(measure: SpectralMeasure) -> Estimate:
    """exp of the entropy of |l| / sum |l|, in 1..k (Roy & Vetterli 2007); 0 for a zero operator."""

    def rank(x: FloatArray, w: FloatArray) -> float:
        total = (w * np.abs(x)).sum()
        share = np.abs(x) / (total or 1.0)
        return float(np.exp(-(w * share * np.log(np.where(share > 0, share, 1.0))).sum())) if total > 0 else 0.0

    return pooled(measure, rank)


def outliers(measure: SpectralMeasure) -> tuple[float, Estimate]:
    """(edge of the bulk, how many eigenvalues are larger in magnitude); NaN for the edge where none is.

    The edge is Tukey's outer fence of log |l|: the upper quartile and three interquartile ranges. Eigenvalues below NOISE of
    the largest are left out.
    """
    sizes, weights = np.abs(measure.nodes).ravel(), measure.weights.ravel()
    there = (sizes > NOISE * sizes.max(initial=0.0)) & (weights > 0)
    if not there.any():
        return math.nan, trace(measure, np.zeros_like)
    order = np.argsort(sizes[there])
    logs, mass = np.log(sizes[there][order]), np.cumsum(weights[there][order])
    low, high = (float(logs[np.searchsorted(mass, q * mass[-1])]) for q in (0.25, 0.75))
    fence = high + 3 * (high - low)
    edge = math.exp(fence) if fence < logs[-1] else math.inf
    return edge if math.isfinite(edge) else math.nan, trace(measure, lambda x: (np.abs(x) > edge).astype(float))


def decay_exponent(eigenvalues: npt.ArrayLike) -> Estimate:
    """s of l_i ~ i^-s over positive eigenvalues (n >= 3, or ValueError), largest first.

    Log (rank - 1/2) is regressed on log l, and s is one over the slope; the standard error s sqrt(2 / n) holds if the eigenvalues are like
    independent draws from a power law (Gabaix & Ibragimov 2011, doi 10.1198/jbes.2009.06157).
    """
    lam = np.sort(np.asarray(eigenvalues, np.float64))[::-1]
    if len(lam) < 3 or not (lam > 0).all():
        raise ValueError(f"a decay exponent needs at least 3 eigenvalues, all positive, got {len(lam)}")
    x, y = np.log(lam), np.log(np.arange(len(lam)) + 0.5)
    apart = x - x.mean()
    if not (apart**2).sum() > 0:
        return Estimate(0.0, 0.0, len(lam))
    s = -float((apart**2).sum() / (apart * y).sum())
    return Estimate(s, s * math.sqrt(2 / len(lam)), len(lam))


def pooled(measure: SpectralMeasure, f: Callable[[FloatArray, FloatArray], float]) -> Estimate:
    """A function of the whole measure, f(nodes, weights), both (points,): for what is no mean over probes. Jackknife standard error."""
    probes = len(measure.nodes)

    def of(rows: npt.NDArray[np.bool_]) -> float:
        return float(f(measure.nodes[rows].ravel(), measure.weights[rows].ravel() / rows.sum()))

    every = np.ones(probes, bool)
    if measure.exact:
        return Estimate(of(every), 0.0)
    if probes == 1:
        return Estimate(of(every), math.nan, 1)
    return Estimate(of(every), leave_one_out([of(np.arange(probes) != i) for i in range(probes)]), probes)


def density(measure: SpectralMeasure, grid: FloatArray, sigma: float) -> tuple[FloatArray, FloatArray]:
    """The eigenvalue density smoothed by a Gaussian of width sigma > 0, on `grid` (points,), and its standard error.

    Both are (points,), in 1 / eigenvalue; over the whole line the density integrates to 1.
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
    """Nodes and weights (steps,) of a start of squared norm `mass`; the padding repeats a node, so f is safe there."""
    nodes, vectors = tridiagonal.ritz()
    padding = steps - len(nodes)
    return np.pad(nodes, (0, padding), mode="edge"), np.pad(mass * vectors[0] ** 2, (0, padding))


NOISE = 1e-5  # of the largest eigenvalue: what a float32 matrix of some thousand columns has of rounding
CONVERGED = 1e-3  # of the largest eigenvalue: a residual below it


def _converged(known: Eigenpairs | None, operator: LinearOperator) -> tuple[FloatArray, Tensor]:
    if known is None:
        return np.empty(0), torch.zeros((operator.size, 0), dtype=operator.dtype, device=operator.device)
    there = known.residuals <= CONVERGED * np.abs(known.eigenvalues).max(initial=0.0)
    return known.eigenvalues[there], known.eigenvectors[:, torch.as_tensor(there)]


def _square(v: Tensor) -> float:
    return float(v.double() @ v.double())


def _over(a: float, b: float) -> float:
    return float(a / b) if b > 0 else 0.0


def _stderr(rows: FloatArray) -> FloatArray:
    """The standard error of the mean over axis 0, NaN for a single row."""
    count = len(rows)
    return rows.std(axis=0, ddof=1) / math.sqrt(count) if count > 1 else np.full(rows.shape[1:], math.nan)
