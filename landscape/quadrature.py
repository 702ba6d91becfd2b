"""Stochastic Lanczos quadrature: the spectral measure of an operator too large to diagonalise.

Lanczos from a vector v gives the Gauss quadrature of v's spectral measure, sum_i (u_i'v)^2 delta(l_i): exact for
polynomials up to degree 2 m - 1. Over random signs v its mean is the eigenvalue counting measure (Ubaru, Chen & Saad
2017, doi 10.1137/16M1104974), so every trace of a function comes with a standard error over the probes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from landscape.lanczos import FloatArray, Progress, Tridiagonal, lanczos
from landscape.operators import LinearOperator
from landscape.random import rademacher


@dataclass(frozen=True)
class SpectralMeasure:
    """Quadrature rules, one row a starting vector v; the weights of a row sum to |v|^2 (= size for random signs)."""

    nodes: FloatArray  # (probes, steps)
    weights: FloatArray  # (probes, steps), zero where Lanczos ended early
    size: int  # k


@dataclass(frozen=True)
class Estimate:
    """A mean over probes and its standard error, NaN for a single probe."""

    value: float
    stderr: float


def slq(operator: LinearOperator, probes: int, steps: int, seed: int = 0, *, progress: Progress | None = None) -> SpectralMeasure:
    """The spectral measure of an operator from probes x min(steps, k) products.

    Each probe is a vector of random signs named by (seed, its number): more probes keep the first ones.
    `progress(done, total)` is called after each product. Raises ValueError unless probes >= 1 and steps >= 1.
    """
    if probes < 1:
        raise ValueError(f"slq needs at least one probe, got {probes}")
    steps = min(steps, operator.size)

    def rule(probe: int) -> tuple[FloatArray, FloatArray]:
        start = rademacher(seed, f"slq/{probe}", operator.size, operator.dtype, operator.device)

        def report(done: int, _: int) -> None:
            if progress:
                progress(probe * steps + done, probes * steps)

        return _gauss(lanczos(operator, start, steps, progress=report), operator.size, steps)

    nodes, weights = zip(*map(rule, range(probes)), strict=True)
    return SpectralMeasure(np.stack(nodes), np.stack(weights), operator.size)


def spectral_measure(operator: LinearOperator, start: Tensor, steps: int) -> SpectralMeasure:
    """The measure of one vector, shape (k,): one row whose weights sum to |start|^2; no sampling, so no standard error.

    From the gradient it is the g-weighted measure: trace(measure, f).value = g' f(A) g.
    """
    steps = min(steps, operator.size)
    mass = float(start.double() @ start.double())
    nodes, weights = _gauss(lanczos(operator, start, steps), mass, steps)
    return SpectralMeasure(nodes[None], weights[None], operator.size)


def trace(measure: SpectralMeasure, f: Callable[[FloatArray], FloatArray]) -> Estimate:
    """The sum of f over the eigenvalues; f acts elementwise (x -> x: the trace, x**2: the squared Frobenius norm)."""
    return _mean((measure.weights * f(measure.nodes)).sum(axis=1))


def effective_dimension(measure: SpectralMeasure, kappa: float) -> Estimate:
    """N_eff(kappa) = sum l / (l + kappa) over the positive eigenvalues, kappa > 0 (theory.md, T1 and pitfall 6)."""
    if not kappa > 0:
        raise ValueError(f"kappa must be positive, got {kappa}")
    return trace(measure, lambda x: np.maximum(x, 0) / (np.maximum(x, 0) + kappa))


def negative_mass(measure: SpectralMeasure) -> Estimate:
    """sum |negative eigenvalues| / sum |eigenvalues|, in 0..1; 0 for a zero operator."""
    negative = (measure.weights * np.maximum(-measure.nodes, 0)).sum(axis=1)
    absolute = (measure.weights * np.abs(measure.nodes)).sum(axis=1)
    ratio = float(negative.sum() / (absolute.sum() or 1.0))
    # A ratio of two means over the same probes: the delta method's error is that of negative - ratio x absolute.
    return Estimate(ratio, _mean(negative - ratio * absolute).stderr / (float(absolute.mean()) or 1.0))


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
    return rows.mean(axis=0), _stderr(rows)


def _gauss(tridiagonal: Tridiagonal, mass: float, steps: int) -> tuple[FloatArray, FloatArray]:
    """Nodes and weights (steps,) of a start of squared norm `mass`; the padding repeats a node, so f is safe there."""
    nodes, vectors = tridiagonal.ritz()
    padding = steps - len(nodes)
    return np.pad(nodes, (0, padding), mode="edge"), np.pad(mass * vectors[0] ** 2, (0, padding))


def _mean(rows: FloatArray) -> Estimate:
    return Estimate(float(rows.mean()), float(_stderr(rows)))


def _stderr(rows: FloatArray) -> FloatArray:
    """The standard error of the mean over axis 0, NaN for a single row."""
    count = len(rows)
    return rows.std(axis=0, ddof=1) / math.sqrt(count) if count > 1 else np.full(rows.shape[1:], math.nan)
