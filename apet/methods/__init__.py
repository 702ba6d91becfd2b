"""Tuning methods (APET's k entries, all parameters, or a parameter-efficient method), and tuned models as files."""

from typing import TYPE_CHECKING

from apet.exports import on_demand

if TYPE_CHECKING:
    from apet.methods.artefact import Artefact, PlacementRule, save_merged
    from apet.methods.merged_delta import check_mergeable, displacement
    from apet.methods.method import Method
    from apet.methods.operation_names import OPERATION_NAMES
    from apet.methods.registry import BASELINES, MERGEABLE, METHODS, default_rate
    from apet.methods.restoring import restored
    from apet.methods.shira import save_shira, to_shira
    from apet.methods.tunable_model import TunableModel
    from apet.methods.tuning import PlacementConfig, count_tuned, make_tunable, tunable_space

__getattr__ = on_demand(__name__, __file__)
