"""Runs of the four kinds: each takes a spec and its inputs and returns rows and arrays. `run` is the entry point for all kinds."""

from typing import TYPE_CHECKING

from apet.exports import on_demand

if TYPE_CHECKING:
    from analyses.runs.evaluation_point import along_trajectory, fields_at
    from analyses.runs.execute import check, compute, cost, fail, gradients, identify, run, versions
    from analyses.runs.matrices import MATRICES
    from analyses.runs.predict import HALF
    from analyses.runs.proximal_paths import LINEAR
    from analyses.runs.record_tables import by_name
    from analyses.runs.rehearsal import rehearse, too_large
    from analyses.runs.run_inputs import DIGITS, Inputs, Report, inputs, model_of, plain_scorer, task_data
    from analyses.runs.slice_directions import DIRECTIONS
    from analyses.runs.task_checking import task_check

__getattr__ = on_demand(__name__, __file__)
