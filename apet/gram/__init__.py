"""The Gram matrix of the label words' gradients over all parameters, computed without storing the Jacobian."""

from typing import TYPE_CHECKING

from apet.exports import on_demand

if TYPE_CHECKING:
    from apet.gram.jacobian import gram_matrix

__getattr__ = on_demand(__name__, __file__)
