"""The loss around a point: slices along directions, curves between two points, sharpness and basin width.

Coordinates are true displacements of z.
"""

# pyright: reportUnusedImport=false

from landscape.surfaces.angular import AngularWidth, angular_width, viewpoints_on_sphere
from landscape.surfaces.basin import (
    BasinWidth,
    WorstCaseSharpness,
    average_sharpness,
    basin_width,
    hessian_ratio,
    roughness,
    worst_case_sharpness,
)
from landscape.surfaces.curves import Bezier, loss_barrier, low_loss_curve, straight_line
from landscape.surfaces.directions import (
    AffineSpan,
    PrincipalDirections,
    affine_span,
    curvature_scaled,
    group_normalised,
    orthonormalised,
    principal_directions,
    random_directions,
)
from landscape.surfaces.slices import (
    MIN_ULPS,
    Slice,
    StepRounding,
    evaluate_slice,
    quadratic_model,
    refined_axes,
    step_rounding,
    symmetric_axis,
)
