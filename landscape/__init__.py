"""Maths on a function z -> loss: curvature products, spectra, and the threshold k they predict or runs measure.

Needs torch, scipy and numpy, and nothing of the rest of the project. What has k entries (z, v, eigenvectors) is a torch
tensor on the objective's device; what lives on the spectrum (eigenvalues, weights, thresholds) is numpy float64.
"""

from landscape.attribution import Attribution, Factors, attribute, factors_of, threshold_of
from landscape.coordinates import CoordinatePoint, coordinate_point, coordinate_threshold
from landscape.criterion import CrossEntropy
from landscape.curvature import Curvature, EmpiricalFisher, GaussNewton, Hessian
from landscape.dual import GradientSpectrum, gradient_spectrum, subset_spectrum
from landscape.estimators import diagonal, hutch_plus_plus, hutchinson, squared_frobenius, xtrace
from landscape.exact import Spectrum, by_columns, gauss_newton_rows, of_matrix, of_rows, shares
from landscape.gordon import gordon_threshold
from landscape.lanczos import Eigenpairs, Tridiagonal, eigenpairs, lanczos, lanczos_many
from landscape.linearised import Linearised
from landscape.moreau import PathPoint, PathPrediction, moreau_path, predict_on_path, predict_on_path_with_interval
from landscape.objective import Objective
from landscape.operators import (
    Block,
    DenseOperator,
    LinearOperator,
    NotSymmetric,
    OperatorCheck,
    blocks,
    check_operator,
    groups,
    matmat,
    to_dense,
    to_scipy,
)
from landscape.predict import (
    ExampleInterval,
    Prediction,
    PredictionInterval,
    expected_loss,
    larsen_threshold,
    predict_threshold,
    predict_with_interval,
)
from landscape.quadrature import (
    Estimate,
    SpectralMeasure,
    decay_exponent,
    density,
    effective_dimension,
    effective_rank,
    log_determinant,
    mean_of,
    negative_mass,
    outliers,
    participation_ratio,
    pooled,
    resolved,
    slq,
    spectral_measure,
    trace,
)
from landscape.sampled import PlacedDrop, SampledPrediction, placed_drop, predict_from_measures
from landscape.threshold import Crossing, crossing, gap_of_accuracy, gap_of_loss

__all__ = [
    "Attribution",
    "Block",
    "CoordinatePoint",
    "CrossEntropy",
    "Crossing",
    "Curvature",
    "DenseOperator",
    "Eigenpairs",
    "EmpiricalFisher",
    "Estimate",
    "ExampleInterval",
    "Factors",
    "GaussNewton",
    "GradientSpectrum",
    "Hessian",
    "LinearOperator",
    "Linearised",
    "NotSymmetric",
    "Objective",
    "OperatorCheck",
    "PathPoint",
    "PathPrediction",
    "PlacedDrop",
    "Prediction",
    "PredictionInterval",
    "SampledPrediction",
    "SpectralMeasure",
    "Spectrum",
    "Tridiagonal",
    "attribute",
    "blocks",
    "by_columns",
    "check_operator",
    "coordinate_point",
    "coordinate_threshold",
    "crossing",
    "decay_exponent",
    "density",
    "diagonal",
    "effective_dimension",
    "effective_rank",
    "eigenpairs",
    "expected_loss",
    "factors_of",
    "gap_of_accuracy",
    "gap_of_loss",
    "gauss_newton_rows",
    "gordon_threshold",
    "gradient_spectrum",
    "groups",
    "hutch_plus_plus",
    "hutchinson",
    "lanczos",
    "lanczos_many",
    "larsen_threshold",
    "log_determinant",
    "matmat",
    "mean_of",
    "moreau_path",
    "negative_mass",
    "of_matrix",
    "of_rows",
    "outliers",
    "participation_ratio",
    "placed_drop",
    "pooled",
    "predict_from_measures",
    "predict_on_path",
    "predict_on_path_with_interval",
    "predict_threshold",
    "predict_with_interval",
    "resolved",
    "shares",
    "slq",
    "spectral_measure",
    "squared_frobenius",
    "subset_spectrum",
    "threshold_of",
    "to_dense",
    "to_scipy",
    "trace",
    "xtrace",
]
