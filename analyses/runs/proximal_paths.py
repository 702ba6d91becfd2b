"""Proximal paths for a run of kind predict, from which thresholds are read off for any target down to where they end: of the model itself
and, where no Gram matrix has it, of the linearised model.

A path is followed in everything in scope, from the pretrained point. At each of its points the spectrum of the Gauss-Newton matrix
is taken: of label words exactly on the model's own path, elsewhere by quadrature. Of label words, T5 says what single entries take as well.
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
from apet.tasks import TASKS

LINEAR = "linear_"  # prefix of what is of the linearised model
LOWEST = {"": 0.03, LINEAR: 0.1}  # of the initial loss, down to which a path is followed
A_GRADIENT = {"": 1, LINEAR: 2}  # what a gradient on the path counts: the linearised one takes a product with J and one with J'
COLUMNS = 2000  # entries of which T5 is taken: it asks for their directions' distribution, and the number in scope does not matter
KNOWN = 10  # eigenpairs that quadrature takes as they are

Curvature = tuple[np.ndarray, np.ndarray]  # nodes and weights (probes, points) of a spectral measure


def path_arrays(spec: SpectrumSpec, found: Inputs, context: Context) -> dict[str, np.ndarray]:
    """The model's own path; `spec` is of everything in scope, with k its size.

    path (P, 5): kappa, loss, |d|, the residual and how many gradients of all examples it took, of every point, the pretrained one first
    (kappa = inf). path_nodes, path_weights (P, probes, points): the spectrum there. Of label words also path_t5 (P,): how many single
    entries are expected to reach the point's envelope on the quadratic that touches there (nan: none).
    """
    from landscape.prediction import MAX_ITER

    with point(spec, found, context) as here:
        path = _followed(here, "", MAX_ITER, context)
        if TASKS[spec.task].classes == 0:
            return _arrays(path, [_sampled(there, spec) for there in _points(here, path, context)])
        measures: list[Curvature] = []
        singles: list[float] = []
        for there, each in zip(_points(here, path, context), path, strict=True):
            rows = gauss_newton_rows_of(there)
            measures.append(_exact(rows))
            singles.append(math.nan if each is path[0] else _single_entries(rows, each))
    return _arrays(path, measures) | {"path_t5": np.array(singles)}


def linear_arrays(here: Point, spec: SpectrumSpec, steps: int, context: Context) -> dict[str, np.ndarray]:
    """The linearised model's path, from `here` in everything in scope: as the model's own, with the prefix `LINEAR`, and path_along
    (P, 2, points), nodes and weights of the measure of d at each point (all zero where d = 0)."""
    from landscape.prediction import LinearisedObjective
    from landscape.spectra import spectral_measure

    with LinearisedObjective(here.objective, here.z, memory=graph_memory(here)) as tangent:
        here = replace(here, objective=tangent)
        path = _followed(here, LINEAR, steps, context)
        measures: list[Curvature] = []
        alongs: list[Curvature] = []
        for there, each in zip(_points(here, path, context), path, strict=True):
            with matrix_at(there, "ggn") as matrix:
                measures.append(_of(counted(matrix, spec)))
                none = np.zeros((1, 1)), np.zeros((1, 1))
                alongs.append(none if each is path[0] else _of(spectral_measure(matrix, each.d, spec.lanczos_steps)))
    arrays = _arrays(path, measures) | {"path_along": np.concatenate(_stacked(alongs), axis=1)}
    return {LINEAR + name: each for name, each in arrays.items()}


def _followed(here: Point, prefix: str, steps: int, context: Context) -> list[Any]:
    """The points of the path, the pretrained one first."""
    import torch

    from landscape.prediction import MAX_POINTS, ProximalPoint, proximal_path

    origin = ProximalPoint(math.inf, torch.zeros_like(here.z), here.objective.loss(here.z), 0.0, 1)
    context.report(f"proximal path {prefix}".rstrip("_ "), 0, MAX_POINTS)
    return [origin, *proximal_path(here.objective, LOWEST[prefix] * origin.loss, here.z, steps, convex=bool(prefix))]


def _points(here: Point, path: list[Any], context: Context) -> Iterator[Point]:
    for number, each in enumerate(path):
        context.report(f"spectrum on the path, loss {each.loss:.3g}", number, len(path))
        yield replace(here, z=here.z + each.d)


def _arrays(path: list[Any], measures: list[Curvature]) -> dict[str, np.ndarray]:
    nodes, weights = _stacked(measures)
    points = [(p.kappa, p.loss, float(p.d.double().norm()), p.residual, p.gradients) for p in path]
    return {"path": np.array(points), "path_nodes": nodes, "path_weights": weights}


def path_gradients(spec: PredictSpec, examples: int, prefix: str = "") -> int:
    """At most how many example-gradients a path takes, with the spectra along it."""
    from landscape.prediction import MAX_ITER, MAX_POINTS

    gradients = A_GRADIENT[prefix] * (2 * spec.steps if prefix else 4 * MAX_ITER)  # two a step at most; its own way there and back
    return (MAX_POINTS + 1) * (examples * gradients + curvature_gradients(spec, examples, prefix))


def curvature_gradients(spec: PredictSpec, examples: int, prefix: str) -> int:
    """How many the spectrum at one point takes at most, on the linearised path with the measure of d; a product counts two."""
    classes = TASKS[spec.task].classes
    if classes and not prefix:
        return examples * (classes - 1)
    return 2 * examples * spec.lanczos_steps * (spec.probes + (2 if prefix else 1))


def _exact(rows: Any) -> Curvature:
    """All eigenvalues, from the rows whose Gram matrix has them."""
    import torch

    values = torch.linalg.eigvalsh(rows @ rows.T).clamp(min=0).cpu().numpy()
    return values[None], np.ones((1, len(values)))


def _sampled(there: Point, spec: SpectrumSpec) -> Curvature:
    with matrix_at(there, "ggn") as matrix:
        return _of(counted(matrix, spec))


def _of(measure: Any) -> Curvature:
    return measure.nodes, measure.weights


def counted(matrix: Any, spec: SpectrumSpec, progress: Callable[[int, int], None] | None = None) -> Any:
    """The measure (landscape.SpectralMeasure) that counts a matrix's eigenvalues: the first ones as they are, the rest by quadrature."""
    from landscape.spectra import eigenpairs, slq

    steps, seed = spec.lanczos_steps, spec.train_seed
    known = eigenpairs(matrix, min(KNOWN, steps, matrix.size), steps, seed=seed, rounds=1, progress=progress)
    return slq(matrix, spec.probes, steps, seed, known=known, progress=progress)


def _single_entries(rows: Any, at: Any) -> float:
    """T5's number for the envelope of the proximal point `at`, of the quadratic that touches there; `rows` R make its curvature R'R.

    Where d = 0 that quadratic has the loss L + kappa |d|^2 + |R d|^2 / 2 and, as the proximal point's gradient is -kappa d, the gradient
    -(R'R + kappa) d = R'a.
    """
    import torch

    from landscape.numerics import Stream
    from landscape.prediction import coordinate_threshold

    d = at.d.double()
    image, gram = rows @ d, rows @ rows.T
    a = -(image + at.kappa * torch.linalg.pinv(gram, hermitian=True) @ image)
    lowest = at.loss + at.kappa * float(d @ d) + float(image @ image - a @ a) / 2
    chosen = np.sort(Stream(0, "entries of T5").permutation(rows.shape[1])[:COLUMNS])
    columns = rows[:, torch.as_tensor(chosen)].cpu().numpy()
    found = coordinate_threshold(columns, a.cpu().numpy(), at.envelope - lowest) if at.envelope > lowest else None
    return math.nan if found is None else found


def _stacked(measures: list[Curvature]) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights (points of the path, probes, nodes), where there are fewer filled up by nodes of weight zero."""
    widest = max(nodes.shape[1] for nodes, _ in measures)

    def filled(one: np.ndarray) -> np.ndarray:
        return np.pad(one, ((0, 0), (0, widest - one.shape[1])))

    nodes, weights = zip(*measures, strict=True)
    return np.stack([filled(one) for one in nodes]), np.stack([filled(one) for one in weights])
