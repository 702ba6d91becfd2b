"""From a metric to the training loss: where full fine-tuning crosses a metric target, and whether APET runs share that map.

A prediction is of the training loss, the high and the low threshold are about metrics. Full fine-tuning that was stopped at several
numbers of steps, and the untuned model, say which metric goes with which loss; if APET runs lie on the same line, a prediction at
the mapped loss is one of the metric's threshold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analyses.thresholds.targets import Run, Target

FEWEST = 3  # points of full fine-tuning that a map needs


@dataclass(frozen=True)
class Shared:
    """By how much the metric of APET runs, as a logit, lies over full fine-tuning's at the same training loss; t-test against 0."""

    offset: float
    stderr: float
    t: float
    freedom: int  # degrees of freedom
    p: float  # two-sided


def points(runs: Sequence[Run], target: Target, value: float, metric: str, untuned: bool = False) -> np.ndarray:
    """(points, 2) of -log training loss and the metric's gap to the target, of runs as they ended and, `untuned`, as they began."""
    prefixes = ("initial_", "") if untuned else ("",)
    found = []
    for run in runs:
        for prefix in prefixes:
            if run.has(f"{prefix}loss", "train") and run.has(prefix + metric, "validation"):
                loss, gap = run.value(f"{prefix}loss", "train"), target.gap_of(run.value(prefix + metric, "validation"), value)
                if loss > 0 and math.isfinite(gap):
                    found.append((-math.log(loss), gap))
    return np.array(sorted(set(found)) if untuned else found).reshape(-1, 2)


def shared(full: np.ndarray, apet: np.ndarray) -> Shared | None:
    """Whether two sets of points (points, 2) lie on one line: analysis of covariance, one slope, the second set's offset tested.

    Points of `apet` outside the losses of `full` are left out, where the line would be extrapolated. None with fewer than FEWEST points
    in a set, or on no line.
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
