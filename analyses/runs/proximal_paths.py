"""Proximal paths for a run of kind predict: of the model itself and, if there is no Gram matrix, of the linearised model.

Thresholds follow from a path for every target down to the loss at its end. A path starts at the initial point and varies everything in
scope. Each point of a path has a spectrum of the Gauss-Newton matrix. On the model's own path it is exact, and the function
`coordinate_threshold` (T5) also gives the number of single entries. For a task with text answers and on the path of the linearised model
it is estimated by quadrature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from analyses.runs.evaluation_point import Point, point
from analyses.runs.matrices import gauss_newton_rows_of, graph_memory, matrix_at
from analyses.runs.run_inputs import Context, Inputs
from analyses.specs import PredictSpec, SpectrumSpec
from apet.tasks import task_named

LINEAR = "linear_"  # prefix of arrays and rows of the linearised model
LOWEST = {"": 0.03, LINEAR: 0.1}  # a path ends at this share of the initial loss
A_GRADIENT = {"": 1, LINEAR: 2}  # cost of a gradient on the path: the linearised model needs a product with J and a product with J'
COLUMNS = 2000  # sampled entries for T5, which depends on the distribution of their directions and not on their number
KNOWN = 10  # top eigenpairs that quadrature treats exactly

Curvature = tuple[np.ndarray, np.ndarray]  # nodes and weights (probes, points) of a spectral measure


def path_arrays(spec: SpectrumSpec, inputs: Inputs, context: Context) -> dict[str, np.ndarray]:
    """Return the arrays of the model's own path. The subspace of `spec` is everything in scope.

    path (P, 5): kappa, loss, |d|, residual and number of gradients of all examples for each of P points. The first point is the initial
    point (kappa = inf). path_nodes, path_weights (P, probes, points): the spectrum at each point. Unless the task asks for text, also
    path_t5 (P,): the expected number of single entries that reach the point's envelope on the quadratic that touches the loss at the point
    (nan: none).
    """
    from landscape.prediction import MAX_ITER

    with point(spec, inputs, context) as initial:
        path = _followed(initial, "", MAX_ITER, context)
        if not task_named(spec.task).rank:
            return _arrays(path, [_sampled(point_on_path, spec) for point_on_path in _points(initial, path, context)])
        measures: list[Curvature] = []
        singles: list[float] = []
        for point_on_path, proximal in zip(_points(initial, path, context), path, strict=True):
            rows = gauss_newton_rows_of(point_on_path)
            measures.append(_exact(rows))
            singles.append(math.nan if proximal is path[0] else _single_entries(rows, proximal))
    return _arrays(path, measures) | {"path_t5": np.array(singles)}


def linear_arrays(initial: Point, spec: SpectrumSpec, steps: int, context: Context) -> dict[str, np.ndarray]:
    """Return the arrays of the linearised model's path from `initial`, with prefix `LINEAR`: path, path_nodes, path_weights, path_along.

    path_along (P, 2, points) holds nodes and weights of the measure of d at each point, all zero if d = 0.
    """
    from landscape.prediction import LinearisedObjective
    from landscape.spectra import spectral_measure

    with LinearisedObjective(initial.objective, initial.z, memory=graph_memory(initial)) as tangent:
        initial = replace(initial, objective=tangent)
        path = _followed(initial, LINEAR, steps, context)
        measures: list[Curvature] = []
        alongs: list[Curvature] = []
        for point_on_path, proximal in zip(_points(initial, path, context), path, strict=True):
            with matrix_at(point_on_path, "ggn") as matrix:
                measures.append(_of(counted(matrix, spec)))
                none = np.zeros((1, 1)), np.zeros((1, 1))
                alongs.append(none if proximal is path[0] else _of(spectral_measure(matrix, proximal.d, spec.lanczos_steps)))
    arrays = _arrays(path, measures) | {"path_along": np.concatenate(_stacked(alongs), axis=1)}
    return {LINEAR + name: array for name, array in arrays.items()}


def _followed(initial: Point, prefix: str, steps: int, context: Context) -> list[Any]:
    """Return the points of the path, beginning with the initial point."""
    import torch

    from landscape.prediction import MAX_POINTS, ProximalPoint, proximal_path

    origin = ProximalPoint(math.inf, torch.zeros_like(initial.z), initial.objective.loss(initial.z), 0.0, 1)
    context.report(f"proximal path {prefix}".rstrip("_ "), 0, MAX_POINTS)
    return [origin, *proximal_path(initial.objective, LOWEST[prefix] * origin.loss, initial.z, steps, convex=bool(prefix))]


def _points(initial: Point, path: list[Any], context: Context) -> Iterator[Point]:
    for number, proximal in enumerate(path):
        context.report(f"spectrum on the path, loss {proximal.loss:.3g}", number, len(path))
        yield replace(initial, z=initial.z + proximal.d)


def _arrays(path: list[Any], measures: list[Curvature]) -> dict[str, np.ndarray]:
    nodes, weights = _stacked(measures)
    points = [(p.kappa, p.loss, float(p.d.double().norm()), p.residual, p.gradients) for p in path]
    return {"path": np.array(points), "path_nodes": nodes, "path_weights": weights}


def path_gradients(spec: PredictSpec, examples: int, prefix: str = "") -> int:
    """Return an upper bound on the example-gradients of a path, including the spectra along it."""
    from landscape.prediction import MAX_ITER, MAX_POINTS

    # At most two gradients per step; the model's own path is also retraced.
    gradients = A_GRADIENT[prefix] * (2 * spec.steps if prefix else 4 * MAX_ITER)
    return (MAX_POINTS + 1) * (examples * gradients + curvature_gradients(spec, examples, prefix))


def curvature_gradients(spec: PredictSpec, examples: int, prefix: str) -> int:
    """Return an upper bound on the example-gradients of the spectrum at one point, including the measure of d; a product counts as two."""
    rank = task_named(spec.task).rank
    if rank and not prefix:
        return examples * rank
    return 2 * examples * spec.lanczos_steps * (spec.probes + (2 if prefix else 1))


def _exact(rows: Any) -> Curvature:
    """Return all eigenvalues, computed from the Gram matrix of `rows`."""
    import torch

    values = torch.linalg.eigvalsh(rows @ rows.T).clamp(min=0).cpu().numpy()
    return values[None], np.ones((1, len(values)))


def _sampled(point: Point, spec: SpectrumSpec) -> Curvature:
    with matrix_at(point, "ggn") as matrix:
        return _of(counted(matrix, spec))


def _of(measure: Any) -> Curvature:
    return measure.nodes, measure.weights


def counted(matrix: Any, spec: SpectrumSpec, progress: Callable[[int, int], None] | None = None) -> Any:
    """Return the spectral measure (landscape.SpectralMeasure) of a matrix: top eigenvalues exactly, the rest by quadrature."""
    from landscape.spectra import eigenpairs, slq

    steps, seed = spec.lanczos_steps, spec.train_seed
    known = eigenpairs(matrix, min(KNOWN, steps, matrix.size), steps, seed=seed, rounds=1, progress=progress)
    return slq(matrix, spec.probes, steps, seed, known=known, progress=progress)


def _single_entries(rows: Any, proximal: Any) -> float:
    """Return the number of single entries (T5) that reach the envelope of `proximal` on the quadratic that touches the loss at this point.

    The quadratic has the curvature R'R with R = `rows`. The gradient at the proximal point is -kappa d. At d = 0 the quadratic therefore
    has the loss L + kappa |d|^2 + |R d|^2 / 2 and the gradient -(R'R + kappa) d = R'a.
    """
    import torch

    from landscape.numerics import Stream
    from landscape.prediction import coordinate_threshold

    d = proximal.d.double()
    image, gram = rows @ d, rows @ rows.T
    a = -(image + proximal.kappa * torch.linalg.pinv(gram, hermitian=True) @ image)
    lowest = proximal.loss + proximal.kappa * float(d @ d) + float(image @ image - a @ a) / 2
    chosen = np.sort(Stream(0, "entries of T5").permutation(rows.shape[1])[:COLUMNS])
    columns = rows[:, torch.as_tensor(chosen)].cpu().numpy()
    entries = coordinate_threshold(columns, a.cpu().numpy(), proximal.envelope - lowest) if proximal.envelope > lowest else None
    return math.nan if entries is None else entries


def _stacked(measures: list[Curvature]) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights (points of the path, probes, nodes). Shorter measures are padded with nodes of weight zero."""
    widest = max(nodes.shape[1] for nodes, _ in measures)

    def filled(array: np.ndarray) -> np.ndarray:
        return np.pad(array, ((0, 0), (0, widest - array.shape[1])))

    nodes, weights = zip(*measures, strict=True)
    return np.stack([filled(array) for array in nodes]), np.stack([filled(array) for array in weights])
