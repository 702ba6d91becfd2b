"""Findings from rows: verdicts on the claims about scale, the quality of predictions of k*, and the causes of its change with scale."""

from typing import TYPE_CHECKING

from apet.exports import on_demand

if TYPE_CHECKING:
    from analyses.findings.claims import CLAIMS, EVERY_TASK, SHARE
    from analyses.findings.conclude import FINDING_ROWS, findings
    from analyses.findings.families import family
    from analyses.findings.placements import placement_rows
    from analyses.findings.predicted_cells import PREDICTOR, Cell, cells
    from analyses.findings.threshold_changes import EXPLAINED_ROWS, explain

__getattr__ = on_demand(__name__, __file__)
