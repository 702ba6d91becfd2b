"""A run of kind slice: the loss along a line, over a plane or in more dimensions through a point of the subspace, and its quadratic model.

Displacements are norms |delta| of the tuned entries. Rows hold them in the columns x, y and `further`; the arrays hold the whole grid, axis
by axis. A separate row holds |theta|, the unit for comparisons over scales. All losses are saved to disk as they are computed, so a stopped
job resumes with the same result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from analyses.runs.cached_losses import Evaluated, Measure
from analyses.runs.evaluation_point import Point, columns_at, named, point
from analyses.runs.matrices import matrix_at, settings
from analyses.runs.point_statistics import CURVE_STEPS, PLACES, about, between, numbers_gradients
from analyses.runs.ratio_map import ratio_gradients, ratio_map
from analyses.runs.run_inputs import Context, Inputs, Planned, row_maker, subsets
from analyses.runs.slice_directions import DIRECTIONS, Frame, frame_for, norm_of
from analyses.specs import SliceSpec
from analyses.store import Row
from apet.errors import ApetError, UsageError

MOST_LOSSES = 200_000_000  # saved per slice: points times examples
MOST_ROUNDED = 0.01  # largest relative rounding error of a step
GROUPS = 16  # groups of examples for the jackknife (leave one group out)


def forwards(spec: SliceSpec) -> int:
    """Return the number of points of the slice's grid."""
    spec = spec.resolved()
    assert spec.points is not None
    return (spec.points + spec.refine) ** spec.dims


def slice_gradients(spec: SliceSpec, examples: int) -> int:
    """Return about how many example-gradients a slice costs, held-out examples included. A forward pass counts as a third."""
    products = DIRECTIONS[spec.directions].products + 2 * spec.dims  # the factor 2: for all examples, and again by groups
    paths = PLACES * (1 + spec.curve) if spec.directions == "optima" and spec.dims == 1 else 0
    total = math.ceil(2 * examples * ((forwards(spec) + paths) / 3 + products)) + examples * (2 + CURVE_STEPS * spec.curve)
    return total + ratio_gradients(spec, examples) + (numbers_gradients(spec, examples) if spec.numbers else 0)


def slice_plan(spec: SliceSpec, planned: Planned) -> dict[str, Any]:
    """Return the number of points. Raise UsageError for a grid whose losses do not fit into memory."""
    count, examples = forwards(spec), len(planned.examples)
    numbers = 2 * count * examples * (2 if spec.metric else 1)
    if numbers > MOST_LOSSES:
        raise UsageError(
            f"{count:,} points times {2 * examples:,} examples are {8e-9 * numbers:.1f} GB of losses{' and hits' if spec.metric else ''}, "
            f"but the limit is {8e-9 * MOST_LOSSES:.1f} GB: use fewer points or fewer examples"
        )
    return {"points": count}


def slice_run(spec: SliceSpec, inputs: Inputs, context: Context) -> tuple[list[Row], dict[str, np.ndarray]]:
    from apet.scoring import sorted_by_length
    from landscape.surfaces import roughness

    examples, _ = subsets(spec, inputs)
    with point(spec, inputs, context) as centre:
        if centre.processes.num_processes > 1:
            raise UsageError(
                f"a slice needs a single process, but {centre.processes.num_processes} were started: give other seeds to other processes"
            )
        if spec.dims > len(centre.z):
            raise UsageError(f"dims = {spec.dims} is over the number of tuned parameters, {len(centre.z)}: lower dims or raise k")
        loss, gradient = centre.objective.loss(centre.z), centre.objective.gradient(centre.z)
        if not math.isfinite(loss):
            raise ApetError(f"the loss at the centre is {loss}, which is not finite: a slice needs another point")
        frame = frame_for(spec, centre, gradient, context)
        _check_steps(spec, centre, frame)
        # Sorted by length, because a batch is padded to its longest example and attention costs the square of the length.
        splits = {"train": examples, "validation": held_out(inputs, len(examples))}
        splits = {split: sorted_by_length(inputs.data.task, subset) for split, subset in splits.items()}
        objectives = {split: centre.objective_on(subset) for split, subset in splits.items()}
        make, norm, more = _maker(spec, inputs, len(gradient)), norm_of(centre), {}
        with Evaluated(objectives, context.folder, settings(centre), spec.metric, outputs=centre.many) as evaluated:
            axes, numbers = _grid(spec, centre, frame, evaluated, context)
            measures = evaluated.measures
            extra = []
            if spec.directions == "optima" and spec.dims == 1:
                extra, more = between(spec, centre, context, evaluated, make)
            if frame.looks is not None:
                extra = _off_the_frame(centre, frame, evaluated, make)
        model = _quadratic(centre, frame, axes, loss, gradient)
        rough = roughness(*_grouped(centre, frame, axes, numbers, measures[0], splits["train"]))
        if spec.ratio_map:
            rows, arrays = ratio_map(spec, centre, frame, context, make)
            extra, more = extra + rows, more | arrays
        if spec.numbers:
            with Evaluated({"train": objectives["train"]}, context.folder, settings(centre), file="rays") as on_rays:
                extra += about(spec, centre, gradient, norm, context, on_rays, make)
    rows = [
        make("centre_loss", loss),
        make("gradient_norm", float(gradient.norm())),
        make("theta_norm", norm),
        make("z_norm", float(centre.z.norm())),
        make("roughness", rough.value, stderr=rough.stderr, note_too="rms distance from the quadratic model, relative to the range"),
        *extra,
        *(make("slice_reach", reach, x=i + 1) for i, reach in enumerate(frame.reach)),
        *(make("explained_variance", share, x=i + 1) for i, share in enumerate(frame.explained)),
        *(make("slice_place", mark, **_at(place)) for place, mark in zip(frame.places, frame.marks, strict=True)),
        *_curves(axes, numbers, measures, model, make),
    ]
    arrays = more | {f"axis_{i}": axis for i, axis in enumerate(axes)} | {"quadratic": model, "z": centre.z.cpu().numpy()}
    arrays |= {"directions": frame.directions.cpu().numpy(), "places": frame.places, "gradient": gradient.cpu().numpy()}
    for measure in measures:
        name = f"{measure.quantity}.{measure.split}"
        arrays |= {name: measure.mean(numbers), f"{name}.stderr": measure.stderr(numbers)}
    return rows, arrays


def _check_steps(spec: SliceSpec, centre: Point, frame: Frame) -> None:
    """Raise UsageError if float32 weights cannot represent the smallest step along an axis, so that the grid would have other points."""
    from landscape.surfaces import MIN_ULPS, step_rounding, symmetric_axis

    assert spec.points is not None
    theta = centre.theta.to(centre.z)
    for i, reach in enumerate(frame.reach if spec.points > 1 else ()):
        step = float(symmetric_axis(reach, spec.points)[spec.points // 2 + 1])
        rounding = step_rounding(theta, centre.z, frame.directions[:, i], step)
        if rounding.error > MOST_ROUNDED:
            raise UsageError(
                f"reach = {spec.reach:g} is too small for {spec.points} points: raise reach or lower points. In the first step on "
                f"axis {i + 1} ({step:.2g} long), {100 * rounding.share:.0f} % of entries move under {MIN_ULPS} units in the last place. "
                f"Rounding changes the step by {100 * rounding.error:.2g} %"
            )


def held_out(inputs: Inputs, count: int) -> list:
    """Return `count` examples of the validation split, drawn with one fixed seed for all slices of the task."""
    examples = inputs.data.splits["validation"]
    return [examples[i] for i in np.random.default_rng(20261125).permutation(len(examples))[:count]]


def _grid(spec: SliceSpec, centre: Point, frame: Frame, evaluated: Evaluated, context: Context) -> tuple[list[np.ndarray], np.ndarray]:
    """Return (axes, numbers (points, ..., all)) of the grid. With `refine`, each axis gets more points and the grid is evaluated again."""
    from apet.subspaces import AT_ONCE
    from landscape.surfaces import evaluate_slice, refined_axes, symmetric_axis

    assert spec.points is not None
    at_once = 1 if centre.many is None else AT_ONCE
    axes, total = [symmetric_axis(reach, spec.points) for reach in frame.reach], forwards(spec)

    def report(done: int, of: int) -> None:
        context.report("slice", done, total)

    grid = evaluate_slice(evaluated, centre.z, frame.directions, axes, at_once=at_once, progress=report)
    if spec.refine:
        axes = list(refined_axes(axes, evaluated.measures[0].mean(grid.numbers), spec.refine))
        grid = evaluate_slice(evaluated, centre.z, frame.directions, axes, at_once=at_once, progress=report)
    return axes, grid.numbers


def _quadratic(centre: Point, frame: Frame, axes: list[np.ndarray], loss: float, gradient: Any) -> np.ndarray:
    """Return the quadratic model over the grid, from the gradient and one Hessian product per direction."""
    from landscape.curvature import matmat
    from landscape.surfaces import quadratic_model

    with matrix_at(centre, "hessian") as hessian:
        return quadratic_model(loss, gradient, matmat(hessian, frame.directions), frame.directions, axes)


def _grouped(
    centre: Point, frame: Frame, axes: list[np.ndarray], numbers: np.ndarray, measure: Measure, examples: list
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (losses, quadratic models, weights) of at most GROUPS random groups of examples: sums (points..., groups) and (groups,).

    `examples` are in the order of the columns of `numbers`.
    """
    parts = np.array_split(np.random.default_rng(20261126).permutation(len(examples)), min(GROUPS, len(examples)))
    weights = np.array([measure.weights[part].sum() for part in parts])
    values = np.stack([numbers[..., measure.where][..., part].sum(-1) for part in parts], axis=-1)
    models = []
    for part, weight in zip(parts, weights, strict=True):
        on_part = replace(centre, objective=centre.objective_on([examples[i] for i in np.sort(part)]))
        loss, gradient = on_part.objective.loss(centre.z), on_part.objective.gradient(centre.z)
        models.append(weight * _quadratic(on_part, frame, axes, loss, gradient))
    return values, np.stack(models, axis=-1), weights


def _maker(spec: SliceSpec, inputs: Inputs, k: int) -> Callable[..., Row]:
    """Return a function that makes rows of this slice. The note names the directions, the point and the other runs."""
    make = row_maker(spec, inputs)
    to = f"; to {', '.join(spec.to_runs)}" if spec.to else ""
    common = {"k": k, "train_seed": spec.train_seed, "directions": spec.directions, **columns_at(spec)}
    where = f"{spec.directions}{named(spec)}{to}"

    def row(quantity: str, value: float, note_too: str = "", **columns: Any) -> Row:
        note = f"{where}; {note_too}" if note_too else where
        return make(quantity, value, **{**common, "split": "train", "note": note, **columns})

    return row


def _at(place: Any) -> dict[str, Any]:
    """Return the coordinates of a point as columns of a row."""
    return dict(zip("xy", map(float, place), strict=False)) | {"further": tuple(map(float, place[2:]))}


def _off_the_frame(centre: Point, frame: Frame, evaluated: Evaluated, make: Callable[..., Row]) -> list[Row]:
    """Return rows of the losses at the points of a trajectory and of the largest distance from their projections.

    slice_place_loss: the loss at each point. off_plane: the largest difference between the losses at a point and at its projection.
    """
    import torch

    measure, places = evaluated.measures[0], torch.as_tensor(frame.places).to(frame.directions)
    losses = np.stack([evaluated(point) for point in frame.looks])
    projected = np.stack([evaluated(centre.z + frame.directions @ place) for place in places])
    rows = [
        make("slice_place_loss", loss, stderr=float(error), **_at(place))
        for place, loss, error in zip(frame.places, measure.mean(losses), measure.stderr(losses), strict=True)
    ]
    difference = measure.mean(losses - projected)
    most = int(np.abs(difference).argmax())
    note = f"loss at step {frame.marks[most]:g} less the loss at its projection, the largest difference"
    return [*rows, make("off_plane", difference[most], stderr=float(measure.stderr(losses - projected)[most]), note_too=note)]


def _curves(axes: list[np.ndarray], numbers: np.ndarray, measures: list[Measure], model: np.ndarray, make: Callable[..., Row]) -> list[Row]:
    """Return, for each point, one row per measure and one row of the quadratic model."""
    values = [(measure, measure.mean(numbers), measure.stderr(numbers)) for measure in measures]
    rows = []
    for index in np.ndindex(model.shape):
        place = _at([axis[i] for axis, i in zip(axes, index, strict=True)])
        for measure, mean, error in values:
            rows.append(make(f"slice_{measure.quantity}", mean[index], stderr=float(error[index]), split=measure.split, **place))
        rows.append(make("slice_quadratic", model[index], **place))
    return rows
