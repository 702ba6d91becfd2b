"""Predicted thresholds: the k at which a random subspace reaches a target loss, from curvature and gradient, without training.

The package holds the quadratic model (T1, T3), Moreau paths (T2), Gordon's bound (T4), coordinate subspaces (T5), and the attribution of a
change of k* to its causes.
"""

# pyright: reportUnusedImport=false

from landscape.prediction.attribution import (
    Attribution,
    ThresholdFactors,
    attribute_change,
    threshold_factors,
    threshold_factors_at,
    threshold_from_factors,
)
from landscape.prediction.coordinate_subspaces import CoordinateFixedPoint, coordinate_fixed_point, coordinate_threshold
from landscape.prediction.from_measures import predict_from_measures, subspace_drop, tangent_quadratic
from landscape.prediction.gordon import gordon_threshold
from landscape.prediction.linearised_classifier import LinearisedClassifier
from landscape.prediction.linearised_objective import LinearisedObjective
from landscape.prediction.moreau import MoreauPoint, MoreauPrediction, moreau_path, predict_on_path, predict_on_path_with_interval
from landscape.prediction.proximal import MAX_ITER, MAX_POINTS, ProximalPoint, proximal_path
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
