"""The map from a metric to the training loss: the loss at which full fine-tuning crosses a metric target, and a test of APET runs.

Predictions need a target on the training loss, but the high and the low threshold have targets on a metric. Runs of full fine-tuning with
several numbers of steps, and the untuned model, relate the metric to the loss. If APET runs lie on the same line, a prediction at the
mapped loss is a prediction of the metric's threshold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analyses.thresholds.targets import Run, Target

FEWEST = 3  # smallest number of points of full fine-tuning for a map


@dataclass(frozen=True)
class Shared:
    """The test whether APET runs have the same metric as full fine-tuning at equal training loss."""

    offset: float  # logit of APET's metric less logit of full fine-tuning's metric
    stderr: float
    t: float  # of the offset against 0
    freedom: int  # degrees of freedom
    p: float  # two-sided


def points(runs: Sequence[Run], target: Target, value: float, metric: str, untuned: bool = False) -> np.ndarray:
    """Return (-log training loss, gap of the metric to the target) of the runs' final points, shape (points, 2).

    With `untuned`, initial points are included and duplicates are left out.
    """
    prefixes = ("initial_", "") if untuned else ("",)
    pairs = []
    for run in runs:
        for prefix in prefixes:
            if run.has(f"{prefix}loss", "train") and run.has(prefix + metric, "validation"):
                loss, gap = run.value(f"{prefix}loss", "train"), target.gap_of(run.value(prefix + metric, "validation"), value, metric)
                if loss > 0 and math.isfinite(gap):
                    pairs.append((-math.log(loss), gap))
    return np.array(sorted(set(pairs)) if untuned else pairs).reshape(-1, 2)


def shared(full: np.ndarray, apet: np.ndarray) -> Shared | None:
    """Test whether two sets of points, each (points, 2), lie on one line: analysis of covariance with one slope and an offset for `apet`.

    Points of `apet` outside the range of losses of `full` are left out, because the line would be extrapolated. Returns None if a set has
    fewer than FEWEST points, or if the points do not determine slope and offset.
    """
    if len(full) < FEWEST:
        return None
    apet = apet[(apet[:, 0] >= full[:, 0].min()) & (apet[:, 0] <= full[:, 0].max())]
    both = np.concatenate([full, apet])
    design = np.column_stack([np.ones(len(both)), both[:, 0], np.arange(len(both)) >= len(full)])
    freedom = len(both) - 3
    if len(apet) < FEWEST or np.linalg.matrix_rank(design) < 3:
        return None
    from scipy.special import stdtr

    inverse = np.linalg.inv(design.T @ design)
    fit = inverse @ design.T @ both[:, 1]
    variance = float(((both[:, 1] - design @ fit) ** 2).sum()) / freedom
    stderr = math.sqrt(variance * inverse[2, 2])
    t = float(fit[2]) / stderr if stderr > 0 else math.copysign(math.inf, fit[2])
    return Shared(float(fit[2]), stderr, t, freedom, float(2 * stdtr(freedom, -abs(t))))
