"""The subspace of k single entries: scope, placement, coordinates, and how the model computes with tuned entries.

The package includes the trilinear kernels and the tensors that hold tuned values.
"""

from typing import TYPE_CHECKING

from apet.exports import on_demand

if TYPE_CHECKING:
    from apet.subspaces.attached import Attached, owners_by_parameter
    from apet.subspaces.coordinates import Coordinates, digest
    from apet.subspaces.entry_scores import SCORED_ORDERS, score_entries
    from apet.subspaces.kernel_calibration import costs_for_machine, kernel_constants
    from apet.subspaces.kernel_costs import Costs, current_costs, using_costs
    from apet.subspaces.kernels import NotPerExample, sampled_outer_product, sparse_matmul
    from apet.subspaces.placement import VERSION, Placement, Scores, place, random_entries
    from apet.subspaces.placement_names import ORDER_NAMES, SCORE_NAMES, UNIT_NAMES
    from apet.subspaces.resident import Resident, Rows, plain, rows_of
    from apet.subspaces.scope import all_names, layer_label, only_trainable, parse_scope, tensor_roles
    from apet.subspaces.space import ParameterSpace
    from apet.subspaces.sparsity_pattern import KERNELS, SparsityPattern
    from apet.subspaces.stacked_forward import AT_ONCE, StackedForward, stacked_pass
    from apet.subspaces.written_values import WrittenValues

__getattr__ = on_demand(__name__, __file__)
