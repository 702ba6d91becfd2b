"""The proximal path of a model itself, for a run of kind predict: what thresholds are read off, whatever the target.

The path is followed in everything in scope, from the pretrained point. At each of its points the spectrum of the Gauss-Newton matrix
is taken: of label words exactly, elsewhere by quadrature. Of label words, T5 says what single entries take there as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from analyses.inputs import Context, Inputs
from analyses.point import Point, gauss_newton_rows_of, matrix_at, point
from analyses.spec import Spec
from apet.tasks import TASKS

LOWEST = 0.03  # of the initial loss, down to which the path is followed
COLUMNS = 2000  # entries of which T5 is taken: it asks for their directions' distribution, and the number in scope does not matter
KNOWN = 10  # eigenpairs that quadrature takes as they are

Curvature = tuple[np.ndarray, np.ndarray]  # nodes and weights (probes, points) of a spectral measure


def path_arrays(spec: Spec, found: Inputs, context: Context) -> dict[str, np.ndarray]:
    """`spec` is of everything in scope, with k its size.

    path (P, 5): kappa, loss, |d|, the residual and how many gradients of all examples it took, of every point, the pretrained one first
    (kappa = inf). path_nodes, path_weights (P, probes, points): the spectrum there. Of label words also path_t5 (P,): how many single
    entries are expected to reach the point's envelope on the quadratic that touches there (nan: none).
    """
    import torch

    from landscape.proximal import MOST_POINTS, ProximalPoint, proximal_path

    words = TASKS[spec.task].classes > 0
    measures: list[Curvature] = []
    singles: list[float] = []
    with point(spec, found, context) as here:
        origin = ProximalPoint(math.inf, torch.zeros_like(here.z), here.objective.loss(here.z), 0.0, 1)
        context.report("proximal path", 0, MOST_POINTS)
        path = [origin, *proximal_path(here.objective, LOWEST * origin.loss, here.z)]
        for number, each in enumerate(path):
            context.report(f"spectrum on the path, loss {each.loss:.3g}", number, len(path))
            there = replace(here, z=here.z + each.d)
            rows = gauss_newton_rows_of(there) if words else None
            measures.append(_sampled(there, spec) if rows is None else _exact(rows))
            singles.append(math.nan if rows is None or each is origin else _single_entries(rows, each))
    arrays = {"path": np.array([(p.kappa, p.loss, float(p.d.double().norm()), p.residual, p.gradients) for p in path])}
    return arrays | _stacked(measures) | ({"path_t5": np.array(singles)} if words else {})


def path_gradients(spec: Spec, examples: int) -> int:
    """At most how many example-gradients the path takes, with the spectra along it."""
    from landscape.proximal import MOST_POINTS, MOST_STEPS

    return (MOST_POINTS + 1) * (2 * examples * MOST_STEPS + curvature_gradients(spec, examples))


def curvature_gradients(spec: Spec, examples: int) -> int:
    """How many the spectrum at one point takes at most; a product with the matrix counts two."""
    classes = TASKS[spec.task].classes
    return examples * (classes - 1) if classes else 2 * examples * spec.lanczos_steps * (spec.probes + 1)


def _exact(rows: Any) -> Curvature:
    """All eigenvalues, from the rows whose Gram matrix has them."""
    import torch

    values = torch.linalg.eigvalsh(rows @ rows.T).clamp(min=0).cpu().numpy()
    return values[None], np.ones((1, len(values)))


def _sampled(here: Point, spec: Spec) -> Curvature:
    with matrix_at(here, "ggn") as matrix:
        measure = counted(matrix, spec)
    return measure.nodes, measure.weights


def counted(matrix: Any, spec: Spec, progress: Callable[[int, int], None] | None = None) -> Any:
    """The measure (landscape.SpectralMeasure) that counts a matrix's eigenvalues: the first ones as they are, the rest by quadrature."""
    from landscape.lanczos import eigenpairs
    from landscape.quadrature import slq

    steps, seed = spec.lanczos_steps, spec.train_seed
    known = eigenpairs(matrix, min(KNOWN, steps, matrix.size), steps, seed=seed, rounds=1, progress=progress)
    return slq(matrix, spec.probes, steps, seed, known=known, progress=progress)


def _single_entries(rows: Any, at: Any) -> float:
    """T5's number for the envelope of the proximal point `at`, of the quadratic that touches there; `rows` R make its curvature R'R.

    Where d = 0 that quadratic has the loss L + kappa |d|^2 + |R d|^2 / 2 and, as the proximal point's gradient is -kappa d, the gradient
    -(R'R + kappa) d = R'a.
    """
    import torch

    from landscape.coordinates import coordinate_threshold
    from landscape.random import generator

    d = at.d.double()
    image, gram = rows @ d, rows @ rows.T
    a = -(image + at.kappa * torch.linalg.pinv(gram, hermitian=True) @ image)
    lowest = at.loss + at.kappa * float(d @ d) + float(image @ image - a @ a) / 2
    chosen = np.sort(generator(0, "entries of T5").permutation(rows.shape[1])[:COLUMNS])
    columns = rows[:, torch.as_tensor(chosen)].cpu().numpy()
    found = coordinate_threshold(columns, a.cpu().numpy(), at.envelope - lowest) if at.envelope > lowest else None
    return math.nan if found is None else found


def _stacked(measures: list[Curvature]) -> dict[str, np.ndarray]:
    """Of points that have unequally many nodes, filled up by nodes of weight zero."""
    widest = max(nodes.shape[1] for nodes, _ in measures)

    def filled(one: np.ndarray) -> np.ndarray:
        return np.pad(one, ((0, 0), (0, widest - one.shape[1])))

    nodes, weights = zip(*measures, strict=True)
    return {"path_nodes": np.stack([filled(one) for one in nodes]), "path_weights": np.stack([filled(one) for one in weights])}
