"""A loss as a function of z, and its curvature matrices as linear operators.

`Objective` computes the loss and its gradient. `Hessian`, `GaussNewton` and `EmpiricalFisher` multiply vectors by a curvature matrix.
`check_operator` tests an operator for symmetry and determinism.
"""

# pyright: reportUnusedImport=false

from landscape.curvature.criterion import CrossEntropy, HasCurvature, HasLosses, HasRoots, HasSampledCurvature, SquaredError
from landscape.curvature.curvature_matrices import CurvatureOperator, EmpiricalFisher, GaussNewton, Hessian
from landscape.curvature.kept_graphs import GRAPH_MEMORY, KeptGraphs
from landscape.curvature.module_outputs import ModuleOutputs
from landscape.curvature.objective import Batch, Objective, Term, jvp, leaf, twice_differentiable, vjp
from landscape.curvature.operators import (
    Block,
    DenseOperator,
    LinearOperator,
    NotSymmetric,
    OperatorCheck,
    Progress,
    blocks,
    check_operator,
    groups,
    matmat,
    release,
    to_dense,
    to_scipy,
)
