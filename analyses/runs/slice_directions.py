"""The directions that a slice can take: one record each, and the frame that each lays through a point of the subspace.

One record holds every fact about a kind of directions: its frame, its cost, what it requires of the run, and what figures call it. To add
one, write a function here that builds the frame, and one entry of DIRECTIONS. All frames are orthonormal, so a displacement along an axis
is a true one. Random directions are shaped first (by tensors, filters, curvatures) and made orthonormal after; eigenvectors stay as they
are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from analyses.runs.matrices import gauss_newton_rows_of, graph_memory, matrix_at, recorded
from analyses.runs.record_tables import by_name
from apet.errors import ApetError, UsageError

if TYPE_CHECKING:  # the table itself must load without numpy and torch, and without the specs, which read it
    import numpy as np

    from analyses.runs.evaluation_point import Point
    from analyses.runs.run_inputs import Context
    from analyses.specs import SliceSpec

LANCZOS_STEPS = 30  # for the top eigenvectors
PROBES = 32  # for a diagonal that is estimated


def _empty(*shape: int) -> np.ndarray:
    import numpy as np

    return np.empty(shape)


@dataclass(frozen=True)
class Frame:
    """Orthonormal directions, how far a slice goes along each, and the points that the slice was laid through, if it was."""

    directions: Any  # Tensor (k, dims)
    reach: tuple[float, ...]  # (dims,), in units of |z|
    places: np.ndarray = field(default_factory=lambda: _empty(0, 1))  # (m, dims) coordinates of the m points, projected
    marks: np.ndarray = field(
        default_factory=lambda: _empty(0)
    )  # (m,) a point's step of the trajectory, or its number in `to` (0: the centre)
    explained: np.ndarray = field(default_factory=lambda: _empty(0))  # (dims,) shares of the trajectory's variance
    looks: Any = None  # Tensor (m, k), the trajectory's points themselves


@dataclass(frozen=True)
class Direction:
    """A kind of directions of a slice."""

    name: str  # what a user types
    words: str  # what figures call it
    help: str  # what the command's help says of it
    build: Callable[[SliceSpec, Point, Any, Context], Frame]  # (spec, point, gradient (k,), context)
    axes: tuple[str, str] = ("first direction", "second direction")  # labels of a plane's axes
    products: int = 0  # curvature products that it takes, of all examples
    needs_run: bool = False  # whether it requires `at`, a run with its trajectory
    needs_to: bool = False  # whether it requires a run in `to` for each dimension
    needs_filters: bool = False  # whether it requires that whole rows of tensors are tuned
    reach: float = 1.0  # default reach, in units of |theta|, or of the farthest point along the axis if the frame is laid through points


def frame_for(spec: SliceSpec, here: Point, gradient: Any, context: Context) -> Frame:
    """Return the frame that `spec.directions` asks for at the point. Raises ApetError for a direction of length zero."""
    return DIRECTIONS[spec.directions].build(spec, here, gradient, context)


def _around(spec: SliceSpec, here: Point, directions: Any) -> Frame:
    """Return the frame of `directions` (k, dims) that reaches `spec.reach` times |theta| along each."""
    assert spec.reach is not None
    return Frame(directions, (spec.reach * norm_of(here),) * spec.dims)


def norm_of(here: Point) -> float:
    """|theta| of the tuned entries at the point, the unit of what is comparable over scales. UsageError where they are all zero."""
    norm = float((here.theta.to(here.z) + here.z).double().norm())
    if not norm > 0:
        raise UsageError("all tuned entries are zero here, so there is no length to measure by: tune entries of the model's own")
    return norm


def _random(spec: SliceSpec, here: Point) -> Any:
    from landscape.surfaces import random_directions

    return random_directions(len(here.z), spec.dims, spec.train_seed, here.z.dtype, here.z.device)


def _drawn(spec: SliceSpec, here: Point, gradient: Any, context: Context) -> Frame:
    return _around(spec, here, _random(spec, here))


def _normalised(spec: SliceSpec, here: Point, gradient: Any, context: Context) -> Frame:
    from landscape.surfaces import group_normalised

    theta, labels = here.theta.to(here.z) + here.z, here.subspace.groups("filter" if spec.directions == "filter" else "tensor")[0].tolist()
    return _around(spec, here, _apart(group_normalised(_random(spec, here), theta, labels)))


def _scaled(spec: SliceSpec, here: Point, gradient: Any, context: Context) -> Frame:
    """By the diagonal of the Gauss-Newton matrix, which is the Fisher matrix (fisher), or by the size of the Hessian's (jacobi)."""
    from landscape.surfaces import curvature_scaled

    exact = spec.directions == "fisher" and _rows_fit(spec, here)
    size = gauss_newton_rows_of(here).square().sum(0) if exact else _estimated_size(spec, here, context)
    return _around(spec, here, _apart(curvature_scaled(_random(spec, here), size.to(here.z))))


def _rows_fit(spec: SliceSpec, here: Point) -> bool:
    """Whether the Gauss-Newton matrix's rows, one an example and class but one, exist and take no more memory than there is."""
    from apet.tasks import TASKS

    examples = here.processes.num_processes * sum(len(batch["labels"]) for batch in here.objective.batches)
    rows = (TASKS[spec.task].classes - 1) * examples
    return 0 < 8 * rows * len(here.z) <= graph_memory(here)


def _estimated_size(spec: SliceSpec, here: Point, context: Context) -> Any:
    """|diagonal| from random probes (k,), of each entry at least its standard error: less than that is not known of it."""
    import torch

    from landscape.spectra import diagonal_estimates

    matrix = "ggn" if spec.directions == "fisher" else "hessian"
    with recorded(matrix_at(here, matrix), here, context) as operator:
        estimates = diagonal_estimates(operator, min(PROBES, len(here.z)), spec.train_seed)
    errors = estimates.std(1) / estimates.shape[1] ** 0.5 if estimates.shape[1] > 1 else estimates.new_zeros(len(estimates))
    return torch.maximum(estimates.mean(1).abs(), errors)


def _eigenvectors(spec: SliceSpec, here: Point, gradient: Any, context: Context) -> Frame:
    from landscape.spectra import eigenpairs

    if spec.dims > len(here.z):
        raise UsageError(f"{len(here.z)} coordinates have no {spec.dims} eigenvectors")
    with recorded(matrix_at(here, spec.directions), here, context) as operator:
        steps = min(LANCZOS_STEPS, len(here.z))
        top = eigenpairs(operator, spec.dims, steps, which="LM", seed=spec.train_seed)
    return _around(spec, here, top.eigenvectors.to(here.z))


def _gradient(spec: SliceSpec, here: Point, gradient: Any, context: Context) -> Frame:
    import torch

    return _around(spec, here, _apart(torch.cat([gradient[:, None], _random(spec, here)], dim=1)[:, : spec.dims]))


def _apart(columns: Any) -> Any:
    """(k, n) orthonormal columns, the first along the first. ApetError where one has no length of its own."""
    from landscape.surfaces import orthonormalised

    try:
        return orthonormalised(columns)
    except ValueError as error:
        raise ApetError(f"nothing can be sliced along these directions: {error}") from error


def _trajectory(spec: SliceSpec, here: Point, gradient: Any, context: Context) -> Frame:
    import numpy as np
    import torch

    from landscape.surfaces import principal_directions

    assert here.trajectory is not None
    steps, kept = here.trajectory()
    if len(steps) <= spec.dims:
        raise UsageError(
            f"{spec.at} kept {len(steps)} points of its trajectory, {spec.dims} dimension(s) need {spec.dims + 1}: train it again",
            trajectory=True,
        )
    points = torch.as_tensor(kept).to(here.z)
    try:
        principal = principal_directions(points, spec.dims)
    except ValueError as error:
        raise ApetError(f"the trajectory of {spec.at} has no {spec.dims} principal components: {error}") from error
    directions = principal.directions.to(here.z)
    places = ((points - here.z) @ directions).cpu().numpy()
    return Frame(directions, _past(spec, places), places, np.array(steps, float), np.asarray(principal.explained), points)


def _optima(spec: SliceSpec, here: Point, gradient: Any, context: Context) -> Frame:
    import numpy as np
    import torch

    from landscape.surfaces import affine_span

    try:
        found = affine_span(torch.stack([here.z, *here.others]))
    except ValueError as error:
        raise ApetError(f"these optima span no {span(spec.dims)}: {error}") from error
    directions = found.directions.to(here.z)
    places = (torch.stack([here.z, *here.others]) - here.z) @ directions
    return Frame(directions, _past(spec, places.cpu().numpy()), places.cpu().numpy(), np.arange(len(places), dtype=float))


def span(dims: int) -> str:
    """What so many directions span, in words."""
    return {1: "line", 2: "plane"}.get(dims, f"{dims} dimensions")


def _past(spec: SliceSpec, places: np.ndarray) -> tuple[float, ...]:
    """Beyond the farthest place along each axis; as far as along the first one where all lie on it."""
    import numpy as np

    assert spec.reach is not None
    far = np.abs(places).max(0)
    if not far[0] > 0:
        raise ApetError("all places of the slice are one: nothing lies between them")
    return tuple(spec.reach * float(each if each > 1e-9 * far[0] else far[0]) for each in far)


EIGENVECTORS = ("first eigenvector", "second eigenvector")

DIRECTIONS = by_name(
    [
        Direction("random", "random direction", "uniformly random, named by the train seed", _drawn),
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
            "optima", "between optima", "through the ends of other runs", _optima, ("to the first run", "to the second run"),
            needs_to=True, reach=1.25,
        ),
    ],
    unique=("words", "help"),
)  # fmt: skip
