"""Scores of predicted labels and numbers, with their standard errors."""

from __future__ import annotations

import numpy as np

from apet.scoring.metrics import LABEL_METRICS, NUMBER_METRICS, confusion
from apet.scoring.sampling_errors import Score, mean_score, stderr_of_correlation, stderr_of_counts


def label_score(metric: str, labels: np.ndarray, predicted: np.ndarray, classes: int) -> Score:
    """Return a metric of predicted labels (n,), integers in 0..classes - 1, on the right labels (n,)."""
    if metric == "accuracy":
        return mean_score(labels == predicted)
    counts, function = confusion(labels, predicted, classes), LABEL_METRICS[metric]
    return Score(float(function(counts)), stderr_of_counts(function, counts))


def number_score(metric: str, targets: np.ndarray, predicted: np.ndarray) -> Score:
    """Return a correlation of predicted numbers (n,) with the targets (n,). An undefined correlation counts as 0, with a note."""
    function = NUMBER_METRICS[metric]
    constant = [name for name, numbers in (("predictions", predicted), ("targets", targets)) if np.ptp(numbers) == 0]
    remark = f"all {constant[0]} are equal: the correlation is not defined and counts as 0" if constant else ""
    return Score(float(function(predicted, targets)), stderr_of_correlation(function, predicted, targets), remark)
