"""Kinds of slice directions, one record per kind. Each kind builds a frame of directions through a point of the subspace.

A record holds every fact about its kind: the function that builds the frame, the cost, the requirements on the run, and the names in
figures and help. To add a kind, write a function in this file that builds the frame, and one entry of DIRECTIONS. All frames are
orthonormal, so a step along an axis has the same length in the subspace. Random directions are first rescaled (by tensor, filter or
curvature) and then orthonormalised. Eigenvectors are orthonormal already.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from analyses.runs.matrices import gauss_newton_rows_of, graph_memory, matrix_at, recorded
from analyses.runs.record_tables import by_name
from apet.errors import ApetError, UsageError

if TYPE_CHECKING:  # the table must load without numpy, torch and the specs, which import the table
    import numpy as np

    from analyses.runs.evaluation_point import Point
    from analyses.runs.run_inputs import Context
    from analyses.specs import SliceSpec

LANCZOS_STEPS = 30  # for top eigenvectors
PROBES = 32  # for an estimated diagonal


def _empty(*shape: int) -> np.ndarray:
    import numpy as np

    return np.empty(shape)


@dataclass(frozen=True)
class Frame:
    """Orthonormal directions, the reach along each, and the given points that the slice contains, if any."""

    directions: Any  # Tensor (k, dims)
    reach: tuple[float, ...]  # (dims,), in units of |z|
    places: np.ndarray = field(default_factory=lambda: _empty(0, 1))  # (m, dims) coordinates of m given points, projected to the frame
    # (m,) each point's step of the trajectory, or its number in `to` (0: the centre)
    marks: np.ndarray = field(default_factory=lambda: _empty(0))
    explained: np.ndarray = field(default_factory=lambda: _empty(0))  # (dims,) share of the trajectory's variance along each direction
    looks: Any = None  # Tensor (m, k), the points of the trajectory without projection


@dataclass(frozen=True)
class Direction:
    """A kind of directions of a slice."""

    name: str  # name on the command line
    words: str  # name in figures
    help: str  # description in the command's help
    build: Callable[[SliceSpec, Point, Any, Context], Frame]  # (spec, point, gradient (k,), context)
    axes: tuple[str, str] = ("first direction", "second direction")  # labels of a plane's axes
    products: int = 0  # curvature products of all examples
    needs_run: bool = False  # whether it needs `at`, a run with a trajectory
    needs_to: bool = False  # whether it needs one run in `to` per dimension
    needs_filters: bool = False  # whether it needs whole tuned rows of tensors
    reach: float = 1.0  # default reach, in units of |theta|, or of the farthest given point along the axis if there are given points


def frame_for(spec: SliceSpec, point: Point, gradient: Any, context: Context) -> Frame:
    """Return the frame for `spec.directions` at the point. Raise ApetError for a direction of length zero."""
    return DIRECTIONS[spec.directions].build(spec, point, gradient, context)


def _around(spec: SliceSpec, point: Point, directions: Any) -> Frame:
    """Return the frame of `directions` (k, dims) that reaches `spec.reach` times |theta| along each."""
    assert spec.reach is not None
    return Frame(directions, (spec.reach * norm_of(point),) * spec.dims)


def norm_of(point: Point) -> float:
    """Return |theta| of the tuned entries at the point, the unit for comparisons over scales. Raise UsageError if all entries are zero."""
    norm = float((point.theta.to(point.z) + point.z).double().norm())
    if not norm > 0:
        raise UsageError("all tuned entries are zero, so |theta| cannot be the unit of length: tune existing entries too", operations="add")
    return norm


def _random(spec: SliceSpec, point: Point) -> Any:
    from landscape.surfaces import random_directions

    return random_directions(len(point.z), spec.dims, spec.train_seed, point.z.dtype, point.z.device)


def _drawn(spec: SliceSpec, point: Point, gradient: Any, context: Context) -> Frame:
    return _around(spec, point, _random(spec, point))


def _normalised(spec: SliceSpec, point: Point, gradient: Any, context: Context) -> Frame:
    from landscape.surfaces import group_normalised

    theta = point.theta.to(point.z) + point.z
    labels = point.subspace.groups("filter" if spec.directions == "filter" else "tensor")[0].tolist()
    return _around(spec, point, _orthonormal(group_normalised(_random(spec, point), theta, labels)))


def _scaled(spec: SliceSpec, point: Point, gradient: Any, context: Context) -> Frame:
    """Scale random directions by the Gauss-Newton (Fisher) diagonal (fisher) or by the magnitude of the Hessian diagonal (jacobi)."""
    from landscape.surfaces import curvature_scaled

    exact = spec.directions == "fisher" and _rows_fit(spec, point)
    size = gauss_newton_rows_of(point).square().sum(0) if exact else _estimated_size(spec, point, context)
    return _around(spec, point, _orthonormal(curvature_scaled(_random(spec, point), size.to(point.z))))


def _rows_fit(spec: SliceSpec, point: Point) -> bool:
    """Return whether the rows of the Gauss-Newton matrix, `Task.rank` per example, exist and fit into memory."""
    from apet.tasks import task_named

    examples = point.processes.num_processes * sum(len(batch["labels"]) for batch in point.objective.batches)
    rows = task_named(spec.task).rank * examples
    return 0 < 8 * rows * len(point.z) <= graph_memory(point)


def _estimated_size(spec: SliceSpec, point: Point, context: Context) -> Any:
    """Return an estimate of |diagonal| (k,) from random probes. Each value is at least its standard error, the limit of its precision."""
    import torch

    from landscape.spectra import diagonal_estimates

    matrix = "ggn" if spec.directions == "fisher" else "hessian"
    with recorded(matrix_at(point, matrix), point, context) as operator:
        estimates = diagonal_estimates(operator, min(PROBES, len(point.z)), spec.train_seed)
    errors = estimates.std(1) / estimates.shape[1] ** 0.5 if estimates.shape[1] > 1 else estimates.new_zeros(len(estimates))
    return torch.maximum(estimates.mean(1).abs(), errors)


def _eigenvectors(spec: SliceSpec, point: Point, gradient: Any, context: Context) -> Frame:
    from landscape.spectra import eigenpairs

    if spec.dims > len(point.z):
        raise UsageError(f"dims = {spec.dims} eigenvectors are not available in k = {len(point.z)} coordinates: lower dims or raise k")
    with recorded(matrix_at(point, spec.directions), point, context) as operator:
        steps = min(LANCZOS_STEPS, len(point.z))
        top = eigenpairs(operator, spec.dims, steps, which="LM", seed=spec.train_seed)
    return _around(spec, point, top.eigenvectors.to(point.z))


def _gradient(spec: SliceSpec, point: Point, gradient: Any, context: Context) -> Frame:
    import torch

    return _around(spec, point, _orthonormal(torch.cat([gradient[:, None], _random(spec, point)], dim=1)[:, : spec.dims]))


def _orthonormal(columns: Any) -> Any:
    """Return (k, n) orthonormal columns, the first parallel to the first given. Raise ApetError for linearly dependent columns."""
    from landscape.surfaces import orthonormalised

    try:
        return orthonormalised(columns)
    except ValueError as error:
        raise ApetError(f"these directions do not span a slice: {error}") from error


def _trajectory(spec: SliceSpec, point: Point, gradient: Any, context: Context) -> Frame:
    import numpy as np
    import torch

    from landscape.surfaces import principal_directions

    assert point.trajectory is not None
    steps, recorded_z = point.trajectory()
    if len(steps) <= spec.dims:
        raise UsageError(
            f"{spec.at} recorded {len(steps)} points of its trajectory, but {spec.dims} dimension(s) need {spec.dims + 1}: train it again",
            trajectory=True,
        )
    points = torch.as_tensor(recorded_z).to(point.z)
    try:
        principal = principal_directions(points, spec.dims)
    except ValueError as error:
        raise ApetError(f"the trajectory of {spec.at} has no {spec.dims} principal components: {error}") from error
    directions = principal.directions.to(point.z)
    places = ((points - point.z) @ directions).cpu().numpy()
    return Frame(directions, _past(spec, places), places, np.array(steps, float), np.asarray(principal.explained), points)


def _optima(spec: SliceSpec, point: Point, gradient: Any, context: Context) -> Frame:
    import numpy as np
    import torch

    from landscape.surfaces import affine_span

    try:
        affine = affine_span(torch.stack([point.z, *point.others]))
    except ValueError as error:
        raise ApetError(f"these optima do not span a {span(spec.dims)}: {error}") from error
    directions = affine.directions.to(point.z)
    places = (torch.stack([point.z, *point.others]) - point.z) @ directions
    return Frame(directions, _past(spec, places.cpu().numpy()), places.cpu().numpy(), np.arange(len(places), dtype=float))


def span(dims: int) -> str:
    """Return a name for the space that `dims` directions span: line, plane or the number of dimensions."""
    return {1: "line", 2: "plane"}.get(dims, f"space of {dims} dimensions")


def _past(spec: SliceSpec, places: np.ndarray) -> tuple[float, ...]:
    """Return `spec.reach` times the largest |coordinate| of the places on each axis; the first axis's value for axes where all are 0."""
    import numpy as np

    assert spec.reach is not None
    far = np.abs(places).max(0)
    if not far[0] > 0:
        raise ApetError("all runs of the slice end at one point, so there is no direction between them: give other runs")
    return tuple(spec.reach * float(length if length > 1e-9 * far[0] else far[0]) for length in far)


EIGENVECTORS = ("first eigenvector", "second eigenvector")

DIRECTIONS = by_name(
    [
        Direction("random", "random direction", "uniformly random, drawn by the train seed", _drawn),
        Direction("tensor", "normalised by tensors", "random, with the norm of the values in every tensor", _normalised),
        Direction("filter", "normalised by filters", "random, with the norm of the values in every row", _normalised, needs_filters=True),
        Direction("fisher", "scaled by Fisher", "random, shorter where the Gauss-Newton diagonal is large", _scaled, products=PROBES),
        Direction("jacobi", "scaled by curvature", "random, shorter where the Hessian's diagonal is large", _scaled, products=PROBES),
        Direction("hessian", "Hessian eigenvector", "top eigenvectors of the Hessian", _eigenvectors, EIGENVECTORS, LANCZOS_STEPS),
        Direction(
            "ggn", "Gauss-Newton eigenvector", "top eigenvectors of the Gauss-Newton matrix", _eigenvectors, EIGENVECTORS, LANCZOS_STEPS
        ),
        Direction("gradient", "gradient", "the gradient, then random directions", _gradient, ("along the gradient", "random direction")),
        Direction(
            "trajectory", "principal component", "principal components of a run's trajectory", _trajectory, ("PC 1", "PC 2"),
            needs_run=True, reach=1.25,
        ),
        Direction(
            "optima", "between optima", "through the final points of other runs", _optima, ("to the first run", "to the second run"),
            needs_to=True, reach=1.25,
        ),
    ],
    unique=("words", "help"),
)  # fmt: skip
