"""Tuning methods (APET's k entries, all parameters, or a parameter-efficient method), and tuned models as files."""

from typing import TYPE_CHECKING

from apet.exports import on_demand

if TYPE_CHECKING:
    from apet.methods.artefact import Artefact, PlacementRule, save_checkpoint, save_merged
    from apet.methods.merged_delta import displacement, final_values
    from apet.methods.method import Method
    from apet.methods.method_listing import methods_table
    from apet.methods.method_options import read_options, written
    from apet.methods.operation_names import OPERATION_NAMES
    from apet.methods.peft_folder import save_peft
    from apet.methods.peft_tuners import PEFT_METHODS, peft_marker, peft_words
    from apet.methods.registry import BASELINE_NAMES, BASELINES, METHOD_NAMES, METHODS, default_rate, method_named
    from apet.methods.restoring import restored
    from apet.methods.shira import save_shira, to_shira
    from apet.methods.tunable_model import TunableModel
    from apet.methods.tuning import PlacementConfig, chosen_options, count_tuned, make_tunable, tokens_taken, tunable_space

__getattr__ = on_demand(__name__, __file__)
