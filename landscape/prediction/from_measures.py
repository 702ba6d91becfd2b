"""Predictions from matrix-vector products alone, for problems whose Gram matrix does not fit in memory: text losses, many examples.

T3 (`landscape.prediction.quadratic`) needs the ridge kappa* with g'(H + kappa*)^-1 g = 2 (L0 - target), and N_eff(kappa*). One Lanczos run
from the gradient gives the gradient-weighted measure and with it the ridge. Stochastic Lanczos quadrature gives N_eff with a standard
error. For one fixed set of coordinates, conjugate gradients give the loss that the quadratic reaches.
"""

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import scipy.sparse.linalg  # pyright: ignore[reportMissingTypeStubs]
import torch
from torch import Tensor

from landscape.curvature import LinearOperator, to_scipy
from landscape.prediction.quadratic import Prediction, threshold_by
from landscape.spectra import Estimate, GradientSpectrum, SpectralMeasure, effective_dimension, with_quadrature_error

RESIDUAL = 1e-3  # |g - Hx| / |g| at which conjugate gradients stop; the error of the drop is of second order in this residual


@dataclass(frozen=True)
class SampledPrediction:
    """T3's threshold with the error of N_eff from the random probes and from the Lanczos resolution."""

    prediction: Prediction
    dimension: Estimate | None  # N_eff at the ridge; None without a ridge


def predict_from_measures(along: SpectralMeasure, counting: SpectralMeasure, loss: float, target: float, ceiling: int) -> SampledPrediction:
    """Return T3's threshold from the gradient's measure `along` (`spectral_measure`) and the eigenvalues' measure `counting` (`slq`).

    `loss` is L0, `target` an absolute loss, `ceiling` an upper bound on the rank of the matrix. Negative nodes count as zeros: rounding
    turns zeros of a semidefinite matrix into them. The result is censored as by `predict_threshold`.
    """
    spectrum = gradient_spectrum_of(along, loss, ceiling)
    prediction = threshold_by(lambda kappa: effective_dimension(counting, kappa).value, spectrum, target)
    if prediction.kappa is None:
        return SampledPrediction(prediction, None)
    kappa = prediction.kappa
    return SampledPrediction(prediction, with_quadrature_error(counting, lambda measure: effective_dimension(measure, kappa)))


def gradient_spectrum_of(along: SpectralMeasure, loss: float, ceiling: int) -> GradientSpectrum:
    """Return the gradient's measure as eigenvalues and projections, largest first, without nodes of weight zero."""
    nodes, weights = np.maximum(along.nodes[0], 0.0), along.weights[0]
    order = np.argsort(-nodes, kind="stable")
    order = order[weights[order] > 0]
    return GradientSpectrum(nodes[order], weights[order], loss, ceiling)


def tangent_quadratic(along: SpectralMeasure, kappa: float, loss: float, ceiling: int) -> GradientSpectrum:
    """Return the quadratic tangent to a loss at its proximal point d, expanded about d = 0. T3's ridge for its envelope is `kappa` again.

    `along` is the measure of d (`spectral_measure` with the matrix at d), and `loss` the loss at d. The gradient of the loss at d is -kappa
    d. Therefore the quadratic's gradient at d = 0 is -(H + kappa) d, and its value there is loss + kappa |d|^2 + d'Hd / 2.
    """
    of_d = gradient_spectrum_of(along, loss, ceiling)
    lam, squares = of_d.eigenvalues, of_d.projections
    return GradientSpectrum(lam, (lam + kappa) ** 2 * squares, loss + float(((kappa + lam / 2) * squares).sum()), ceiling)


@dataclass(frozen=True)
class SubspaceDrop:
    """The quadratic's drop of loss in one fixed subspace."""

    drop: float  # a lower bound; the exact drop is larger by a fraction of about residual^2
    residual: float  # |g - Hx| / |g|
    products: int


def subspace_drop(operator: LinearOperator, gradient: Tensor, max_iter: int) -> SubspaceDrop:
    """Return g_S'(H_SS)^-1 g_S / 2 by at most `max_iter` >= 1 conjugate-gradient steps, from H_SS as an operator and g_S (k,).

    When converged, the result is exact for the quadratic in the subspace S of one placement. H_SS may be singular if H is semidefinite and
    g lies in its range, as for a Gauss-Newton matrix. A step costs one product; the final check costs one more. Raises ValueError for
    max_iter < 1.
    """
    if max_iter < 1:
        raise ValueError(f"conjugate gradients need max_iter >= 1, got {max_iter}")
    g = gradient.detach().double().cpu().numpy()
    if not (g @ g) > 0:
        return SubspaceDrop(0.0, 0.0, 0)
    iterations = 0

    def count(_: Any) -> None:
        nonlocal iterations
        iterations += 1

    matrix = to_scipy(operator)
    x, _ = cast(Any, scipy.sparse.linalg).cg(matrix, g, rtol=RESIDUAL, maxiter=max_iter, callback=count)
    image = operator.matvec(torch.as_tensor(x).to(device=operator.device, dtype=operator.dtype)).double().cpu().numpy()
    residual = g - image
    return SubspaceDrop(float(g @ x - x @ image / 2), math.sqrt(float(residual @ residual) / float(g @ g)), iterations + 1)
