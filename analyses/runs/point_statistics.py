"""Numbers of a point and of paths, as rows: sharpness, basin width, dimension, Hessian ratio; barriers of a line and of a curve.

Lengths are in units of |theta| of the tuned entries and rises in nats, so that they compare over scales.
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
from apet.tasks import TASKS

RADIUS = 0.05  # of |theta|: the ball of sharpness
LEVEL = 0.1  # nats above the point: the basin's edge
SET = f"set to {LEVEL:g} nats above"
FARTHEST = 4.0  # of |theta|: how far the edge is looked for
RAYS, STARTS, STEPS = 6, 2, 10  # random rays; ascents, and gradients of each
LANCZOS_STEPS, PROBES = 15, 4
DRAWS, SEARCH = 6, 100  # of an angular dimension: normal vectors, and gradients for each
PLACES = 17  # on a path
CURVE_STEPS = 100

NUMBERS = 1 + 2 * RAYS + 1 + 27 * RAYS  # points that are asked for: both ways, and a bracket that is halved


def numbers_gradients(spec: SliceSpec, examples: int) -> int:
    """About how many example-gradients `about` takes."""
    products = 2 * LANCZOS_STEPS + (PROBES * LANCZOS_STEPS if _classes(spec) is None else 1)
    widths = 1 + (spec.at is not None)
    return examples * (NUMBERS // 3 + STARTS * STEPS * 4 // 3 + 2 * products + widths * DRAWS * SEARCH * 4 // 3)


def _classes(spec: SliceSpec) -> int | None:
    return TASKS[spec.task].classes or None if spec.task in TASKS else None


def about(
    spec: SliceSpec, here: Point, gradient: Any, norm: float, context: Context, evaluated: Evaluated, make: Callable[..., Row]
) -> list[Row]:
    """Rows of the point's numbers; `evaluated` measures the training loss."""
    from landscape.surfaces import average_sharpness, basin_width, hessian_ratio, worst_case_sharpness

    def loss(z: Any) -> float:
        return float(evaluated.measures[0].mean(evaluated(z)))

    radius, seed = RADIUS * norm, spec.train_seed
    context.report("sharpness", 0, 0)
    average = average_sharpness(loss, here.z, radius, RAYS, seed)
    worst = worst_case_sharpness(here.objective, here.z, radius, STEPS, STARTS, seed)
    context.report("basin width", 0, 0)
    width = basin_width(loss, here.z, LEVEL, FARTHEST * norm, RAYS, seed)
    with recorded(matrix_at(here, "hessian"), here, context) as hessian:
        ratio, error = hessian_ratio(hessian, LANCZOS_STEPS, seed)
    dimension, spread = _angular_dimension(spec, here, norm)
    # A lower bound from few ascents has no sampling error; how far they are apart says how far it is to be trusted.
    apart = float(np.std(worst.rises, ddof=1)) if len(worst.rises) > 1 else math.nan
    ball, edge = f"rise in nats, {RADIUS:g} |theta| away", f"in units of |theta|, to {LEVEL:g} nats above"
    return [
        make("sharpness_average", average.value, stderr=average.stderr, target=radius, note_too=f"{ball}, mean over directions"),
        make("sharpness_worst", worst.rise, stderr=apart, target=radius, note_too=f"{ball}, the highest found; error: ascents' spread"),
        *_width_rows(width, norm, edge, make),
        make("hessian_ratio", ratio, stderr=error, note_too="|lowest / highest eigenvalue|; the error is from residuals"),
        make("angular_dimension", dimension, stderr=spread, target=LEVEL, note_too=f"of the Gauss-Newton quadratic's {SET}"),
        *_searched(spec, here, loss(here.z) + LEVEL, norm, context, make),
    ]  # fmt: skip


def _width_rows(width: Any, norm: float, edge: str, make: Callable[..., Row]) -> list[Row]:
    """The mean width, a lower bound or nothing where rays do not meet the level within reach."""
    rays = len(width.widths)
    if width.censored == rays:
        note = f"{edge}; censored: above {FARTHEST:g}, no ray met it"
        return [make("basin_width", math.nan, low=FARTHEST, target=LEVEL, status=statuses.ABOVE, note_too=note)]
    note = edge if not width.censored else f"{edge}; at least: {width.censored} of {rays} rays did not meet it within {FARTHEST:g}"
    status = statuses.AT_LEAST if width.censored else ""
    return [make("basin_width", width.mean.value / norm, stderr=width.mean.stderr / norm, target=LEVEL, status=status, note_too=note)]


def _angular_dimension(spec: SliceSpec, here: Point, norm: float) -> tuple[float, float]:
    """k - N_eff(2 LEVEL / |theta|^2) of the Gauss-Newton matrix, and its standard error: exact where there are classes.

    The local angular dimension of the quadratic's sub-level set as seen from |theta| away (Larsen et al. 2021, arXiv 2107.05802).
    """
    from landscape.spectra import SpectralMeasure, effective_dimension, slq, with_quadrature_error

    if _classes(spec) is not None:
        measure = SpectralMeasure.of_eigenvalues(gauss_newton_spectrum(here).all_eigenvalues)
    else:
        with matrix_at(here, "ggn") as matrix:
            measure = slq(matrix, PROBES, min(LANCZOS_STEPS, len(here.z)), spec.train_seed)
    found = with_quadrature_error(measure, lambda each: effective_dimension(each, 2 * LEVEL / norm**2))
    return len(here.z) - found.value, found.stderr


def _searched(spec: SliceSpec, here: Point, level: float, norm: float, context: Context, make: Callable[..., Row]) -> list[Row]:
    """The same of the loss itself, from below: as seen from |theta| away in random directions, and of a run's end from where it began."""
    import torch

    from landscape.surfaces import angular_width, viewpoints_on_sphere

    places = {"of_loss": viewpoints_on_sphere(here.z, norm, DRAWS, spec.train_seed)}
    if here.z.any():
        places["from_start"] = [torch.zeros_like(here.z)] * DRAWS
    rows = []
    for name, viewpoints in places.items():
        context.report("angular dimension", 0, 0)
        found = angular_width(here.objective, here.z, level, viewpoints, SEARCH, spec.train_seed)
        seen = "from |theta| away" if name == "of_loss" else "from the pretrained point"
        note = f"of the loss's {SET}, seen {seen}; at least: found by search, {found.inside} of {DRAWS} viewpoints within it"
        square = found.dimension
        columns = {"stderr": square.stderr, "target": LEVEL, "status": statuses.AT_LEAST, "note_too": note}
        rows.append(make(f"angular_dimension_{name}", square.value, **columns))
    return rows


def between(
    spec: SliceSpec, here: Point, context: Context, evaluated: Evaluated, make: Callable[..., Row]
) -> tuple[list[Row], dict[str, np.ndarray]]:
    """Rows of the straight path to the other run, and with `curve` of a low one: losses at t in 0..1, and the barrier of each split."""
    from landscape.surfaces import low_loss_curve, straight_line

    end = here.others[0]
    paths, arrays = {"line": straight_line(here.z, end)}, {}
    if spec.curve:
        paths["curve"] = low_loss_curve(
            here.objective, here.z, end, CURVE_STEPS, _rate(here, end), seed=spec.train_seed,
            progress=lambda done, of: context.report("curve", done, of),
        )  # fmt: skip
        arrays["bend"] = paths["curve"].bend.cpu().numpy()
    rows = [row for name, path in paths.items() for row in _path_rows(name, path, evaluated, make)]
    return rows, arrays


def _rate(here: Point, end: Any) -> float | None:
    """Adam's rate for the curve, None for its default by the largest difference in a coordinate.

    Between methods that is a hundred times the typical one, and the curve ends above the line. A tenth of the root of the mean
    square took the barrier to zero on all three lines between apet, LoRA and full fine-tuning of mini-t5-130k (a fiftieth on two).
    """
    return float((end - here.z).double().square().mean().sqrt()) / 10 if here.methods else None


def _path_rows(name: str, path: Any, evaluated: Evaluated, make: Callable[..., Row]) -> list[Row]:
    from landscape.surfaces import loss_barrier

    places = np.linspace(0, 1, PLACES)
    numbers = np.stack([evaluated(path.at(float(t))) for t in places])
    rows = []
    for each in evaluated.measures:
        mean, error = each.mean(numbers), each.stderr(numbers)
        rows += [
            make(f"path_{each.quantity}", mean[i], x=t, stderr=float(error[i]), split=each.split, series=name, note_too=name)
            for i, t in enumerate(places)
        ]
        if each.quantity == "loss":
            found = loss_barrier(numbers[:, each.where], each.weights, places)
            rows.append(make("barrier", found.value, stderr=found.stderr, split=each.split, series=name, note_too=name))
    return rows
