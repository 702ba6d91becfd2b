"""Rows of numbers at a point (sharpness, basin width, angular dimension, Hessian ratio) and of barriers along a line and a curve.

Lengths are in units of |theta|, the norm of the tuned entries, and rises are in nats. Both units allow comparisons over scales.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from analyses.runs.cached_losses import Evaluated
from analyses.runs.evaluation_point import Point
from analyses.runs.matrices import gauss_newton_spectrum, matrix_at, recorded
from analyses.runs.run_inputs import Context
from analyses.specs import SliceSpec
from analyses.store import Row, statuses
from apet.tasks import task_named

RADIUS = 0.05  # in |theta|: radius of the ball for sharpness
LEVEL = 0.1  # nats above the loss of the point: edge of the basin
SET = f"sub-level set up to a rise of {LEVEL:g} nats"
FARTHEST = 4.0  # in |theta|: the search for the edge ends at this distance
RAYS, STARTS, STEPS = 6, 2, 10  # random rays; ascents, and gradients per ascent
LANCZOS_STEPS, PROBES = 15, 4
DRAWS, SEARCH = 6, 100  # for an angular dimension: normal vectors, and gradients per vector
PLACES = 17  # points on a path
CURVE_STEPS = 100

NUMBERS = 1 + 2 * RAYS + 1 + 27 * RAYS  # points: average sharpness (both ways per ray), basin width (27 steps and halvings per ray)


def numbers_gradients(spec: SliceSpec, examples: int) -> int:
    """Return about how many example-gradients `about` takes."""
    products = 2 * LANCZOS_STEPS + (1 if _exact(spec) else PROBES * LANCZOS_STEPS)
    widths = 1 + (spec.at is not None)
    return examples * (NUMBERS // 3 + STARTS * STEPS * 4 // 3 + 2 * products + widths * DRAWS * SEARCH * 4 // 3)


def _exact(spec: SliceSpec) -> bool:
    """Return whether the Gauss-Newton matrix has rows, so that its spectrum is exact."""
    return task_named(spec.task).rank > 0


def about(
    spec: SliceSpec, point: Point, gradient: Any, norm: float, context: Context, evaluated: Evaluated, make: Callable[..., Row]
) -> list[Row]:
    """Return the rows of the point's numbers; `evaluated` measures the training loss."""
    from landscape.surfaces import average_sharpness, basin_width, hessian_ratio, worst_case_sharpness

    def loss(z: Any) -> float:
        return float(evaluated.measures[0].mean(evaluated(z)))

    radius, seed = RADIUS * norm, spec.train_seed
    context.report("sharpness", 0, 0)
    average = average_sharpness(loss, point.z, radius, RAYS, seed)
    worst = worst_case_sharpness(point.objective, point.z, radius, STEPS, STARTS, seed)
    context.report("basin width", 0, 0)
    width = basin_width(loss, point.z, LEVEL, FARTHEST * norm, RAYS, seed)
    with recorded(matrix_at(point, "hessian"), point, context) as hessian:
        ratio, error = hessian_ratio(hessian, LANCZOS_STEPS, seed)
    dimension, spread = _angular_dimension(spec, point, norm)
    # A lower bound from a few ascents has no sampling error; the spread of the ascents indicates its reliability.
    ascents_std = float(np.std(worst.rises, ddof=1)) if len(worst.rises) > 1 else math.nan
    ball, edge = f"rise in nats at distance {RADIUS:g} |theta|", f"in units of |theta|, up to a rise of {LEVEL:g} nats"
    return [
        make("sharpness_average", average.value, stderr=average.stderr, target=radius, note_too=f"{ball}, mean over directions"),
        make("sharpness_worst", worst.rise, stderr=ascents_std, target=radius, note_too=f"{ball}, highest found; error: ascents' spread"),
        *_width_rows(width, norm, edge, make),
        make("hessian_ratio", ratio, stderr=error, note_too="|lowest / highest eigenvalue|; error: from residuals"),
        make("angular_dimension", dimension, stderr=spread, target=LEVEL, note_too=f"of the Gauss-Newton quadratic's {SET}"),
        *_searched(spec, point, loss(point.z) + LEVEL, norm, context, make),
    ]  # fmt: skip


def _width_rows(width: Any, norm: float, edge: str, make: Callable[..., Row]) -> list[Row]:
    """Return a row with the mean width. The row is a lower bound if some rays do not reach the level, and censored if none do."""
    rays = len(width.widths)
    if width.censored == rays:
        note = f"{edge}; censored above {FARTHEST:g}: no ray reached the level"
        return [make("basin_width", math.nan, low=FARTHEST, target=LEVEL, status=statuses.ABOVE, note_too=note)]
    bound = f"; lower bound: {width.censored} of {rays} rays did not reach the level within {FARTHEST:g}"
    note = edge + bound if width.censored else edge
    status = statuses.AT_LEAST if width.censored else ""
    return [make("basin_width", width.mean.value / norm, stderr=width.mean.stderr / norm, target=LEVEL, status=status, note_too=note)]


def _angular_dimension(spec: SliceSpec, point: Point, norm: float) -> tuple[float, float]:
    """Return the local angular dimension of the quadratic's sub-level set, seen from distance |theta|, and its standard error.

    The dimension is k - N_eff(2 LEVEL / |theta|^2) of the Gauss-Newton matrix (Larsen et al. 2021, arXiv 2107.05802), exact unless
    the task asks for text.
    """
    from landscape.spectra import SpectralMeasure, effective_dimension, slq, with_quadrature_error

    if _exact(spec):
        measure = SpectralMeasure.of_eigenvalues(gauss_newton_spectrum(point).all_eigenvalues)
    else:
        with matrix_at(point, "ggn") as matrix:
            measure = slq(matrix, PROBES, min(LANCZOS_STEPS, len(point.z)), spec.train_seed)
    dimension = with_quadrature_error(measure, lambda spectrum: effective_dimension(spectrum, 2 * LEVEL / norm**2))
    return len(point.z) - dimension.value, dimension.stderr


def _searched(spec: SliceSpec, point: Point, level: float, norm: float, context: Context, make: Callable[..., Row]) -> list[Row]:
    """Return rows with lower bounds on the loss's angular dimension, seen from distance |theta| and, for a run, from its initial point."""
    import torch

    from landscape.surfaces import angular_width, viewpoints_on_sphere

    views = {"of_loss": viewpoints_on_sphere(point.z, norm, DRAWS, spec.train_seed)}
    if point.z.any():
        views["from_start"] = [torch.zeros_like(point.z)] * DRAWS
    rows = []
    for name, viewpoints in views.items():
        context.report("angular dimension", 0, 0)
        width = angular_width(point.objective, point.z, level, viewpoints, SEARCH, spec.train_seed)
        origin = "distance |theta|" if name == "of_loss" else "the initial point"
        note = f"of the loss's {SET}, seen from {origin}; a lower bound by search; {width.inside} of {DRAWS} viewpoints are inside the set"
        square = width.dimension
        columns = {"stderr": square.stderr, "target": LEVEL, "status": statuses.AT_LEAST, "note_too": note}
        rows.append(make(f"angular_dimension_{name}", square.value, **columns))
    return rows


def between(
    spec: SliceSpec, point: Point, context: Context, evaluated: Evaluated, make: Callable[..., Row]
) -> tuple[list[Row], dict[str, np.ndarray]]:
    """Return rows of the straight path to the other run and, with `curve`, of a low-loss curve: losses at t in 0..1, barrier per split."""
    from landscape.surfaces import low_loss_curve, straight_line

    end = point.others[0]
    paths, arrays = {"line": straight_line(point.z, end)}, {}
    if spec.curve:
        paths["curve"] = low_loss_curve(
            point.objective, point.z, end, CURVE_STEPS, _rate(point, end), seed=spec.train_seed,
            progress=lambda done, of: context.report("curve", done, of),
        )  # fmt: skip
        arrays["bend"] = paths["curve"].bend.cpu().numpy()
    rows = [row for name, path in paths.items() for row in _path_rows(name, path, evaluated, make)]
    return rows, arrays


def _rate(point: Point, end: Any) -> float | None:
    """Return Adam's learning rate for the curve, or None for the default, which follows from the largest difference in a coordinate.

    Between runs of different methods the largest difference is about a hundred times the typical one. With the default rate the curve then
    ends at a higher loss than the line. A tenth of the root mean square difference removes the barrier more reliably than a fiftieth.
    """
    return float((end - point.z).double().square().mean().sqrt()) / 10 if point.methods else None


def _path_rows(name: str, path: Any, evaluated: Evaluated, make: Callable[..., Row]) -> list[Row]:
    from landscape.surfaces import loss_barrier

    places = np.linspace(0, 1, PLACES)
    numbers = np.stack([evaluated(path.at(float(t))) for t in places])
    rows = []
    for measure in evaluated.measures:
        mean, error = measure.mean(numbers), measure.stderr(numbers)
        rows += [
            make(f"path_{measure.quantity}", mean[i], x=t, stderr=float(error[i]), split=measure.split, series=name, note_too=name)
            for i, t in enumerate(places)
        ]
        if measure.quantity == "loss":
            barrier = loss_barrier(numbers[:, measure.where], measure.weights, places)
            rows.append(make("barrier", barrier.value, stderr=barrier.stderr, split=measure.split, series=name, note_too=name))
    return rows
