"""Which directions a slice has: from a spec and a point of the subspace to columns of unit length, and what lies in their span.

All frames are orthonormal, so that a displacement along an axis is a true one. Drawn directions are shaped first (by tensors,
filters, curvatures) and made orthonormal after; eigenvectors are taken as they are found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analyses.runs.evaluation_point import Point, gauss_newton_rows_of, graph_memory, matrix_at, recorded, trajectory_steps
from analyses.runs.run_inputs import Context
from analyses.specs import Spec
from analyses.store import Store
from apet.errors import ApetError, UsageError

LANCZOS_STEPS = 30  # for the top eigenvectors
PROBES = 32  # for a diagonal that is estimated


@dataclass(frozen=True)
class Frame:
    """Directions (k, dims) and how far a slice goes along each; `places` (m, dims) are what it was laid through, `marks` (m,) which:

    the step of a trajectory's look, or the number of a run in `to` (0: the point itself). `explained` are the shares of a trajectory's
    variance. `looks` (m, k) are the trajectory's points; `places` are their projections.
    """

    directions: Any  # Tensor
    reach: tuple[float, ...]
    places: np.ndarray = field(default_factory=lambda: np.empty((0, 1)))
    marks: np.ndarray = field(default_factory=lambda: np.empty(0))
    explained: np.ndarray = field(default_factory=lambda: np.empty(0))
    looks: Any = None  # Tensor


def frame_for(spec: Spec, here: Point, gradient: Any, context: Context) -> Frame:
    """The frame that `spec.directions` asks for at the point. ApetError for a direction of no length."""
    if spec.directions == "trajectory":
        return _trajectory(spec, here, context)
    if spec.directions == "optima":
        return _optima(spec, here)
    directions = _FOUND[spec.directions](spec, here, gradient, context)
    assert spec.reach is not None
    return Frame(directions, (spec.reach * norm_of(here),) * spec.dims)


def norm_of(here: Point) -> float:
    """|theta| of the tuned entries at the point, the unit of what is comparable over scales. UsageError where they are all zero."""
    norm = float((here.theta.to(here.z) + here.z).double().norm())
    if not norm > 0:
        raise UsageError("all tuned entries are zero here, so there is no length to measure by: tune entries of the model's own")
    return norm


def _random(spec: Spec, here: Point) -> Any:
    from landscape.surfaces import random_directions

    return random_directions(len(here.z), spec.dims, spec.train_seed, here.z.dtype, here.z.device)


def _drawn(spec: Spec, here: Point, gradient: Any, context: Context) -> Any:
    return _random(spec, here)


def _normalised(spec: Spec, here: Point, gradient: Any, context: Context) -> Any:
    from landscape.surfaces import normalised

    theta, labels = here.theta.to(here.z) + here.z, here.subspace.groups("filter" if spec.directions == "filter" else "tensor")[0].tolist()
    return _apart(normalised(_random(spec, here), theta, labels))


def _scaled(spec: Spec, here: Point, gradient: Any, context: Context) -> Any:
    """By the diagonal of the Gauss-Newton matrix, which is the Fisher matrix (fisher), or by the size of the Hessian's (jacobi)."""
    from landscape.surfaces import scaled

    exact = spec.directions == "fisher" and _rows_fit(spec, here)
    size = gauss_newton_rows_of(here).square().sum(0) if exact else _estimated_size(spec, here, context)
    return _apart(scaled(_random(spec, here), size.to(here.z)))


def _rows_fit(spec: Spec, here: Point) -> bool:
    """Whether the Gauss-Newton matrix's rows, one an example and class but one, exist and take no more memory than there is."""
    from apet.tasks import TASKS

    examples = here.processes.num_processes * sum(len(batch["labels"]) for batch in here.objective.batches)
    rows = (TASKS[spec.task].classes - 1) * examples
    return 0 < 8 * rows * len(here.z) <= graph_memory(here)


def _estimated_size(spec: Spec, here: Point, context: Context) -> Any:
    """|diagonal| from random probes (k,), of each entry at least its standard error: less than that is not known of it."""
    import torch

    from landscape.spectra import diagonal

    matrix = "ggn" if spec.directions == "fisher" else "hessian"
    with recorded(matrix_at(here, matrix), here, context) as operator:
        estimates = diagonal(operator, min(PROBES, len(here.z)), spec.train_seed)
    errors = estimates.std(1) / estimates.shape[1] ** 0.5 if estimates.shape[1] > 1 else estimates.new_zeros(len(estimates))
    return torch.maximum(estimates.mean(1).abs(), errors)


def _eigenvectors(spec: Spec, here: Point, gradient: Any, context: Context) -> Any:
    from landscape.spectra import eigenpairs

    if spec.dims > len(here.z):
        raise UsageError(f"{len(here.z)} coordinates have no {spec.dims} eigenvectors")
    with recorded(matrix_at(here, spec.directions), here, context) as operator:
        steps = min(LANCZOS_STEPS, len(here.z))
        return eigenpairs(operator, spec.dims, steps, which="magnitude", seed=spec.train_seed).eigenvectors.to(here.z)


def _gradient(spec: Spec, here: Point, gradient: Any, context: Context) -> Any:
    import torch

    return _apart(torch.cat([gradient[:, None], _random(spec, here)], dim=1)[:, : spec.dims])


_FOUND: dict[str, Callable[[Spec, Point, Any, Context], Any]] = {
    "random": _drawn, "tensor": _normalised, "filter": _normalised, "fisher": _scaled, "jacobi": _scaled,
    "hessian": _eigenvectors, "ggn": _eigenvectors, "gradient": _gradient,
}  # fmt: skip


def _apart(columns: Any) -> Any:
    """(k, n) orthonormal columns, the first along the first. ApetError where one has no length of its own."""
    from landscape.surfaces import orthonormalised

    try:
        return orthonormalised(columns)
    except ValueError as error:
        raise ApetError(f"nothing can be sliced along these directions: {error}") from error


def _trajectory(spec: Spec, here: Point, context: Context) -> Frame:
    import torch

    from landscape.surfaces import principal_directions

    assert spec.at is not None
    store = Store(context.folder.parent)
    steps = trajectory_steps(store, spec.at)
    if len(steps) <= spec.dims:
        raise UsageError(f"{spec.at} kept {len(steps)} looks of its trajectory: a run with more of them is made by 'train --trajectory'")
    points = torch.as_tensor(store.arrays(spec.at)["trajectory"]).to(here.z)
    try:
        found = principal_directions(points, spec.dims)
    except ValueError as error:
        raise ApetError(f"the trajectory of {spec.at} has no {spec.dims} principal components: {error}") from error
    directions = found.directions.to(here.z)
    places = ((points - here.z) @ directions).cpu().numpy()
    return Frame(directions, _past(spec, places), places, np.array(steps, float), np.asarray(found.explained), points)


def _optima(spec: Spec, here: Point) -> Frame:
    import torch

    from landscape.surfaces import through

    try:
        found = through(torch.stack([here.z, *here.others]))
    except ValueError as error:
        raise ApetError(f"these optima span no {span(spec.dims)}: {error}") from error
    directions = found.directions.to(here.z)
    places = (torch.stack([here.z, *here.others]) - here.z) @ directions
    return Frame(directions, _past(spec, places.cpu().numpy()), places.cpu().numpy(), np.arange(len(places), dtype=float))


def span(dims: int) -> str:
    """What so many directions span, in words."""
    return {1: "line", 2: "plane"}.get(dims, f"{dims} dimensions")


def _past(spec: Spec, places: np.ndarray) -> tuple[float, ...]:
    """Beyond the farthest place along each axis; as far as along the first one where all lie on it."""
    assert spec.reach is not None
    far = np.abs(places).max(0)
    if not far[0] > 0:
        raise ApetError("all places of the slice are one: nothing lies between them")
    return tuple(spec.reach * float(each if each > 1e-9 * far[0] else far[0]) for each in far)
