"""The subspace of k single entries: which entries may be tuned, which are, and how the model computes with them.

The trilinear kernels and the tensors that hold tuned values are here.
"""

from typing import TYPE_CHECKING

from apet.exports import on_demand

if TYPE_CHECKING:
    from apet.subspaces.coordinates import Attached, Coordinates, where
    from apet.subspaces.entry_scores import KINDS, scores
    from apet.subspaces.kernel_calibration import for_machine
    from apet.subspaces.kernel_costs import Costs, current, using
    from apet.subspaces.kernels import KERNELS, Entries, NotPerExample, sample, scatter
    from apet.subspaces.placement import ORDERS, UNITS, VERSION, Placement, Scores, digest, place, random_entries
    from apet.subspaces.resident import Resident, Rows, plain, rows_of
    from apet.subspaces.scope import all_names, layer_label, only_trainable, parse, tensor_roles
    from apet.subspaces.space import ParameterSpace
    from apet.subspaces.stacked import AT_ONCE, Many, pays
    from apet.subspaces.written_values import Written

__getattr__ = on_demand(__name__, __file__)
