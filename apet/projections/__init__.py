"""Random projections: linear maps from z of length d to all parameters in scope.

Fastfood, count-sketch and dense Gaussian maps are drawn from named random numbers and never stored.
"""

from typing import TYPE_CHECKING

from apet.exports import on_demand

if TYPE_CHECKING:
    from apet.projections.projected import Projected
    from apet.projections.projection_table import project
    from apet.projections.subspace_names import SUBSPACE_NAMES
    from apet.projections.walsh_hadamard import hadamard

__getattr__ = on_demand(__name__, __file__)
