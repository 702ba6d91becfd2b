"""Studies: YAML files of stages, the runs that follow from the stages, and the processes that share the runs."""

from typing import TYPE_CHECKING

from apet.exports import on_demand

if TYPE_CHECKING:
    from analyses.studies.cluster import run_on_cluster
    from analyses.studies.cluster_worker import Request
    from analyses.studies.planning import plan, refused
    from analyses.studies.signals import terminable
    from analyses.studies.stages import searching
    from analyses.studies.study_file import Search, Stage, Study, read_study, with_data
    from analyses.studies.walk import Event, Launch, Options, Outcome, parse_shard, weight
    from analyses.studies.workers import run_study

__getattr__ = on_demand(__name__, __file__)
