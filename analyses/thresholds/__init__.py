"""Thresholds from finished runs: targets, the measured k*, the predicted k*, and the search for k*."""

from typing import TYPE_CHECKING

from apet.exports import on_demand

if TYPE_CHECKING:
    from analyses.thresholds.disambiguation import Names
    from analyses.thresholds.intrinsic_dimension import intrinsic_dim, plan, planned_cost
    from analyses.thresholds.measured import commit_thresholds, finished, known_targets, main_metric, measure, thresholds, whole
    from analyses.thresholds.predicted import foresees, fullest
    from analyses.thresholds.proximal_record import Followed, Place
    from analyses.thresholds.target_kinds import TARGET_KINDS, targets_help
    from analyses.thresholds.targets import Run, Target

__getattr__ = on_demand(__name__, __file__)
