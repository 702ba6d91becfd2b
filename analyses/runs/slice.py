"""A run of kind slice: the loss along lines, planes and more through a point of the tuned subspace, with the quadratic model beside it.

Displacements are true ones: |delta| of the tuned entries, in rows as x, y and `further` (the arrays have the whole grid, axis by axis);
|theta|, by which they are comparable over scales, is a row of its own.
Whatever is evaluated is kept on disk as it comes, so a job that was stopped goes on and ends the same.
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

MOST_LOSSES = 200_000_000  # kept for one slice: points times examples
MOST_ROUNDED = 0.01  # of a step's length
GROUPS = 16  # of examples, to be left out one at a time


def forwards(spec: SliceSpec) -> int:
    """At how many points the loss is asked for, at most."""
    spec = spec.resolved()
    assert spec.points is not None
    return (spec.points + spec.refine) ** spec.dims


def slice_gradients(spec: SliceSpec, examples: int) -> int:
    """About how many example-gradients that costs, as many held-out examples included: a forward pass is a third of one."""
    products = DIRECTIONS[spec.directions].products + 2 * spec.dims  # of all, and again by groups
    paths = PLACES * (1 + spec.curve) if spec.directions == "optima" and spec.dims == 1 else 0
    found = math.ceil(2 * examples * ((forwards(spec) + paths) / 3 + products)) + examples * (2 + CURVE_STEPS * spec.curve)
    return found + ratio_gradients(spec, examples) + (numbers_gradients(spec, examples) if spec.numbers else 0)


def slice_plan(spec: SliceSpec, planned: Planned) -> dict[str, Any]:
    """How many points the slice has. UsageError for a grid whose losses do not fit into memory."""
    count, examples = forwards(spec), len(planned.examples)
    numbers = 2 * count * examples * (2 if spec.metric else 1)
    if numbers > MOST_LOSSES:
        raise UsageError(
            f"{count:,} points times {2 * examples:,} examples are {8e-9 * numbers:.1f} GB of losses{' and hits' if spec.metric else ''}, "
            f"at most {8e-9 * MOST_LOSSES:.1f}: fewer points, or fewer examples"
        )
    return {"points": count}


def slice_run(spec: SliceSpec, found: Inputs, context: Context) -> tuple[list[Row], dict[str, np.ndarray]]:
    from apet.scoring import sorted_by_length
    from landscape.surfaces import roughness

    examples, _ = subsets(spec, found)
    with point(spec, found, context) as here:
        if here.processes.num_processes > 1:
            raise UsageError("a slice takes one process: start several for several seeds")
        if spec.dims > len(here.z):
            raise UsageError(f"k = {len(here.z)}: there are no {spec.dims} dimensions in {_coordinates(len(here.z))}")
        loss, gradient = here.objective.loss(here.z), here.objective.gradient(here.z)
        if not math.isfinite(loss):
            raise ApetError(f"the loss at this point is {loss}: there is nothing to slice through")
        frame = frame_for(spec, here, gradient, context)
        _check_steps(spec, here, frame)
        # By length: a batch is padded to its longest, and attention pays for that squared.
        splits = {"train": examples, "validation": held_out(found, len(examples))}
        splits = {split: sorted_by_length(found.data.task, each) for split, each in splits.items()}
        objectives = {split: here.objective_on(each) for split, each in splits.items()}
        make, norm, more = _maker(spec, found, len(gradient)), norm_of(here), {}
        with Evaluated(objectives, context.folder, settings(here), spec.metric, outputs=here.many) as evaluated:
            axes, numbers = _grid(spec, here, frame, evaluated, context)
            measures = evaluated.measures
            extra = []
            if spec.directions == "optima" and spec.dims == 1:
                extra, more = between(spec, here, context, evaluated, make)
            if frame.looks is not None:
                extra = _off_the_frame(here, frame, evaluated, make)
        model = _quadratic(here, frame, axes, loss, gradient)
        rough = roughness(*_grouped(here, frame, axes, numbers, measures[0], splits["train"]))
        if spec.ratio_map:
            rows, arrays = ratio_map(spec, here, frame, context, make)
            extra, more = extra + rows, more | arrays
        if spec.numbers:
            with Evaluated({"train": objectives["train"]}, context.folder, settings(here), file="rays") as alone:
                extra += about(spec, here, gradient, norm, context, alone, make)
    rows = [
        make("centre_loss", loss),
        make("gradient_norm", float(gradient.norm())),
        make("theta_norm", norm),
        make("z_norm", float(here.z.norm())),
        make("roughness", rough.value, stderr=rough.stderr, note_too="rms distance from the quadratic model, of the slice's range"),
        *extra,
        *(make("slice_reach", each, x=i + 1) for i, each in enumerate(frame.reach)),
        *(make("explained_variance", share, x=i + 1) for i, share in enumerate(frame.explained)),
        *(make("slice_place", mark, **_at(place)) for place, mark in zip(frame.places, frame.marks, strict=True)),
        *_curves(axes, numbers, measures, model, make),
    ]
    arrays = more | {f"axis_{i}": axis for i, axis in enumerate(axes)} | {"quadratic": model, "z": here.z.cpu().numpy()}
    arrays |= {"directions": frame.directions.cpu().numpy(), "places": frame.places, "gradient": gradient.cpu().numpy()}
    for each in measures:
        arrays |= {f"{each.quantity}.{each.split}": each.mean(numbers), f"{each.quantity}.{each.split}.stderr": each.stderr(numbers)}
    return rows, arrays


def _check_steps(spec: SliceSpec, here: Point, frame: Frame) -> None:
    """UsageError where float32 weights cannot hold the smallest step along an axis: then the grid would be of other points."""
    from landscape.surfaces import MIN_ULPS, step_rounding, symmetric_axis

    assert spec.points is not None
    theta = here.theta.to(here.z)
    for i, reach in enumerate(frame.reach if spec.points > 1 else ()):
        step = float(symmetric_axis(reach, spec.points)[spec.points // 2 + 1])
        found = step_rounding(theta, here.z, frame.directions[:, i], step)
        if found.error > MOST_ROUNDED:
            raise UsageError(
                f"reach = {spec.reach:g} is too small for {spec.points} points: at the first step on axis {i + 1}, {step:.2g}, "
                f"{100 * found.share:.0f} % of the entries move less than {MIN_ULPS} units in the last place, and what the weights "
                f"move by is {100 * found.error:.2g} % off"
            )


def held_out(found: Inputs, count: int) -> list:
    """So many examples of the validation split, the same for every slice of the task."""
    examples = found.data.splits["validation"]
    return [examples[i] for i in np.random.default_rng(20261125).permutation(len(examples))[:count]]


def _grid(spec: SliceSpec, here: Point, frame: Frame, evaluated: Evaluated, context: Context) -> tuple[list[np.ndarray], np.ndarray]:
    """(axes, numbers (points, ..., all)) over the grid, the first axis first; with `refine` again with more places on each axis."""
    from apet.subspaces import AT_ONCE
    from landscape.surfaces import evaluate_slice, refined_axes, symmetric_axis

    assert spec.points is not None
    at_once = 1 if here.many is None else AT_ONCE
    axes, total = [symmetric_axis(reach, spec.points) for reach in frame.reach], forwards(spec)

    def tell(done: int, of: int) -> None:
        context.report("slice", done, total)

    found = evaluate_slice(evaluated, here.z, frame.directions, axes, at_once=at_once, progress=tell)
    if spec.refine:
        axes = list(refined_axes(axes, evaluated.measures[0].mean(found.numbers), spec.refine))
        found = evaluate_slice(evaluated, here.z, frame.directions, axes, at_once=at_once, progress=tell)
    return axes, found.numbers


def _quadratic(here: Point, frame: Frame, axes: list[np.ndarray], loss: float, gradient: Any) -> np.ndarray:
    """The quadratic model over the grid, from the gradient and as many Hessian products as there are directions."""
    from landscape.curvature import matmat
    from landscape.surfaces import quadratic_model

    with matrix_at(here, "hessian") as hessian:
        return quadratic_model(loss, gradient, matmat(hessian, frame.directions), frame.directions, axes)


def _grouped(
    here: Point, frame: Frame, axes: list[np.ndarray], numbers: np.ndarray, measure: Measure, examples: list
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(losses, quadratic models, weights) of at most GROUPS parts of the examples, drawn by chance: sums (points..., groups) and (groups,).

    `examples` are those of the numbers, in their order.
    """
    parts = np.array_split(np.random.default_rng(20261126).permutation(len(examples)), min(GROUPS, len(examples)))
    weights = np.array([measure.weights[part].sum() for part in parts])
    values = np.stack([numbers[..., measure.where][..., part].sum(-1) for part in parts], axis=-1)
    models = []
    for part, weight in zip(parts, weights, strict=True):
        there = replace(here, objective=here.objective_on([examples[i] for i in np.sort(part)]))
        loss, gradient = there.objective.loss(here.z), there.objective.gradient(here.z)
        models.append(weight * _quadratic(there, frame, axes, loss, gradient))
    return values, np.stack(models, axis=-1), weights


def _maker(spec: SliceSpec, found: Inputs, k: int) -> Callable[..., Row]:
    """Rows of this slice, with its directions and where it was taken; the note says both in words, and which runs it goes to."""
    make = row_maker(spec, found)
    to = f"; to {', '.join(spec.to_runs)}" if spec.to else ""
    common = {"k": k, "train_seed": spec.train_seed, "directions": spec.directions, **columns_at(spec)}
    where = f"{spec.directions}{named(spec)}{to}"

    def row(quantity: str, value: float, note_too: str = "", **columns: Any) -> Row:
        note = f"{where}; {note_too}" if note_too else where
        return make(quantity, value, **{**common, "split": "train", "note": note, **columns})

    return row


def _at(place: Any) -> dict[str, Any]:
    """Return the coordinates of a place as columns of a row."""
    return dict(zip("xy", map(float, place), strict=False)) | {"further": tuple(map(float, place[2:]))}


def _coordinates(k: int) -> str:
    return "one coordinate" if k == 1 else f"{k} coordinates"


def _off_the_frame(here: Point, frame: Frame, evaluated: Evaluated, make: Callable[..., Row]) -> list[Row]:
    """The loss at each look of a trajectory itself (slice_place_loss), and where it differs most from the loss at the look's projection
    (off_plane)."""
    import torch

    measure, places = evaluated.measures[0], torch.as_tensor(frame.places).to(frame.directions)
    own = np.stack([evaluated(look) for look in frame.looks])
    under = np.stack([evaluated(here.z + frame.directions @ place) for place in places])
    rows = [
        make("slice_place_loss", loss, stderr=float(error), **_at(place))
        for place, loss, error in zip(frame.places, measure.mean(own), measure.stderr(own), strict=True)
    ]
    apart = measure.mean(own - under)
    most = int(np.abs(apart).argmax())
    note = f"loss of the look at step {frame.marks[most]:g} less that of its projection, the largest difference"
    return [*rows, make("off_plane", apart[most], stderr=float(measure.stderr(own - under)[most]), note_too=note)]


def _curves(axes: list[np.ndarray], numbers: np.ndarray, measures: list[Measure], model: np.ndarray, make: Callable[..., Row]) -> list[Row]:
    """A row a point and measure, and one of the quadratic model."""
    values = [(each, each.mean(numbers), each.stderr(numbers)) for each in measures]
    rows = []
    for index in np.ndindex(model.shape):
        place = _at([axis[i] for axis, i in zip(axes, index, strict=True)])
        for each, mean, error in values:
            rows.append(make(f"slice_{each.quantity}", mean[index], stderr=float(error[index]), split=each.split, **place))
        rows.append(make("slice_quadratic", model[index], **place))
    return rows
