"""Predicted thresholds: how many random coordinates reach a target loss, from curvature and gradient alone.

The quadratic model, proximal (Moreau) paths of the linearised model, Gordon's bound, and the split of a change of k* into causes.
"""

# pyright: reportUnusedImport=false

from landscape.prediction.attribution import Attribution, Factors, attribute, factors_at, factors_of, threshold_of
from landscape.prediction.coordinate_subspaces import CoordinatePoint, coordinate_point, coordinate_threshold
from landscape.prediction.from_measures import placed_drop, predict_from_measures, touching_spectrum
from landscape.prediction.gordon import gordon_threshold
from landscape.prediction.linearised_classifier import Linearised
from landscape.prediction.linearised_objective import Tangent
from landscape.prediction.moreau import PathPoint, PathPrediction, moreau_path, predict_on_path, predict_on_path_with_interval
from landscape.prediction.proximal import MOST_POINTS, MOST_STEPS, ProximalPoint, proximal_path
from landscape.prediction.quadratic import (
    CEILING_SHARE,
    ExampleInterval,
    Prediction,
    PredictionInterval,
    expected_loss,
    larsen_threshold,
    predict_threshold,
    predict_with_interval,
)
