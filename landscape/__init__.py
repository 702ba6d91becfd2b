"""Maths on a function z -> loss: curvature products, spectra, and the threshold k they predict or runs measure.

Needs torch, scipy and numpy, and nothing of the rest of the project. What has k entries (z, v, eigenvectors) is a torch
tensor on the objective's device; what lives on the spectrum (eigenvalues, weights, thresholds) is numpy float64.
"""

from landscape.dual import GradientSpectrum, gradient_spectrum, subset_spectrum
from landscape.lanczos import Eigenpairs, Tridiagonal, lanczos, top_eigenpairs
from landscape.objective import Objective
from landscape.operators import (
    DenseOperator,
    GaussNewton,
    Hessian,
    LinearOperator,
    NotSymmetric,
    OperatorCheck,
    check_operator,
    to_dense,
    to_scipy,
)
from landscape.predict import (
    Prediction,
    PredictionInterval,
    expected_loss,
    predict_threshold,
    predict_with_interval,
)
from landscape.quadrature import (
    Estimate,
    SpectralMeasure,
    density,
    effective_dimension,
    negative_mass,
    slq,
    spectral_measure,
    trace,
)
from landscape.threshold import Crossing, crossing, gap_of_accuracy, gap_of_loss

__all__ = [
    "Crossing",
    "DenseOperator",
    "Eigenpairs",
    "Estimate",
    "GaussNewton",
    "GradientSpectrum",
    "Hessian",
    "LinearOperator",
    "NotSymmetric",
    "Objective",
    "OperatorCheck",
    "Prediction",
    "PredictionInterval",
    "SpectralMeasure",
    "Tridiagonal",
    "check_operator",
    "crossing",
    "density",
    "effective_dimension",
    "expected_loss",
    "gap_of_accuracy",
    "gap_of_loss",
    "gradient_spectrum",
    "lanczos",
    "negative_mass",
    "predict_threshold",
    "predict_with_interval",
    "slq",
    "spectral_measure",
    "subset_spectrum",
    "to_dense",
    "to_scipy",
    "top_eigenpairs",
    "trace",
]
