"""The loss around a point: slices along directions, curves between two points, and the basin's sharpness and width.

Coordinates are true displacements of z.
"""

# pyright: reportUnusedImport=false

from landscape.surfaces.angular import Angular, angular_width, around
from landscape.surfaces.basin import Width, Worst, basin_width, hessian_ratio, roughness, sharpness_average, sharpness_worst
from landscape.surfaces.curves import Bezier, barrier, low_curve, straight
from landscape.surfaces.directions import (
    Principal,
    Through,
    normalised,
    orthonormalised,
    principal_directions,
    random_directions,
    scaled,
    through,
)
from landscape.surfaces.slices import ULPS, Rounding, Slice, axis, quadratic, refined, rounding, slice_of
