"""Predictions from products with a matrix alone, where no Gram matrix fits: text losses, many examples (theory.md, T3).

One Lanczos run from the gradient gives the g-weighted measure, and with it the ridge; stochastic quadrature gives N_eff there, with
an error. For one given set of coordinates conjugate gradients say what the quadratic reaches.
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
from landscape.spectra import Estimate, GradientSpectrum, SpectralMeasure, effective_dimension, resolved

RESIDUAL = 1e-3  # |g - Hx| / |g| at which conjugate gradients stop: the drop's error is of second order in it


@dataclass(frozen=True)
class SampledPrediction:
    """T3's threshold with the error of N_eff: over probes, and what Lanczos leaves open."""

    prediction: Prediction
    dimension: Estimate | None  # N_eff at the ridge; None where there is none


def predict_from_measures(along: SpectralMeasure, counting: SpectralMeasure, loss: float, target: float, ceiling: int) -> SampledPrediction:
    """T3 from the measure of the gradient (`spectral_measure`) and that of the eigenvalues (`slq`).

    loss is L0 and target an absolute loss; `ceiling` the rank that the matrix cannot exceed. Negative nodes, which rounding makes of
    a semidefinite matrix's zeros, are taken for zeros. Censored as by `predict_threshold`.
    """
    spectrum = weighted_spectrum(along, loss, ceiling)
    found = threshold_by(lambda kappa: effective_dimension(counting, kappa).value, spectrum, target)
    if found.kappa is None:
        return SampledPrediction(found, None)
    kappa = found.kappa
    return SampledPrediction(found, resolved(counting, lambda measure: effective_dimension(measure, kappa)))


def weighted_spectrum(along: SpectralMeasure, loss: float, ceiling: int) -> GradientSpectrum:
    """The gradient's measure as nodes and weights, largest first, those of weight zero left out."""
    nodes, weights = np.maximum(along.nodes[0], 0.0), along.weights[0]
    order = np.argsort(-nodes, kind="stable")
    order = order[weights[order] > 0]
    return GradientSpectrum(nodes[order], weights[order], loss, ceiling)


def touching_spectrum(along: SpectralMeasure, kappa: float, loss: float, ceiling: int) -> GradientSpectrum:
    """The quadratic that touches a loss at its proximal point d, seen from where d = 0: T3's ridge for the envelope is `kappa` again.

    `along` is the measure of d (`spectral_measure` with the matrix there), `loss` the loss there. As its gradient is -kappa d, the
    quadratic's at d = 0 is -(H + kappa) d, and its value there loss + kappa |d|^2 + d'Hd / 2.
    """
    of_d = weighted_spectrum(along, loss, ceiling)
    lam, squares = of_d.eigenvalues, of_d.projections
    return GradientSpectrum(lam, (lam + kappa) ** 2 * squares, loss + float(((kappa + lam / 2) * squares).sum()), ceiling)


@dataclass(frozen=True)
class PlacedDrop:
    """What the quadratic loses in one given subspace."""

    drop: float  # a lower bound, which the minimum exceeds by about residual^2 of it
    residual: float  # |g - Hx| / |g|
    products: int


def placed_drop(operator: LinearOperator, gradient: Tensor, steps: int) -> PlacedDrop:
    """g_S'(H_SS)^-1 g_S / 2 by at most `steps` of conjugate gradients, from H_SS as an operator and g_S, shape (k,).

    With H semidefinite and g in its range, as for a Gauss-Newton matrix, a singular H_SS is no obstacle. Exact for the quadratic model of
    that placement; a product a step, and one to check. Raises ValueError for steps < 1.
    """
    if steps < 1:
        raise ValueError(f"conjugate gradients need at least one step, got {steps}")
    g = gradient.detach().double().cpu().numpy()
    if not (g @ g) > 0:
        return PlacedDrop(0.0, 0.0, 0)
    made = [0]

    def count(_: Any) -> None:
        made[0] += 1

    matrix = to_scipy(operator)
    x, _ = cast(Any, scipy.sparse.linalg).cg(matrix, g, rtol=RESIDUAL, maxiter=steps, callback=count)
    image = operator.matvec(torch.as_tensor(x).to(device=operator.device, dtype=operator.dtype)).double().cpu().numpy()
    rest = g - image
    return PlacedDrop(float(g @ x - x @ image / 2), math.sqrt(float(rest @ rest) / float(g @ g)), made[0] + 1)
